"""One thread and one seed for every test of this room."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)
