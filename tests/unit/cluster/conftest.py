"""Fixtures of the tests of the cluster."""

import sys

import pytest
import torch
from torch import distributed


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """A process group of one, as Ray Train sets it up for one worker."""
    torch.set_num_threads(1)  # threads of a tiny model only wait for each other
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        patch.setenv("DS_ACCELERATOR", "cpu")
        file = tmp_path_factory.mktemp("group") / "store"
        distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
        yield
        distributed.destroy_process_group()
        _forget_group()


def _forget_group():
    """Let DeepSpeed, which keeps the first group that it meets, meet that of the next file."""
    if "deepspeed" in sys.modules:
        sys.modules["deepspeed.utils.groups"]._WORLD_GROUP = None
        sys.modules["deepspeed.comm.comm"].cdb = None
