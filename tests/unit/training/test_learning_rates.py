"""The rule for the learning rate of fine-tuning."""

import pytest

from orchestrator.training.learning_rates import rate_for, usual_rate
from orchestrator.zoo import Zoo
from tests.support.packages import commit_tiny, write_tiny


@pytest.mark.parametrize(
    ("width", "imported", "lora", "expected"),
    [
        (64, False, False, 2e-3),
        (256, False, False, 1e-3),
        (768, True, False, 5e-5),
        (384, True, False, 1e-4),
        (1024, True, False, 3.75e-5),
        (32, True, False, 4e-4),
        (768, True, True, 5e-4),
        (64, False, True, 5e-3),
    ],
)
def test_the_rule(width, imported, lora, expected):
    rate = usual_rate(width, imported=imported, lora=lora)
    assert rate.value == pytest.approx(expected, rel=1e-2)
    assert str(width) in rate.reason
    assert ("LoRA" in rate.reason) == lora


def test_a_descendant_of_an_import_counts_as_imported(tmp_path):
    zoo = Zoo(tmp_path)
    own = commit_tiny(zoo, "own")
    assert "trained here" in rate_for(zoo, own, lora=False).reason
    parent = own
    for name, kind in (("theirs", "imported"), ("child", "finetuned")):
        parents = [] if kind == "imported" else [parent]
        with zoo.draft(name, kind=kind, producer={}, parents=parents, task=None) as draft:
            write_tiny(draft.path)
            parent = draft.commit()
    assert "imported" in rate_for(zoo, parent, lora=False).reason
