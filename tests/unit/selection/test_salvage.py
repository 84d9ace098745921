"""Merging of other candidates of one base into the winner; no training."""

import math
import shutil

import pytest
import torch

from orchestrator.errors import InputError, IntegrityError
from orchestrator.selection.salvage.merging import Ingredient, different, mix, salvage, same_base
from orchestrator.zoo import Zoo
from tests.support.candidates import commit_encoder, make_processor

ZERO = {"weight": torch.zeros(3), "count": torch.tensor(4)}
ONE = {"weight": torch.ones(3), "count": torch.tensor(4)}


def bowl(best):
    """A score that is highest where every weight is ``best``."""
    return lambda weights: 1.0 - float((weights["weight"] - best).abs().mean())


def test_shares_of_zero_and_one_are_the_two_sides_bit_for_bit():
    torch.manual_seed(0)
    first, second = {"a": torch.randn(50)}, {"a": torch.randn(50)}
    assert mix(first, second, 0.0)["a"].numpy().tobytes() == first["a"].numpy().tobytes()
    assert mix(first, second, 1.0)["a"].numpy().tobytes() == second["a"].numpy().tobytes()
    expected = 0.75 * first["a"].double() + 0.25 * second["a"].double()
    torch.testing.assert_close(mix(first, second, 0.25)["a"].double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"weight": torch.ones(3)}, "only one of them has count"),
        ({"weight": torch.ones(2), "count": torch.tensor(4)}, "weight has shapes (3,) and (2,)"),
        ({"weight": torch.ones(3), "count": torch.tensor(5)}, "count is not equal in both"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(other, reason):
    assert different(ZERO, other) == reason
    with pytest.raises(InputError, match="cannot be merged"):
        mix(ZERO, other, 0.5)


def test_a_candidate_is_merged_in_where_validation_rises():
    measure = bowl(0.5)
    other = Ingredient("b", 0.4, lambda: ONE)
    weights, found = salvage(ZERO, measure(ZERO), [other], measure)
    assert found.merged == {"b": 0.5}
    assert (found.before, found.after) == (0.5, 1.0)
    assert torch.equal(weights["weight"], torch.full((3,), 0.5))
    assert [trial.share for trial in found.trials] == [0.25, 0.5, 0.75]


def test_nothing_is_merged_where_validation_does_not_rise():
    measure = bowl(0.0)
    weights, found = salvage(ZERO, 1.0, [Ingredient("b", 1.0, lambda: ONE)], measure)
    assert found.merged == {}
    assert found.after == found.before == 1.0
    assert torch.equal(weights["weight"], ZERO["weight"])
    weights, found = salvage(ZERO, 0.7, [Ingredient("b", 0.7, lambda: ONE)], lambda _: 0.7)
    assert found.merged == {}  # an equal score does not rise


def test_a_score_that_is_not_a_number_replaces_nothing():
    weights, found = salvage(ZERO, 0.1, [Ingredient("b", 0.1, lambda: ONE)], lambda _: math.nan)
    assert found.merged == {}
    assert torch.equal(weights["weight"], ZERO["weight"])


def test_candidates_come_in_the_order_of_their_scores_and_add_up():
    read = []
    others = [
        Ingredient(name, score, lambda name=name, value=value: read.append(name) or value)
        for name, score, value in (("low", 0.1, ONE), ("high", 0.9, ONE), ("odd", 0.5, {}))
    ]
    weights, found = salvage(ZERO, 0.0, others, bowl(0.9), shares=(0.5,))
    assert read == ["high", "odd", "low"]
    assert found.merged == {"high": 0.5, "low": 0.5}
    assert torch.equal(weights["weight"], torch.full((3,), 0.75))
    assert list(found.left_out) == ["odd"]


def test_packages_of_one_base_are_found_by_their_origin(tmp_path):
    zoo, processor = Zoo(tmp_path / "zoo"), make_processor()
    base, other = (commit_encoder(zoo, name, processor) for name in ("bert", "bert-two"))

    def child(name, parent):
        with zoo.draft(
            name, kind="finetuned", producer={"stage": "test"}, parents=[parent], task=None
        ) as draft:
            shutil.copytree(parent.path, draft.path, dirs_exist_ok=True)
            (draft.path / "manifest.json").unlink()
            return draft.commit()

    one, two = child("one", base), child("two", base)
    grandchild, stranger = child("grand", two), child("stranger", other)
    found = same_base(one, [two, grandchild, base, stranger], zoo)
    assert found == {
        two.ref: None,
        grandchild.ref: None,
        base.ref: None,
        stranger.ref: "it was not made from a base that one/v0001 was made from",
    }


def test_a_state_that_cannot_be_read_is_left_out_with_its_reason():
    def broken():
        raise IntegrityError("the state is damaged")

    others = [Ingredient("bad", 0.9, broken), Ingredient("good", 0.1, lambda: ONE)]
    _, found = salvage(ZERO, 0.0, others, bowl(0.5))
    assert found.left_out == {"bad": "the state is damaged"}
    assert found.merged == {"good": 0.5}


def test_another_license_is_not_merged(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    base = commit_encoder(zoo, "bert", make_processor())
    with zoo.draft(
        "child",
        kind="finetuned",
        producer={"stage": "test"},
        parents=[base],
        task=None,
        licence="CC-BY-NC-4.0",
    ) as draft:
        shutil.copytree(base.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        child = draft.commit()
    reason = same_base(base, [child], zoo)[child.ref]
    assert reason == "its license is CC-BY-NC-4.0, the winner's None"


def test_another_tokenizer_is_another_base(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    base = commit_encoder(zoo, "bert", make_processor())
    with zoo.draft(
        "child", kind="finetuned", producer={"stage": "test"}, parents=[base], task=None
    ) as draft:
        shutil.copytree(base.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        tokenizer = draft.path / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text() + "\n")
        child = draft.commit()
    assert "tokenizer differs" in str(same_base(base, [child], zoo)[child.ref])
