import argparse
import json

import numpy as np
import pandas as pd
import pytest

from orchestrator.errors import InputError
from orchestrator.selection.replay.cli import register
from orchestrator.selection.replay.methods import ReplaySettings
from orchestrator.selection.replay.playing import replay

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
    assert again.results[0].winner == report.results[0].winner


def test_later_epochs_of_a_dropped_model_change_nothing(matrix, tmp_path):
    before = replay(matrix, ["d1"], ReplaySettings(policy="sh", keep=8)).results[0]
    changed = table()
    late = (changed["dataset"] == "d1") & (changed["model"] != before.winner)
    changed.loc[late, "val_epoch4"] = 1.0  # only the winner is trained that far
    after = replay(
        matrix_of(changed, tmp_path), ["d1"], ReplaySettings(policy="sh", keep=8)
    ).results[0]
    assert before.pool_sizes[-1] == 1
    assert after.winner == before.winner


def test_all_models_by_brute_force_rungs_find_the_best_validated(matrix):
    report = replay(matrix, ["d2"], ReplaySettings(policy="sh", keep=0))
    assert report.results[0].pool_sizes == (12, 6, 3, 1)
    assert report.summary().brute_force_epochs == 48


def test_unknown_targets_are_refused(matrix):
    with pytest.raises(InputError, match="target: 'd99' is not in the matrix"):
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


def command(capsys, *arguments):
    assert run_command(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("curves") / "curves.csv"
    table().to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("method", "epochs"),
    [
        ("successive_halving", 12 + 6 + 3 + 1),
        ("brute_force", 48),
        ("random", 10 + 5 + 2 + 1),
    ],
)
def test_the_contract_of_one_target(method, epochs, file, capsys):
    told = command(capsys, "--matrix", str(file), "--target", "d0", "--method", method)
    assert told["winner"] == told["ranking"][0]["model"]
    assert told["ledger"]["epochs"] == sum(len(rung["trained"]) for rung in told["rungs"]) == epochs
    assert told["ledger"]["brute_force_epochs"] == 48
    assert told["regret"] >= 0
    assert [row["place"] for row in told["ranking"]] == list(range(1, 13))
    assert all(row["reason"] for row in told["ranking"])
    again = command(capsys, "--matrix", str(file), "--target", "d0", "--method", method)
    assert told == again


def test_random_draws_by_the_seed(matrix):
    def pool(seed):
        result = replay(matrix, ["d0"], ReplaySettings("random", keep=4, seed=seed)).results[0]
        return set(result.rungs[0].trained)

    assert pool(0) == pool(0)
    assert len({frozenset(pool(seed)) for seed in range(5)}) > 1


def test_halving_and_brute_force_pay_what_the_paper_says(tmp_path):
    """77 and 19 epochs for 40 and 10 models x 5, 55 and 18 for 30 and 10 x 4; all: 200 .. 40."""
    for models, keep, stages, halving, everything in (
        (40, 0, 5, 77, 200), (40, 10, 5, 19, 50), (30, 0, 4, 55, 120), (30, 10, 4, 18, 40),
    ):  # fmt: skip
        made = matrix_of(table(0, models, 4, stages), tmp_path)
        for method, epochs in (("successive_halving", halving), ("brute_force", everything)):
            result = replay(made, ["d0"], ReplaySettings(method, keep=keep)).results[0]
            assert result.ledger.epochs == epochs


@pytest.mark.parametrize("method", ["two_phase", "paper", "successive_halving", "brute_force"])
def test_a_target_without_test_scores_has_no_regret(method, tmp_path, matrix):
    blind = table()
    blind.loc[blind["dataset"] == "d0", "test_final"] = np.nan
    settings = ReplaySettings(method)
    result = replay(matrix_of(blind, tmp_path), ["d0"], settings).results[0]
    assert (result.regret, result.recall_regret, result.best) == (None, None, None)
    assert any("the regret is unknown" in line for line in result.warnings)
    seeing = replay(matrix, ["d0"], settings).results[0]
    assert result.ranking == seeing.ranking  # to the last digit: test rows never decide
    report = replay(matrix_of(blind, tmp_path), ["d0", "d1"], settings)
    assert report.summary().mean_regret == report.results[1].regret
    assert "?" in report.table()


def test_a_curve_that_ends_early_is_a_failed_trial(tmp_path):
    gaps = table()
    gaps.loc[(gaps["dataset"] == "d0") & (gaps["model"] == "m3"), "val_epoch2"] = np.nan
    gaps = gaps[(gaps["dataset"] != "d0") | (gaps["model"] != "m5")]
    found = matrix_of(gaps, tmp_path)
    result = replay(found, ["d0"], ReplaySettings("brute_force")).results[0]
    last = result.ranking[-1]
    assert (last.model, last.status, last.epochs) == ("m3", "failed", 1)
    assert "column 'val_epoch2'" in last.reason
    assert len(result.ranking) == 11
    assert any(line.startswith("m5 has no complete curve on d0") for line in result.warnings)


