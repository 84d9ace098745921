"""``data.prepared``: the settings of a corpus that exists already.

Its manifest has the settings, so a job gives the folder alone. Settings that a job repeats must be
equal: blocks of another size, or another tokenizer, would be another corpus.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import IntegrityError, Problem
from orchestrator.storage import read_manifest

KIND: Final = "corpus"
FREE = ("prepared", "packing")  # settings of reading, not of the content
_MISSING = object()


def complete(folder: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given settings, completed from the corpus in a folder.

    Without a corpus they are returned unchanged; `contradictions` reports that.
    """
    made, _ = _settings(str(Path(folder).expanduser()))
    merged = _merged({k: v for k, v in made.items() if k not in FREE}, given)
    return merged | {"prepared": str(Path(folder).expanduser())}


def contradictions(folder: str, settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the settings of a job that differ from those of the corpus in a folder."""
    made, reason = _settings(folder)
    if reason:
        yield Problem("prepared", f"{reason} Build one with `orchestrator corpus`.")
        return
    before, now = _leaves(_without_weights(made)), _leaves(_without_weights(settings))
    for path, value in now.items():
        known = before.get(path, _MISSING)
        if path not in FREE and known is not _MISSING and known != value:
            yield Problem(
                path,
                f"{value!r} contradicts the prepared corpus, which has {known!r}. Leave it out, or "
                "prepare another corpus.",
            )


def _settings(folder: str) -> tuple[dict[str, Any], str]:
    """Return the settings of a corpus, or the reason why there is none."""
    try:
        manifest = read_manifest(Path(folder))
    except IntegrityError as error:
        return {}, str(error)
    made = manifest.get("config")
    if manifest.get("kind") != KIND or not isinstance(made, dict):
        return {}, f"{folder}: is not a corpus (kind {manifest.get('kind')!r})."
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
    prefix = f"{path}." if path else ""
    return {p: leaf for key, child in items for p, leaf in _leaves(child, prefix + key).items()}
