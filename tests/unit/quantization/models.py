"""Small models with random parameters, and ragged batches."""

import numpy as np
import torch

from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.model import Model
from orchestrator.quantization.backends.onnxruntime_cpu.session import open_session
from orchestrator.quantization.emission.embeddings.stack import emit_embedding
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.model import emit_encoder
from orchestrator.quantization.emission.weights import Weights
from orchestrator.quantization.plans import Plan, fully_quant

HEADS = (
    {"type": "cls", "name": "mean", "num_labels": 5, "pooling": "mean"},
    {"type": "cls", "name": "first", "num_labels": 3, "pooling": "first", "hidden": True},
    {
        "type": "cls",
        "name": "last",
        "num_labels": 3,
        "pooling": "last",
        "hidden": True,
        "hidden_activation": "relu",
    },
    {"type": "cls", "name": "max", "num_labels": 2, "pooling": "max"},
    {"type": "sp"},
)
VOCABULARY, POSITIONS, LENGTH = 50, 40, 33


def model_config(encoder, parts=("word", "pos", "seg"), heads=HEADS, width=48, **embedding):
    return ModelConfig.model_validate(
        {
            "hidden_size": width,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": POSITIONS,
            "embedding": {"parts": list(parts), **embedding},
            "encoder": encoder,
            "target": list(heads),
        }
    )


def random_model(config: ModelConfig, spread: float = 0.3) -> Model:
    """Every parameter is random, biases and norms too, so that an omitted one shows."""
    model = build_model(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model


def state_of(model: Model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def ragged_batch(seed: int = 1) -> dict[str, np.ndarray]:
    """Six texts: padded on the right, on the left, in the middle, of one token, of full length."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, LENGTH), np.int64)
    for row, length in enumerate((30, 1, 2, 0, LENGTH, 0)):
        mask[row, :length] = 1
    mask[3, -12:] = 1
    mask[5, 3:9] = mask[5, 20:25] = 1
    return {
        "input_ids": rng.integers(5, VOCABULARY, mask.shape) * mask,
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape),
    }


def torch_answers(model: Model, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    with torch.no_grad():
        answers = model.predict(tensors)
        answers["embedding"] = model.pool(model.encode(tensors), tensors)
    return {name: tensor.numpy() for name, tensor in answers.items()}


def encoded(model: Model, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return torch's hidden states [B, S, D] and mask [B, S]."""
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    with torch.no_grad():
        hidden, mask = model.read(tensors)
    return hidden.numpy(), mask.numpy()


class EncoderGraph:
    """The graph of embedding and encoder alone, whose outputs are all hidden states.

    Attributes:
        units: Its units.
        model: The ONNX model.
    """

    def __init__(self, config: ModelConfig, state: dict[str, np.ndarray], kind: str = "fp32"):
        self.units = self._write(config, state, Plan({})).units
        plan = Plan({}) if kind == "fp32" else fully_quant(self.units, kind)
        graph = self._write(config, state, plan)
        self.model = graph.model()
        self.session = open_session(self.model.SerializeToString())

    def _write(self, config, state, plan):
        graph, weights = GraphBuilder(plan), Weights(state)
        embedded = emit_embedding(graph, config, weights)
        hidden = emit_encoder(graph, config, weights, embedded)
        graph.output("hidden", hidden, ["batch", "length", config.hidden_size])
        graph.output("mask", graph.op("Cast", [embedded.mask], to=1), ["batch", "length"])
        left = ("targets.", "decoder.", "target_embedding.")
        assert not [name for name in weights.unread() if not name.startswith(left)]
        return graph

    def run(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return hidden states [B, S, D] and mask [B, S]."""
        feed = {
            value.name: batch[value.name].astype(
                np.int32 if value.type == "tensor(int32)" else np.float32
            )
            for value in self.session.get_inputs()
        }
        hidden, mask = self.session.run(None, feed)
        return hidden, mask.astype(bool)
