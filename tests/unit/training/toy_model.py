"""A small model with everything that makes engines go wrong, and batches for it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, LENGTH = 37, 12, 7


class ClassHead(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(WIDTH, classes)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output(hidden.mean(1))


class TokenHead(nn.Module):
    """Tied to the word table: its weight must be counted once."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight.T + self.bias


class Encoder(nn.Module):
    """Odd sizes, a one-element parameter, a frozen one and a buffer."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, 17)
        self.norm = nn.LayerNorm(17)
        self.outer = nn.Linear(17, WIDTH)
        self.gain = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.full((3,), 0.1), requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("offset", torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(torch.tanh(self.norm(self.inner(x))))
        return x + self.gain * self.outer(hidden) + self.frozen.sum() + self.offset


class ToyModel(nn.Module):
    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.embedding = nn.ModuleDict({"word": nn.Embedding(VOCABULARY, WIDTH)})
        self.encoder = Encoder(dropout)
        heads = {"lm": TokenHead(self.embedding["word"]), "a": ClassHead(3), "b": ClassHead(5)}
        self.targets = nn.ModuleDict(heads)

    def count_labels(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: (batch[f"labels.{name}"] != -100).sum()
            for name in self.targets
            if f"labels.{name}" in batch
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.encoder(self.embedding["word"](batch["input_ids"]))
        outputs = {}
        for name, head in self.targets.items():
            labels = batch.get(f"labels.{name}")
            if labels is None:
                continue
            logits = head(hidden)
            flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
            outputs[f"loss.{name}"] = F.cross_entropy(*flat, reduction="sum", ignore_index=-100)
            outputs[f"count.{name}"] = (labels != -100).sum()
            outputs[f"correct.{name}"] = (logits.argmax(-1) == labels).sum()
        return outputs


def sample(seed: int, step: int, index: int) -> dict[str, Tensor]:
    """One sample; a quarter to all of its tokens are predicted, and one of the heads labelled."""
    g = torch.Generator().manual_seed(seed * 1_000_003 + step * 1009 + index)
    ids = torch.randint(0, VOCABULARY, (1, LENGTH), generator=g)
    labels = ids.roll(-1, 1).clone()
    labels[:, 1 + index % 5 :] = -100
    return {
        "input_ids": ids,
        "labels.lm": labels,
        "labels.a": ids.sum(1) % 3 if index % 4 else torch.tensor([-100]),
        "labels.b": (ids[:, 0] + ids[:, 1]) % 5,
    }


def join(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([one[key] for one in samples]) for key in samples[0]}


class ToySource:
    """Global batch of step t depends on (seed, t); ranks and micro-batches only cut it."""

    def __init__(self, size: int = 8, micro: int = 8, seed: int = 3, heads=("lm", "a")) -> None:
        self.size, self.micro, self.seed, self.heads = size, micro, seed, heads

    def window(self, step: int, rank: int, world: int) -> list[dict[str, Tensor]]:
        share = self.size // world
        mine = [sample(self.seed, step, i) for i in range(rank * share, (rank + 1) * share)]
        keep = {"input_ids", *(f"labels.{head}" for head in self.heads)}
        pieces = [join(mine[i : i + self.micro]) for i in range(0, share, self.micro)]
        return [{k: v for k, v in piece.items() if k in keep} for piece in pieces]

    def epoch(self, step: int) -> float:
        return step / 10
