"""JSON files with a table: a list of rows, or the articles of SQuAD.

A row of SQuAD is a question: ``title``, ``context``, ``question``, ``answers`` (its list of
``{text, answer_start}``) and ``is_impossible``, where the file has these.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError

ROWS_KEY = "data"


def json_rows(path: Path, text: str) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a JSON file.

    Args:
        path: the file, for messages.
        text: its content.

    Raises:
        InputError: it is not JSON, or has no rows.
    """
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    rows = content.get(ROWS_KEY) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{path} has no rows: a list of objects is wanted, or SQuAD's object with the key "
            f"{ROWS_KEY!r}. One object per line is JSONL: call the file .jsonl."
        )
    for row in rows:
        yield from _questions(path, row) if "paragraphs" in row else [row]


def _questions(path: Path, article: dict[str, Any]) -> Iterator[Mapping[str, object]]:
    """Yield the questions of an article of SQuAD."""
    title = article.get("title")
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {"title": title, "context": paragraph["context"], "answers": [], **question}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: article {title!r} is not as SQuAD has them: paragraphs with context and qas."
        ) from error
