"""``data.prepared``: the settings of a corpus that is there already.

Its folder says what it was made with, so a job names the folder alone. What is said besides must be
the same: blocks of another size, or another tokenizer, would be another corpus.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError, Problem
from orchestrator.storage import read_manifest

KIND = "corpus"
FREE = ("prepared", "packing")  # how a corpus is read, not what is in it
_ABSENT = object()


def complete(folder: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given, and what is not from the corpus in a folder.

    Where there is no corpus, what is given comes back as it is; `contradictions` says so.
    """
    made, _ = _settings(str(Path(folder).expanduser()))
    merged = _merged({k: v for k, v in made.items() if k not in FREE}, given)
    return merged | {"prepared": str(Path(folder).expanduser())}


def contradictions(folder: str, settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield where the settings of a job are not those of the corpus in a folder."""
    made, reason = _settings(folder)
    if reason:
        yield Problem("prepared", f"{reason} Make one with `orchestrator corpus`.")
        return
    before, now = _leaves(_without_weights(made)), _leaves(_without_weights(settings))
    for path, value in now.items():
        known = before.get(path, _ABSENT)
        if path not in FREE and known is not _ABSENT and known != value:
            yield Problem(
                path,
                f"{value!r} contradicts the prepared corpus, which has {known!r}. Leave it out, or "
                "prepare another corpus.",
            )


def _settings(folder: str) -> tuple[dict[str, Any], str]:
    """Return the settings of a corpus, or why there is none."""
    try:
        manifest = read_manifest(Path(folder))
    except IntegrityError as error:
        return {}, str(error)
    made = manifest.get("config")
    if manifest.get("kind") != KIND or not isinstance(made, dict):
        return {}, f"{folder}: is no corpus (kind {manifest.get('kind')!r})."
    return made, ""


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in over.items():
        below = found.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        found[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return found


def _without_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    mixture = [{"data": part["data"]} for part in settings.get("mixture", ())]
    return {**settings, "mixture": mixture}


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        items = [(str(place), child) for place, child in enumerate(value)]
    else:
        return {path: value}
    found: dict[str, Any] = {}
    for key, child in items:
        found.update(_leaves(child, f"{path}.{key}" if path else key))
    return found
