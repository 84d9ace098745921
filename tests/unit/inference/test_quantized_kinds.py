"""A package with a graph answers tasks of every kind as the float package it was made from."""

import numpy as np
import pytest

from orchestrator.api import load as open_package
from orchestrator.inference.inputs import items_of_rows
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.every_task import CASES, commit, data_of, load, task_of
from tests.support.packages import commit_graph

TEXTS = {
    case.name: case
    for case in CASES
    if case.modality in ("text", "pair") and case.kind != "generation"
}


QUICK = ("tags", "question_answering")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_answers_as_the_float_package(name, tmp_path):
    """Labels, offsets, spans and choices are equal; numbers to rounding; INT8 answers too."""
    case = TEXTS[name]
    data = load(case, data_of(case, tmp_path))
    zoo = Zoo(str(tmp_path / "zoo"))
    package = commit(zoo, case, task_of(case, data), "float")
    rows = data.test
    expected = open_package("float", zoo=zoo.root).predictor.answers(rows)
    kinds = ("fp32", "row_u8", "s7")
    found = {}
    for kind in kinds:
        graph = commit_graph(zoo, package, f"graph-{kind.replace('_', '-')}", kind)
        opened = open_package(graph.ref, zoo=zoo.root)
        assert (opened.predictor.runtime, opened.tasks.keys()) == (
            "onnxruntime", open_package("float", zoo=zoo.root).tasks.keys(),
        )  # fmt: skip
        found[kind] = opened.predictor.answers(rows)
        alone = [opened.predictor.answers(rows.take([i]))[0] for i in range(len(rows))]
        assert [a.to_json() for a in alone] == [a.to_json() for a in found[kind]], kind
        engine, task = load_engine(graph), opened.predictor.task()
        assert task.head in engine.card.tasks
        (encoded,) = engine.reader.encode(items_of_rows(rows.take([0]), task)[:1], task)
        answers = engine.run(encoded.sequences, [task.head])[task.head]
        assert len(answers) == len(encoded.sequences)
        assert all(np.isfinite(each).all() for each in answers)
    assert_close([a.to_json() for a in found["fp32"]], [a.to_json() for a in expected])
    moved = [a.to_json() for a in found["row_u8"]]
    assert [a.keys() for a in moved] == [a.to_json().keys() for a in expected]


def assert_close(found, expected):
    """Compare JSON values, numbers to rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        assert found == expected
