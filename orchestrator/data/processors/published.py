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
TARGET = "target_"
"""Beginning of the names of the tokenizer of what a model writes, if that is another (Marian)."""
TARGET_TOKENIZER = f"{TARGET}tokenizer.json"
FILES = (
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm",
    "spm.model", "normalizer.json", "chat_template.jinja",
    TRANSLATION, TARGET_TOKENIZER, f"{TARGET}{TRANSLATION}",
)  # fmt: skip
"""Files of transformers' tokenizers, then those of their translation."""


@dataclass(frozen=True, slots=True)
class Published:
    """The files beside ``tokenizer.json``.

    Attributes:
        files: Name → content.
        ids: Text of a token → id, where that is not the id of the tokenizer's file.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Published":
        """Read them.

        Raises:
            ValueError: ``translation.json`` is damaged.
        """
        paths = {name: (folder / name) for name in FILES}
        files = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
        return cls(files, _ids(files.get(TRANSLATION)))

    def of_target(self) -> "Published":
        """Return the same for the tokenizer of what a model writes; it has no files of its own."""
        return Published(ids=_ids(self.files.get(f"{TARGET}{TRANSLATION}")))

    def save(self, folder: Path) -> None:
        """Write them into an existing folder."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def ids_of(self, encoding: "Encoding") -> list[int]:
        """Return the ids of a tokenized text."""
        if not self.ids:
            return list(encoding.ids)
        pairs = zip(encoding.tokens, encoding.ids, strict=True)
        return [self.ids.get(token, number) for token, number in pairs]


def _ids(content: bytes | None) -> dict[str, int]:
    found = {} if content is None else json.loads(content)["ids"]
    return {str(token): int(number) for token, number in found.items()}
