"""Checkpoints of 64 and 1,024 ranks, written and planned on one machine.

Every rank's file of LLaMA-7B is written with the code that a rank runs: the names and first axes of
all tensors are the real ones, the other axes are cut to 2, so that a thousand ranks fit on a disk.
Counts of pieces and files, and the time for headers and the index, are therefore those of a real
run; the time for bytes is measured on one large file, and multiplied.

Run: `python benchmarks/checkpoints.py` (about 5 minutes), `--quick` for 16 ranks, `--write` for the
page `benchmarks/checkpoints.md`.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from safetensors import safe_open

from orchestrator.config import load_config
from orchestrator.modeling.builder import build_on_meta
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.storage import write_hashed
from orchestrator.storage.stores import open_store
from orchestrator.training.curve_parts import CurveParts, read_parts
from orchestrator.training.engines import fragments
from orchestrator.training.engines.fragments import UNINDEXED, Fragments
from orchestrator.training.engines.state import snapshot_fragments
from orchestrator.training.engines.state_index import (
    INDEX,
    Cuts,
    RankPart,
    cut_each,
    cut_evenly,
    write_index,
)
from orchestrator.training.history import HistoryRow

PRESET = Path(__file__).parents[1] / "jobs/configs/original/llama_7b.yaml"
PAGE = Path(__file__).with_suffix(".md")
MOMENTS = ("exp_avg", "exp_avg_sq")
LARGE = 2**29
"""Bytes of the file whose hashing is timed."""
BYTES_PER_PARAMETER = 12
ROWS = 333_200
"""Rows of the curves of LLaMA-7B: 238,000 steps, one row of 14 metrics per 10 steps."""
HEAD = """# Checkpoints of many ranks

Made by `python benchmarks/checkpoints.py --write`, which says what is real and what is cut.
CPU seconds on one core beside other load; {machine}, torch {torch}.

## Layouts of LLaMA-7B with AdamW

*Write*: headers, hash and file of one rank, almost without bytes. *Merge*: rank 0 reads all
descriptions and writes the index, while training goes on. *Resume*: the slowest of three ranks
finds and reads its elements; *bytes* are those in the files of tensors that it opens, relative to
an equal share. *Fewer*: on three quarters of the ranks. FSDP2 and ZeRO-3 cut each parameter by
itself and round up, so that there parameters of another size lie in other files. *Without index*:
as checkpoints of earlier versions are read, where every rank opens every file.

| layout, ranks | pieces | index, kB | write, s | merge, s | resume: files | bytes | s \
| fewer: files | bytes | s | without index: files | s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |""".replace(
    "\\\n", ""
)
HASHING = """
## Hashing

One core writes and hashes {rate:.2f} GB/s. From that follow the seconds that the slowest rank
hashes, once to save and once to resume. Earlier versions read back and hashed everything on rank 0.

| model | checkpoint, GB | rank 0 alone, s | 64 ranks, s | 1,024 ranks, s |
| --- | --- | --- | --- | --- |"""
CURVES = """
## Learning curves

