"""Layers cut among tensor ranks: the same training, checkpoints and exports as one process."""

import warnings

import pytest
import torch

from orchestrator.cluster.engines.tensor_ranks import TensorRanks
from orchestrator.config import load_config, validate_config
from orchestrator.continual.config import ContinualConfig
from orchestrator.errors import ConfigError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.training.config import EngineConfig
from orchestrator.training.engines.engine import part_of
from orchestrator.training.engines.layer_cuts import cut_problems
from tests.support import tensor_worker as worker

EXACT = 1e-5
"""Largest relative difference of losses and gradient norms, and of weights, after 20 steps."""
CUT = {"type": "fsdp2", "tensor_parallel": 2}
SEQUENCE = CUT | {"sequence_parallel": True}
JOBS = {
    **{name: (name, CUT) for name in worker.MODELS},
    **{f"{name}, positions cut": (name, SEQUENCE) for name in ("llama", "bert", "gpt", "t5")},
    "experts": ("moe", {"type": "fsdp2", "expert_parallel": 2}),
    "experts of four ranks": ("moe", {"type": "fsdp2", "expert_parallel": 4}),
}
"""Model and engine; the length of its samples, 11, is not even."""
MORE = range(worker.STEPS, worker.STEPS + 3)
MICRO = 4
"""Micro-batches of a step: a balance loss is one per micro-batch."""


def alone(name, folder=None, steps=range(worker.STEPS), **encoder):
    """Curve, weights and evaluation of one process, from a checkpoint if there is one."""
    config = worker.model_config(name, **encoder)
    reference = worker.engine(config, seed=0 if folder is None else 9, type="single")
    if folder is not None:
        reference.load(folder)
    rows = worker.advance(reference, config, steps, MICRO)
    evaluation = reference.evaluate(worker.window(config, 99, 0, 1, MICRO))
    return torch.tensor(rows), reference.gathered(), evaluation


def trained(rank, world, folder, jobs):
    """Curve, weights and continuation of each job; what a shard says where it lies is right."""
    return {job: _trained(world, folder / job, *JOBS[job]) for job in jobs}


def _trained(world, folder, name, settings):
    config = worker.model_config(name)
    cut = worker.engine(config, world, **settings)
    rows = worker.advance(cut, config, range(worker.STEPS), MICRO)
    weights = cut.gathered()
    elements = sum(len(shard.master) for shard in cut.shards())
    cut.save(folder)
    again = worker.engine(config, world, seed=5, **settings)
    again.load(folder)
    return {
        "rows": rows,
        "weights": weights,
        "exported": dict(cut.state_dict()),
        "placed": all(torch.equal(part_of(weights, s), s.master) for s in cut.shards()),
        "elements": int(cut.sum_over_shards(torch.tensor(elements))),
        "evaluation": cut.evaluate(worker.window(config, 99, cut.rank, cut.world, MICRO)),
        "ranks": (cut.rank, cut.world),
        "continued": [worker.advance(each, config, MORE, MICRO) for each in (cut, again)],
    }


def same(found, job, folder):
    """Compare what the ranks found with one process."""
    (rows, weights, evaluation), first = alone(JOBS[job][0]), found[0][job]
    measured = torch.tensor([rank[job]["rows"] for rank in found])
    assert torch.equal(measured, measured[:1].expand_as(measured))
    torch.testing.assert_close(measured[0], rows, rtol=EXACT, atol=0)
    assert list(first["exported"]) == list(weights)
    for key, value in weights.items():
        torch.testing.assert_close(first["exported"][key], value, rtol=0, atol=EXACT, msg=key)
    assert all(rank[job]["placed"] for rank in found)
    assert first["elements"] == sum(value.numel() for value in weights.values())
    for rank in found:
        assert rank[job]["evaluation"] == pytest.approx(evaluation, rel=EXACT)
    kept, restored = first["continued"]
    assert kept == restored
    continued, *_ = alone(JOBS[job][0], folder / job, MORE)
    torch.testing.assert_close(torch.tensor(kept), continued, rtol=EXACT, atol=0)


