"""The error of every unit in every kind, from one pass of the float model and its gradients.

A unit in INT8 changes its product by d, which moves the answers by J d with the Jacobian J of all
that follows. Its divergence is 1/2 E[(g' d)^2] with g = J' v, the gradient of the answers along a
random direction v (``directions``). One float pass gives the inputs of all units, one backward pass
the g of all units; each unit and kind then costs its own product alone, executed by the runtime
that would serve it. A session of the whole model for each would repeat all other layers.

The estimate is of first order: it ranks units and is exact for small errors; errors that saturate
are overestimated. The search measures whole plans, and decides by these.

Torch computes the gradients, so that each unit must be an output of its module. That is not
believed: torch's output and the graph's product may differ by a bias only. Units for which they
do not agree (layers that are used twice, recurrent ones), kinds whose scale covers the whole call,
and heads without ``DIRECTIONS`` have no estimate; they are measured in whole sessions.

Legend: B rows, S tokens, P = B S positions, K inputs, N outputs.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.arrays import AnyArray, Float32Array, FloatArray
from orchestrator.inference.models import EMBEDDING
from orchestrator.quantization.backends.backend import LoadedModel
from orchestrator.quantization.calibrators.calibrator import INPUT
from orchestrator.quantization.emission.gemms import Product
from orchestrator.quantization.flips import DECIDES
from orchestrator.quantization.inputs import QuantizeInputs
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.measured_results import Divergence
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.prices.directions import (
    DIRECTIONS,
    cosine_direction,
    margin_direction,
)
from orchestrator.quantization.prices.eager import EagerModel
from orchestrator.quantization.prices.single_products import INPUT as X
from orchestrator.quantization.prices.single_products import OUTPUT, product_model

ANSWERS: Final = "answers"
MARGIN: Final = "margin"
MOST_ROWS: Final = 48
"""Calibration rows that are read, one direction each: more rows average more than more directions
of the same ones."""
AGREEMENT: Final = 1e-3
"""Largest difference of torch's output and the product, relative to the largest output."""
PER_CALL: Final[tuple[KindName, ...]] = ("s7",)
"""Kinds whose scale covers all rows of a call."""
PARTS: Final = {".qkv": ("query", "key", "value")}
"""Modules side by side in one unit."""

Kinds = Mapping[str, Sequence[KindName]]


def measure_sensitivities(
    inputs: QuantizeInputs, kinds: Kinds, equalized: tuple[str, ...] = ()
) -> dict[str, dict[KindName, Divergence]]:
    """Estimate the divergence that each unit adds in each kind, on the calibration rows.

    Args:
        inputs: The float model with its ranges.
        kinds: INT8 kinds of each unit.
        equalized: Norms that all plans equalize.

    Returns:
        Divergences by unit and kind, of the units that have an estimate.
    """
    if not set(inputs.heads.values()) <= set(DIRECTIONS):
        return {}
    units = _Units(inputs, kinds, equalized)
    eager = EagerModel(inputs.source, inputs.heads)
    outputs = _Outputs(eager.module, list(units.kinds))
    if not outputs.parts:  # recurrent layers alone
        return {}
    generator = torch.Generator().manual_seed(0)
    sums: dict[tuple[str, KindName, str], float] = defaultdict(float)
    rows, share = 0, min(1.0, MOST_ROWS / len(inputs.texts.calibration))
    for part in inputs.texts.calibration.parts:
        for batch in part.batches:
            tight = _tight(_some(batch, share))
            with outputs.recording():
                answers = eager.answers(tight, {*inputs.heads, EMBEDDING})
            gradients = _gradients(inputs, answers, tight, outputs, generator)
            count = len(next(iter(tight.values())))
            for unit, changes in units.changes(tight, outputs.arrays()):
                for kind, change in changes.items():
                    for measure, found in gradients.items():
                        moved = _along(found[unit], change, count)
                        sums[unit, kind, measure] += float((moved**2).sum()) / 2
            rows += count
    divided = {key: total / rows for key, total in sums.items()}
    return {
        unit: {kind: _divergence(divided, unit, kind) for kind in chosen}
        for unit, chosen in units.kinds.items()
    }


def _divergence(
    found: Mapping[tuple[str, KindName, str], float], unit: str, kind: KindName
) -> Divergence:
    margin = found.get((unit, kind, MARGIN))  # a mean square, not half of one
    return Divergence(
        kl=found.get((unit, kind, ANSWERS)),
        cosine=found[unit, kind, EMBEDDING],
        margin=None if margin is None else 2 * margin,
    )


def _some(batch: Mapping[str, AnyArray], share: float) -> dict[str, AnyArray]:
    """Return a share of the rows, evenly, because the batches are sorted by length."""
    count = len(next(iter(batch.values())))
    kept = np.flatnonzero(np.diff(np.ceil(np.arange(count + 1) * share)))
    return {name: values[kept] for name, values in batch.items()}


