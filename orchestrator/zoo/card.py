"""The model card of a package: Hugging Face front matter, a generated part, a hand-written part.

Everything between the two marks is generated for each version. What stands after the second mark
is hand-written: it is carried over from the draft's own README.md, or from the version before.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from orchestrator.config.yaml_files import dump_mapping, parse_yaml
from orchestrator.errors import ConfigError
from orchestrator.zoo.flatness import Flatness, flatness_rows
from orchestrator.zoo.manifest import Manifest

CARD_NAME = "README.md"
BEGIN = "<!-- generated: begin -->"
END = "<!-- generated: end. Text below is kept when the next version is made. -->"
LIBRARY = "ray-model-orchestrator"
_PIPELINES = {
    "mlm": "fill-mask",
    "lm": "text-generation",
    "classification": "text-classification",
    "embedding": "feature-extraction",
}
"""Hugging Face's pipeline of a task kind; other kinds have none."""


def write_card(
    manifest: Manifest,
    written: str | None,
    previous: str | None,
    flatness: Flatness | None = None,
    more: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
) -> str:
    """Return the card of a package.

    Args:
        manifest: The package; its ``files`` are not needed yet.
        written: The draft's own README.md, if it has one.
        previous: The card of the version before, if there is one.
        flatness: Its flatness, if it was measured.
        more: Title to the rows (name, text) of a section that only its stage knows.
    """
    source = written if written is not None else previous
    extra, by_hand = split_card(source) if source is not None else ({}, "")
    front = {**extra, **_front_matter(manifest)}
    parts = [f"---\n{dump_mapping(front)}---", BEGIN, _body(manifest, flatness, more), END]
    if by_hand:
        parts.append(by_hand)
    return "\n\n".join(parts) + "\n"


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Return the front matter of a card and its hand-written part.

    Front matter that is not valid YAML counts as hand-written text.
    """
    front: dict[str, Any] = {}
    body = text.replace("\r\n", "\n")
    if body.startswith("---\n") and "\n---" in body[3:]:
        head, _, rest = body[4:].partition("\n---")
        try:
            parsed = parse_yaml(head, CARD_NAME)[0]
        except ConfigError:
            parsed = None
        if isinstance(parsed, dict):
            front, body = parsed, rest
    if END in body:
        body = body.rpartition(END)[2]
    return front, body.strip()


def _front_matter(manifest: Manifest) -> dict[str, Any]:
    task = manifest.task
    front: dict[str, Any] = {"library_name": LIBRARY, "tags": [LIBRARY, manifest.kind]}
    if manifest.licence:
        front["license"] = manifest.licence
    if task is not None and task.kind in _PIPELINES and task.modality == "text":
        front["pipeline_tag"] = _PIPELINES[task.kind]
    if manifest.parents:
        front["base_model"] = [parent.ref for parent in manifest.parents]
    names = [name for name, value in manifest.metrics.items() if _is_number(value)]
    if names:
        front["metrics"] = sorted({name.rpartition(".")[2] for name in names})
    return front


def _body(
    manifest: Manifest,
    flatness: Flatness | None,
    more: Mapping[str, Sequence[tuple[str, str]]],
) -> str:
    """Return the generated part: what it is, its figures, where it comes from."""
    made = f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"
    stage = manifest.producer.stage or "an unnamed stage"
    lines = [
        f"# {manifest.name} {manifest.version}",
        f"A {manifest.kind} package, made by {stage} on {made}.",
    ]
    if manifest.status == "rejected":
        lines += ["**Its promotion gate rejected it:**", _list(manifest.reasons)]
    sections: list[tuple[str, Sequence[tuple[str, str]]]] = [
        ("Task", _task_rows(manifest)),
        ("Metrics", _metric_rows(manifest.metrics)),
        ("Flatness", [] if flatness is None else list(flatness_rows(flatness))),
        *more.items(),
        ("Made from", [(parent.ref, parent.manifest_sha256[:12]) for parent in manifest.parents]),
        ("Made with", _producer_rows(manifest)),
        ("License", [("licence", manifest.licence or "not stated")]),
    ]
    for title, rows in sections:
        if rows:
            lines += [f"## {title}", _table(rows)]
    return "\n\n".join(lines)


def _task_rows(manifest: Manifest) -> list[tuple[str, str]]:
    task = manifest.task
    if task is None:
        return []
    rows = [("kind", task.kind), ("modality", task.modality)]
    if task.max_length is not None:
        rows.append(("longest input", f"{task.max_length} tokens"))
    rows += [(f"labels of {name}", ", ".join(labels)) for name, labels in task.labels.items()]
    return rows


def _metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"{value:.6g}" if isinstance(value, float) else str(value))
        for name, value in metrics.items()
        if _is_number(value) or isinstance(value, str)
    ]


def _producer_rows(manifest: Manifest) -> list[tuple[str, str]]:
    producer = manifest.producer
    rows = [("job", producer.job), ("git revision", producer.git_revision)]
    rows += list(producer.libraries.items())
    return [(name, value) for name, value in rows if value]


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = [(_cell(name), _cell(value)) for name, value in rows]
    return "\n".join(
        ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in cells)]
    )


def _list(texts: list[str]) -> str:
    return "\n".join(f"- {_cell(text)}" for text in texts)


def _cell(text: str) -> str:
    """Return text that cannot end its table cell or become markup."""
    flat = " ".join(str(text).split())
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
