"""Values that cross a process or disk border while a corpus is built: tasks, results, files.

A field is never renamed: these are the keys of ``plan.json``, of the sidecars and of the manifest.
"""

import json

from orchestrator.config import StrictModel
from orchestrator.data.corpora.manifests import FileEntry
from orchestrator.data.rows.splitting import rank
from orchestrator.data.sharded.pieces import Piece
from orchestrator.storage import jsonable, sha256_bytes

SPLITS = ("train", "validation")


class PieceTask(StrictModel):
    """A piece to read for the survey."""

    number: int
    piece: Piece


class PieceCounts(StrictModel):
    """Result of reading a piece: its documents, and their first and last rank in hexadecimal."""

    number: int
    documents: int
    least: str
    greatest: str
    rejected: dict[str, int]


class HeldOut(StrictModel):
    """The rule for validation documents: a share by hash, never none and never all of them."""

    seed: int
    """Seed of the ranks."""
    share: float
    """Share of the documents."""
    least: str
    """Rank of the first document in hexadecimal; it is always held out."""
    greatest: str
    """Rank of the last document; it is never held out."""

    def has(self, text: str) -> bool:
        """Return whether a document is held out."""
        place = rank(self.seed, text)
        if place.hex() in (self.least, self.greatest):
            return place.hex() == self.least
        return int.from_bytes(place[:8], "big") < self.share * 2**64


class ShardRules(StrictModel):
    """Everything that all shards share."""

    held_out: HeldOut
    tokenizer_sha256: str


class PlannedShard(StrictModel):
    """The piece of a shard, and the number of documents that the survey found in it."""

    piece: Piece
    documents: int


class ShardTask(PlannedShard):
    """A shard to build."""

    number: int


class Plan(StrictModel):
    """Everything that is fixed before the first shard is built."""

    shards: tuple[PlannedShard, ...]
    held_out: HeldOut
    tokenizer_sha256: str
    tokenizer_files: dict[str, str]
    """File name → SHA-256."""


class StoredPlan(StrictModel):
    """``plan.json``: the plan and its own hash."""

    plan: Plan
    sha256: str


class Sidecar(StrictModel):
    """``shard-00007.json``: inputs, counts and files of a finished shard."""

    number: int
    made_of: str
    """Hash of everything that determines the bytes of the shard."""
    source: int
    documents: dict[str, int]
    tokens: dict[str, int]
    blocks: dict[str, int]
    rejected: dict[str, int]
    files: dict[str, FileEntry]


class BuiltShard(StrictModel):
    """A finished shard, and whether this run has built it or found it."""

    sidecar: Sidecar
    built: bool

    @property
    def number(self) -> int:
        """Number of the shard."""
        return self.sidecar.number


def content_hash(content: object) -> str:
    """Return the SHA-256 of a model, or of a list of models and JSON values."""
    return sha256_bytes(json.dumps(jsonable(content), sort_keys=True).encode())
