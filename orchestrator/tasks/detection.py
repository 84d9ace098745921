"""The task kind of a source, from its columns and its first rows.

A layout that only one kind has (a tag per word, questions with contexts, candidates, recordings
with their texts) decides; else the labels do. Where two kinds read the same rows, nothing is
guessed: that is one error, which names both and the setting that decides.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from orchestrator.data.rows.forms.choice import option_columns
from orchestrator.data.rows.label_forms import FORMS, NAME_BREAK
from orchestrator.data.rows.labels import CLASSES
from orchestrator.data.sources.contents import CHOICE_COLUMNS, MEDIA_COLUMNS
from orchestrator.data.sources.files import LABEL_NAMES, find_files, media_only
from orchestrator.data.sources.formats import CONLL, read_rows
from orchestrator.data.sources.lines import suffix_of
from orchestrator.data.sources.media_rows import SIDECAR, kind_of_file
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.tasks.base import task_class

SEEN_ROWS = 200
"""Rows that are looked at."""
MANY_NUMBERS = 20
"""More different whole numbers than this may be classes or measurements."""
TAG = re.compile(r"^(O|[BIES]-\S+)$")
QUESTIONS, CONTEXTS = ("question", "query"), ("context", "passage", "paragraph")
MARKED = ("answer_start", "answers_start", "is_impossible", "unanswerable")
"""Columns beside answers that are parts of a context."""
PROMPTS = ("prompt", "input", "instruction", "source", "article", "document", "question")
WRITTEN = ("answer", "output", "target", "completion", "response", "summary")
PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("anchor", "positive"),
    ("query", "document"),
    ("query", "passage"),
    ("question", "answer"),
)
"""Two texts that only similarity reads under these names."""
SCORES = ("similarity_score", "similarity", "is_duplicate")
"""Scores that only similarity has; ``score`` may also be a number that is to be predicted."""
SAID = ("text", "transcript", "transcription", "sentence")
Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Detected:
    """A task kind.

    Attributes:
        kind: Its name.
        reason: What it was recognized by.
        several: Whether other kinds read the same rows, and this is the usual one.
    """

    kind: str
    reason: str
    several: bool = False


def detect_kind(
    spec: DatasetSpec,
    model: ModelConfig | None = None,
    setting: str = "task",
    usual: str | None = None,
) -> Detected:
    """Return the kind of the task that a source is for.

    Args:
        spec: The source.
        model: Config of the package; kinds that it has no head for are not considered.
        setting: The setting that decides, for messages.
        usual: The kind that is taken where it is one of several; None: that is an error.

    Raises:
        InputError: The file is not there or cannot be read, or several kinds read its rows.
    """
    if spec.scheme != "files":
        return Detected("classification", f"the usual kind of {spec.scheme}: sources")
    media = media_only(Path(spec.location).expanduser())
    if media:
        texts = spec.name_pattern is None and any(
            each.with_suffix(SIDECAR).is_file() for each in media
        )
        if texts and kind_of_file(media[0].name) == "sound":
            return Detected("transcription", "sounds with a text beside each")
        return Detected("classification", "a folder of images or sounds")
    path = find_files(spec, labelled=True)["train"][0]
    if suffix_of(path) == CONLL:
        return Detected("tags", "a CoNLL file")
    if (path.parent / LABEL_NAMES).is_file():
        return Detected("classification", f"{LABEL_NAMES} names the classes")
    rows = list(islice(read_rows(path, Counter()), SEEN_ROWS))
    return kind_of_rows(spec, rows, model, setting, usual)


def kind_of_rows(
    spec: DatasetSpec,
    rows: Sequence[Row],
    model: ModelConfig | None = None,
    setting: str = "task",
    usual: str | None = None,
) -> Detected:
    """Return the kind of the task of the first rows of a table; see `detect_kind`.

    Raises:
        InputError: Several kinds read them.
    """
    if not rows:
        return Detected("classification", "there are no rows")
    table = _Table(spec, rows)
    found = list(table.by_layout()) or list(table.by_labels())
    if model is not None and len(found) > 1:
        found = [each for each in found if _can_learn(model, each.kind)]
    if len({each.kind for each in found}) > 1:
        others = [each for each in found if each.kind != usual]
        if len(others) < len(found):
            also = ", or ".join(f"{setting}={each.kind} ({each.reason})" for each in others)
            return Detected(str(usual), f"the usual kind; otherwise set {also}", several=True)
        raise InputError(
            f"{spec.source}: several kinds of task read these rows: "
            + ", or ".join(f"{each.kind} ({each.reason})" for each in found)
            + f". Say which with {setting}={found[0].kind}. Columns: {', '.join(table.columns)}."
        )
    return found[0] if found else Detected("classification", "no label was recognized")


def _can_learn(model: ModelConfig, kind: str) -> bool:
    """Whether a model has the head that a kind continues, if it continues one."""
    found = task_class(kind)
    heads = {target.type_name() for target in model.target}
    return not found.writes_text or bool(heads & {*found.target_types})


class _Table:
    """The first rows of a table."""

    def __init__(self, spec: DatasetSpec, rows: Sequence[Row]) -> None:
        self.spec, self.rows = spec, rows
        self.columns = list(rows[0])
        usual = (*CLASSES.label_columns, *FORMS["regression"].label_columns)
        self.label = spec.label_column or self.first(usual)

    def first(self, names: Sequence[str]) -> str | None:
        """Return the first of some columns that is there."""
        return next((name for name in names if name in self.columns), None)

    def values(self, column: str | None) -> list[object]:
        """Return the cells of a column that are not empty."""
        cells = [row.get(column) for row in self.rows] if column is not None else []
        return [cell for cell in cells if cell is not None]

    def by_layout(self) -> Iterator[Detected]:
        """Yield kinds whose columns are there, whatever the labels are."""
        if self.spec.label_column is None:
            yield from self._tags()
            yield from self._choices()
            yield from self._questions()
        elif self._are_tags(self.spec.label_column):
            yield Detected("tags", f"column {self.label!r} has a tag for every word")
        yield from self._files()

    def _tags(self) -> Iterator[Detected]:
        column = self.first(("tags", "ner_tags"))
        if column is not None and (self.label is None or self._are_tags(column)):
            yield Detected("tags", "a column of tags")
        elif self.label is not None and self._are_tags(self.label):
            yield Detected("tags", f"column {self.label!r} has a tag for every word")

    def _choices(self) -> Iterator[Detected]:
        """Yield multiple choice where rows have candidates and something says which is right."""
        right = self.first(FORMS["choice"].label_columns)
        column = self.first(CHOICE_COLUMNS)
        lists = column is not None and all(map(_is_listed, self.values(column)))
        if lists and right is not None:
            yield Detected("multiple_choice", f"column {column!r} has candidates")
        elif right is not None and (options := option_columns(self.columns, {right})):
            yield Detected("multiple_choice", f"columns of candidates: {', '.join(options)}")

    def _questions(self) -> Iterator[Detected]:
        """Yield extractive questions where answers are, or can be found, in a context."""
        question, context = self.first(QUESTIONS), self.first(CONTEXTS)
        if question is None or context is None or self.first(CHOICE_COLUMNS) is not None:
            return
        marked = "answers" in self.columns or self.first(MARKED) is not None
        answers = [(row.get("answer"), row.get(context)) for row in self.rows]
        inside = "answer" in self.columns and all(
            not answer or (isinstance(text, str) and str(answer) in text)
            for answer, text in answers
        )
        if marked or inside:
            yield Detected("question_answering", f"answers in column {context!r}")

    def _files(self) -> Iterator[Detected]:
        """Yield the kinds of tables of images or sounds."""
        column = self.spec.media_column or self.first(MEDIA_COLUMNS)
        cells = self.values(column)
        kind = kind_of_file(cells[0]) if cells else None
        if kind is None:
            return
        said = self.first(SAID)
        if self.spec.label_column is not None:
            said = self.spec.label_column if self.spec.label_column in SAID else None
        if kind == "sound" and said is not None:
            yield Detected("transcription", f"column {said!r} beside sounds")
        if self.label is not None and self.label != said:
            yield Detected("classification", f"column {self.label!r} beside files")

    def by_labels(self) -> Iterator[Detected]:
        """Yield the kinds that labels, scores and written texts are of."""
        labels = self.values(self.label)
        apart = next((pair for pair in PAIRS if {*pair} <= {*self.columns}), None)
        pair = apart or (("text_a", "text_b") if "text_b" in self.columns else None)
        found = list(_kinds_of_labels(f"column {self.label!r} has", labels)) if labels else []
        named = self.label in SCORES or (self.label is None and self.first(SCORES) is not None)
        numbers = bool(labels) and all(map(_is_number, labels))
        if pair is not None and (named or (numbers and (apart or self.label == "score"))):
            yield Detected("similarity", f"columns {' and '.join(pair)} with a score")
            if named or (apart and self.spec.text_column is None):  # regression knows no such names
                found = [each for each in found if not named and each.kind != "regression"]
        elif apart is not None and not labels:
            yield Detected("similarity", f"columns {' and '.join(apart)} belong together")
        yield from found
        prompt, written = self.first(PROMPTS), self.first(WRITTEN)
        if prompt and written and not labels and all(map(_is_text, self.values(written))):
            yield Detected("generation", f"columns {prompt!r} and {written!r}")

    def _are_tags(self, name: str) -> bool:
        """Whether each label is a tag per word of its text, IOB or IOBES."""
        texts = (self.spec.text_column, *FORMS["tags"].text_columns)
        text = next((each for each in texts if each and each in self.columns), None)
        if text is None:
            return False
        found = [(_words(row.get(text)), _words(row.get(name))) for row in self.rows]
        same = all(len(words) == len(tags) for words, tags in found)
        longer = any(len(tags) > 1 for _, tags in found)
        return same and longer and all(TAG.match(tag) for _, tags in found for tag in tags)


def _kinds_of_labels(where: str, labels: Sequence[object]) -> Iterator[Detected]:
    """Yield the kinds of labels that are not tags: several names, numbers, or one class each."""
    cells = [
        label.split(NAME_BREAK) if isinstance(label, str) else _parts(label) for label in labels
    ]
    several = any(
        len(cell) != 1 or isinstance(label, list) for cell, label in zip(cells, labels, strict=True)
    )
    parts = [part for cell in cells for part in cell]
    numbers = bool(parts) and all(map(_is_number, parts))
    if numbers and (several or not all(map(_is_whole, parts))):
        yield Detected("regression", f"{where} numbers")
    elif several:
        yield Detected("multilabel", f"{where} several names per row")
    else:
        yield Detected("classification", f"{where} one label per row")
        count = len({*map(str, parts)})
        if numbers and count > MANY_NUMBERS:
            yield Detected("regression", f"{where} {count} different numbers")


def _is_listed(value: object) -> bool:
    """Whether a cell holds a list of candidates, as a list, as JSON, or with ``|`` between them."""
    if isinstance(value, str):
        with suppress(ValueError):
            return isinstance(json.loads(value), list | dict)
        return NAME_BREAK in value
    return isinstance(value, list | Mapping)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _words(value: object) -> list[str]:
    return value.split() if isinstance(value, str) else [str(part) for part in _parts(value)]


def _parts(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    """Whether a number is whole; pandas writes 1 as 1.0 where a column has gaps."""
    return str(value).strip().removeprefix("-").removesuffix(".0").isdecimal()
