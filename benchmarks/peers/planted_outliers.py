"""Planted outlier channels: a package that answers as another one in float, and not in INT8.

Channels are scaled by c between two linear maps, and the weights that read them are divided by c.
After a norm that feeds the residual stream too (post-norm) this would not be exact, so there the
channels between the values and the output projection are scaled; before it (pre-norm) those of the
norm itself.
"""

import shutil
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch

from orchestrator.arrays import AnyArray
from orchestrator.inference.models import TorchModel
from orchestrator.modeling.package import load_model, read_config, read_state, write_model
from orchestrator.zoo import Zoo

SCALE: Final = 400.0
CHANNELS: Final = 3
LAYERS: Final = {"post": (0, 2, 5), "pre": (0, 2)}
"""Layers with outliers, by the position of their norms."""
COPIED: Final = ("*token*.json", "*.txt", "preprocessor_config.json", "embedding.json")


def planted(zoo: Zoo, name: str) -> str:
    """Return the package ``<name>-outliers``; make it from ``<name>`` unless it is there."""
    new = f"{name}-outliers"
    if new in zoo.names():
        return new
    package = zoo.get(name)
    assert package.manifest.task is not None
    config, state = read_config(package.path), read_state(package.path)
    position = str(config.encoder.model_dump()["norm_position"])
    for layer in LAYERS[position]:
        _plant(state, f"encoder.layers.{layer}", position)
    task = package.manifest.task.model_dump(mode="json")
    producer = {"stage": "benchmark", "job": new}
    with zoo.draft(
        new, kind="finetuned", producer=producer, parents=[package.ref], task=task
    ) as draft:
        write_model(draft.path, state, config)
        for path in (path for pattern in COPIED for path in package.path.glob(pattern)):
            shutil.copyfile(path, draft.path / path.name)
        draft.commit()
    return new


def _plant(state: dict[str, torch.Tensor], layer: str, position: str) -> None:
    """Scale channels of one layer, in place."""
    attention = f"{layer}.attention"
    source, readers = f"{attention}.value", [f"{attention}.output.weight"]
    if position == "pre":
        source = f"{layer}.norm1"
        readers = [f"{attention}.{part}.weight" for part in ("query", "key", "value")]
    for name in (f"{source}.weight", f"{source}.bias"):
        state[name][:CHANNELS] *= SCALE
    for name in readers:
        state[name][:, :CHANNELS] /= SCALE


def float_difference(zoo: Zoo, name: str, batch: Mapping[str, AnyArray]) -> float:
    """Return the largest difference of a logit, relative to the largest logit."""
    answers = []
    for each in (name, f"{name}-outliers"):
        model = TorchModel(load_model(zoo.get(each).path))
        answers.append(model.run(batch, model.heads)[model.heads[0]])
    one, other = answers
    return float(np.abs(one - other).max() / np.abs(one).max())
