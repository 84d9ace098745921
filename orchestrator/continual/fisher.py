"""Importance of weights: diagonal empirical Fisher information, per sample, streamed.

    F_i = 1/N * sum_n (d log p(y_n | x_n) / d w_i)^2       true labels, eval mode, at the weights w

(Kirkpatrick et al. 2017; true labels as in the C&F code). Gradients are squared sample by sample.

Two ways, equal up to rounding:

- *gathered*: every rank holds the whole model in a skeleton outside the engine and takes every
  ``world``-th sample; sums over ranks. Fastest; three copies of the model while it runs.
- *sharded*: all ranks run the same sample through the engine; the mean of equal gradients is that
  gradient, and its square is born sharded. Memory stays cut; ``world`` times the compute.
"""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from itertools import islice

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.importance import Importance, squared_gradients
from orchestrator.modeling.transfer import to_device
from orchestrator.training.engines.engine import Batch, Engine, gradient
from orchestrator.training.engines.optimizers import trainable


def skeleton_of(model: nn.Module) -> nn.Module:
    """Copy a model's structure without weights but with ties; before an engine wraps the model."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        bare = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deepcopy(model, memo).eval()


def gathered_fisher(engine: Engine, skeleton: nn.Module, samples: Iterable[Batch]) -> Importance:
    """Return the importance; each rank takes its share of the samples; collective.

    Args:
        engine: Holds the weights; not touched.
        skeleton: From :func:`skeleton_of` of the same model.
        samples: Batches of one labelled sample, the same on every rank.

    Returns:
        The full importance of every trainable parameter, on every rank.

    Raises:
        InputError: There is no sample.
    """
    device = next(engine.module.parameters()).device
    full = {name: value.to(device) for name, value in engine.gathered().items()}
    weights = {name: full[name].requires_grad_() for name, _ in trainable(skeleton)}
    state = {**full, **dict(engine.module.named_buffers())}  # buffers are whole on every rank

    def run(batch: Batch) -> dict[str, Tensor]:
        moved = to_device(batch, device)
        outputs: dict[str, Tensor] = torch.func.functional_call(skeleton, state, (moved,))
        return outputs

    mine = islice(samples, engine.rank, None, engine.world)
    return _mean_over_ranks(engine, *squared_gradients(run, weights, mine))


def sharded_fisher(engine: Engine, samples: Iterable[Batch]) -> Importance:
    """Return the importance; every rank runs every sample through the engine; collective.

    Afterwards the engine's gradients are those of the last sample; its weights, optimizer and mode
    are unchanged.

    Args:
        engine: At the weights to measure.
        samples: Batches of one labelled sample, the same on every rank.

    Returns:
        The full importance, assembled from the shards, on every rank.

    Raises:
        InputError: There is no sample.
    """
    training = engine.module.training
    engine.module.eval()
    try:
        mine: dict[str, Tensor] = {}
        count = 0
        for batch in samples:
            engine.forward_backward([batch])
            for shard in engine.shards():
                square = gradient(shard).float().square()
                mine[shard.name] = mine[shard.name] + square if shard.name in mine else square
            count += 1
    finally:
        engine.module.train(training)
    if not count:
        raise InputError("importance needs at least one sample. Raise find.fisher_samples")
    return {name: value / count for name, value in assembled(engine, mine)}


def assembled(engine: Engine, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Put shard-shaped values together into full tensors; collective, one parameter at a time.

    Args:
        engine: Whose layout the parts follow.
        parts: This rank's part of each parameter it holds a shard of, [n].
    """
    mine = {shard.name: shard for shard in engine.shards()}
    for name, parameter in trainable(engine.module):
        shape = torch.Size(getattr(parameter, "ds_shape", parameter.shape))
        flat = torch.zeros(shape.numel(), dtype=torch.float32)
        if (shard := mine.get(name)) is not None:
            flat[shard.start : shard.start + shard.master.numel()] = parts[name].cpu()
        yield name, engine.sum_over_shards(flat).view(shape)


def _mean_over_ranks(engine: Engine, sums: Importance, count: int) -> Importance:
    total = int(engine.sum_over_ranks(torch.tensor([float(count)])).item())
    if total == 0:
        raise InputError("importance needs at least one sample. Raise find.fisher_samples")
    return {name: (engine.sum_over_ranks(value) / total).cpu() for name, value in sums.items()}
