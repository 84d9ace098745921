"""Correctness on an accelerator, beside the CPU: components, fp16, fine-tuning, attention kernels.

Each check returns a row with `ok`; `run_checks` catches what one of them raises, so that all of
them are reported. Models and batches of components are those of the tests.
"""

import importlib
import importlib.util
import math
import pkgutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerator_page import TOLERANCE
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import orchestrator
from orchestrator.cluster.engines import build_engine
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import TaskData
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.modeling.transfer import to_device
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.descent import plain_step
from orchestrator.training.finetune.finetuner import FineTuneConfig, FineTuner, Place
from orchestrator.training.finetune.lessons import lesson_of

Row = dict[str, Any]
PURE = [
    "errors",
    "arrays",
    "config",
    "storage",
    "zoo",
    "modeling",
    "data",
    "tasks",
    "inference",
    "training",
]
"""Rooms that need neither Ray nor DeepSpeed."""
RAY_ONLY = "orchestrator.data.sharded.ray_data"


def check_imports() -> Row:
    """Import every module of the pure-torch rooms."""
    modules = pkgutil.walk_packages(orchestrator.__path__, "orchestrator.")
    names = [m.name for m in modules if m.name.split(".")[1] in PURE and m.name != RAY_ONLY]
    for name in names:
        importlib.import_module(name)
    there = [name for name in ("ray", "deepspeed") if importlib.util.find_spec(name)]
    return {"ok": len(names) > 50, "modules": len(names), "installed": there}


