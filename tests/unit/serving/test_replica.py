"""A replica without Ray: warm-up, health, limits and keys that change while it serves."""

import asyncio
import threading

import numpy as np
import pytest

from orchestrator.errors import InputError, IntegrityError
from orchestrator.inference.batching import Work
from orchestrator.inference.inputs import Item
from orchestrator.zoo import Zoo
from serving.config import Batching, Limits, ServingConfig
from serving.guard.keys import new_key
from serving.model.engine import load_engine
from serving.model.probe import PROBE_FILE, Probe
from serving.model.replica import Replica
from tests.support.packages import SENTENCES, commit_tiny
from tests.support.serving import NoRecorder, probe_json


class Recorder(NoRecorder):
    def __init__(self, model):
        self.model = model
        self.state, self.failures, self.tokens = None, 0, []

    def ready(self, is_ready):
        self.state = is_ready

    def probe_failed(self):
        self.failures += 1

    def batch(self, tokens):
        self.tokens.append(tokens)


def config(package, **changes):
    zoo = str(package.path.parent.parent)
    return ServingConfig(model=package.ref, zoo=zoo, **changes)


def test_it_is_ready_only_with_a_service_and_measures_its_runs(package):
    replica = Replica(config(package), Recorder)
    assert (replica.recorder.model, replica.recorder.state) == ("tiny/v0001", None)
    service = replica.service()
    assert (service.health.ready, service.health.probe_ok) == (True, True)
    assert replica.recorder.state is True
    encoded = service.engine.reader.encode([Item(text) for text in SENTENCES[:2]])
    inputs = [item.sequences[0] for item in encoded]
    works = [Work(("topic",), inputs[:1]), Work(("topic",), inputs[1:])]
    first, second = replica._run(works)
    together = service.engine.outputs(SENTENCES[:2])["topic"]
    np.testing.assert_allclose(
        np.concatenate([first["topic"], second["topic"]]), together, atol=1e-5
    )
    assert replica.recorder.tokens == [2 * max(map(len, inputs))]


def test_a_package_whose_answers_are_not_its_probes_never_becomes_a_replica(tmp_path):
    zoo = Zoo(str(tmp_path))
    other = load_engine(commit_tiny(zoo, "other", seed=1))
    probe = probe_json(Probe.record(other))
    wrong = commit_tiny(zoo, "wrong", seed=2, files={PROBE_FILE: probe})
    with pytest.raises(IntegrityError, match="answers its probe differently"):
        Replica(config(wrong), Recorder)


def test_health_follows_the_probe(package, monkeypatch):
    replica = Replica(config(package), Recorder)
    service = replica.service()
    asyncio.run(replica.check())
    assert (service.health.probe_ok, replica.recorder.failures) == (True, 0)
    good = service.engine.run

    def wrong(sequences, wanted):
        found = good(sequences, wanted)
        return {name: [row + 1 for row in rows] for name, rows in found.items()}

    monkeypatch.setattr(service.engine, "run", wrong)
    with pytest.raises(IntegrityError):
        asyncio.run(replica.check())
    assert (service.health.probe_ok, replica.recorder.failures) == (False, 1)
    assert replica.recorder.state is False
    monkeypatch.undo()
    asyncio.run(replica.check())
    assert service.health.probe_ok


def test_a_model_that_hangs_is_unhealthy(package, monkeypatch):
    monkeypatch.setattr("serving.model.replica.PROBE_TIMEOUT_S", 0.05)
    replica = Replica(config(package), Recorder)
    service = replica.service()
    release = threading.Event()
    monkeypatch.setattr(service.engine, "run", lambda i, o: release.wait(30) and {})
    with pytest.raises(TimeoutError):
        asyncio.run(replica.check())
    release.set()
    assert not service.health.probe_ok


def test_limits_and_keys_change_in_place(package, tmp_path):
    keys = tmp_path / "keys"
    first, line = new_key("first")
    keys.write_text(line)
    replica = Replica(config(package, api_keys_file=str(keys)), Recorder)
    policy = replica.policy
    second, line = new_key("second")
    keys.write_text(line)
    replica.change(Limits(max_client_batch_size=3), Batching(max_batch_size=2))
    assert replica.queue.batching.max_batch_size == 2
    assert policy.limits.max_client_batch_size == 3
    assert policy.keys.owner(f"Bearer {second}".encode()).name == "second"
    assert policy.keys.owner(f"Bearer {first}".encode()) is None
    keys.write_text("garbage")
    with pytest.raises(InputError):
        replica.change(Limits(max_client_batch_size=4), Batching())
    assert policy.limits.max_client_batch_size == 3
    assert policy.keys.owner(f"Bearer {second}".encode()).name == "second"
