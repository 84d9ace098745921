"""The files that a published tokenizer has beside ``tokenizer.json``.

transformers opens some families by other files than we read (``vocab.json`` of wav2vec 2.0,
``source.spm`` of Marian): they stay with every package that has the tokenizer, byte for byte.
``translation.json`` says that ``tokenizer.json`` was made of them by the import, and which ids it
cannot say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding

TRANSLATION = "translation.json"
FILES = (
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm",
    "spm.model", "normalizer.json", "chat_template.jinja",
)  # fmt: skip
"""Files of transformers' tokenizers."""
TARGET = "target"
"""Folder of the tokenizer of what a model writes, where that is another one (Marian)."""


@dataclass(frozen=True, slots=True)
class Published:
    """The files beside ``tokenizer.json``.

    Attributes:
        files: Name → content.
        translated: Whether ``tokenizer.json`` is a translation of Python code of transformers.
        ids: Text of a token → id, where that is not the id of ``tokenizer.json``.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    translated: bool = False
    ids: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Published":
        """Read them.

        Raises:
            ValueError: ``translation.json`` is damaged.
        """
        files = {name: (folder / name) for name in FILES}
        path = folder / TRANSLATION
        there = path.is_file()
        ids = json.loads(path.read_text(encoding="utf-8"))["ids"] if there else {}
        return cls(
            {name: path.read_bytes() for name, path in files.items() if path.is_file()},
            there,
            {str(token): int(number) for token, number in ids.items()},
        )

    def save(self, folder: Path) -> None:
        """Write them into an existing folder."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        if self.translated:
            text = json.dumps({"ids": self.ids}, ensure_ascii=False, indent=1, sort_keys=True)
            (folder / TRANSLATION).write_text(text + "\n", encoding="utf-8")

    def ids_of(self, encoding: "Encoding") -> list[int]:
        """Return the ids of a tokenized text."""
        if not self.ids:
            return list(encoding.ids)
        pairs = zip(encoding.tokens, encoding.ids, strict=True)
        return [self.ids.get(token, number) for token, number in pairs]
