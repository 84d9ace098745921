"""Typed files of a stream: those of earlier versions still read, and the report shows them."""

import pytest
from pydantic import ValidationError

from orchestrator.continual.config import PRESETS, MethodConfig
from orchestrator.continual.parts.base import Part
from orchestrator.continual.parts.configs import CONTINUAL_PARTS
from orchestrator.continual.results import StreamEvaluation, UnitRecord
from orchestrator.report.page import Page
from orchestrator.report.sections import continual

# Both as written before they had a schema version.
EVALUATION = {
    "scenario": "task-incremental",
    "split": "test",
    "rows": "accuracy after learning the task of the row",
    "tasks": ["kind", "library"],
    "matrix": [[0.9, None], [0.625, 0.75]],
    "majority_baseline": [0.5, 0.25],
    "method": {"preset": "c&f", "create": True, "find": True, "clamp": True, "replay": False},
    "figures": {
        "average_accuracy": 0.6875,
        "backward_transfer": -0.275,
        "forgetting": 0.275,
        "learning_accuracy": 0.825,
    },
}
RECORD = {
    "accuracy": {"kind": 0.9},
    "buffers": {"kind": [3, 17]},
    "steps": 80,
    "skipped": 0,
    "clamped_share": None,
    "seconds": 12.5,
}


@pytest.mark.parametrize(("cls", "content"), [(StreamEvaluation, EVALUATION), (UnitRecord, RECORD)])
def test_a_file_without_a_version_reads_and_comes_back_with_one(cls, content):
    found = cls.model_validate(content)
    assert found.model_dump(mode="json") == {"schema_version": 1, **content}
    assert cls.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"matrixx": []}])
def test_a_file_of_a_later_version_is_refused(change):
    with pytest.raises(ValidationError):
        StreamEvaluation.model_validate({**EVALUATION, **change})


def test_the_report_shows_matrix_and_figures():
    section = continual(StreamEvaluation.model_validate(EVALUATION))
    shown = Page("A title", "a subtitle", sections=[section]).html()
    for text in ("task-incremental", "after library", "backward transfer", "-0.275", "0.625"):
        assert text in shown


def test_presets_are_lists_of_registered_parts():
    sections = [part.type_name() for part in MethodConfig().sections]
    for names in PRESETS.values():
        assert list(names) == [name for name in sections if name in names]
    for name in sections:
        part = CONTINUAL_PARTS.component_class(name)(CONTINUAL_PARTS.config_class(name)())
        assert isinstance(part, Part)
        assert part.name == name