def _pass(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return losses and all gradients, each flat in fp64 on the CPU."""
    model.zero_grad()
    found = model(batch)
    losses = [value for key, value in found.items() if key.startswith("loss.")]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.stack(losses).detach().double().cpu(), torch.cat(gradients).double().cpu()


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def check_components(device: str) -> Row:
    """Run every registered component forward and backward on the device and on the CPU."""
    models = importlib.import_module("tests.unit.modeling.test_components")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    worst: dict[str, float] = {}
    failed: dict[str, str] = {}
    for kind, name in models.cases():
        torch.manual_seed(3)
        config = models.assembly(kind, name)
        model, batch = build_model(config).train(), models.batch_for(config)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # the two devices draw other noise
        expected = _pass(model, batch)
        try:
            found = _pass(model.to(device), to_device(batch, device))
            distances = [_distance(a, b) for a, b in zip(found, expected, strict=True)]
            worst[f"{kind}/{name}"] = max(distances)
        except Exception as error:  # noqa: BLE001  # the others are worth knowing
            failed[f"{kind}/{name}"] = f"{type(error).__name__}: {error}"
    far = {name: value for name, value in worst.items() if not value <= TOLERANCE}
    ranked = sorted(worst.items(), key=lambda each: -each[1])[:5]
    ok = not far and not failed and bool(worst)
    return {"ok": ok, "components": len(worst), "largest": ranked, "far": far, "failed": failed}


def small_lm() -> ModelConfig:
    """Return a small causal model."""
    encoder = {"type": "transformer", "num_layers": 2, "num_heads": 2, "mask": "causal"}
    return ModelConfig.model_validate(
        {
            "hidden_size": 128,
            "vocab_size": 256,
            "max_position_embeddings": 64,
            "embedding": {"parts": ["word", "pos"], "dropout": 0.0},
            "encoder": {**encoder, "dropout": 0.0, "norm_position": "pre"},
            "target": "lm",
        }
    )


def small_window() -> list[dict[str, Tensor]]:
    """Return one micro-batch without padding."""
    ids = torch.arange(8 * 65).view(8, 65) * 7 % 256
    ones = torch.ones(8, 64, dtype=torch.int64)
    labels = ids[:, 1:].contiguous()
    return [{"input_ids": ids[:, :-1].contiguous(), "attention_mask": ones, "labels.lm": labels}]


def check_loss_scaling(device: str) -> Row:
    """Begin fp16 with a scale that overflows; the scale falls, and then the loss."""
    torch.manual_seed(0)
    scale = {"initial": 2.0**40}
    config = EngineConfig.model_validate(
        {"type": "single", "precision": "fp16", "loss_scale": scale}
    )
    engine = build_engine(build_model(small_lm()).to(device), OptimizerConfig(), config, world=1)
    engine.module.train()
    take = plain_step(1.0)
    steps = [dict(take(engine, small_window(), 1e-3)) for _ in range(80)]
    overflows = sum(step.get("overflow", 0.0) for step in steps)
    first, last = steps[0]["loss"], steps[-1]["loss"]
    ok = overflows > 0 and last < 0.5 * first and math.isfinite(last)
    scales = [steps[0]["loss_scale"], steps[-1]["loss_scale"]]
    return {"ok": ok, "overflows": overflows, "loss": [first, last], "scale": scales}


def check_flash(device: str) -> Row:
    """Train a step where SDPA may only take its flash kernel: it refuses any mask."""
    torch.manual_seed(0)
    model = build_model(small_lm()).to(device).train()
    config = EngineConfig(type="single", precision="bf16")
    engine = build_engine(model, OptimizerConfig(), config, world=1)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        loss = engine.forward_backward(small_window())["loss"]
    return {"ok": math.isfinite(loss), "loss": loss}


def check_fine_tuning(device: str, precision: str) -> Row:
    """Fine-tune a small classifier; weights and batches are on the device, and the loss falls."""
    rows = importlib.import_module("tests.unit.training.test_finetune").rows
    data = TaskData("toy", ("animal", "tool"), rows(150, 1), rows(60, 2), rows(60, 3))
    config = FineTuneConfig(epochs=4, global_batch_size=16, learning_rate=5e-3, max_length=16)
    seen: set[str] = set()

    def note(_: nn.Module, inputs: tuple[dict[str, Tensor], ...]) -> None:
        seen.update(value.device.type for value in inputs[0].values())

    with tempfile.TemporaryDirectory() as folder:
        _write_package(Path(folder), data)
        engine = EngineConfig.model_validate({"type": "single", "precision": precision})
        place = Place(
            torch.device(device), lambda model, opt: build_engine(model, opt, engine, world=1)
        )
        tuner = FineTuner(Path(folder), [lesson_of(data)], config, place=place)
        tuner.model.register_forward_pre_hook(note)
        losses = [tuner.train_epoch()["loss"] for _ in range(config.epochs)]
        measured = tuner.evaluate()
    places = {p.device.type for p in tuner.model.parameters()}
    fell = losses[-1] < 0.7 * losses[0]
    ok = fell and places == seen == {torch.device(device).type}
    return {"ok": ok, "losses": losses, "validation": measured, "batches": sorted(seen)}


def _write_package(folder: Path, data: TaskData) -> None:
    processor = TextProcessor.train(data.train.texts, 400, max_length=32)
    processor.save(folder)
    encoder = {"type": "transformer", "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
    config = ModelConfig.model_validate(
        {
            "hidden_size": 16,
            "vocab_size": processor.vocab_size,
            "max_position_embeddings": 32,
            "embedding": {"parts": ["word", "pos"]},
            "encoder": encoder,
            "target": "mlm",
        }
    )
    torch.manual_seed(0)
    write_model(folder, build_model(config), config)


def run_checks(device: str) -> dict[str, Row]:
    """Return the outcome of each check by name."""
    sys.path.append(str(Path(__file__).parents[1]))  # the tests are no installed package
    checks: dict[str, Callable[[], Row]] = {
        "imports": check_imports,
        "components": lambda: check_components(device),
        "fp16 loss scaling": lambda: check_loss_scaling(device),
        "flash attention": lambda: check_flash(device),
        "fine-tuning bf16": lambda: check_fine_tuning(device, "bf16"),
        "fine-tuning fp16": lambda: check_fine_tuning(device, "fp16"),
    }
    found: dict[str, Row] = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception:  # noqa: BLE001  # the others are worth knowing
            found[name] = {"ok": False, "error": traceback.format_exc()[-1500:]}
        print(name, found[name], flush=True)
    return found
