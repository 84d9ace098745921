"""The tokenizer that a config asks for: one that exists, or one trained on the texts at hand."""

from orchestrator.data.processors import TextProcessor
from orchestrator.data.spec import CorpusConfig
from orchestrator.data.subwords import Texts, add_sentinels


def chosen_tokenizer(config: CorpusConfig, texts: Texts) -> TextProcessor:
    """Load the tokenizer that the config names, or train one.

    Args:
        config: the tokenizer's settings, and the longest text in tokens (``block_size``).
        texts: what to train it on; not read where one is named.

    Raises:
        InputError: the named one is not there, or numbers its special tokens in another way.
    """
    settings, length = config.tokenizer, config.block_size
    if settings.path is not None:
        processor = TextProcessor.load(settings.path)
        processor.require_our_numbers()
        processor.max_length = length
        return processor
    learnt = settings.vocab_size - settings.sentinels
    processor = TextProcessor.train(texts, learnt, settings.type, length, settings.lowercase)
    add_sentinels(processor.tokenizer, settings.sentinels)
    return processor
