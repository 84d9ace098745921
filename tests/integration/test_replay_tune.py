"""ASHA and HyperBand of Ray Tune on stored curves: they finish, pay and choose as they should."""

import numpy as np
import pandas as pd
import pytest

from orchestrator.selection.costs.comparison import asha_epochs, hyperband_epochs
from orchestrator.selection.matrix.importing import import_table
from orchestrator.selection.replay.methods import ReplaySettings
from orchestrator.selection.replay.playing import replay

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["asha", "hyperband"])
def test_tune_decides_on_stored_curves(local_ray, method, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for model in range(11):  # no multiple of a bracket of HyperBand
        for dataset in ("d0", "d1"):
            level = 0.5 + 0.03 * model + rng.uniform(-0.012, 0.012)  # else d1 is a copy of d0
            curve = level + 0.02 * np.arange(4) + rng.normal(0, 0.001, 4)
            final = {} if dataset == "d1" else {"test_final": curve[-1]}
            scores = {f"val_epoch{e}": score for e, score in enumerate(curve, start=1)}
            rows.append({"model": f"m{model:02d}", "dataset": dataset, **scores, **final})
    table = pd.DataFrame(rows)
    table.loc[table["model"] == "m04", "val_epoch2"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    matrix = import_table(tmp_path / "t.csv").matrix
    first, second = replay(matrix, ["d0", "d1"], ReplaySettings(method)).results
    assert first.winner == second.winner == "m10"
    assert (first.regret, second.regret) == (0.0, None)
    assert 11 + 3 <= first.epochs < 44
    assert len(first.rungs[0].trained) == 11
    assert first.ranking[0].epochs == 4
    assert first.ranking[-1].status == "failed"
    assert first.ranking[-1].model == "m04"


def test_reports_estimate_the_epochs_that_tune_pays_for(local_ray, tmp_path):
    rng, models, epochs = np.random.default_rng(1), 23, 5
    rows = []
    for model in range(models):
        for dataset in ("d0", "d1"):
            curve = rng.uniform(0.4, 0.8) + 0.02 * np.arange(epochs)
            scores = {f"val_epoch{e}": score for e, score in enumerate(curve, start=1)}
            cell = {"model": f"m{model:02d}", "dataset": dataset, "test_final": curve[-1]}
            rows.append({**cell, **scores})
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    matrix = import_table(tmp_path / "t.csv").matrix
    (found,) = replay(matrix, ["d0"], ReplaySettings("hyperband")).results
    least = hyperband_epochs(models, epochs)
    assert least <= found.epochs < least + epochs  # the rest trains its choice to the end
    (found,) = replay(matrix, ["d0"], ReplaySettings("asha", seed=1)).results
    assert found.epochs == pytest.approx(asha_epochs(models, epochs), rel=0.3)
