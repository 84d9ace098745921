"""The host waits for the device as seldom as possible, and full masks never reach attention."""

import pytest
import torch
import torch.nn.functional as F

from orchestrator.data.rows.rows import TaskData
from orchestrator.modeling.interfaces import all_real
from orchestrator.modeling.transfer import to_device
from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.engines import torch_engines
from orchestrator.training.finetune.finetuner import FineTuneConfig, FineTuner, Place
from orchestrator.training.finetune.lessons import lesson_of
from orchestrator.training.loop import train
from orchestrator.zoo import Zoo
from tests.support.fake_device import DEVICE, FakeDevice, flagged_sgd, without_autocast
from tests.support.lessons import make_lessons
from tests.unit.modeling.small import LENGTH, VOCAB, make_model
from tests.unit.training.test_finetune import rows

BLOCKS = {"type": "transformer", "num_heads": 2, "num_layers": 2, "dropout": 0.0}
CAUSAL = {
    "embedding": {"parts": ["word"], "dropout": 0.0},
    "encoder": BLOCKS | {"mask": "causal", "rotary": {}},
    "target": "lm",
}
MODELS = {
    "lm": CAUSAL,
    "alibi": {**CAUSAL, "encoder": BLOCKS | {"mask": "causal", "position_bias": {"type": "alibi"}}},
    "mlm and nsp": {"encoder": BLOCKS, "target": ["mlm", "nsp"]},
    "cls": {"encoder": {"type": "gatedcnn"}, "target": {"type": "cls", "num_labels": 3}},
    "t5": {
        "encoder": BLOCKS | {"position_bias": {"type": "t5"}},
        "target_embedding": {"parts": ["word", "pos"]},
        "decoder": BLOCKS,
        "target": "lm",
    },
}
STEPS = 4


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    without_autocast(monkeypatch)


def batch_of(model, *, padded=False):
    """Return a batch with labels of every target."""
    ids = torch.randint(1, VOCAB, (4, LENGTH))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 1 - padded
    batch = {"input_ids": ids, "attention_mask": mask}
    batch |= {f"decoder_{key}": value.clone() for key, value in batch.items()}
    for name in model.targets:
        sparse = torch.where(torch.rand(4, LENGTH) < 0.3, ids, -100)
        labels = {"lm": torch.where(mask.bool(), ids, -100), "mlm": sparse}
        batch[f"labels.{name}"] = labels.get(name, torch.tensor([0, 1, 1, 0]))
    return batch


class Source:
    """The same window of two micro-batches at every step."""

    def __init__(self, batch):
        self.batch = batch

    def window(self, step, rank, world):
        return [self.batch, self.batch]

    def epoch(self, step):
        return 0.0


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("padded", [False, True])
def test_steps_wait_for_the_device_once_an_interval(name, padded, monkeypatch):
    monkeypatch.setattr(torch_engines, "build_optimizer", flagged_sgd)
    model = make_model(**MODELS[name])
    batch = batch_of(model, padded=padded)
    engine = torch_engines.SingleEngine(model.to(DEVICE), OptimizerConfig())
    config = TrainConfig(max_steps=STEPS, log_every_steps=STEPS, max_skipped_steps=STEPS)
    with FakeDevice() as mode:
        result = train(engine, Source(batch), config)
    assert result.steps == STEPS
    assert mode.operations > 100 * STEPS
    assert len(mode.waits) == 1, mode.waits  # for the metrics of the interval


def test_fine_tuning_waits_no_more_often(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_engines, "build_optimizer", flagged_sgd)
    place = make_lessons(tmp_path)
    data = TaskData("toy", ("animal", "tool"), rows(64, 1), rows(16, 2), rows(16, 3))
    config = FineTuneConfig(epochs=1, global_batch_size=16, learning_rate=1e-3, max_length=16)
    with FakeDevice() as mode:
        package = Zoo(place / "zoo").get("encoder").path
        tuner = FineTuner(package, [lesson_of(data)], config, place=Place(DEVICE))
        mode.waits.clear()
        tuner.train_epoch()
    assert tuner.steps_done == 4
    assert len(mode.waits) == 1, mode.waits


@pytest.fixture
def asked(monkeypatch):
    """Return what attention asks of the kernel, call by call."""
    calls, kernel = [], F.scaled_dot_product_attention

    def spy(*args, **options):
        calls.append((options["attn_mask"], options["is_causal"]))
        return kernel(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return calls


def test_a_batch_without_padding_asks_for_no_mask(asked):
    """Fused kernels take ``is_causal`` or nothing; an explicit mask sends them to slower ones."""
    model = make_model(**CAUSAL)
    batch = batch_of(model)
    model.to("meta")(to_device(batch, "meta"))
    assert asked == [(None, True)] * 2
    both = make_model(**MODELS["mlm and nsp"])
    both.to("meta")(to_device(batch_of(both), "meta"))
    assert asked[2:] == [(None, False)] * 2


def test_padding_asks_for_a_mask(asked):
    model = make_model(**CAUSAL)
    model.to("meta")(to_device(batch_of(model, padded=True), "meta"))
    assert all(mask is not None and not causal for mask, causal in asked)


@pytest.mark.parametrize("name", ["lm", "mlm and nsp", "t5"])
def test_what_the_host_decides_changes_no_bit(name):
    """The same decisions, taken on the CPU, against a batch as it comes from the loader."""
    model = make_model(**MODELS[name])
    batch = batch_of(model)
    decided = dict(batch)
    for key in ("attention_mask", "decoder_attention_mask"):
        decided[key] = all_real(4, LENGTH, torch.device("cpu"))
    for target in model.targets:
        labels = batch[f"labels.{target}"]
        if labels.dim() > 1:
            decided[f"places.{target}"] = (labels.flatten() != -100).nonzero()[:, 0]
    assert to_device(batch, "meta").keys() == decided.keys()
    found = []
    for each in (batch, decided):
        model.zero_grad()
        outputs = model(each)
        sum(value for key, value in outputs.items() if key.startswith("loss.")).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([*outputs.values(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_batch_for_the_cpu_stays_as_it_is():
    batch = batch_of(make_model(**CAUSAL))
    assert {key: value.data_ptr() for key, value in to_device(batch, "cpu").items()} == {
        key: value.data_ptr() for key, value in batch.items()
    }
