import itertools

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.corpora.blocks import BlockWriter, SplitWriter, TokenBlocks
from orchestrator.data.processors.roles import OURS
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.samples.passages import Passages, encode_sentences, sentence_starts
from orchestrator.errors import InputError, IntegrityError


def split(text, rule="punctuation"):
    starts = [*sentence_starts(text, rule), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ('He said "no." Then left.', ['He said "no." ', "Then left."]),
        ("version 1.2 of x.y", ["version 1.2 of x.y"]),
        ("我爱你。你呢？好", ["我爱你。", "你呢？", "好"]),
        ("Title\n\nText goes\non. End", ["Title\n\n", "Text goes\non. ", "End"]),
        ("Only.", ["Only."]),
        ("", [""]),
    ],
)
def test_sentences_end_at_marks_of_any_language(text, sentences):
    assert split(text) == sentences


def test_lines_are_sentences_where_the_corpus_says_so():
    assert split("a. b\nc\n\nd\n", "lines") == ["a. b\n", "c\n\n", "d\n"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_tokens_belong_to_their_sentence_and_ids_are_those_of_the_text(kind):
    text = "The first sentence is here. And a second one follows! Is this the third?"
    processor = TextProcessor.train([text] * 3, 300, kind)
    ((ids, lengths),) = encode_sentences(processor.tokenizer, [text], "punctuation")
    assert ids == processor.encode([text])[0]
    parts = np.split(np.asarray(ids), np.cumsum(lengths)[:-1])
    words = [processor.decode(part.tolist()).lower().split()[0] for part in parts]
    assert words == ["the", "and", "is"]


def corpus_of(documents, path, block_size=8):
    """Documents as lists of sentence lengths; token n of the corpus has id 5 + n."""
    token = 5
    with SplitWriter(path, block_size, 60_000, OURS) as writer:
        for lengths in documents:
            ids = list(range(token, token + sum(lengths)))
            token += len(ids)
            writer.add_document(ids, np.asarray(lengths))
    return TokenBlocks.open(path)


def test_every_token_is_in_exactly_one_passage(tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 30, rng.integers(1, 9)).tolist() for _ in range(60)]
    blocks = corpus_of(documents, tmp_path / "x.arrow")
    passages = Passages(blocks, 12)
    found = np.concatenate([passages.tokens(i) for i in range(len(passages))])
    assert found.tolist() == list(range(5, 5 + sum(map(sum, documents))))
    assert passages.documents == 60
    ends = 5 + np.cumsum([sum(d) for d in documents])
    for index in range(len(passages)):
        tokens = passages.tokens(index)
        assert len(tokens) <= 12
        owners = np.searchsorted(ends, tokens, side="right")
        assert set(owners) == {passages.document(index)}


def test_passages_are_as_long_as_whole_sentences_allow(tmp_path):
    blocks = corpus_of([[3, 4, 4, 2], [5], [25, 1]], tmp_path / "x.arrow")
    passages = Passages(blocks, 10)
    sizes = [[len(s) for s in passages.sentences(i)] for i in range(len(passages))]
    assert sizes == [[3, 4], [4, 2], [5], [8], [8], [9, 1]]


def pieces_of(documents, longest):
    """For each document its sentences, cut: pairs of first token and number of tokens."""
    token = 5
    for document in documents:
        found = []
        for length in document:
            count = -(-length // longest)
            ends = [length * number // count for number in range(count + 1)]
            found += [(token + a, b - a) for a, b in itertools.pairwise(ends)]
            token += length
        yield found


def packed(documents, room, longest):
    """Every passage, one sentence after the other: number of the document, its pieces."""
    for number, pieces in enumerate(pieces_of(documents, longest)):
        passage = []
        for piece in pieces:
            if sum(size for _, size in passage) + piece[1] > room:
                yield number, passage
                passage = []
            passage.append(piece)
        yield number, passage


@pytest.mark.parametrize(("room", "longest"), [(12, None), (12, 5), (3, 1), (40, 40)])
def test_passages_from_marks_are_those_of_one_reading(tmp_path, monkeypatch, room, longest):
    monkeypatch.setattr("orchestrator.data.samples.passages.MARKED", 3)
    monkeypatch.setattr("orchestrator.data.samples.passages.ROWS_AT_ONCE", 7)
    monkeypatch.setattr("orchestrator.data.corpora.blocks.ROWS_PER_BATCH", 10)
    rng = np.random.default_rng(1)
    sizes = [int(rng.choice([1, 2, 9, 60])) for _ in range(30)]
    documents = [rng.integers(1, rng.choice([3, 9, 90]), size).tolist() for size in sizes]
    passages = Passages(corpus_of(documents, tmp_path / "x.arrow"), room, longest)
    expected = list(packed(documents, room, longest or room))
    assert (len(passages), passages.documents) == (len(expected), 30)
    for index in rng.permutation(len(expected)).tolist():
        sentences = [list(range(first, first + size)) for first, size in expected[index][1]]
        assert [each.tolist() for each in passages.sentences(index)] == sentences
        assert passages.document(index) == expected[index][0]
    for number, pieces in enumerate(pieces_of(documents, longest or room)):
        place = rng.random()
        begin, (last, size) = pieces[int(place * len(pieces))][0], pieces[-1]
        tokens = list(range(begin, last + size))[:room]
        assert passages.excerpt(number, place, room).tolist() == tokens


def test_an_excerpt_begins_with_a_sentence_and_stays_in_its_document(tmp_path):
    blocks = corpus_of([[3, 4, 4], [5, 2]], tmp_path / "x.arrow")
    passages = Passages(blocks, 20)
    assert passages.excerpt(0, 0.0, 5).tolist() == [5, 6, 7, 8, 9]
    assert passages.excerpt(0, 0.99, 5).tolist() == [12, 13, 14, 15]
    assert passages.excerpt(1, 0.5, 1).tolist() == [21]


def test_borders_that_are_missing_or_damaged(tmp_path):
    with BlockWriter(tmp_path / "plain.arrow", 8, 100, OURS) as writer:
        writer.add([7, 8])
    with pytest.raises(InputError, match="no sentence borders"):
        Passages(TokenBlocks.open(tmp_path / "plain.arrow"), 8)
    corpus_of([[3]], tmp_path / "x.arrow")
    (tmp_path / "x.sentences.arrow").write_bytes(b"?")
    with pytest.raises(IntegrityError, match="sentences"):
        TokenBlocks.open(tmp_path / "x.arrow")


@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (64, 3), (1 << 20, 2), (64, 1 << 14)])
def test_blocks_and_borders_are_written_in_batches_of_their_own(
    tmp_path, monkeypatch, tokens, rows
):
    monkeypatch.setattr("orchestrator.data.corpora.blocks.TOKENS_PER_BATCH", tokens)
    monkeypatch.setattr("orchestrator.data.corpora.blocks.ROWS_PER_BATCH", rows)
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 30, rng.integers(1, 9)).tolist() for _ in range(40)]
    blocks = corpus_of(documents, tmp_path / "x.arrow")
    stream = blocks.rows(np.arange(len(blocks))).ravel()
    assert stream[stream >= 5].tolist() == list(range(5, 5 + sum(map(sum, documents))))
    borders = blocks.borders.rows(0, len(blocks.borders))
    assert borders.lengths.tolist() == [size for document in documents for size in document]
    with pa.OSFile(str(tmp_path / "x.arrow")) as file:
        batches = pa.ipc.open_file(file).num_record_batches
    assert (batches > 10) == (tokens < 100)
