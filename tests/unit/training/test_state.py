"""Fragments by name and place: written by any layout, read by any other."""

import itertools
import json

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.errors import IntegrityError
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.fragments import Fragments
from orchestrator.training.engines.state import snapshot_fragments
from orchestrator.training.engines.state_index import (
    Piece,
    RankPart,
    cut_evenly,
    merged,
    write_index,
)
from orchestrator.training.engines.torch_engines import SingleEngine
from tests.support.fragments import recut
from tests.support.toy import toy_model, toy_window

WHOLE = torch.arange(11, dtype=torch.float32) ** 2


def written(folder, cuts):
    """Write WHOLE cut at the given places, one piece per rank."""
    bounds, parts = [0, *cuts, len(WHOLE)], []
    for rank, (low, high) in enumerate(itertools.pairwise(bounds)):
        fragments = [
            ("model.a.weight", low, WHOLE[low:high]),
            ("optimizer.exp_avg.a.weight", low, WHOLE[low:high] / 2),
            ("optimizer.step.a.weight", 0, torch.tensor(5.0)),
        ]
        parts.append(snapshot_fragments(rank, fragments)(folder))
    write_index(folder, parts)
    return Fragments(folder)


@pytest.mark.parametrize("cuts", [[], [4], [1, 6], [3, 3, 8]])
@pytest.mark.parametrize(("start", "numel"), [(0, 11), (2, 5), (10, 1), (3, 4)])
def test_any_part_can_be_read_from_any_cut(tmp_path, cuts, start, numel):
    found = written(tmp_path, cuts)
    assert torch.equal(found.read("model.a.weight", start, numel), WHOLE[start : start + numel])


def test_optimizer_state_is_found_by_its_parameter(tmp_path):
    found = written(tmp_path, [4])
    keys = found.optimizer_keys("a.weight")
    assert set(keys) == {"exp_avg", "step"}
    assert found.is_scalar(keys["step"])
    assert not found.is_scalar(keys["exp_avg"])
    assert found.whole(keys["step"]) == 5
    assert torch.equal(found.whole(keys["exp_avg"]), WHOLE / 2)
    assert found.optimizer_keys("weight") == {}


def test_whole_parameters_of_other_engines_are_read_too(tmp_path):
    save_file({"model.a": torch.ones(2, 3)}, tmp_path / "training.safetensors")
    (tmp_path / "training.json").write_text(json.dumps({"format": 1, "optimizer": "AdamW"}))
    assert torch.equal(Fragments(tmp_path).read("model.a", 1, 4), torch.ones(4))


def test_fragments_without_an_index_are_read_too(tmp_path):
    """As earlier versions wrote them: format 1, and a place also where a value has no axes."""
    for rank, (low, high) in enumerate([(0, 4), (4, 11)]):
        tensors = {
            f"model.a.weight@{low}": WHOLE[low:high].clone(),
            "optimizer.step.a.weight@0": torch.tensor(5.0),
        }
        save_file(tensors, tmp_path / f"training-0000{rank}.safetensors")
    description = {"format": 1, "layout": "fragments", "world": 2}
    description["loss_scaler"] = {"scale": 8.0, "steps": 3}
    (tmp_path / "training.json").write_text(json.dumps(description))
    found = Fragments(tmp_path)
    assert torch.equal(found.read("model.a.weight", 2, 6), WHOLE[2:8])
    assert found.whole(found.optimizer_keys("a.weight")["step"]) == 5
    assert found.loss_scale.scale == 8.0


def test_the_index_of_many_ranks_is_as_small_as_that_of_few(tmp_path):
    """Equal chunks are one entry, however many there are."""

    def chunks(world):
        size = 4096 // world
        pieces = [[Piece("model.a", r * size, (size,), "F32")] for r in range(world)]
        parts = [
            RankPart(rank=r, tensors=f"training-{r:05d}.safetensors", files={}, pieces=tuple(p))
            for r, p in enumerate(pieces)
        ]
        return merged(parts).tensors["model.a"]

    assert len(chunks(1024).runs) == len(chunks(4).runs) == 1
    (run,) = chunks(1024).runs
    assert list(run.overlapping(10, 17)) == [(2, 8), (3, 12), (4, 16)]
    assert list(run.overlapping(4092, 4096)) == [(1023, 4092)]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_element_is_written_by_one_rank_and_the_parts_are_equal(world):
    sizes = {"a": 10, "empty": 0, "b": 1, "c": 23, "d": 2}
    cuts = cut_evenly(sizes, world)
    held = [0] * world
    for name, pieces in cuts.items():
        assert [start for _, start, _ in pieces] == [
            sum(numel for _, _, numel in pieces[:place]) for place in range(len(pieces))
        ]
        assert sum(numel for _, _, numel in pieces) == sizes[name]
        for rank, _, numel in pieces:
            held[rank] += numel
    assert max(held) - min(held) <= 1


def test_views_are_stored_without_their_neighbours(tmp_path):
    snapshot_fragments(0, [("model.a", 3, torch.arange(1000.0)[3:5])])(tmp_path)
    assert (tmp_path / "training-00000.safetensors").stat().st_size < 500


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "adamw8bit"])
def test_one_process_goes_on_bit_for_bit_from_what_three_ranks_wrote(tmp_path, optimizer):
    torch.set_num_threads(1)
    config = OptimizerConfig(type=optimizer, learning_rate=1e-3, average_decay=0.9)
    own, other = (SingleEngine(toy_model(seed), config) for seed in (0, 5))
    own.module.steps_seen.fill_(3)
    advance(own, 4)
    own.save(tmp_path / "whole")
    recut(tmp_path / "whole", tmp_path / "cut", ranks=3)
    other.load(tmp_path / "cut")
    assert torch.equal(other.module.steps_seen, own.module.steps_seen)
    assert advance(other, 3) == advance(own, 3)
    pairs = zip(own.state_dict(), other.state_dict(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def advance(engine, steps):
    losses = []
    for step in range(steps):
        losses.append(engine.forward_backward(toy_window(step, 0, 1))["loss"])
        engine.step()
    return losses


def test_fragments_of_another_model_are_refused(tmp_path):
    written(tmp_path, [4])
    with pytest.raises(IntegrityError, match=r"another model; these differ: .*a\.weight"):
        SingleEngine(toy_model(), OptimizerConfig()).load(tmp_path)


@pytest.mark.parametrize("key", ["model.a.weight", "model.missing"])
def test_missing_elements_are_damage(tmp_path, key):
    with pytest.raises(IntegrityError, match=key):
        written(tmp_path, [4]).read(key, 5, 7)


def test_a_lost_file_is_damage(tmp_path):
    written(tmp_path, [4])
    (tmp_path / "training-00001.safetensors").unlink()
    with pytest.raises(IntegrityError, match="1 files"):
        Fragments(tmp_path)


def test_an_empty_folder_is_no_state(tmp_path):
    with pytest.raises(IntegrityError, match="no training state"):
        Fragments(tmp_path)
