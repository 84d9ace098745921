"""From config entries to packages, and the facts about packages and data that the matrix keeps."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError
from orchestrator.selection.config import ALL
from orchestrator.selection.matrix import DatasetFacts, ModelFacts, sketch_rows

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows, TaskData
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.zoo import Package, Zoo

DEFAULT_KINDS = ("pretrained", "imported")
TOKENIZER_NAME = "tokenizer.json"
CHAMPION, LATEST = "champion", "latest"

logger = logging.getLogger(__name__)


def resolve_packages(zoo: "Zoo", entries: Sequence[str]) -> list["Package"]:
    """Return the packages that config entries mean, each once, by reference.

    ``all`` and ``all:<kind>`` take one version of each name (the champion, else the latest).
    Where a version is named, only manifests are read: the trial that opens a package verifies it.

    Raises:
        InputError: A reference is not in the zoo, or nothing is left.
    """
    everything = zoo.packages()
    by_ref = {package.ref: package for package in everything}
    found: dict[str, Package] = {}
    for entry in entries:
        if entry == ALL or entry.startswith(f"{ALL}:"):
            kinds = (entry.partition(":")[2],) if ":" in entry else DEFAULT_KINDS
            found |= {p.ref: p for p in _current(zoo, everything) if p.kind in kinds}
        else:
            package = by_ref.get(entry) or zoo.get(entry)
            found[package.ref] = package
    if not found:
        held = ", ".join(sorted({f"{p.ref} ({p.kind})" for p in everything})) or "nothing"
        raise InputError(
            f"no package in the zoo {zoo.root} matches {', '.join(entries)}; it holds {held}. "
            "Pre-train or import some first."
        )
    return [found[ref] for ref in sorted(found)]


def usable_for(packages: Iterable["Package"], task: "TaskData") -> list["Package"]:
    """Leave out packages that cannot read the task's rows (texts need a tokenizer).

    Raises:
        InputError: None can.
    """
    offered = list(packages)
    if task.train.images is not None:
        return offered
    fitting = [package for package in offered if package.has(TOKENIZER_NAME)]
    for package in offered:
        if package not in fitting:
            logger.warning("%s is left out: it has no %s", package.ref, TOKENIZER_NAME)
    if not fitting:
        raise InputError(
            f"none of {', '.join(p.ref for p in offered)} has a {TOKENIZER_NAME}; the rows of "
            f"{task.name} are texts."
        )
    return fitting


def model_facts(package: "Package", zoo_packages: Iterable["Package"]) -> ModelFacts:
    """Provenance of a matrix row; declared training sets are its own labels and its ancestors'."""
    by_ref = {other.ref: other for other in zoo_packages}
    declared: set[str] = set()
    queue, seen = [package], {package.ref}
    while queue:
        current = queue.pop()
        if current.manifest.task is not None:
            declared |= set(current.manifest.task.labels)
        for parent in current.manifest.parents:
            if parent.ref in by_ref and parent.ref not in seen:
                seen.add(parent.ref)
                queue.append(by_ref[parent.ref])
    return ModelFacts(package.ref, package.manifest_sha256, tuple(sorted(declared)))


def dataset_facts(task: "TaskData", protocol: str = "") -> DatasetFacts:
    """Digest and sketch of a task's labelled rows."""
    digest = hashlib.sha256()
    rows: list[tuple[str, str]] = []
    for split in ("train", "validation", "test"):
        part = task.split(split)
        for text, label in zip(_texts(part), part.labels.tolist(), strict=True):
            name = task.label_names[label]
            digest.update(f"{split}\x1f{name}\x1f{text}\x1e".encode())
            rows.append((text, name))
    return DatasetFacts(digest=digest.hexdigest(), sketch=sketch_rows(rows), protocol=protocol)


def portable(spec: "DatasetSpec") -> dict[str, Any]:
    """The spec as JSON data that means the same in a worker's folder: local paths made absolute."""
    data = spec.model_dump(mode="json")
    if spec.scheme == "files":
        data["source"] = f"files:{absolute(spec.location)}"
    return data


def absolute(location: str) -> str:
    """A local path made absolute; addresses stay as they are."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def _texts(rows: "Rows") -> list[str]:
    """What identifies each row: its text(s), or the hash of its image."""
    if rows.images is not None:
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in rows.images]
    if rows.pairs is None:
        return rows.texts
    return [f"{one}\x1f{two}" for one, two in zip(rows.texts, rows.pairs, strict=True)]


def _current(zoo: "Zoo", everything: Iterable["Package"]) -> list["Package"]:
    """One version of each name: the champion, else the latest."""
    by_name: dict[str, dict[str, Package]] = {}
    for package in everything:
        by_name.setdefault(package.name, {})[package.version] = package
    chosen = []
    for name, versions in sorted(by_name.items()):
        aliases = zoo.aliases(name)
        version = aliases.get(CHAMPION, aliases.get(LATEST, ""))
        chosen.append(versions.get(version) or versions[max(versions, key=_number)])
    return chosen


def _number(version: str) -> int:
    return int(version.removeprefix("v"))
