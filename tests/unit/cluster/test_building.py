"""Models that each rank builds its part of begin with the bits of one process."""

import pytest
import torch

from orchestrator.modeling.package import write_model
from tests.support import building_worker as worker
from tests.support.tensor_worker import spawn


def compare(found, cases):
    """Compare what ranks gathered with the model of one process."""
    for name, kind in cases:
        expected = worker.whole(name)
        tied = worker.build_on_meta(worker.model_config(name)).tied_names()
        for rank in found:
            each = rank[name, kind]
            assert not each["meta"], (name, kind)
            assert each["tied"] == tied, (name, kind)
            assert bool(each["frozen"]) == (name == "gpt"), (name, kind)
            assert set(each["weights"]) == set(expected) - set(tied), (name, kind)
            for key, value in each["weights"].items():
                assert torch.equal(value, expected[key]), (name, kind, key)
        cut = kind != "ddp"
        held = sum(rank[name, kind]["masters"] for rank in found)
        numel = sum(
            value.numel()
            for key, value in expected.items()
            if key not in tied and key not in found[0][name, kind]["frozen"]
        )
        assert held == numel * (1 if cut else len(found)), (name, kind)


FEW = [("t5", "zero3"), ("t5", "fsdp2"), ("vit", "zero2"), ("gpt", "zero3-bf16"), ("gpt", "ddp")]


def test_two_ranks_begin_like_one_process(tmp_path):
    compare(spawn(worker.first_weights, tmp_path, 2, FEW), FEW)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_every_engine_begins_like_one_process(tmp_path, world):
    cases = [(name, kind) for name in worker.MODELS for kind in worker.ENGINES]
    compare(spawn(worker.first_weights, tmp_path, world, cases), cases)


@pytest.mark.slow
@pytest.mark.parametrize("stored_as", [torch.float32, torch.bfloat16])
def test_each_rank_reads_its_part_of_a_package(tmp_path, stored_as):
    """Fine-tuning and continual learning begin with a package's weights, new heads, adapters."""
    packages = tmp_path / "packages"
    for name in worker.MODELS:
        (packages / name).mkdir(parents=True)
        state = {key: value.to(stored_as) for key, value in worker.whole(name).items()}
        write_model(packages / name, state, worker.model_config(name))
    kinds = ("zero1", "zero2", "zero3", "zero3-bf16", "fsdp2")
    cases = [(name, kind, name == "gpt") for name in worker.MODELS for kind in kinds]
    for rank in spawn(worker.packaged_weights, tmp_path, 2, packages, cases):
        for name, kind, adapted in cases:
            expected, each = worker.packaged(packages / name, adapted), rank[name, kind, adapted]
            trained = [key for key, p in expected.named_parameters() if p.requires_grad]
            assert each["trained"] == trained
            assert each["tied"] == expected.tied_names()
            state = expected.state_dict()
            assert each["weights"].keys() == state.keys() - each["tied"].keys()
            for key, value in each["weights"].items():
                assert torch.equal(value, state[key]), (name, kind, key)
