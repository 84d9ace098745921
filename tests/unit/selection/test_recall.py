import numpy as np
import pytest

from orchestrator.selection.costs.results import Ledger
from orchestrator.selection.recall import (
    default_pool,
    keep_best,
    lacks_information,
    plan_open_choice,
    plan_recall,
    proxy_residuals,
    rank_default,
    rank_paper,
    recall_candidates,
)
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.score_predictor import ShrunkenPredictor

from .conftest import synthetic_history


def grouped():
    """Two groups with similar scores (m0-m2, m3-m4) and m5 alone."""
    history = synthetic_history(models=6, datasets=4, seed=1)
    rng = np.random.default_rng(0)
    shape = rng.uniform(0.2, 0.9, (3, 4))
    finals = shape[[0, 0, 0, 1, 1, 2]] + rng.normal(0, 0.005, (6, 4))
    history.curves[:] = finals[:, :, None]
    return history


def score(value, name="knn", floor=0.1):
    return ProxyScore(values={name: value}, floors={name: floor})


def open_choice(history, candidates=None, top=3, **settings):
    fitted = ShrunkenPredictor.fit(history) if len(history.datasets) > 2 else None
    return plan_open_choice(history, candidates or history.models, fitted, top, **settings), fitted


def test_mode_paper_scores_representatives_and_models_without_history():
    history = grouped()
    plan = plan_recall(history, [*history.models, "new"])
    heads = set(plan.representatives.values())
    assert len(heads) == 2
    assert plan.unknown == ("new",)
    assert plan.to_score == tuple(sorted([*heads, "new"]))
    assert "m5" not in plan.to_score


def test_with_one_larger_cluster_singletons_are_scored_too():
    history = grouped().with_models(["m0", "m1", "m2", "m5"])
    plan = plan_recall(history, history.models, threshold=0.05)
    (head,) = set(plan.representatives.values())
    assert plan.to_score == tuple(sorted([head, "m5"]))


def test_proxies_look_at_the_best_of_the_prior_and_at_models_without_history():
    history = grouped().with_models(["m0", "m1", "m2", "m3", "m4", "m5", "new", "newer"])
    plan, predictor = open_choice(history, top=2)
    prior = predictor.prior()
    best = sorted(grouped().models, key=lambda model: -prior[model])[:2]
    assert plan.clustering is None
    assert plan.unknown == ("new", "newer")
    assert plan.to_score == tuple(sorted([*best, "new", "newer"]))
    assert open_choice(history, top=0)[0].to_score == ("new", "newer")
    # a single score cannot be compared with any other
    assert open_choice(grouped(), top=1)[0].to_score == ()


def test_with_little_history_the_mean_score_says_who_is_looked_at():
    history = grouped().without_dataset("d0").without_dataset("d1")
    plan, predictor = open_choice(history, top=3)
    assert predictor is None
    assert set(plan.to_score) == set(sorted(plan.means, key=lambda m: -plan.means[m])[:3])


def test_default_mode_is_the_prior_when_proxies_carry_no_information():
    plan, predictor = open_choice(grouped())
    at_floor = {m: score(0.1) for m in plan.to_score}
    ranked = rank_default(plan, predictor, at_floor)
    assert {m: s for m, (s, _) in ranked.items()} == predictor.prior()
    assert not lacks_information(plan, predictor, at_floor)


def test_a_proxy_moves_a_known_model_little_and_an_unknown_model_more():
    history = grouped().with_models(["m0", "m1", "m2", "m3", "m4", "m5", "new"])
    plan, predictor = open_choice(history, top=3)
    best = sorted(set(plan.to_score) - {"new"})
    proxies = {m: score(0.2 + 0.1 * i) for i, m in enumerate(best)} | {"new": score(0.9)}
    before, after = predictor.prior(), rank_default(plan, predictor, proxies)
    moved = {m: abs(after[m][0] - before[m]) for m in plan.candidates}
    assert after["new"][0] > before["new"]
    assert "no history" in after["new"][1]
    assert moved["new"] > max(moved[m] for m in best)
    assert {m for m in plan.candidates if moved[m] == 0} == set(history.models) - set(plan.to_score)
    # the scored models are the best: an average proxy score must not pull them to zero
    residuals = proxy_residuals(plan, proxies, predictor)
    center = np.mean([before[m] for m in plan.to_score])
    assert np.mean(list(residuals.values())) == pytest.approx(center, abs=1e-9)


