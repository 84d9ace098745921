"""Packages that config entries name, and facts about packages and data for the matrix."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.data.rows.rows import row_keys
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.selection.config import ALL
from orchestrator.selection.matrix.facts import DatasetFacts, ModelFacts, sketch_rows
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.storage.uris import absolute
from orchestrator.zoo.names import version_number

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows, TaskData
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.selection.target_tasks import TargetTask
    from orchestrator.training.config import FineTuneConfig
    from orchestrator.zoo import Package, Zoo

DEFAULT_KINDS = ("pretrained", "imported")
FORM_OF_FILE = {None: "texts", "picture": "images", "sound": "sounds"}
TOKENIZER_NAME = "tokenizer.json"
MAX_LINES, MAX_NAMES = 16, 6
"""Lines of candidates that `--check` prints, and names in a line that groups them."""
CHAMPION, LATEST = "champion", "latest"


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


def sort_out(
    packages: Iterable["Package"], form: str | None
) -> tuple[list["Package"], dict[str, str]]:
    """Separate the packages that can be trained on rows of a form from the others.

    Only manifests and ``config.json`` are read. What loading alone shows (weights that are not
    finite) ends the proxy or the trial of that package later.

    Args:
        packages: The packages.
        form: ``texts``, ``images`` or ``sounds``; None: not known yet.

    Returns:
        The usable packages, and the reference of each other one with the reason.
    """
    usable, reasons = [], {}
    for package in packages:
        reason = _unusable(package, form)
        if reason is None:
            usable.append(package)
        else:
            reasons[package.ref] = reason
    return usable, reasons


def require_usable(usable: Sequence["Package"], reasons: Mapping[str, str], target: str) -> None:
    """Refuse a target that no package can be trained on.

    Raises:
        InputError: None can; says why of each.
    """
    if not usable:
        why = "; ".join(line.strip() for line in listed_candidates((), reasons))
        raise InputError(f"no package can be trained on {target}. {why}.")


def form_of_source(spec: "DatasetSpec") -> str | None:
    """Return the form of the rows of a source by its name and first row; None: it is remote.

    Raises:
        InputError: The file is missing or of an unknown format.
    """
    from orchestrator.data.rows.labels import CLASSES
    from orchestrator.data.sources.contents import MEDIA_COLUMNS
    from orchestrator.data.sources.files import find_files, media_only
    from orchestrator.data.sources.formats import read_rows
    from orchestrator.data.sources.media_rows import kind_of_file

    if spec.scheme == "builtin":
        return "images" if spec.location == "digits" else "texts"
    if spec.scheme != "files":
        return None
    media = media_only(Path(spec.location).expanduser())
    if media:
        return FORM_OF_FILE[kind_of_file(media[0].name)]
    files = find_files(spec, labelled=True)
    row = next(iter(read_rows(next(iter(files.values()))[0], Counter())), {})
    if spec.media_column is None and any(name in row for name in CLASSES.text_columns):
        return "texts"
    columns = [spec.media_column] if spec.media_column is not None else MEDIA_COLUMNS
    return FORM_OF_FILE[next((kind_of_file(row[c]) for c in columns if c in row), None)]


def _unusable(package: "Package", form: str | None) -> str | None:
    """Return why a package cannot be trained on rows of a form; None: nothing is known."""
    from orchestrator.modeling.config import CONFIG_FILE, has_weights, parse_config
    from orchestrator.tasks.base import forms_read

    if not has_weights(package.manifest.files):
        onnx = any(name.endswith(".onnx") for name in package.manifest.files)
        content = "ONNX graphs only, " if onnx else ""
        return f"cannot be trained: {content}no model.safetensors"
    try:
        where = f"{package.location}/{CONFIG_FILE}"
        read = forms_read(parse_config(package.read_json(CONFIG_FILE), where))
    except OrchestratorError as error:
        return f"its {CONFIG_FILE} is not usable: {error}"
    if form is not None and form not in read:
        return f"reads {' and '.join(sorted(read))}, the rows are {form}"
    if form in (None, "texts") and "texts" in read and not package.has(TOKENIZER_NAME):
        return f"has no {TOKENIZER_NAME}, and the rows are texts"
    return None


def listed_candidates(packages: Sequence["Package"], left_out: Mapping[str, str]) -> list[str]:
    """Return the lines that list candidates, and packages left out; grouped where they are many.

    Args:
        packages: The candidates.
        left_out: Reference of each other package to the reason.
    """
    if len(packages) + len(left_out) <= MAX_LINES:
        alone = [f"  {package.ref} ({package.kind})" for package in packages]
        return alone + [f"  left out: {ref}: {reason}" for ref, reason in left_out.items()]
    kinds: dict[str, list[str]] = {}
    for package in packages:
        kinds.setdefault(f"  {package.kind}", []).append(package.ref)
    reasons: dict[str, list[str]] = {}
    for ref, reason in left_out.items():
        reasons.setdefault(f"  left out: {reason}", []).append(ref)
    lines = [_group(text, refs) for text, refs in (kinds | reasons).items()]
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"  left out for {more} other reasons"]


def _group(text: str, refs: Sequence[str]) -> str:
    shown = ", ".join(refs[:MAX_NAMES])
    more = len(refs) - MAX_NAMES
    return f"{text}: {len(refs)}: {shown}" + (f" and {more} more" if more > 0 else "")


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


def dataset_facts(
    task: "TaskData", protocol: str = "", asked: "TargetTask | None" = None
) -> DatasetFacts:
    """Digest and sketch of a task's labelled rows, and the metric of its scores.

    Args:
        task: The rows.
        protocol: From `protocol_of`.
        asked: What is measured; None: the accuracy of classes.
    """
    digest = hashlib.sha256()
    rows: list[tuple[str, str]] = []
    for split in ("train", "validation", "test"):
        part = task.split(split)
        for text, label in zip(_texts(part), part.labels.tolist(), strict=True):
            name = _label_name(task.label_names, label)
            digest.update(f"{split}\x1f{name}\x1f{text}\x1e".encode())
            rows.append((text, name))
    content = {
        "digest": digest.hexdigest(),
        "sketch": sketch_rows(rows),
        "protocol": protocol,
        "train_rows": len(task.train),
    }
    return (DatasetFacts() if asked is None else asked.facts).model_copy(update=content)


def protocol_of(fine_tune: "FineTuneConfig", seed: int, precision: str = "fp32") -> str:
    """Hash of the settings that make curves comparable."""
    settings = fine_tune.model_dump(mode="json")
    if not settings["exportable"]:  # newer than the first matrices, which have what false means
        del settings["exportable"]
    if precision != "fp32":
        settings["precision"] = precision
    text = json.dumps([settings, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def portable(spec: "DatasetSpec") -> "DatasetSpec":
    """The same spec with local paths made absolute: workers run in another folder."""
    if spec.scheme != "files":
        return spec
    return spec.model_copy(update={"source": f"files:{absolute(spec.location)}"})


def _label_name(names: Sequence[str], label: object) -> str:
    """A label in words: the name of a class, else its numbers or texts."""
    if isinstance(label, int) and names:
        return names[label]
    return json.dumps(label.tolist() if isinstance(label, np.ndarray) else label)


def _texts(rows: "Rows") -> list[str]:
    """Identity of each row: its texts, or the hash of its image or sound."""
    if rows.images is not None:
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in rows.images]
    if rows.media:
        return [hashlib.sha256(content).hexdigest() for content in rows.media]
    if rows.choices is not None or rows.negatives is not None:
        return row_keys(rows)
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


def without_changed(
    matrix: PerformanceMatrix, facts: Mapping[str, ModelFacts], protocol: str
) -> tuple[PerformanceMatrix, list[str]]:
    """The matrix without rows of packages that have changed since, and warnings."""
    warnings = []
    changed = [
        ref
        for ref, item in facts.items()
        if ref in matrix.models
        and matrix.models[ref].manifest_sha256 not in ("", item.manifest_sha256)
    ]
    if changed:
        warnings.append(f"history ignored: {', '.join(changed)} changed since the benchmark")
    other = [n for n, d in matrix.datasets.items() if d.protocol and d.protocol != protocol]
    if other:
        warnings.append(
            f"fine_tune or seed differs from the benchmark's ({', '.join(sorted(other))}): its "
            "curves predict less well"
        )
    models = {name: item for name, item in matrix.models.items() if name not in changed}
    cells = matrix.cells[~matrix.cells["model"].isin(changed)]
    return PerformanceMatrix(cells.reset_index(drop=True), models, matrix.datasets), warnings