{rows:,} rows, a checkpoint per 500 steps. Earlier versions stored all of them in every checkpoint:
{json_mb:.0f} MB of JSON, {json_s:.2f} s, in which training waits. Now a checkpoint adds one part in
{part_ms:.1f} ms; all {parts:.0f} parts have {parts_mb:.1f} MB, and a resumed run reads them in
{read_s:.2f} s.
"""
Shapes = dict[str, torch.Size]
Layout = Callable[[Shapes, int], Cuts]
Held = tuple[str, int, int]
"""Parameter, first element, number of elements."""


def shapes() -> Shapes:
    """Return the parameters of LLaMA-7B; all axes but the first are cut to 2."""
    model = build_on_meta(load_config(PretrainConfig, PRESET).model)
    return {
        name: torch.Size([p.shape[0], *(2 for _ in p.shape[1:])])
        for name, p in model.named_parameters()
    }


def by_rows(found: Shapes, world: int) -> Cuts:
    """Cut like FSDP2: rows of each parameter."""
    cuts: Cuts = {}
    for name, shape in found.items():
        width = shape[1:].numel()
        each = cut_each({name: shape[0]}, world)[name]
        cuts[name] = [(rank, first * width, rows * width) for rank, first, rows in each]
    return cuts


def by_chunks(found: Shapes, world: int) -> Cuts:
    """Cut like ZeRO-3: each flattened parameter."""
    return cut_each({name: shape.numel() for name, shape in found.items()}, world)


def by_ranges(found: Shapes, world: int) -> Cuts:
    """Cut like ZeRO-1 and ZeRO-2: all parameters laid end to end."""
    return cut_evenly({name: shape.numel() for name, shape in found.items()}, world)


LAYOUTS: dict[str, Layout] = {
    "FSDP2, rows": by_rows,
    "ZeRO-3, chunks": by_chunks,
    "ZeRO-1/2, ranges": by_ranges,
}


@dataclass(frozen=True)
class Row:
    """Figures of one layout."""

    layout: str
    ranks: int
    pieces: int
    index_bytes: int
    write_s: float
    merge_s: float
    files: int
    share: float
    resume_s: float
    files_fewer: int
    share_fewer: float
    resume_fewer_s: float
    resume_before_s: float


def per_rank(cuts: Cuts, world: int) -> list[list[Held]]:
    """Return what each rank holds."""
    held: list[list[Held]] = [[] for _ in range(world)]
    for name, pieces in cuts.items():
        for rank, start, numel in pieces:
            held[rank].append((name, start, numel))
    return held


def fragments_of(
    pieces: Sequence[Held],
) -> Iterator[tuple[str, int | None, torch.Tensor]]:
    """Yield the tensors that a rank stores."""
    for name, start, numel in pieces:
        yield f"model.{name}", start, torch.zeros(numel)
        for moment in MOMENTS:
            yield f"optimizer.{moment}.{name}", start, torch.zeros(numel)
        yield f"optimizer.step.{name}", None, torch.tensor(1.0)


def resume(folder: Path, pieces: Sequence[Held]) -> tuple[float, set[str]]:
    """Read one rank's elements; return CPU seconds, and the files of tensors that it opened."""
    with mock.patch.object(fragments, "safe_open", side_effect=safe_open) as opening:
        began = time.process_time()
        found = Fragments(folder)
        for name, start, numel in pieces:
            found.read(f"model.{name}", start, numel)
            for key in found.optimizer_keys(name).values():
                if found.is_scalar(key):
                    found.whole(key)
                else:
                    found.read(key, start, numel)
        seconds = time.process_time() - began
    return seconds, {Path(call.args[0]).name for call in opening.call_args_list}


