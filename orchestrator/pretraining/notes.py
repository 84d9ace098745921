"""Notes about prepared data, said before training: what a model cannot see or learn well."""

import numpy as np

from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.unknown import training_advice, unknown_note
from orchestrator.data.processors.words import ideograph_share
from orchestrator.data.rows.rows import Rows
from orchestrator.pretraining.inputs import AnyCorpus, PretrainInputs, marks_words, masking_of

CHINESE_SHARE = 0.05
"""Share of Chinese characters above which words that nothing marks are said."""
SAMPLED_TEXTS = 64


def notes_of(inputs: PretrainInputs) -> list[str]:
    """Return sentences about unknown tokens, and about words that the tokenizer does not mark."""
    advice = training_advice(inputs.config.data.tokenizer)
    unknown = unknown_note(inputs.corpus.unknown_share, advice)
    found = [] if unknown is None else [unknown]
    rule = masking_of(inputs.config)
    share = ideograph_share(_some_texts(inputs.corpus)) if marks_words(rule) else 0.0
    if rule is not None and share > CHINESE_SHARE:
        found.append(
            f"{share:.0%} of the characters are Chinese, whose words the tokenizer does not mark "
            f"(units: {rule.units}). Set samples.masking.segmenter: jieba to mask whole words."
        )
    return found


def _some_texts(corpus: AnyCorpus) -> list[str]:
    """Return some texts to learn from, at equal distances."""
    data, processor = corpus.train, corpus.processor
    places = np.unique(np.linspace(0, len(data) - 1, SAMPLED_TEXTS).astype(np.int64))
    if isinstance(data, Rows):
        return data.take(places).texts
    if isinstance(data, Examples):
        return data.text(places)
    words = processor if isinstance(processor, TextProcessor) else None
    return [] if words is None else [words.decode(row.tolist()) for row in data.rows(places)]
