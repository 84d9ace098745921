"""Fragments by name and place: written by any layout, read by any other."""

import itertools
import json

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.cluster.engines.sharded_state import Fragments, snapshot_fragments
from orchestrator.errors import IntegrityError

WHOLE = torch.arange(11, dtype=torch.float32) ** 2


def written(folder, cuts):
    """Write WHOLE cut at the given places, one piece a rank."""
    bounds = [0, *cuts, len(WHOLE)]
    for rank, (low, high) in enumerate(itertools.pairwise(bounds)):
        fragments = [
            ("model.a.weight", low, WHOLE[low:high]),
            ("optimizer.exp_avg.a.weight", low, WHOLE[low:high] / 2),
            ("optimizer.step.a.weight", 0, torch.tensor(5.0)),
        ]
        snapshot_fragments(rank, len(bounds) - 1, fragments)(folder)
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
    assert found.scalar(keys["step"]) == 5
    assert found.optimizer_keys("weight") == {}


def test_whole_parameters_of_other_engines_are_read_too(tmp_path):
    save_file({"model.a": torch.ones(2, 3)}, tmp_path / "training.safetensors")
    (tmp_path / "training.json").write_text(json.dumps({"format": 1, "optimizer": "AdamW"}))
    assert torch.equal(Fragments(tmp_path).read("model.a", 1, 4), torch.ones(4))


def test_views_are_stored_without_their_neighbours(tmp_path):
    snapshot_fragments(0, 1, [("model.a", 3, torch.arange(1000.0)[3:5])])(tmp_path)
    assert (tmp_path / "training-00000.safetensors").stat().st_size < 500


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
