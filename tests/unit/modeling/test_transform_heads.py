"""Heads with a transform: what it computes, where it pools, what is refused."""

import pytest
import torch

from orchestrator.errors import ConfigError

from .small import make_batch, make_model

TRANSFORM = {"activation": "silu", "norm_eps": 1e-3, "norm_bias": False, "bias": False}
ENCODER = {"type": "transformer", "num_heads": 2}


def head(**options):
    options = {"type": "cls", "num_labels": 3} | options
    return make_model(encoder=ENCODER, target=options, initializer_range=0.3)


@pytest.mark.parametrize("pools_last", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_a_transform_stands_before_or_after_pooling(pooling, pools_last):
    model = head(transform=TRANSFORM, pooling=pooling, pools_last=pools_last)
    target, batch = model.targets["cls"], make_batch()
    hidden, mask = model.read(batch)
    norm, dense = target.transform.norm, target.transform.dense
    assert norm.bias is None
    assert dense.bias is None
    rows = []
    for row, real in enumerate(mask):
        vectors = hidden[row][real]
        if pools_last:
            vectors = norm(torch.nn.functional.silu(dense(vectors)))
        pooled = {"mean": vectors.mean(0), "max": vectors.amax(0), "last": vectors[-1]}[pooling]
        if not pools_last:
            pooled = norm(torch.nn.functional.silu(dense(pooled)))
        rows.append(target.output(pooled))
    torch.testing.assert_close(model.predict(batch)["cls"], torch.stack(rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("message", "target"),
    [
        ("transform: is in place of the hidden layer", {"type": "cls", "hidden": True}),
        ("transform: is in place of the hidden layer", {"type": "choice"}),
        ("transform.norm_bias: there is no norm", {"type": "tags", "norm_bias": False}),
        ("transform.norm_bias: there is no norm", {"type": "span", "norm_bias": False}),
        ("pools_last: needs a transform", {"type": "cls", "pools_last": True, "norm_eps": 1e-5}),
    ],
)
def test_options_that_do_not_fit_are_refused(message, target):
    transform = {"norm_bias": target.pop("norm_bias")} if "norm_bias" in target else {}
    with pytest.raises(ConfigError, match=message):
        make_model(encoder=ENCODER, target=target | {"transform": transform})


def test_pooling_last_needs_a_transform():
    with pytest.raises(ConfigError, match="pools_last: needs a transform"):
        head(pools_last=True)
