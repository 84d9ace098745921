"""Examples as a source lists them: texts, and places of pictures or sounds to be read later."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.data.rows.splitting import rank
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True, slots=True)
class Entry:
    """One example whose picture or sound is not read yet.

    Attributes:
        key: decides the split: examples with equal keys are on the same side.
        text: caption, transcription or first text.
        pair: second text.
        split: train or validation where the source says; else empty.
        place: where the picture or sound is, as the source understands it.
    """

    key: str
    text: str = ""
    pair: str = ""
    split: str = ""
    place: Any = None


@dataclass
class Entries:
    """The examples of a source.

    Attributes:
        identity: JSON-able; equal when and only when the examples are equal. Called when needed:
            it may read all files.
        found: the examples.
        read: bytes of the picture or sound of an example; raises InputError where it is missing.
        rejected: number of rows left out so far, by reason.
    """

    identity: Callable[[], dict[str, object]]
    found: list[Entry]
    read: Callable[[Entry], bytes]
    rejected: Counter[str] = field(default_factory=Counter)


def no_media(entry: Entry) -> bytes:
    """Return nothing: the examples are texts alone."""
    del entry
    return b""


def list_entries(spec: DatasetSpec, columns: Sequence[str], cache: Path | None = None) -> Entries:
    """List the examples of a data set.

    Args:
        spec: what to read.
        columns: what each example must have: text, pair, picture, sound.
        cache: folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: the source is missing, or has no such examples.
    """
    if spec.scheme == "files":
        from orchestrator.data.sources.media import file_entries

        return file_entries(spec, columns)
    if spec.examples is None or not set(columns) <= set(spec.examples):
        raise InputError(f"{spec.source!r} has no examples with {' and '.join(columns)}.")
    return _builtin(spec, cache)


def _builtin(spec: DatasetSpec, cache: Path | None) -> Entries:
    if spec.location == "digits":
        from orchestrator.data.sources.digits import digit_entries

        return digit_entries(spec)
    if spec.location == "digit_scenes":
        from orchestrator.data.sources.digit_scenes import scene_entries

        return scene_entries(spec)
    if spec.location == "morse":
        from orchestrator.data.sources.morse import morse_entries

        return morse_entries(spec, cache)
    from orchestrator.data.sources.pydoc_pairs import pair_entries

    return pair_entries(spec, cache)


def split_entries(spec: DatasetSpec, entries: Entries) -> dict[str, list[Entry]]:
    """Cap and split examples, in the order of a hash of their keys.

    Raises:
        InputError: there are too few for two splits.
    """
    if spec.scheme == "files" and spec.max_rows is not None:
        kept = sorted(entries.found, key=lambda e: rank(spec.seed, f"{e.key}\x00{e.text}"))
        found = kept[: spec.max_rows]
    else:
        found = entries.found
    if not any(entry.split for entry in found):
        keys = sorted({entry.key for entry in found}, key=lambda key: rank(spec.seed, key))
        share = min(max(1, round(spec.validation_fraction * len(keys))), len(keys) - 1)
        held_out = set(keys[: max(share, 0)])
        sides = [(VALIDATION if entry.key in held_out else TRAIN, entry) for entry in found]
    else:
        sides = [(entry.split, entry) for entry in found]
    splits = {split: [e for side, e in sides if side == split] for split in (TRAIN, VALIDATION)}
    for split, part in splits.items():
        if not part:
            raise InputError(
                f"{spec.source}: no examples for {split}, {len(found)} in all; left out: "
                f"{dict(entries.rejected) or 'nothing'}."
            )
    return splits