def test_models_that_are_not_above_chance_share_the_last_place():
    plan = plan_open_choice(grouped().with_models(["a", "b", "c", "d"]), "abcd", None, 4)
    proxies = {"a": score(0.05), "b": score(0.09), "c": score(0.5), "d": score(0.6)}
    residuals = proxy_residuals(plan, proxies, None)
    assert residuals["a"] == residuals["b"] < residuals["c"] < residuals["d"]


def test_without_a_predictor_proxies_rank_and_the_mean_breaks_ties():
    history = grouped().without_dataset("d0").without_dataset("d1")
    plan, _ = open_choice(history.with_models([*history.models, "new"]), top=3)
    proxies = {m: score(0.2 + 0.1 * i) for i, m in enumerate(plan.to_score)}
    ranked = rank_default(plan, None, proxies)
    assert keep_best(ranked, 2)[0].model == plan.to_score[-1]
    assert ranked[plan.to_score[-1]][1].startswith("proxy rank")
    nothing = rank_default(plan, None, {})
    assert nothing["new"][1] == "no history and no proxy above chance: the mean of the others"
    assert nothing["m5"][1].startswith("mean score 0.")
    assert (
        min(s for s, _ in nothing.values())
        < nothing["new"][0]
        < max(s for s, _ in nothing.values())
    )


def test_no_information_is_said_and_size_decides_not_the_name():
    sizes = {"x": 30, "y": 20, "z": 10}
    plan = plan_open_choice(grouped().with_models(list(sizes)), list(sizes), None, 2, sizes)
    for proxies in ({}, {m: score(0.05) for m in sizes}):
        assert lacks_information(plan, None, proxies)
        recalled = recall_candidates(plan, proxies, mode="default", predictor=None, pool=2)
        assert [item.model for item in recalled if item.kept] == ["z", "y"]
        assert {item.reason for item in recalled} == {
            "no information (no history, no proxy above chance): in order of size"
        }
    assert not lacks_information(plan, None, {m: score(0.1 * i) for i, m in enumerate(sizes)})


def test_large_zoos_need_no_clusters_and_few_passes(monkeypatch):
    """Counts, not times: `benchmarks/recall.py` measures."""
    history = synthetic_history(models=2000, datasets=5, stages=1)
    monkeypatch.setattr(
        "orchestrator.selection.recall.cluster_models", lambda *_: pytest.fail("clustered")
    )
    plan, predictor = open_choice(history, top=10)
    assert len(plan.to_score) == 10
    recalled = recall_candidates(
        plan, {m: score(0.5) for m in plan.to_score}, mode="default", predictor=predictor, pool=10
    )
    assert sum(item.kept for item in recalled) == 10


def test_paper_mode_is_eq_2_to_4():
    history = grouped()
    plan = plan_recall(history, history.models)
    clustering = plan.clustering
    heads = sorted(set(plan.representatives.values()))
    proxies = {heads[0]: 0.5, heads[1]: 0.8}
    ranked = rank_paper(plan, proxies)
    means = dict(zip(clustering.models, clustering.means, strict=True))
    for member, head in plan.representatives.items():
        assert ranked[member][0] == pytest.approx(means[member] * proxies[head])
    place = {m: i for i, m in enumerate(clustering.models)}
    alone = np.mean([clustering.similarity[place["m5"], place[h]] * proxies[h] for h in heads])
    assert ranked["m5"][0] == pytest.approx(means["m5"] * alone)


def test_no_history_at_all_ranks_by_proxy():
    plan = plan_open_choice(grouped().with_models(["x", "y"]), ["x", "y"], None, 2)
    assert plan.to_score == ("x", "y")
    ranked = rank_default(plan, None, {"x": score(0.2), "y": score(0.6)})
    assert [item.model for item in keep_best(ranked, 1) if item.kept] == ["y"]


def test_pool_sizes_of_small_and_large_zoos():
    assert [default_pool(n, 10) for n in (1, 2, 3, 5, 10, 16, 500)] == [1, 2, 2, 3, 6, 10, 10]


def test_the_ledger_adds_proxies_and_compares_with_brute_force():
    ledger = Ledger.of(
        candidates=39, epochs_each=5, epochs=15, steps=150, steps_per_epoch=10, proxy_passes=8
    )
    assert ledger.total_epochs == 19
    assert ledger.brute_force_epochs == 195
    assert ledger.brute_force_steps == 1950
    assert ledger.share_of_brute_force == pytest.approx(19 / 195, abs=1e-4)
