"""Real data sets beside the checkout; absent in most places."""

from pathlib import Path

import pytest

from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labelled import CONFLICTING
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [("cl_text5/ag", 4, (3600, 500, 1100)), ("cl_sentences/trec", 6, (4871, 500, 500))],
)
def test_sizes_are_those_of_the_readme(name, classes, sizes):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no data at {SHARED / name}")
    data = load_task(DatasetSpec(source=f"files:{SHARED / name}"))
    assert len(data.label_names) == classes
    found = tuple(len(data.split(split)) for split in ("train", "validation", "test"))
    assert sum(found) + sum(data.rejected.values()) == sum(sizes)
    assert found[1:] == sizes[1:]


def test_every_sentence_of_conll_2003_is_read_or_counted():
    folder = SHARED / "conll03_cf"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    data = load_task(DatasetSpec(source=f"files:{folder}"), form=FORMS["tags"])
    kinds = ("LOC", "MISC", "ORG", "PER")
    assert data.label_names == (*(f"{p}-{kind}" for p in "BI" for kind in kinds), "O")
    found = [len(data.split(split)) for split in ("train", "validation", "test")]
    assert set(data.rejected) <= {
        "repeated",
        CONFLICTING,
        "train row also held out",
        "validation row also held out",
    }
    assert data.rejected[CONFLICTING] == 8
    assert "8 × " in data.notes[0]
    assert sum(found) + sum(data.rejected.values()) == 14_986 + 3_465 + 3_683