def worst(
    folder: Path, written: Sequence[Sequence[Held]], read: Sequence[Sequence[Held]]
) -> tuple[float, int, float]:
    """Return what the slowest of the first, a middle and the last rank takes to resume.

    Args:
        folder: The checkpoint.
        written: What each rank wrote.
        read: What each rank reads.

    Returns:
        CPU seconds; files opened, the index among them; elements in these files, relative to an
        equal share of the checkpoint.
    """
    sizes = {
        f"training-{rank:05d}.safetensors": sum(numel for _, _, numel in pieces)
        for rank, pieces in enumerate(written)
    }
    seconds, files, share = 0.0, 0, 0.0
    for rank in {0, len(read) // 2, len(read) - 1}:
        took, opened = resume(folder, read[rank])
        seconds, files = max(seconds, took), max(files, len(opened) + 1)
        share = max(share, sum(map(sizes.__getitem__, opened)) * len(read) / sum(sizes.values()))
    return seconds, files, share


def measure(name: str, layout: Layout, found: Shapes, world: int) -> Row:
    """Write a checkpoint of so many ranks, and read it as several ranks would."""
    held = per_rank(layout(found, world), world)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        texts, written = [], []
        for rank, pieces in enumerate(held):
            snapshot = snapshot_fragments(rank, fragments_of(pieces))
            began = time.process_time()
            texts.append(snapshot(folder).model_dump_json())
            written.append(time.process_time() - began)
        began = time.process_time()
        parts = [RankPart.model_validate_json(text) for text in texts]
        index = write_index(folder, parts)
        merge_s = time.process_time() - began
        resume_s, files, share = worst(folder, held, held)
        fewer = world * 3 // 4
        on_fewer = worst(folder, held, per_rank(layout(found, fewer), fewer))
        (folder / INDEX).write_text(json.dumps({"format": UNINDEXED, "world": world}))
        before_s, _ = resume(folder, held[0])
        return Row(
            layout=name,
            ranks=world,
            pieces=sum(len(part.pieces) for part in parts),
            index_bytes=index.bytes,
            write_s=max(written),
            merge_s=merge_s,
            files=files,
            share=share,
            resume_s=resume_s,
            files_fewer=on_fewer[1],
            share_fewer=on_fewer[2],
            resume_fewer_s=on_fewer[0],
            resume_before_s=before_s,
        )


def hash_rate() -> float:
    """Return bytes per CPU second of writing and hashing a large file; the best of three."""
    content, times = memoryview(bytearray(LARGE)), []
    with tempfile.TemporaryDirectory() as place:
        for _ in range(3):
            began = time.process_time()
            write_hashed(Path(place) / "large", [content])
            times.append(time.process_time() - began)
    return LARGE / min(times)


class _Alone:
    """The worker that `CurveParts` needs, in one process without torch's process group."""

    rank = 0

    def __init__(self, folder: Path) -> None:
        self.store = open_store(folder)


def curves() -> dict[str, float]:
    """Return seconds and megabytes of the curves of LLaMA-7B: as JSON, and as parts."""
    rows = [HistoryRow(i // 14 * 10, 0.1, "train", f"m{i % 14}", 2.5, i / 7) for i in range(ROWS)]
    began = time.process_time()
    text = json.dumps([asdict(row) for row in rows])
    json_s, times = time.process_time() - began, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = CurveParts(_Alone(folder))  # type: ignore[arg-type]
        for first in range(0, ROWS, ROWS // 476):
            logged = rows[first : first + ROWS // 476]
            began = time.process_time()
            position, store = parts.extend(logged)
            store()
            times.append(time.process_time() - began)
        began = time.process_time()
        stored = read_parts(open_store(folder), position)
        read_s = time.process_time() - began
    return {
        "json_s": json_s,
        "json_mb": len(text) / 1e6,
        "part_ms": 1000 * statistics.median(times),
        "parts": len(stored),
        "parts_mb": sum(map(len, stored.values())) / 1e6,
        "read_s": read_s,
    }


def goals(rows: Sequence[Row]) -> list[str]:
    """Return what was aimed at and what was reached; the worst layout counts."""
    found = {
        "files that a rank opens to resume on as many ranks": (max(r.files for r in rows), 3),
        "files on three quarters of the ranks": (max(r.files_fewer for r in rows), 3),
        "bytes of the files on as many ranks ÷ an equal share": (max(r.share for r in rows), 1.1),
    }
    return [
        "",
        *(
            f"- {what}: {figure:.3g}; goal ≤ {limit}: "
            f"{'reached' if figure <= limit else '**missed**'}"
            for what, (figure, limit) in found.items()
        ),
    ]


def page(rows: Sequence[Row], rate: float, curve: dict[str, float]) -> str:
    """Return the figures as a page."""
    lines = [HEAD.format(machine=platform.machine(), torch=torch.__version__)]
    for row in rows:
        lines.append(
            f"| {row.layout}, {row.ranks:,} | {row.pieces:,} | {row.index_bytes / 1e3:,.0f} "
            f"| {row.write_s:.3f} | {row.merge_s:.2f} | {row.files} | {row.share:.2f} "
            f"| {row.resume_s:.3f} | {row.files_fewer} | {row.share_fewer:.2f} "
            f"| {row.resume_fewer_s:.3f} | {row.ranks + 1:,} | {row.resume_before_s:.2f} |"
        )
    lines += goals(rows)
    lines.append(HASHING.format(rate=rate / 1e9))
    for name, parameters in (("7 B", 7e9), ("70 B", 70e9)):
        size = parameters * BYTES_PER_PARAMETER
        cells = [f"{size / rate / world:,.2f}" for world in (1, 64, 1024)]
        lines.append(f"| {name} | {size / 1e9:,.0f} | {' | '.join(cells)} |")
    return "\n".join([*lines, CURVES.format(rows=ROWS, **curve)])


def main() -> None:
    """Measure and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 ranks")
    parser.add_argument("--write", action="store_true", help="write the page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found, rows = shapes(), []
    for world in (16,) if asked.quick else (64, 1024):
        for name, layout in LAYOUTS.items():
            rows.append(measure(name, layout, found, world))
            print(rows[-1], flush=True)
    text = page(rows, hash_rate(), curves())
    print(text)
    if asked.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
