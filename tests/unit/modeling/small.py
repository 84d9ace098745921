"""Small models and batches for the tests of this room."""

import torch

from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig

VOCAB, WIDTH, LENGTH = 40, 16, 8


def make_config(**raw):
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "max_position_embeddings": LENGTH}
    return validate_config(ModelConfig, sizes | raw, "test")


def make_model(**raw):
    return build_model(make_config(**raw)).eval()


def make_batch(rows=4):
    """Return a batch of different tokens; row 1 is padded on the right, row 2 on the left."""
    mask = torch.ones(rows, LENGTH, dtype=torch.long)
    mask[1, 5:] = 0
    mask[2, :3] = 0
    return {
        "input_ids": (torch.randperm(VOCAB - 1)[: rows * LENGTH] + 1).view(rows, LENGTH) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, (rows, LENGTH)),
    }
