"""Small real packages."""

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

HISTORY = {
    "step": [1, 2],
    "epoch": [0, 0],
    "split": ["train", "validation"],
    "metric": ["loss", "accuracy"],
    "value": [1.5, 0.5],
    "seconds": [0.1, 0.2],
}


def fill(folder, scale=1.0):
    """Write the files of a package."""
    (folder / "config.json").write_text('{"hidden_size": 4}')
    weights = {"w": np.full((3, 4), scale, np.float32), "b": np.arange(4, dtype=np.float32)}
    save_file(weights, folder / "model.safetensors")
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "test.json").write_text('{"accuracy": 0.5}')
    pd.DataFrame(HISTORY).to_parquet(folder / "history.parquet")


def make(zoo, name="base", *, kind="pretrained", parents=(), scale=1.0, **fields):
    """Commit a small package."""
    with zoo.draft(name, kind=kind, producer={"stage": "pretrain"}, parents=parents, **fields) as d:
        fill(d.path, scale)
        return d.commit()


def light(zoo, name="base", *, kind="pretrained", parents=(), **fields):
    """Commit a package of one tiny file."""
    with zoo.draft(name, kind=kind, parents=parents, **fields) as draft:
        (draft.path / "config.json").write_text("{}")
        return draft.commit()
