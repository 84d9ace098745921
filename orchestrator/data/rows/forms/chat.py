"""Conversations: messages with roles, or a prompt with its answer, as one form.

Layouts: ``messages`` (or ``conversations``), a list of ``{role, content}`` or, as ShareGPT has
them, ``{from, value}``; ``{instruction, input, output}`` of Alpaca and TencentPretrain, whose input
may be empty; and columns of a prompt and its answer, as ``TextForm`` names them.

Shapes: N rows.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.data.rows.forms.texts import TextForm
from orchestrator.data.rows.labels import Labels, object_array
from orchestrator.data.rows.rereading import Label
from orchestrator.data.rows.rows import Reader, Record, Rows, TableRow
from orchestrator.data.sources.contents import find_column, usable_text
from orchestrator.data.spec import DatasetSpec

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
KEYS = (("role", "content"), ("from", "value"))
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Role as it is written → as it is read."""
ANSWERS = "assistant"
"""Role of the messages that are learned."""


class ChatForm(TextForm):
    """Messages per row: an object array [N] of roles and contents in turn."""

    name = "chat"
    what = ("conversation", "conversations")

    def reader(self, spec: DatasetSpec, row: TableRow, path: Path) -> Reader:
        """Return a reader of conversations, or of prompts with answers.

        Raises:
            InputError: Neither column exists.
        """
        named = spec.text_column is not None or spec.label_column is not None
        column = None if named else find_column(None, MESSAGE_COLUMNS, row, "messages", path)
        if column is not None:
            return lambda row, rejected: _record(_messages(row.get(column)), rejected)
        if not named and {"instruction", "input", "output"} <= set(row):
            return _instruction
        single = super().reader(spec, row, path)

        def read(row: TableRow, rejected: Counter[str]) -> Record | None:
            found = single(row, rejected)
            if found is None:
                return None
            return Record(("user", found.text, ANSWERS, found.label[0]), found.text)

        return read

    def number(
        self, spec: DatasetSpec, split: str, labels: Sequence[Label], words: Sequence[str]
    ) -> Labels:
        """Return the messages of each row."""
        del spec, split, words
        return self.stack(labels)

    def written(self, rows: Rows) -> list[str]:
        """Return the answers."""
        return [text for row in rows.labels for role, text in messages_of(row) if role == ANSWERS]

    def texts(self, rows: Rows) -> list[str]:
        """Return all messages."""
        return [text for row in rows.labels for _, text in messages_of(row)]

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return an object array [N]."""
        return object_array([tuple(map(str, label)) for label in labels])


def messages_of(label: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield role and content of each message of a row."""
    yield from zip(label[::2], label[1::2], strict=True)


def _instruction(row: TableRow, rejected: Counter[str]) -> Record | None:
    """Read a row of Alpaca: the input follows the instruction."""
    asked = usable_text(row.get("instruction"), rejected)
    answer = None if asked is None else usable_text(row.get("output"), rejected)
    given = row.get("input")
    if asked is None or answer is None:
        return None
    prompt = f"{asked}\n{given.strip()}" if isinstance(given, str) and given.strip() else asked
    return Record(("user", prompt, ANSWERS, answer), prompt)


def _record(messages: Label | str, rejected: Counter[str]) -> Record | None:
    if isinstance(messages, str):
        rejected[messages] += 1
        return None
    first = next((text for role, text in messages_of(messages) if role == "user"), messages[1])
    return Record(messages, first)


def _messages(value: Any) -> Label | str:
    """Return roles and contents in turn, or why a conversation cannot be read."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return "messages are not a list"
    if not isinstance(value, list) or not value:
        return "messages missing" if value is None or value == [] else "messages are not a list"
    found: list[str] = []
    for message in value:
        known = message if isinstance(message, Mapping) else {}
        role, text = next(((known.get(a), known.get(b)) for a, b in KEYS if a in known), (None, ""))
        if role not in ROLES or not isinstance(text, str) or not text.strip():
            return "message without a known role or without content"
        found += [ROLES[str(role)], text.strip()]
    if ANSWERS not in found[2::2] or found[0] == ANSWERS:
        return "no question before an answer of the assistant"
    return tuple(found)
