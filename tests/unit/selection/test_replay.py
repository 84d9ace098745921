import argparse
import json

import numpy as np
import pandas as pd
import pytest

from orchestrator.errors import InputError
from orchestrator.selection.replay import ReplaySettings, register, replay

from .conftest import matrix_of, synthetic_history


def table(seed=0, models=12, datasets=8, stages=4):
    history = synthetic_history(models, datasets, stages, seed)
    rows = []
    for i, model in enumerate(history.models):
        for j, dataset in enumerate(history.datasets):
            curve = history.curves[i, j]
            stages_ = {f"val_epoch{e}": curve[e - 1] for e in range(1, stages + 1)}
            rows.append({"model": model, "dataset": dataset, **stages_, "test_final": curve[-1]})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    return matrix_of(table(), tmp_path_factory.mktemp("matrix"))


def test_a_replay_pays_for_what_it_reveals_and_reads_the_test_score_last(matrix, tmp_path):
    report = replay(matrix, ["d0", "d3"], ReplaySettings(keep=8))
    for result in report.results:
        assert result.epochs == sum(result.pool_sizes)
        assert result.pool_sizes[0] == 8
        assert result.regret >= result.recall_regret >= 0
    changed = table()
    changed.loc[changed["dataset"] == "d0", "test_final"] = np.linspace(0, 1, 12)
    again = replay(matrix_of(changed, tmp_path), ["d0"], ReplaySettings(keep=8))
    assert again.results[0].chosen == report.results[0].chosen


def test_later_epochs_of_a_dropped_model_change_nothing(matrix, tmp_path):
    before = replay(matrix, ["d1"], ReplaySettings("sh", keep=8)).results[0]
    changed = table()
    late = (changed["dataset"] == "d1") & (changed["model"] != before.chosen)
    changed.loc[late, "val_epoch4"] = 1.0  # only the winner is trained that far
    after = replay(matrix_of(changed, tmp_path), ["d1"], ReplaySettings("sh", keep=8)).results[0]
    assert before.pool_sizes[-1] == 1
    assert after.chosen == before.chosen


def test_all_models_by_brute_force_rungs_find_the_best_validated(matrix):
    report = replay(matrix, ["d2"], ReplaySettings("sh", keep=0))
    assert report.results[0].pool_sizes == (12, 6, 3, 1)
    assert report.brute_force_epochs == 48


def test_unknown_targets_are_refused(matrix):
    with pytest.raises(InputError, match="'d99' is not in the matrix"):
        replay(matrix, ["d99"])


def run_command(*arguments):
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    options = parser.parse_args(["select", "replay", *arguments])
    return options.func(options)


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    file = tmp_path / "curves.csv"
    table().to_csv(file, index=False)
    assert run_command("--matrix", str(file), "--targets", "d0,d1") == 0
    text = capsys.readouterr().out
    assert len(text.strip().splitlines()) == 4
    assert "brute force 48.0" in text
    run_command("--matrix", str(file), "--policy", "fast", "--json", "--keep", "5")
    data = json.loads(capsys.readouterr().out)
    assert data["summary"]["targets"] == 8
    assert len(data["targets"]) == 8
    with pytest.raises(InputError, match="--keep"):
        run_command("--matrix", str(file), "--keep", "-1")
