"""The number of product files that one forward pass with loss enters."""

import sys
from pathlib import Path

import torch

import orchestrator
from tests.unit.modeling.small import make_batch, make_model

MAX_FILES = 8
ROOT = Path(orchestrator.__file__).parent


def files_entered(call):
    """Return the product files whose functions run during ``call``."""
    found = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(f"{ROOT}/"):
            found.add(str(Path(frame.f_code.co_filename).relative_to(ROOT)))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return sorted(found)


def test_a_bert_forward_with_loss_enters_few_files():
    model = make_model(
        embedding={"parts": ["word", "pos", "seg"]},
        encoder={"type": "transformer", "num_layers": 2, "num_heads": 2},
        target=["mlm", "nsp"],
    ).train()
    batch = make_batch()
    batch["labels.mlm"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    batch["labels.nsp"] = torch.tensor([0, 1, 0, 1])
    entered = files_entered(lambda: model(batch))
    print(len(entered), *entered, sep="\n  ")
    assert "modeling/model.py" in entered
    assert "modeling/targets/sequence.py" in entered
    assert len(entered) <= MAX_FILES
