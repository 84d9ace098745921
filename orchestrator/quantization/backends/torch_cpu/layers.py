"""Linear layers in INT8, one activation scale per row, executed by oneDNN within torch.

The arithmetic is that of kinds ``row_s7`` and ``row_s8``: a row x is divided into 127 steps of its
largest magnitude m around zero point 128, multiplied with the s8 weight in integers, and scaled
back by (m / 127) and the scale of each output. Rows are independent of each other.

Legend: R rows, K inputs and N outputs of a GEMM, E experts.
"""

from functools import cache
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.errors import InputError
from orchestrator.modeling.layers.feed_forward import Experts
from orchestrator.quantization.kinds import SIGNED_LIMIT, SYMMETRIC, WIDE_LIMIT

CHECKED_INPUTS: Final = 64
ZERO_POINT, STEPS, FLOOR = SYMMETRIC.zero_point, SYMMETRIC.above, SYMMETRIC.floor


class Int8Weight:
    """An s8 weight [N, K] in the layout of oneDNN, with a scale per output [N]."""

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.outputs = len(values)
        self._packed = torch.ops.onednn.qlinear_prepack(values.contiguous(), None)
        self._scale = scale
        self._zero = torch.zeros(self.outputs, dtype=torch.int64)

    def product(self, rows: Tensor) -> Tensor:
        """Return rows [R, K] of u8 around the zero point times the weight, in float32 [R, N]."""
        found = torch.ops.onednn.qlinear_pointwise(
            rows,
            1.0,
            ZERO_POINT,
            self._packed,
            self._scale,
            self._zero,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return cast(Tensor, found)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the layer's output [..., N] for x [..., K]."""
        rows = x.reshape(-1, x.shape[-1])
        if not len(rows):  # an expert without tokens
            return x.new_zeros((*x.shape[:-1], self.outputs))
        step = rows.abs().amax(-1, keepdim=True).clamp_(min=FLOOR).div_(STEPS)
        whole = (rows / step).round_().add_(ZERO_POINT).to(torch.uint8)
        found = self.product(whole).mul_(step)  # a row with NaN has a step of NaN
        if bias is not None:
            found.add_(bias)
        return found.reshape(*x.shape[:-1], self.outputs)


class Int8Linear(nn.Module):
    """A linear layer with an s8 weight.

    Args:
        values: [N, K], s8.
        scale: [N].
        bias: [N], or None.
    """

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = values.shape[1], values.shape[0]
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._weight = Int8Weight(values, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., N] for [..., K]."""
        return self._weight(x, self.bias)


class Stack(nn.Module):
    """The same matrix of every expert, in float.

    Args:
        values: [E, N, K].
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values, requires_grad=False)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Return [R, N] for [R, K]."""
        return F.linear(x, self.values[expert])


class Int8Stack(nn.Module):
    """The same matrix of every expert, in s8.

    Args:
        values: [E, N, K], s8.
        scale: [E, N].
    """

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        super().__init__()
        self._weights = [Int8Weight(*each) for each in zip(values, scale, strict=True)]

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Return [R, N] for [R, K]."""
        return self._weights[expert](x)


class PlannedExperts(nn.Module):
    """Experts whose matrices are modules, each float or INT8.

    Args:
        experts: Router, activation and number of experts per token come from it.
        stacks: ``up``, ``down`` and, if gated, ``gate``.
    """

    def __init__(self, experts: Experts, stacks: dict[str, nn.Module]) -> None:
        super().__init__()
        self.top_k, self.activation = experts.top_k, experts.activation
        self.number, self.router = len(experts.up), experts.router
        self.router_logits: Tensor | None = None
        for name, stack in stacks.items():
            self.add_module(name, stack)
        self.gated = "gate" in stacks

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position; [B, S, D] to [B, S, D]. As ``Experts`` does."""
        return Experts.forward(cast(Experts, self), x)

    def mixed(self, tokens: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Return the weighted sum of what the chosen experts answer, [R, D]."""
        result = torch.zeros_like(tokens)
        for expert in range(self.number):
            token, rank = (chosen == expert).nonzero(as_tuple=True)
            if len(token):
                part = self.expert(tokens[token], expert) * shares[token, rank, None]
                result = result.index_add(0, token, part)
        return result

    def expert(self, x: Tensor, expert: int) -> Tensor:
        """Return the answer of one expert, [R, D] for [R, D]."""
        up = self.get_submodule("up")(x, expert)
        if self.gated:
            inner = self.activation(self.get_submodule("gate")(x, expert)) * up
        else:
            inner = self.activation(up)
        return cast(Tensor, self.get_submodule("down")(inner, expert))


@cache
def sums_exactly(limit: int) -> bool:
    """Return whether torch's kernel sums extreme products exactly on this host.

    Args:
        limit: Largest magnitude of a weight: 63 (``row_s7``) or 127 (``row_s8``).
    """
    values = torch.full((2, CHECKED_INPUTS), limit, dtype=torch.int8)
    values[1] = -limit
    rows = torch.full((3, CHECKED_INPUTS), 255, dtype=torch.uint8)
    rows[1, ::2], rows[2] = 1, 1
    exact = (rows.int() - ZERO_POINT) @ values.int().T
    found = Int8Weight(values, torch.ones(2)).product(rows)
    return torch.equal(found, exact.float())


def require_exact(kind: str) -> None:
    """Require that this host executes a kind without saturation.

    Raises:
        InputError: It does not.
    """
    if not sums_exactly(WIDE_LIMIT if kind == "row_s8" else SIGNED_LIMIT):
        raise InputError(
            f"this CPU saturates products of {kind} in torch {torch.__version__}. Serve the "
            "package on a CPU with VNNI, AMX or ARM dot products, or quantize the source package "
            "on this one"
        )
