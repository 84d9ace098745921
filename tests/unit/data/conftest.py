import numpy as np
import pytest

from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.spec import CLS, PAD, SEP

TEXT = """return the value of an array along axis when shape is given a tensor with names and
columns estimator fits training samples then predicts classes for unseen rows scipy sparse matrix"""
WORDS = TEXT.split()


def sentence(rng, length):
    return " ".join(rng.choice(WORDS, length))


@pytest.fixture(scope="session")
def texts():
    rng = np.random.default_rng(0)
    return [sentence(rng, int(n)) for n in rng.integers(3, 40, 200)]


@pytest.fixture(scope="session")
def processor(texts):
    return TextProcessor.train(texts, 300, "wordpiece", max_length=32)


@pytest.fixture(scope="session")
def stream():
    """Documents end to end, padded to 40 blocks of 16, ids 5..99."""
    rng = np.random.default_rng(1)
    ids = []
    while len(ids) < 39 * 16 + 3:
        ids += [CLS, *rng.integers(5, 100, rng.integers(1, 30)).tolist(), SEP]
    ids = ids[: 39 * 16 + 9]
    ids[-1] = SEP
    return np.asarray(ids + [PAD] * (40 * 16 - len(ids)))


@pytest.fixture(scope="session")
def blocks(stream):
    """The stream in chunks of different sizes, as a file with several record batches has them."""
    rows = stream.reshape(40, 16).astype(np.uint16)
    return TokenBlocks([rows[:7], rows[7:30], rows[30:]], 16)
