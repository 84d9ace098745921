import json

import numpy as np
import pytest

from orchestrator.errors import IntegrityError
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from serving.model.probe import PROBE_FILE, Probe, warm_up
from tests.support.packages import SENTENCES, commit_tiny
from tests.support.serving import probe_json


def write_probe(folder, content):
    path = folder / PROBE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_recorded_probe_survives_its_file_and_matches(engine, tmp_path):
    probe = Probe.record(engine, SENTENCES[:3])
    assert set(probe.outputs) == {"topic", "embedding"}
    write_probe(tmp_path, probe_json(probe))
    read = Probe.read(tmp_path)
    read.check(engine)
    assert read.texts == SENTENCES[:3]
    np.testing.assert_allclose(read.outputs["topic"], probe.outputs["topic"])


def test_another_model_never_passes(engine, tmp_path):
    probe = Probe.record(engine)
    other = load_engine(commit_tiny(Zoo(str(tmp_path)), seed=1))
    with pytest.raises(IntegrityError, match="answers its probe differently"):
        probe.check(other)


def test_warm_up_runs_the_model_and_checks_every_answer(engine, tmp_path):
    write_probe(tmp_path, probe_json(Probe.record(engine)))
    runs = []

    class Counting:
        card = engine.card

        def outputs(self, texts):
            runs.append(texts)
            wrong = len(runs) > 2
            return {
                name: [row + wrong for row in rows] for name, rows in engine.outputs(texts).items()
            }

    with pytest.raises(IntegrityError):
        warm_up(Counting(), tmp_path, 3)
    assert len(runs) == 3  # the third differed


def test_without_a_stored_probe_answers_must_be_finite_and_repeatable(engine, tmp_path):
    assert warm_up(engine, tmp_path, 1).texts

    class Broken:
        card = engine.card

        def outputs(self, texts):
            return {"topic": list(np.full((len(texts), 3), np.nan))}

    with pytest.raises(IntegrityError):
        warm_up(Broken(), tmp_path, 1)


def test_small_differences_of_another_cpu_are_tolerated_and_larger_are_not(engine):
    probe = Probe.record(engine)
    near = Probe(probe.texts, {k: [r + 5e-4 for r in v] for k, v in probe.outputs.items()})
    near.check(engine)
    far = Probe(probe.texts, {k: [r + 0.1 for r in v] for k, v in probe.outputs.items()})
    with pytest.raises(IntegrityError):
        far.check(engine)


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", {}, {"schema_version": 2, "texts": [], "outputs": {}},
        {"schema_version": 1, "texts": ["a"]},
        {"schema_version": 1, "texts": ["a"], "outputs": {"topic": [[1], [1, 2]]}},
    ],
)  # fmt: skip
def test_a_damaged_probe_is_refused(tmp_path, content):
    write_probe(tmp_path, content)
    with pytest.raises(IntegrityError, match="damaged"):
        Probe.read(tmp_path)


@pytest.mark.parametrize("outputs", [{"other": [[0.0]]}, {"topic": [[0.0, 0.0]]}])
def test_a_probe_of_another_shape_is_refused(engine, outputs):
    probe = Probe(("a",), {name: list(np.asarray(rows)) for name, rows in outputs.items()})
    with pytest.raises(IntegrityError, match="does not give"):
        probe.check(engine)
