"""A small model with everything that breaks a sharded engine, and a worker that compares engines.

Odd sizes, a tied embedding, a parameter of one element, a frozen one, parameters owned by the
root module, two heads, one idle in some windows.
"""

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, LENGTH, CLASSES = 37, 13, 7, 3


class Toy(nn.Module):
    """Offers what an engine needs of a model: targets, count_labels, loss sums."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        self.gain = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(5))  # smaller than a partition
        self.recurrent = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("steps_seen", torch.zeros(3))
        lm, cls = nn.Linear(WIDTH, VOCABULARY, bias=False), nn.Linear(WIDTH, CLASSES)
        lm.weight = self.embedding.weight
        self.targets = nn.ModuleDict({"lm": lm, "cls": cls})

    def count_labels(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: (batch[f"labels.{name}"] >= 0).sum()
            for name in self.targets
            if f"labels.{name}" in batch
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.embedding(batch["input_ids"])
        hidden = hidden + torch.tanh(self.frozen(hidden))
        hidden = self.dropout(self.norm(self.recurrent(hidden)[0] * self.gain))
        shift = nn.functional.pad(self.bias, (0, WIDTH - 5))
        hidden = self.mixed(hidden + shift)
        out: dict[str, Tensor] = {}
        if "labels.lm" in batch:
            _add(out, "lm", self.targets["lm"](hidden), batch["labels.lm"])
        if "labels.cls" in batch:
            _add(out, "cls", self.targets["cls"](hidden.mean(1)), batch["labels.cls"])
        return out

    def mixed(self, hidden: Tensor) -> Tensor:
        """Return what the heads read; for a subclass."""
        return hidden


def _add(out: dict[str, Tensor], name: str, logits: Tensor, labels: Tensor) -> None:
    flat, wanted = logits.flatten(0, -2), labels.flatten()
    keep = wanted >= 0
    out[f"loss.{name}"] = nn.functional.cross_entropy(
        flat, wanted, ignore_index=-100, reduction="sum"
    )
    out[f"count.{name}"] = keep.sum()
    out[f"correct.{name}"] = ((flat.argmax(-1) == wanted) & keep).sum()


def toy_model(seed: int = 0, dropout: float = 0.0) -> Toy:
    torch.manual_seed(seed)
    return Toy(dropout)


def toy_window(
    step: int, rank: int, world: int, *, micro: int = 2, rows: int = 2, heads: str = "both"
) -> list[dict[str, Tensor]]:
    """The rank's part of the window of one step; depends on the step alone, not on ``world``."""
    generator = torch.Generator().manual_seed(1000 + step)
    total = micro * rows * 2  # always cut for two, whatever the world
    ids = torch.randint(0, VOCABULARY, (total, LENGTH), generator=generator)
    lm = torch.where(
        torch.rand(total, LENGTH, generator=generator) < 0.3, (ids * 7 + 3) % VOCABULARY, -100
    )
    lm[:, 0] = (ids[:, 0] * 7 + 3) % VOCABULARY
    classes = ids.sum(1) % CLASSES
    share = total // world
    size = share // micro if world == 2 else rows
    batches = []
    for begin in range(rank * share, (rank + 1) * share, size):
        part = slice(begin, begin + size)
        batch = {"input_ids": ids[part]}
        if heads in ("both", "lm"):
            batch["labels.lm"] = lm[part]
        if heads in ("both", "cls"):
            batch["labels.cls"] = classes[part]
        batches.append(batch)
    return batches
