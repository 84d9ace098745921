"""Audit of the executed operators: what torch dispatched while each unit ran.

A plan that claims INT8 may run in float. So the audit opens the very file, runs one batch, and
records each operator below Python: ``onednn.qlinear_pointwise`` has an integer kernel only.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.arrays import AnyArray
from orchestrator.errors import StageError
from orchestrator.quantization.backends.torch_cpu.model import PlannedModel
from orchestrator.quantization.kinds import FLOAT
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import Audit, ExecutedUnit

INTEGER_OP: Final = "onednn.qlinear_pointwise"
FLOAT_OPS: Final = frozenset({"aten.mm", "aten.addmm", "aten.linear", "aten.bmm", "aten.matmul"})
SHOWN_PROBLEMS: Final = 8


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records GEMM operators with the unit that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unit: str | None = None
        self.found: list[tuple[str | None, str, str]] = []
        """Unit, operator, and element type of the weight."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func.overloadpacket)
        if name == INTEGER_OP or name in FLOAT_OPS:
            tensors = [each for each in args if isinstance(each, torch.Tensor)]
            weight = tensors[1] if name == INTEGER_OP else tensors[-1]
            self.found.append((self.unit, name, str(weight.dtype).removeprefix("torch.")))
        return func(*args, **(kwargs or {}))

    def watch(self, unit: str, module: nn.Module) -> list[Any]:
        """Note that a unit runs while its module does; returns what removes the hooks."""

        def enter(*_: Any) -> None:
            self.unit = unit

        def leave(*_: Any) -> None:
            self.unit = None

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def audit(model: bytes, sample: Mapping[str, AnyArray]) -> Audit:
    """Run a model once and return the operators that ran in each unit.

    Args:
        model: Content of a model file.
        sample: A batch that it reads.
    """
    opened, recorder = PlannedModel(model), _Recorder()
    kinds = opened.content.kinds
    hooks = [
        hook for unit in kinds for hook in recorder.watch(unit, opened.module.get_submodule(unit))
    ]
    with recorder:
        opened.predict(sample)
    for hook in hooks:
        hook.remove()
    ran: dict[str, tuple[str, str]] = {}
    for unit, operator, weight in recorder.found:
        if unit is not None and (unit not in ran or operator != INTEGER_OP):
            ran[unit] = (operator, weight)  # float shows where a unit ran in both
    units = tuple(
        ExecutedUnit(unit=unit, kind=kinds[unit], operator=operator, weight_type=weight)
        for unit, (operator, weight) in ran.items()
    )
    integer = sum(unit.operator == INTEGER_OP for unit in units)
    outside = [op for unit, op, _ in recorder.found if unit is None and op == INTEGER_OP]
    return Audit(
        integer_units=integer,
        float_units=len(units) - integer,
        units=units,
        operators=dict(sorted(Counter(op for _, op, _ in recorder.found).items())),
        unnamed_integer=tuple(outside),
    )


def verify(audited: Audit, plan: Plan) -> None:
    """Require that exactly the plan was executed.

    Raises:
        StageError: A unit ran in another kind or operator, or not at all.
    """
    ran = {unit.unit: unit for unit in audited.units}
    problems = [f"integer GEMM {name} belongs to no unit" for name in audited.unnamed_integer]
    problems += [f"{name} is not executed" for name in plan.kinds if name not in ran]
    for name, unit in ran.items():
        planned = plan.kind(name)
        integer = unit.operator == INTEGER_OP
        if unit.kind != planned or integer != (planned != FLOAT):
            problems.append(f"{name}: planned {planned}, ran {unit.kind} as {unit.operator}")
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        raise StageError(
            f"the executed model differs from the plan in {len(problems)} places: {shown}. "
            "Nothing is committed; report this with the version of torch"
        )
