"""A toy with every kind of hidden matrix: fused projections, experts, gates, kernels."""

import torch
from torch import nn

from tests.support.toy import WIDTH, Toy

EXPERTS = 3


class Stacked(Toy):
    """The toy, with a fused projection, experts and a convolution in front of its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.fused.stacked_matrices = 3
        self.up = nn.Parameter(torch.randn(EXPERTS, 11, WIDTH) * 0.3)
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, 11) * 0.3)
        self.kernels = nn.Conv1d(WIDTH, 10, 3, padding=1)
        self.back = nn.Linear(10, WIDTH, bias=False)

    def mixed(self, hidden):
        query, key, value = self.fused(hidden).chunk(3, dim=-1)
        hidden = hidden + torch.softmax(query @ key.mT, -1) @ value
        each = torch.tanh(torch.einsum("eiw,bsw->besi", self.up, hidden))
        hidden = hidden + torch.einsum("ewi,besi->bsw", self.down, each)
        return hidden + self.back(torch.tanh(self.kernels(hidden.mT)).mT)


def stacked_model(seed=0):
    torch.manual_seed(seed)
    return Stacked()
