"""The registry of word segmenters, and jieba for Chinese. Imports neither NumPy nor jieba.

A segmenter finds the words of a text whose script puts no blanks between them, so that masking can
hide whole words (``samples.masking``, ``units: words``). TencentPretrain does the same with jieba
(its option ``--whole_word_masking``). Another package adds one as a class with a nested
``Config``, through an entry point ``segmenter.<type>``; called with a text, it returns where words
begin, in characters.
"""

from typing import Annotated, Literal, Protocol

from orchestrator.config.registry import Choice, EntryConfig, Registry
from orchestrator.errors import InputError


class SegmenterConfig(EntryConfig):
    """Options of one segmenter."""


segmenters: Registry[SegmenterConfig] = Registry("segmenter", SegmenterConfig)
"""All segmenters."""

Segmenters = Annotated[SegmenterConfig, Choice(segmenters)]
"""Annotation of a field that holds one segmenter."""


class Segmenter(Protocol):
    """Finds words."""

    def __call__(self, text: str) -> list[int]:
        """Return where the words of a text begin, in characters, ascending."""
        ...


@segmenters.register("orchestrator.data.processors.segmenters:tokenizer_marks")
class NoSegmenterConfig(SegmenterConfig):
    """Words are what the tokenizer marks: blanks, and pieces that continue a word."""

    type: Literal["none"] = "none"


@segmenters.register("orchestrator.data.processors.segmenters:jieba_segmenter")
class JiebaConfig(SegmenterConfig):
    """Words of Chinese, found by jieba (extra ``chinese``)."""

    type: Literal["jieba"] = "jieba"


def tokenizer_marks(config: NoSegmenterConfig) -> Segmenter:
    """Refuse: words are what the tokenizer marks, and no text is segmented.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"segmenter {config.type} finds nothing in a text.")


def jieba_segmenter(config: JiebaConfig) -> Segmenter:
    """Return jieba's segmentation with its own dictionary.

    Raises:
        InputError: jieba is not installed; names the extra.
    """
    del config
    try:
        import jieba  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            "segmenter jieba needs the extra chinese: pip install 'ray-model-orchestrator[chinese]'"
        ) from error
    jieba.setLogLevel("WARNING")  # it reports every load of its dictionary
    return lambda text: [begin for _, begin, _ in jieba.tokenize(text)]


def build_segmenter(config: SegmenterConfig) -> Segmenter:
    """Return a segmenter.

    Raises:
        InputError: A library that it needs is not installed.
    """
    found: Segmenter = segmenters.component_class(config.type_name())(config)
    return found