def test_a_history_of_one_set_or_none(tmp_path):
    for sets in (1, 2, 3):
        found = matrix_of(table(0, 12, sets), tmp_path)
        for method in ("two_phase", "paper", "random"):
            result = replay(found, ["d0"], ReplaySettings(method, keep=6)).results[0]
            assert result.epochs <= 12
            assert result.pool_sizes[0] == 6


def test_final_scores_alone_are_a_history_but_no_target(tmp_path):
    mixed = table(0, 12, 6)
    finals = mixed["dataset"] != "d0"
    mixed.loc[finals, [f"val_epoch{e}" for e in range(1, 5)]] = np.nan
    found = matrix_of(mixed, tmp_path)
    result = replay(found, [], ReplaySettings(keep=6))
    assert [each.target for each in result.results] == ["d0"]
    assert result.results[0].policy == "sh"
    assert result.results[0].recall_regret < 0.05
    with pytest.raises(InputError, match=r"'d1' has no validation scores.*With curves: d0"):
        replay(found, ["d1"])


def test_a_copy_of_the_target_in_the_history_is_refused(tmp_path):
    copied = table()
    again = copied[copied["dataset"] == "d0"].assign(dataset="renamed")
    scores = [name for name in copied if name.startswith("val") or name == "test_final"]
    again[scores] = 0.9 * again[scores] + 0.01
    found = matrix_of(pd.concat([copied, again]), tmp_path, allow_duplicates=True)
    with pytest.raises(InputError, match=r"in the history as 'renamed' .correlation 1.0000"):
        replay(found, ["d0"])
    settings = ReplaySettings(never_history=("renamed",))
    assert replay(found, ["d0"], settings).results[0].winner


def test_models_trained_on_the_target_are_flagged(tmp_path):
    named = table()
    named["trained_on"] = np.where(named["model"] == "m2", "d0;other", "")
    result = replay(matrix_of(named, tmp_path), ["d0"]).results[0]
    assert [row.model for row in result.ranking if row.trained_on_target] == ["m2"]
    assert "trained on d0, or named after it: m2" in result.warnings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--never-history", "nope"], "--never-history: 'nope' is not in the matrix"),
        (["--target", "nope"], "target: 'nope' is not in the matrix"),
        (["--method", "random", "--policy", "fast"], "--policy belongs to --method two_phase"),
        (["--method", "asha", "--budget", "9"], "--budget belongs to --method two_phase or"),
        (["--method", "paper", "--tags"], "--tags belongs to"),
        (["--target", "d0", "--targets", "d1"], "give one of them"),
        (["--proxy", "x.csv"], "Name it with --target"),
        (["--budget", "3"], "allow at least 4"),
        (["--method", "random", "--seed", "-1"], "--seed: -1 is negative"),
        (["--seed", "3"], "--seed belongs to --method random or asha or hyperband"),
        (["--method", "paper", "--threshold", "nan"], "--threshold: nan is not a distance"),
        (["--method", "paper", "--threshold", "1"], "--threshold: 1 is not a distance"),
        (["--targets", ","], "--targets: names no data set"),
        (["--targets", "d1,d1"], "--targets: 'd1' is listed twice"),
        (["--target", ""], "target: '' is not in the matrix"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, file):
    with pytest.raises(InputError, match=message):
        run_command("--matrix", str(file), *arguments)


def test_stored_proxies_move_the_recall_and_are_paid(file, tmp_path, capsys):
    proxy = tmp_path / "proxy.csv"
    names = [f"m{i}" for i in range(12)]
    rows = [f"{name},{0.9 if name == 'm7' else 0.1 + at / 100}" for at, name in enumerate(names)]
    proxy.write_text("\n".join(["model,knn", *rows]))
    base = ("--matrix", str(file), "--target", "d0", "--proxy", str(proxy), "--keep", "4")
    ours = command(capsys, *base)
    assert ours["ledger"]["proxy_passes"] > 0
    paper = command(capsys, *base, "--method", "paper", "--threshold", "0.05")
    assert paper["ledger"]["total_epochs"] == (
        paper["ledger"]["epochs"] + paper["ledger"]["proxy_passes"] / 2
    )
    proxy.write_text("model,knn\nm99,0.5\n")
    with pytest.raises(InputError, match="'m99' is not a model of the matrix"):
        run_command(*base)
    for text, message in (
        ("model,magic\nm0,0.5\n", r"line 1, column 'magic': not a proxy"),
        ("model,knn\nm0,\n", r"line 1, column 'knn': has no number"),
        ("model,knn_floor\nm0,0.5\n", r"column 'knn_floor': a floor without its scores; add 'knn'"),
    ):
        proxy.write_text(text)
        with pytest.raises(InputError, match=message):
            run_command(*base)
    proxy.write_text("model,knn\nm0,0.5\n")
    with pytest.raises(InputError, match="--proxy: all 12 candidates are recalled"):
        run_command(*base[:-2], "--keep", "0")