def _tight(batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Return a batch without columns that are padding in every row, as runtimes cut it."""
    mask = batch.get("attention_mask")
    if mask is None:
        return dict(batch)
    length = int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
    return {n: v[:, :length] if v.shape == mask.shape else v for n, v in batch.items()}


def _gradients(
    inputs: QuantizeInputs,
    answers: Mapping[str, Tensor],
    batch: Mapping[str, AnyArray],
    outputs: "_Outputs",
    generator: torch.Generator,
) -> dict[str, dict[str, Float32Array]]:
    """Return the gradient at every unit [P, N] of each measure."""
    mask = batch.get("attention_mask")
    real = None if mask is None else torch.from_numpy(mask != 0)
    vectors = answers[EMBEDDING]
    across = cosine_direction(vectors.detach(), generator)
    found = {EMBEDDING: outputs.gradients((across * vectors).sum())}
    if heads := inputs.heads:
        total = torch.zeros(())
        for name, kind in heads.items():
            direction = DIRECTIONS[kind](answers[name].detach(), real, generator)
            total = total + (direction * answers[name]).sum() / len(heads) ** 0.5
        found[ANSWERS] = outputs.gradients(total)
    if inputs.task is not None and inputs.task.kind() in DECIDES:
        values = answers[inputs.task.head]
        found[MARGIN] = outputs.gradients(
            (margin_direction(values.detach(), real, generator) * values).sum()
        )
    return found


def _along(gradient: Float32Array, change: Float32Array, rows: int) -> FloatArray:
    """Return the inner product of a gradient and a change [P, N] for each row [B]."""
    products = np.einsum("pn,pn->p", gradient, change, dtype=np.float64, casting="same_kind")
    return np.asarray(products.reshape(rows, -1).sum(axis=1))


class _Units:
    """Products of all units that may have an estimate, each in float and in its kinds."""

    def __init__(self, inputs: QuantizeInputs, kinds: Kinds, equalized: tuple[str, ...]) -> None:
        emission = inputs.source.emit(Plan({}, equalized), observe=True)
        self._observed = inputs.backend.open(emission.to_bytes(), batch_invariant=True)
        self.kinds = {
            unit: chosen
            for unit, chosen in kinds.items()
            if unit in emission.products and not set(chosen) & set(PER_CALL)
        }
        self._biases: dict[str, Float32Array] = {}
        self._models = {
            (unit, kind): self._open(inputs, emission.products[unit], kind)
            for unit, chosen in self.kinds.items()
            for kind in (FLOAT, *chosen)
        }

    def _open(self, inputs: QuantizeInputs, product: Product, kind: KindName) -> LoadedModel:
        return inputs.backend.open(product_model(product, kind), batch_invariant=True)

    def changes(
        self, batch: Mapping[str, AnyArray], outputs: Mapping[str, Float32Array]
    ) -> Iterator[tuple[str, dict[KindName, Float32Array]]]:
        """Yield each unit with the change of its product [P, N] in each kind."""
        inputs = self._observed.predict(batch)
        for unit in list(self.kinds):
            x = inputs.pop(f"{INPUT}{unit}")
            if unit not in self._biases:
                plain = self._product(unit, FLOAT, x)
                bias = _bias(outputs.get(unit), plain, batch.get("attention_mask"))
                if bias is None:
                    del self.kinds[unit]
                    continue
                self._biases[unit] = bias
            plain = outputs[unit] - self._biases[unit]
            yield unit, {k: self._product(unit, k, x) - plain for k in self.kinds[unit]}

    def _product(self, unit: str, kind: KindName, x: Float32Array) -> Float32Array:
        found: Float32Array = self._models[unit, kind].predict({X: x[None]})[OUTPUT][0]
        return found


def _bias(
    output: Float32Array | None, product: Float32Array, mask: AnyArray | None
) -> Float32Array | None:
    """Return the row [N] by which two arrays [P, N] differ at all real positions; None: several."""
    if output is None or output.shape != product.shape:
        return None
    difference = output - product
    if mask is not None and mask.size == len(output):
        difference = difference[mask.reshape(-1) != 0]
    bias: Float32Array = difference.mean(axis=0)
    agrees = np.abs(difference - bias).max() <= AGREEMENT * np.abs(output).max()
    return bias if agrees else None


class _Outputs:
    """Outputs of the modules of units, recorded in one pass, and gradients at them."""

    def __init__(self, module: nn.Module, units: Sequence[str]) -> None:
        modules = dict(module.named_modules())
        self.parts = {unit: names for unit in units if set(names := _modules(unit)) <= set(modules)}
        self._modules = {n: modules[n] for names in self.parts.values() for n in names}
        self._found: dict[str, Tensor] = {}

    def recording(self) -> "_Recording":
        """Record the outputs of the next pass."""
        self._found = {}
        return _Recording(self._modules, self._found)

    def arrays(self) -> dict[str, Float32Array]:
        """Return the output [P, N] of each unit."""
        return self._joined({name: each.detach() for name, each in self._found.items()})

    def gradients(self, total: Tensor) -> dict[str, Float32Array]:
        """Return the gradient of a sum over rows at the output [P, N] of each unit."""
        names = list(self._found)
        found = torch.autograd.grad(
            total, [self._found[name] for name in names], retain_graph=True, allow_unused=True
        )
        pairs = zip(names, found, strict=True)
        return self._joined(
            {n: torch.zeros_like(self._found[n]) if g is None else g for n, g in pairs}
        )

    def _joined(self, tensors: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        return {
            unit: torch.cat([tensors[name] for name in names], dim=-1).flatten(0, -2).numpy()
            for unit, names in self.parts.items()
            if tensors.keys() >= set(names)
        }


class _Recording:
    """Hooks for one pass: every recorded output can be differentiated with respect to."""

    def __init__(self, modules: Mapping[str, nn.Module], found: dict[str, Tensor]) -> None:
        self._modules, self._record = modules, found

    def __enter__(self) -> None:
        def hook(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
            def record(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
                del module, inputs
                kept = output if output.requires_grad else output.detach().requires_grad_()
                self._record[name] = kept
                return kept

            return record

        self._hooks = [m.register_forward_hook(hook(n)) for n, m in self._modules.items()]

    def __exit__(self, *error: object) -> None:
        for each in self._hooks:
            each.remove()


def _modules(unit: str) -> tuple[str, ...]:
    """Return the modules whose outputs side by side are the product of a unit."""
    for end, parts in PARTS.items():
        if unit.endswith(end):
            return tuple(f"{unit.removesuffix(end)}.{part}" for part in parts)
    return (unit,)
