"""Quantized files of a plan, which torch runs.

Units are the linear layers of embedding and encoder, and the stacked matrices of experts. Routers
stay in float: they choose experts, and another expert is more than a rounding error. Heads stay in
float, as in graphs.

Legend: K inputs and N outputs of a GEMM, E experts.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from torch import nn

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import InputError
from orchestrator.inference.models import require_embedding, vector_head
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.layers.feed_forward import Experts
from orchestrator.quantization.backends.hosts import exact_kinds, this_host
from orchestrator.quantization.backends.torch_cpu.files import (
    SCALES,
    Content,
    TorchFile,
    header_of,
)
from orchestrator.quantization.emission.outputs.heads import answering
from orchestrator.quantization.emission.outputs.vectors import SENTENCE
from orchestrator.quantization.emission.weights import Weights
from orchestrator.quantization.kinds import FLOAT, KindName, quantize_weight
from orchestrator.quantization.plans import Plan, Unit
from orchestrator.quantization.source import Source

PARTS: Final = ("embedding.", "encoder.")
"""Parts of a model that hold units."""
ROUTER: Final = ".router"
EXPERT_PARTS: Final = ("up", "gate", "down")
KINDS: Final[tuple[KindName, ...]] = ("row_s8", "row_s7")
"""The finest first: units that lack a kind of the job take the first that the host executes."""


def write_file(source: Source, plan: Plan) -> TorchFile:
    """Quantize the weights of a plan, and keep the others.

    Raises:
        InputError: A decoder answers, the model has two streams, a parameter is missing or not
            finite, or the plan names another unit.
    """
    config = _answered(source.model_config)
    model = build_on_meta(config)
    weights, tied = Weights(source.state), model.tied_names()
    tensors: dict[str, AnyArray] = {
        name: weights.array(name)
        for name in model.state_dict()
        if name not in tied or tied[name] not in model.state_dict()
    }
    tensors |= {name: weights.array(name) for name in source.state if name.startswith(SENTENCE)}
    units = tuple(_units(model))
    _require_known(plan, units)
    for unit in units:
        if (kind := plan.kind(unit.name)) != FLOAT:
            _quantize(tensors, unit.name, kind)
    content = Content(config, {u.name: plan.kind(u.name) for u in units}, source.statement)
    heads = tuple(head.name for head in answering(config))
    return TorchFile(tensors, units, heads, header_of(content))


def _answered(config: ModelConfig) -> ModelConfig:
    """Return the config of the encoder with the heads that it answers in one pass.

    Raises:
        InputError: A decoder answers, or the model has two streams.
    """
    heads = answering(config)
    if config.encoder.two_streams:
        raise InputError(
            "a model of two streams cannot be quantized: each is a model of its own; import the "
            "tower alone"
        )
    if config.decoder is not None and heads:
        names = ", ".join(head.name for head in heads)
        raise InputError(
            f"the answers of {names} cannot be quantized: a decoder gives them, one pass per token"
        )
    vector = vector_head(config)
    if vector is not None:
        require_embedding(config, vector)
    kept = [*heads, *([] if vector is None or vector in heads else [vector])]
    alone = {"decoder": None, "target_embedding": None, "share_embedding": False}
    return config.with_targets(kept).model_copy(update=alone)


def _units(model: nn.Module) -> Iterator[Unit]:
    """Yield the units of a model in the order of its modules."""
    kinds = tuple(kind for kind in KINDS if kind in exact_kinds(this_host()))
    for name, module in model.named_modules():
        if not name.startswith(PARTS):
            continue
        if type(module) is nn.Linear and not name.endswith(ROUTER):
            yield Unit(name, (module.in_features, module.out_features), kinds)
        elif isinstance(module, Experts):
            for part in EXPERT_PARTS:
                if (stack := getattr(module, part)) is not None:
                    experts, outputs, inputs = stack.shape
                    yield Unit(f"{name}.{part}", (inputs, experts * outputs), kinds)


def _require_known(plan: Plan, units: tuple[Unit, ...]) -> None:
    known = {unit.name for unit in units}
    unknown = [name for name in plan.kinds if name not in known]
    wrong = sorted({kind for kind in plan.integer.values() if kind not in KINDS})
    if unknown or wrong:
        raise InputError(
            f"the plan does not fit torch_cpu: {', '.join([*unknown, *wrong])}. Its kinds are "
            f"{', '.join(KINDS)}, its units the linear layers of the model"
        )


def _quantize(tensors: dict[str, AnyArray], unit: str, kind: KindName) -> None:
    """Replace the float weight of a unit by s8 values and scales."""
    name = unit if unit in tensors else f"{unit}.weight"
    whole: Float32Array = np.asarray(tensors[name], np.float32)
    found = quantize_weight(np.ascontiguousarray(whole.reshape(-1, whole.shape[-1]).T), kind)
    tensors[name] = np.ascontiguousarray(found.values.T).reshape(whole.shape)
    tensors[f"{SCALES}{unit}"] = found.scale.reshape(whole.shape[:-1])
