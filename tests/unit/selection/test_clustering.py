import numpy as np
import pytest

from orchestrator.errors import InputError
from orchestrator.selection.matrix.clustering import (
    NLP_THRESHOLD,
    cluster_models,
    similarity_matrix,
)


def test_similarity_is_one_minus_the_mean_of_the_largest_differences():
    scores = np.array([[0.9, 0.5, 0.1, 0.4], [0.8, 0.5, 0.4, 0.2], [0.9, np.nan, 0.0, 0.4]])
    got = similarity_matrix(scores, top=2)
    assert got[0, 1] == pytest.approx(1 - (0.3 + 0.2) / 2)
    assert got[0, 2] == pytest.approx(1 - (0.1 + 0.0) / 2)  # the missing cell does not count
    np.testing.assert_allclose(got, got.T)
    np.testing.assert_allclose(np.diag(got), 1.0)


def test_models_with_too_little_in_common_never_merge():
    scores = np.array([[0.5, np.nan], [np.nan, 0.5], [0.5, 0.5]])
    result = cluster_models(["a", "b", "c"], scores, threshold=10.0)
    assert result.labels[0] != result.labels[1]


def test_average_linkage_agrees_with_a_direct_merge_loop():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(12, 7))
    names = [f"m{i}" for i in range(12)]
    distance = 1 - similarity_matrix(scores)
    for threshold in (0.25, 0.4, 0.55):
        groups = [[i] for i in range(12)]
        while len(groups) > 1:
            best = min(
                (distance[np.ix_(a, b)].mean(), i, j)
                for i, a in enumerate(groups)
                for j, b in enumerate(groups)
                if i < j
            )
            if best[0] > threshold:
                break
            groups[best[1]] += groups.pop(best[2])
        got = cluster_models(names, scores, threshold).clusters()
        assert {frozenset(names[i] for i in g) for g in groups} == {frozenset(g) for g in got}


def test_auto_threshold_finds_groups_and_their_best_members():
    rng = np.random.default_rng(2)
    centers = np.array([[0.9, 0.2, 0.5], [0.3, 0.8, 0.4], [0.6, 0.6, 0.9]])
    scores = np.repeat(centers, [3, 2, 1], axis=0) + rng.normal(0, 0.01, (6, 3))
    result = cluster_models(list("abcdef"), scores)
    assert result.clusters() == [("a", "b", "c"), ("d", "e"), ("f",)]
    assert result.silhouette() > 0.7
    heads = result.representatives()
    assert set(heads) == set("abcde")
    assert heads["a"] == "abc"[int(scores[:3].mean(axis=1).argmax())]


def test_one_model_and_no_scores():
    assert cluster_models(["a"], np.array([[0.5]])).clusters() == [("a",)]
    with pytest.raises(InputError, match="no scores for b"):
        cluster_models(["a", "b"], np.array([[0.5], [np.nan]]))


@pytest.mark.parametrize("models", [30, 45, 80])
def test_an_automatic_cut_of_many_models_has_five_representatives(models):
    """One model far from two dense groups: the best silhouette alone gives two clusters."""
    rng = np.random.default_rng(models)
    centers = np.where(np.arange(models)[:, None] % 2, 0.3, 0.8)
    scores = centers + rng.normal(0, 0.01, (models, 8))
    found = cluster_models([f"m{i:02d}" for i in range(models)], scores)
    assert len(set(found.representatives().values())) >= 5


def test_a_chain_of_models_has_no_automatic_cut():
    """Every partition of a chain has one cluster of several models: the cut is dropped."""
    scores = (3.0 ** -np.arange(40))[:, None].repeat(3, axis=1)
    assert cluster_models([f"m{i:02d}" for i in range(40)], scores).threshold == NLP_THRESHOLD


def test_more_models_than_fit_the_memory_are_refused():
    with pytest.raises(InputError, match="mode=default"):
        cluster_models([str(i) for i in range(5001)], np.zeros((5001, 1)))
