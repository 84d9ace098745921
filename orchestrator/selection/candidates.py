"""Packages that config entries name, and facts about packages and data for the matrix."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.selection.config import ALL
from orchestrator.selection.matrix.facts import DatasetFacts, ModelFacts, sketch_rows
from orchestrator.storage.uris import absolute
from orchestrator.zoo.names import version_number

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows, TaskData
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.training.config import FineTuneConfig
    from orchestrator.zoo import Package, Zoo

DEFAULT_KINDS = ("pretrained", "imported")
TOKENIZER_NAME = "tokenizer.json"
CHAMPION, LATEST = "champion", "latest"

logger = logging.getLogger(__name__)


def resolve_packages(zoo: "Zoo", entries: Sequence[str]) -> list["Package"]:
    """Return the packages that config entries name, each once, sorted by reference.

    ``all`` and ``all:<kind>`` take one version of each name (the champion, else the latest). Only
    manifests are read for references with a version: the trial that opens a package verifies it.

    Raises:
        InputError: A reference is not in the zoo, or no package matches.
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
        content = ", ".join(sorted({f"{p.ref} ({p.kind})" for p in everything})) or "nothing"
        raise InputError(
            f"no package in the zoo {zoo.root} matches {', '.join(entries)}; it contains "
            f"{content}. Pre-train or import some first."
        )
    return [found[ref] for ref in sorted(found)]


def usable_for(packages: Iterable["Package"], task: "TaskData") -> list["Package"]:
    """Return the packages that can read the rows of a task (texts need a tokenizer).

    Raises:
        InputError: None can.
    """
    given = list(packages)
    if task.train.images is not None:
        return given
    usable = [package for package in given if package.has(TOKENIZER_NAME)]
    for package in given:
        if package not in usable:
            logger.warning("%s is skipped: it has no %s", package.ref, TOKENIZER_NAME)
    if not usable:
        raise InputError(
            f"none of {', '.join(p.ref for p in given)} has a {TOKENIZER_NAME}; the rows of "
            f"{task.name} are texts."
        )
    return usable


def model_facts(package: "Package", zoo_packages: Iterable["Package"]) -> ModelFacts:
    """Provenance of a matrix row.

    The declared training sets of a package are its labelled tasks and those of its ancestors.
    """
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
    return ModelFacts(
        package=package.ref,
        manifest_sha256=package.manifest_sha256,
        trained_on=tuple(sorted(declared)),
    )


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


def protocol_of(fine_tune: "FineTuneConfig", seed: int) -> str:
    """Hash of the settings that make curves comparable."""
    settings = fine_tune.model_dump(mode="json")
    if not settings["exportable"]:  # newer than the first matrices, which have what false means
        del settings["exportable"]
    text = json.dumps([settings, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def portable(spec: "DatasetSpec") -> "DatasetSpec":
    """The same spec with local paths made absolute: workers run in another folder."""
    if spec.scheme != "files":
        return spec
    return spec.model_copy(update={"source": f"files:{absolute(spec.location)}"})


def _texts(rows: "Rows") -> list[str]:
    """Identity of each row: its texts, or the hash of its image."""
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
        chosen.append(versions.get(version) or versions[max(versions, key=version_number)])
    return chosen
