"""The processors of examples: texts, pictures and sounds to a batch, stored in one folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.media.audio import CLASSES as SOUND_CLASSES
from orchestrator.data.media.audio import SETTINGS, AudioProcessor
from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.media.inputs import ModelInputs
from orchestrator.data.media.patch_codes import CODEBOOK, Codebook
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.tokenizer_files import TOKENIZER
from orchestrator.data.samples.kinds import ExamplesConfig, TranscriptsConfig
from orchestrator.errors import InputError

STATE = "state"
"""Folder of the codes of patches beside the processors; needed to continue training."""


@dataclass(frozen=True, eq=False)
class ExampleProcessor:
    """The processors of examples.

    Attributes:
        text: Tokenizer of the texts; None without texts.
        picture: Processor of the pictures; None without pictures.
        sound: Processor of the sounds; None without sounds.
        codebook: Codes of patches; None without codes.
    """

    text: TextProcessor | None = None
    picture: ImageProcessor | None = None
    sound: AudioProcessor | None = None
    codebook: Codebook | None = None

    @property
    def vocab_size(self) -> int:
        """Number of tokens of texts."""
        return 0 if self.text is None else self.text.vocab_size

    @property
    def words(self) -> TextProcessor:
        """The processor of texts.

        Raises:
            InputError: There are no texts.
        """
        if self.text is None:
            raise InputError("these examples have no texts.")
        return self.text

    def save(self, folder: str | Path) -> None:
        """Write all of them: ``preprocessor_config.json`` is that of pictures or sounds."""
        folder = Path(folder)
        for processor in (self.text, self.picture, self.sound):
            if processor is not None:
                processor.save(folder)
        if self.codebook is not None:
            self.codebook.save(folder / STATE)

    @classmethod
    def load(cls, folder: str | Path, inputs: ModelInputs) -> "ExampleProcessor":
        """Open what ``save`` wrote for a model that reads ``inputs``.

        Raises:
            InputError: A file is missing or damaged.
        """
        folder = Path(folder)
        coded = (folder / STATE / CODEBOOK).is_file()
        return cls(
            TextProcessor.load(folder) if (folder / TOKENIZER).is_file() else None,
            None if inputs.picture is None else ImageProcessor.load(folder),
            None if inputs.sound is None else AudioProcessor.load(folder),
            Codebook.load(folder / STATE) if coded else None,
        )


RowProcessor = TextProcessor | ExampleProcessor
"""Reader of labelled rows: a tokenizer, or the processors of images and sounds."""


def open_processor(folder: str | Path) -> RowProcessor | None:
    """Open what a package reads rows with; None: it has no processor.

    ``preprocessor_config.json`` says whether it reads images or sounds; of a text model it is that
    of the tokenizer.

    Raises:
        InputError: a file is damaged.
    """
    folder = Path(folder)
    text = TextProcessor.load(folder) if (folder / TOKENIZER).is_file() else None
    settings = folder / SETTINGS
    if not settings.is_file():
        return text
    try:
        stored = json.loads(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{settings} cannot be read: {error}.") from error
    if stored.get("feature_extractor_type") in SOUND_CLASSES:
        return ExampleProcessor(text, sound=AudioProcessor.load(folder))
    if "image_processor_type" in stored or "feature_extractor_type" in stored:
        return ExampleProcessor(text, picture=ImageProcessor.load(folder))
    return text


def new_processor(
    samples: ExamplesConfig, inputs: ModelInputs, text: TextProcessor | None
) -> ExampleProcessor:
    """Return the processors that a model and its samples need, without codes of patches."""
    picture, sound = inputs.picture, inputs.sound
    family = getattr(samples, "family", None)
    made = (
        None
        if picture is None or family is None
        else ImageProcessor.of_family(family, picture.side, picture.channels)
    )
    heard = (
        AudioProcessor(kind=sound.kind, mel_bins=sound.mel_bins, rate=samples.rate, mask=True)
        if sound is not None and isinstance(samples, TranscriptsConfig)
        else None
    )
    return ExampleProcessor(text, made, heard)
