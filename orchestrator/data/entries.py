"""``list_entries``: the examples of any source, and their split; media are read later."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.data.rows.splitting import rank
from orchestrator.data.sources.contents import TRAIN, VALIDATION, Entries, Entry
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError


def list_entries(spec: DatasetSpec, columns: Sequence[str], cache: Path | None = None) -> Entries:
    """List the examples of a data set.

    Args:
        spec: What to read.
        columns: What each example must have: text, pair, picture, sound.
        cache: Folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: The source is missing, or has no such examples.
    """
    if spec.scheme == "files":
        from orchestrator.data.sources.example_files import file_entries

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
        InputError: There are too few for two splits.
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
