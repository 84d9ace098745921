"""Index of a training state: the file and place of every element of every tensor.

Every rank describes what it wrote (`RankPart`); rank 0 merges the descriptions into the index
(`StateIndex`, the file ``training.json``). A reader finds its elements there and opens only the
files that hold them. Pieces at regular places are one `Run`: a parameter that is cut into equal
chunks over 1,024 ranks takes one entry, so the index grows with the model and not with the ranks.

``torch.distributed.checkpoint`` has such an index, but stores it as a pickle, which is not read
here (SECURITY.md), and its writers give no hashes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.config.strict import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.storage import FileEntry, write_hashed
from orchestrator.training.engines.precision import LossScale

INDEX = "training.json"
"""The index of a training state."""


class Piece(NamedTuple):
    """Elements of one tensor in the file of one rank.

    Attributes:
        key: Name of the tensor.
        start: First element in the flattened tensor; None: the whole tensor, in its shape.
        shape: Shape of what is stored; one number where ``start`` is given.
        dtype: Element type, as safetensors call it.
    """

    key: str
    start: int | None
    shape: tuple[int, ...]
    dtype: str


class RankPart(StrictModel):
    """Description of what one rank wrote; it crosses processes as JSON."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    rank: int
    """The writer."""
    tensors: str
    """Name of its file of tensors."""
    files: dict[str, FileEntry]
    """Every file that it wrote, hashed while it was written."""
    pieces: tuple[Piece, ...]
    """Content of the file of tensors."""
    loss_scaler: LossScale | None = None
    """State of the loss scaler; only precision fp16 has one."""


class Run(NamedTuple):
    """Pieces of equal size at regular places.

    Piece ``i`` of ``repeats`` lies in file ``file + i * file_step`` and holds ``numel`` elements
    from ``start + i * start_step`` on.
    """

    file: int
    start: int
    numel: int
    repeats: int
    file_step: int
    start_step: int

    def overlapping(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield (file, first element) of the pieces that hold some of ``low : high``."""
        first, last = 0, self.repeats - 1
        if self.start_step > 0:
            first = max(0, (low - self.start - self.numel) // self.start_step + 1)
            last = min(last, (high - self.start - 1) // self.start_step)
        for index in range(first, last + 1):
            start = self.start + index * self.start_step
            if start < high and low < start + self.numel:
                yield self.file + index * self.file_step, start

    @property
    def end(self) -> int:
        """The element after the last one."""
        return max(self.start, self.start + (self.repeats - 1) * self.start_step) + self.numel


class StoredTensor(StrictModel):
    """Places of one tensor."""

    dtype: str
    """Element type, as safetensors call it."""
    shape: tuple[int, ...] | None = None
    """Its shape where a file holds it whole; null: it is stored flat, in pieces."""
    runs: tuple[Run, ...]
    """The pieces; with a shape, each of them is the whole tensor."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return max(run.end for run in self.runs)


class StateIndex(StrictModel):
    """The index of a training state: ``training.json``."""

    format: Literal[2] = 2
    """Version of this layout; 1 had no index."""
    files: tuple[str, ...]
    """Files of tensors, one per rank that wrote, in the order of ranks."""
    tensors: dict[str, StoredTensor]
    """Name → places, in the order in which the ranks wrote them."""
    loss_scaler: LossScale | None = None
    """State of the loss scaler; only precision fp16 has one."""


def merged(parts: Sequence[RankPart]) -> StateIndex:
    """Return the index of what all ranks wrote."""
    ordered = sorted(parts, key=lambda part: part.rank)
    tensors: dict[str, _Places] = {}
    for file, part in enumerate(ordered):
        for piece in part.pieces:
            if piece.key not in tensors:
                tensors[piece.key] = _Places(piece.dtype, piece.shape, [])
            tensors[piece.key].add(file, piece)
    return StateIndex(
        files=tuple(part.tensors for part in ordered),
        tensors={key: places.stored() for key, places in tensors.items()},
        loss_scaler=ordered[0].loss_scaler,
    )


@dataclass(slots=True)
class _Places:
    """Runs of one tensor while pieces are added."""

    dtype: str
    shape: tuple[int, ...] | None
    runs: list[Run]

    def add(self, file: int, piece: Piece) -> None:
        start, numel = piece.start, 1
        for length in piece.shape:
            numel *= length
        if start is None:
            start = 0
        else:
            self.shape = None
        last = self.runs[-1] if self.runs else None
        if last is None or last.numel != numel:
            self.runs.append(Run(file, start, numel, 1, 0, 0))
        elif last.repeats == 1:
            self.runs[-1] = last._replace(
                repeats=2, file_step=file - last.file, start_step=start - last.start
            )
        elif (file, start) == (
            last.file + last.repeats * last.file_step,
            last.start + last.repeats * last.start_step,
        ):
            self.runs[-1] = last._replace(repeats=last.repeats + 1)
        else:
            self.runs.append(Run(file, start, numel, 1, 0, 0))

    def stored(self) -> StoredTensor:
        return StoredTensor(dtype=self.dtype, shape=self.shape, runs=tuple(self.runs))


def write_index(folder: Path, parts: Sequence[RankPart]) -> FileEntry:
    """Write the index of what all ranks wrote into a folder."""
    return write_hashed(folder / INDEX, [merged(parts).model_dump_json().encode()])


Cuts = dict[str, list[tuple[int, int, int]]]
"""Key → (rank, first element, number of elements) of its pieces, in order."""


def cut_each(sizes: Mapping[str, int], world: int) -> Cuts:
    """Cut every tensor by itself into ``world`` ranges of equal size; the last one may be short."""
    cuts: Cuts = {}
    for name, size in sizes.items():
        step = max(1, -(-size // world))
        starts = range(0, size, step)
        cuts[name] = [(rank, at, min(step, size - at)) for rank, at in enumerate(starts)]
    return cuts


def cut_evenly(sizes: Mapping[str, int], world: int) -> Cuts:
    """Cut tensors, laid end to end, into one equal range per rank.

    Args:
        sizes: Elements of each tensor.
        world: Number of ranks.

    Returns:
        The pieces; nearly all tensors lie on one rank. An empty tensor is rank 0's.
    """
    total = sum(sizes.values())
    bounds = [total * rank // world for rank in range(world + 1)]
    cuts: Cuts = {}
    begin, rank = 0, 0
    for name, size in sizes.items():
        cuts[name] = [] if size else [(0, 0, 0)]
        at, end = begin, begin + size
        while at < end:
            while bounds[rank + 1] <= at:
                rank += 1
            stop = min(end, bounds[rank + 1])
            cuts[name].append((rank, at - begin, stop - at))
            at = stop
        begin = end
    return cuts


def parsed_index(text: bytes, where: Path) -> StateIndex:
    """Parse an index.

    Raises:
        IntegrityError: It is not one of this version.
    """
    try:
        return StateIndex.model_validate_json(text)
    except ValueError as error:
        raise IntegrityError(f"{where}: damaged: not an index of this version.") from error
