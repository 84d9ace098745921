"""Values of new parameters, by kind of module.

Norm weights are 1, biases 0, every other weight is normal with ``initializer_range``. A module that
wants something else has a method ``initialize(std)`` (recurrent and convolution encoders do) and
answers for its own parameters. A parameter that several modules share is drawn once.
"""

import torch
from torch import nn

NORMS = (nn.LayerNorm, nn.RMSNorm)


@torch.no_grad()
def initialize(module: nn.Module, std: float) -> None:
    """Fill all parameters below ``module`` from the global generator of torch.

    Args:
        module: A model or a part of one, not on the meta device.
        std: Standard deviation of weights.
    """
    _initialize(module, std, set())


def _initialize(module: nn.Module, std: float, done: set[int]) -> None:
    own = getattr(module, "initialize", None)
    if callable(own):
        own(std)
        done.update(id(parameter) for parameter in module.parameters())
        return
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in done:
            continue
        done.add(id(parameter))
        if name.endswith("bias"):
            parameter.zero_()
        elif isinstance(module, NORMS):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, std)
    for child in module.children():
        _initialize(child, std, done)
