import numpy as np
import pytest

from orchestrator.selection.costs.results import Ledger
from orchestrator.selection.recall import (
    default_pool,
    keep_best,
    plan_recall,
    proxy_residuals,
    rank_default,
    rank_paper,
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


def test_only_representatives_and_models_without_history_are_scored():
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
    residuals = proxy_residuals(plan, {head: score(0.3), "m5": score(0.6)}, 0.05)
    assert residuals["m5"] > residuals["m0"] == residuals["m1"]


def test_default_mode_is_the_prior_when_proxies_carry_no_information():
    history = grouped()
    predictor = ShrunkenPredictor.fit(history)
    plan = plan_recall(history, history.models)
    at_floor = {m: score(0.1) for m in plan.to_score}
    ranked = rank_default(plan, predictor, at_floor)
    assert {m: s for m, (s, _) in ranked.items()} == predictor.prior()


def test_a_proxy_moves_its_cluster_little_and_an_unknown_model_more():
    history = grouped().with_models(["m0", "m1", "m2", "m3", "m4", "m5", "new"])
    predictor = ShrunkenPredictor.fit(history)
    plan = plan_recall(history, history.models)
    low, high = sorted(set(plan.representatives.values()))
    proxies = {low: score(0.3), high: score(0.4), "new": score(0.9)}
    before, after = predictor.prior(), rank_default(plan, predictor, proxies)
    assert after["new"][0] > before["new"]
    assert "no history" in after["new"][1]
    assert after["m5"][0] == before["m5"]
    residuals = proxy_residuals(plan, proxies, 0.05)
    members = [m for m, head in plan.representatives.items() if head == low]
    assert {residuals[m] for m in members} == {residuals[low]}
    assert residuals[low] < residuals[high] < residuals["new"]


def test_without_a_predictor_proxies_rank_and_the_mean_breaks_ties():
    history = grouped().without_dataset("d0").without_dataset("d1")
    plan = plan_recall(history, [*history.models, "new"])
    proxies = {m: score(0.2 + 0.1 * i) for i, m in enumerate(plan.to_score)}
    order = [item.model for item in keep_best(rank_default(plan, None, proxies), 2)]
    assert order[0] == plan.to_score[-1] or plan.representatives.get(order[0]) == plan.to_score[-1]


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
    history = grouped().with_models(["x", "y"])
    plan = plan_recall(history, ["x", "y"])
    assert plan.clustering is None
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