def test_two_tensor_ranks_train_and_continue_like_one_process(tmp_path):
    found = worker.spawn(trained, tmp_path, 2, ["llama"])
    same(found, "llama", tmp_path)
    assert [rank["llama"]["ranks"] for rank in found] == [(0, 1), (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_every_cut_on_two_and_four_ranks(tmp_path, world):
    parts = {job: settings.get("expert_parallel", 1) for job, (_, settings) in JOBS.items()}
    jobs = [job for job, experts in parts.items() if experts <= world]
    found = worker.spawn(trained, tmp_path, world, jobs)
    for job in jobs:
        same(found, job, tmp_path)
        size = JOBS[job][1].get("tensor_parallel", 1)
        assert [rank[job]["ranks"] for rank in found] == [
            (rank // size, world // size) for rank in range(world)
        ]


def continued(rank, world, folder, source, settings):
    config = worker.model_config("moe")
    cut = worker.engine(config, world, seed=9, **settings)
    cut.load(source)
    return worker.advance(cut, config, MORE, MICRO)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["moe", "experts"])
def test_a_checkpoint_of_one_process_is_continued_by_cut_layers(tmp_path, job):
    config = worker.model_config("moe")
    source = worker.engine(config, type="single")
    worker.advance(source, config, range(worker.STEPS), MICRO)
    source.save(tmp_path / "alone")
    found = worker.spawn(continued, tmp_path, 2, tmp_path / "alone", JOBS[job][1])
    rows = torch.tensor(worker.advance(source, config, MORE, MICRO))
    torch.testing.assert_close(torch.tensor(found[0]), rows, rtol=EXACT, atol=0)


def noisy(rank, world, folder, settings):
    rate = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2}
    config = worker.model_config("bert", **rate)
    cut = worker.engine(config, world, **settings, activation_checkpointing=True)
    rows = worker.advance(cut, config, range(4))
    cut.save(folder / "noisy")
    again = worker.engine(config, world, seed=3, **settings)
    again.load(folder / "noisy")
    return {
        "rows": rows,
        "continued": [worker.advance(each, config, range(4, 8)) for each in (cut, again)],
    }


@pytest.mark.slow
@pytest.mark.parametrize("settings", [CUT, SEQUENCE])
def test_noise_is_a_function_of_the_step_and_the_ranks(tmp_path, settings):
    """Ranks agree on what they share, and repeat their noise, also for activations made again."""
    found = worker.spawn(noisy, tmp_path, 2, settings)
    assert found[0]["rows"] == found[1]["rows"]
    first, second = (torch.tensor(rows) for rows in found[0]["continued"])
    torch.testing.assert_close(first, second, rtol=1e-6, atol=0)
    noisy_rows = torch.tensor(found[0]["rows"])
    plain, *_ = alone("bert", steps=range(4))
    assert not torch.allclose(noisy_rows, plain, rtol=1e-3)


def one_sample(rank, world, folder):
    """Losses of samples of even and odd lengths; a warning is an error."""
    warnings.simplefilter("error")
    losses = []
    for length in (10, 11):
        cut = worker.engine(worker.model_config("gpt"), world, **(SEQUENCE if world > 1 else {}))
        ids = torch.arange(5, 5 + length)[None]
        losses.append(cut.forward_backward([{"input_ids": ids, "labels.lm": ids}])["loss"])
    return losses


@pytest.mark.slow
def test_cut_positions_of_one_sample_keep_the_hooks_of_fsdp(tmp_path):
    """FSDP2 warns of blocks that return views: gathered positions of one sample were one."""
    found = worker.spawn(one_sample, tmp_path, 2)
    assert found[0] == pytest.approx(one_sample(0, 1, tmp_path), rel=1e-6)


class TestNoise:
    """Noise of tensor ranks, in one process."""

    @staticmethod
    def drawn(rank, rate=0.5):
        torch.manual_seed(3)
        ranks = TensorRanks(None, rank, 2)
        own = []
        for _ in range(2):
            with ranks.own_noise(rate, torch.device("cpu")):
                own.append(torch.rand(4))
        return own, torch.rand(4)

    def test_ranks_differ_within_and_agree_outside(self):
        (first, after), (second, after_second) = self.drawn(0), self.drawn(1)
        assert torch.equal(after, after_second)
        assert not torch.equal(first[0], second[0])
        assert not torch.equal(first[0], first[1])
        assert torch.equal(self.drawn(1)[0][1], second[1])

    def test_without_dropout_nothing_is_drawn(self):
        own, _ = self.drawn(0, rate=0.0)
        torch.manual_seed(3)
        assert torch.equal(own[0], torch.rand(4))


REFUSED = {
    "num_heads": {"num_heads": 3},
    "num_kv_heads": {"num_kv_heads": 1},
    "intermediate_size": {"intermediate_size": 51},
    "position_bias": {"position_bias": {"type": "disentangled"}},
    "query_key_norm": {"query_key_norm": "projection"},
}
CUT_POSITIONS = {
    "shared_layers": {"shared_layers": True},
    "experts": {"experts": {"num_experts": 4}},
    "position_bias": {
        "position_bias": {"type": "patches", "rows": 2, "columns": 2, "shared": False}
    },
    "residual_attention": {"residual_attention": True},
    "convolution": {"convolution": {}},
    "drop_path": {"drop_path": 0.1},
}


class TestRefusals:
    """Reasons, given before work starts."""

    @pytest.mark.parametrize("setting", REFUSED)
    def test_blocks_that_cannot_be_cut(self, setting):
        config = worker.model_config("bert", **REFUSED[setting])
        engine = EngineConfig(type="fsdp2", tensor_parallel=2)
        (problem,) = cut_problems(config, engine)
        assert problem.path == f"encoder.{setting}"
        assert "tensor_parallel to 1" in problem.message
        assert not list(cut_problems(config, EngineConfig(type="fsdp2")))

    @pytest.mark.parametrize("setting", CUT_POSITIONS)
    def test_blocks_whose_positions_cannot_be_cut(self, setting):
        raw = worker.MODELS["bert"]
        config = ModelConfig.model_validate(
            raw | {"encoder": raw["encoder"] | CUT_POSITIONS[setting]}
        )
        (problem,) = cut_problems(config, EngineConfig(**SEQUENCE))
        assert problem.path == f"encoder.{setting}"
        assert "sequence_parallel to false" in problem.message
        assert not list(cut_problems(config, EngineConfig(**CUT)))

    def test_heads_that_read_all_layers_need_all_positions(self):
        raw = worker.MODELS["bert"] | {"target": [{"type": "states", "layers": [0]}]}
        (problem,) = cut_problems(ModelConfig.model_validate(raw), EngineConfig(**SEQUENCE))
        assert problem.path == "target"

    def test_experts_that_cannot_be_cut(self):
        engine = EngineConfig(type="fsdp2", expert_parallel=3)
        (problem,) = cut_problems(worker.model_config("moe"), engine)
        assert problem.path == "encoder.experts.num_experts"
        (problem,) = cut_problems(worker.model_config("bert"), engine)
        assert "has no experts" in problem.message

    @pytest.mark.parametrize("encoder", ["lstm", "gatedcnn"])
    def test_encoders_without_heads(self, encoder):
        raw = worker.MODELS["gpt"] | {"encoder": {"type": encoder}, "initialization": "normal"}
        config = validate_config(ModelConfig, raw, "test")
        (problem,) = cut_problems(config, EngineConfig(type="fsdp2", tensor_parallel=2))
        assert problem.path == "encoder.type"
        assert encoder in problem.message

    @pytest.mark.parametrize(
        ("settings", "path"),
        [
            ({"type": "ddp", "tensor_parallel": 2}, "tensor_parallel"),
            ({"type": "zero", "expert_parallel": 2}, "expert_parallel"),
            ({"type": "fsdp2", "tensor_parallel": 2, "compile": True}, "compile"),
            (CUT | {"expert_parallel": 2}, "expert_parallel"),
            ({"type": "fsdp2", "sequence_parallel": True}, "sequence_parallel"),
        ],
    )
    def test_engines_that_cannot(self, settings, path):
        with pytest.raises(ConfigError) as found:
            validate_config(EngineConfig, settings, "test")
        assert [problem.path for problem in found.value.problems] == [path]

    def test_workers_that_do_not_divide(self):
        (problem,) = EngineConfig(type="fsdp2", tensor_parallel=2).problems_with(3)
        assert problem.path == "tensor_parallel"

    def test_other_stages(self):
        raw = {"package": "a", "output": "b", "data": {"source": "builtin:pydoc"}, "engine": CUT}
        raw["cluster"] = {"workers": 2}
        with pytest.raises(ConfigError, match=r"engine\.tensor_parallel: is for pre-training"):
            validate_config(FinetuneConfig, raw, "test")
        raw = {"tasks": [{"source": "builtin:topics"}], "engine": CUT}
        with pytest.raises(ConfigError, match=r"engine\.tensor_parallel: is for pre-training"):
            validate_config(ContinualConfig, raw, "test")

    def test_two_streams(self):
        path = "jobs/configs/original/clip_vit_b32.yaml"
        with pytest.raises(ConfigError, match=r"model\.encoder\.type: 'dual' is not one"):
            load_config(PretrainConfig, path, ["engine={type: fsdp2, tensor_parallel: 2}"])

    def test_a_job_says_what_of_its_model_cannot_be_cut(self):
        raw = {
            "model": worker.MODELS["gpt"]
            | {"vocab_size": 0, "encoder": worker.PLAIN | {"num_heads": 3}},
            "run": {"name": "a"},
            "package": {"name": "a"},
            "engine": CUT,
            "cluster": {"workers": 3},
            "data": {"block_size": 16},
        }
        with pytest.raises(ConfigError) as found:
            validate_config(PretrainConfig, raw, "test")
        paths = [problem.path for problem in found.value.problems]
        assert {"engine.tensor_parallel", "model.encoder.num_heads"} <= set(paths)

    def test_a_batch_divides_over_data_parallel_workers(self):
        raw = {
            "model": worker.MODELS["gpt"] | {"vocab_size": 0},
            "run": {"name": "a"},
            "package": {"name": "a"},
            "engine": CUT,
            "cluster": {"workers": 6},
            "data": {"block_size": 16},
            "train": {"global_batch_size": 3, "micro_batch_size": 1},
        }
        validate_config(PretrainConfig, raw, "test")
        raw["train"]["global_batch_size"] = 4
        with pytest.raises(ConfigError, match="does not divide over 3 workers"):
            validate_config(PretrainConfig, raw, "test")
