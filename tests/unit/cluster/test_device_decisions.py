"""Steps that the device takes or leaves out, against the same run decided by the host: no bit."""

import math

import pytest

from orchestrator.cluster.engines import build_engine
from orchestrator.training.config import EngineConfig, OptimizerConfig, TrainConfig
from orchestrator.training.engines import on_device
from orchestrator.training.loop import Hooks, NonFiniteError, train
from tests.support.toy import toy_model, toy_window

STEPS = 9
POISON = {0: math.nan, 3: math.inf, 4: "gradient", 6: 1e9, 7: -math.inf}
"""Step -> factor of the loss; a gradient that is not finite beside a loss that is."""
HALF = {"precision": "fp16", "loss_scale": {"initial": 2.0**14, "growth_steps": 2}}

SLOW = pytest.mark.slow
SHARDED = ["zero2", "zero3", "fsdp2"]
pytestmark = pytest.mark.usefixtures("process_group")


class Poisoned:
    """Windows of a toy model whose losses are spoiled at some steps."""

    def __init__(self, engine, poison):
        self.poison, self.step = poison, 0
        engine.module.register_forward_hook(self._spoil)

    def window(self, step, rank, world):
        self.step = step
        return toy_window(step, rank, world)

    def epoch(self, step):
        return 0.0

    def _spoil(self, module, _inputs, outputs):
        factor = self.poison.get(self.step, 1.0)
        found = dict(outputs)
        for name in ("loss.lm", "loss.cls"):
            if factor == "gradient":  # the slope of a root at 0 is infinite
                found[name] = found[name] + (found[name] * 0.0).sqrt()
            else:
                found[name] = found[name] * factor
        return found


def engine_of(kind, optimizer, settings):
    zero = kind.startswith("zero")
    place = {"type": "zero", "zero_stage": int(kind[-1])} if zero else {"type": kind}
    config = EngineConfig.model_validate({**place, **settings})
    given = OptimizerConfig.model_validate({"learning_rate": 3e-3, "eps": 1e-6, **optimizer})
    return build_engine(toy_model(), given, config, world=1)


def run(place, kind, optimizer, settings, poison=POISON, **changes):
    """Train, store; return the figures of all steps, and the bytes of the state."""
    each = engine_of(kind, optimizer, settings)
    events, saved = [], []
    changes = {"log_every_steps": 4, "max_grad_norm": 1.0, **changes}
    config = TrainConfig(max_steps=STEPS, **changes)
    hooks = Hooks(observer=events.append, save=saved.append)
    place.mkdir()
    try:
        result = train(each, Poisoned(each, poison), config, hooks=hooks)
        ended = (result.steps, result.skipped)
    except NonFiniteError as error:
        ended = (error.first, error.step, str(error))
    each.save(place)
    stored = {file.name: file.read_bytes() for file in place.iterdir()}
    return each, ended, saved, [(event.step, event.metrics) for event in events], stored


def compare(tmp_path, monkeypatch, *given, **changes):
    host, *expected = run(tmp_path / "host", *given, **changes)
    monkeypatch.setattr(on_device, "reads_wait", lambda device: True)
    device, *found = run(tmp_path / "device", *given, **changes)
    assert (host.decides_on_device, device.decides_on_device) == (False, True)
    for one, other in zip(found, expected, strict=True):
        assert one == other
    return found


FORMATS = [
    pytest.param({}, id="fp32", marks=SLOW),
    pytest.param({"precision": "bf16"}, id="bf16", marks=SLOW),
    pytest.param(HALF, id="fp16"),
]
KINDS = ["single", "ddp", *(pytest.param(kind, marks=SLOW) for kind in ("zero1", *SHARDED))]


@pytest.mark.parametrize("settings", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_device_decides_as_the_host_does(kind, settings, tmp_path, monkeypatch):
    (_, skipped), _, rows, _ = compare(tmp_path, monkeypatch, kind, {}, settings)
    overflows = sum(metrics.get("overflow", 0.0) for _, metrics in rows)
    assert skipped + overflows == (5 if settings is HALF else 4)
    assert overflows > 0 if settings is HALF else not overflows  # the gradients, not the loss


@pytest.mark.parametrize("more", [{"cautious": True}, {"average_decay": 0.9}])
@pytest.mark.parametrize("kind", ["single", pytest.param("zero3", marks=SLOW)])
def test_decay_and_the_average_take_no_part_in_a_step_left_out(kind, more, tmp_path, monkeypatch):
    compare(tmp_path, monkeypatch, kind, {"weight_decay": 0.1, **more}, {})


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "lion"},
        {"type": "lion", "cautious": True},
        {"type": "muon"},
        {"type": "muon", "cautious": True},
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
@pytest.mark.parametrize("kind", ["single", *(pytest.param(k, marks=SLOW) for k in SHARDED)])
def test_other_rules_leave_out_the_same_steps(kind, optimizer, tmp_path, monkeypatch):
    compare(tmp_path, monkeypatch, kind, {"weight_decay": 0.1, **optimizer}, {})


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "lamb"},
        {"type": "adafactor"},
        {"type": "adamw8bit"},
        {"type": "muon", "average_decay": 0.9},
    ],
    ids=lambda each: each["type"],
)
def test_where_the_optimizer_cannot_the_host_decides(optimizer, monkeypatch):
    monkeypatch.setattr(on_device, "reads_wait", lambda device: True)
    assert not engine_of("single", optimizer, {}).decides_on_device


@pytest.mark.parametrize("every", [1, 4, pytest.param(100, marks=SLOW)])
def test_the_guard_names_the_same_steps_however_late_it_reads(every, tmp_path, monkeypatch):
    """Nothing is measured or stored of the steps that followed: the caller goes back."""
    poison = {step: math.nan for step in (2, 4, 5, 6, 8)}
    settings = {"max_skipped_steps": 2, "log_every_steps": every}
    ended = []
    for place in ("host", "device"):
        with monkeypatch.context() as patch:
            if place == "device":
                patch.setattr(on_device, "reads_wait", lambda device: True)
            _, end, saved, rows, _ = run(
                tmp_path / place, "single", {}, {}, poison, checkpoint_every_steps=5, **settings
            )
        assert saved == [5]
        ended.append((end, rows))
    assert ended[0] == ended[1]
    assert ended[0][0][:2] == (4, 6)
    assert "loss nan" in ended[0][0][2]
