"""Items as sequences: the tokens of the processor, cut or refused, with places where needed."""

from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError
from orchestrator.inference.inputs import Item, TooLongError, items_of_rows, joined, rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES, commit_tiny

APART = SimpleNamespace(pairs_apart=True, reads_windows=False, needs_reading=False, template=None)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    zoo = Zoo(str(tmp_path_factory.mktemp("zoo")))
    heads = ({"type": "cls", "name": "topic", "num_labels": 3},
             {"type": "tags", "name": "ner", "num_labels": 3})  # fmt: skip
    return Predictor.open(commit_tiny(zoo, "both", targets=heads))


@pytest.fixture(scope="module")
def reader(predictor):
    return predictor.reader


def ids(encoded):
    return [[part.input_ids.tolist() for part in item.sequences] for item in encoded]


def test_singles_and_pairs_of_one_request_are_read_as_alone(reader):
    items = [Item(SENTENCES[0]), Item("Return", "the sum"), Item(SENTENCES[1])]
    together = ids(reader.encode(items))
    assert together == [ids(reader.encode([item]))[0] for item in items]
    arrays = reader.processor.arrays(["Return"], ["the sum"])
    assert together[1] == arrays["input_ids"].tolist()


def test_choices_are_a_sequence_each_and_texts_of_a_pair_where_they_are_read_apart(reader):
    choices = reader.encode([Item("Return", choices=("the sum", "a worker")), Item("Return", "x")])
    assert ids(choices)[0] == [
        ids(reader.encode([Item("Return", text)]))[0][0] for text in ("the sum", "a worker")
    ]
    apart = reader.encode([Item("Return", "the sum")], APART)
    assert ids(apart)[0] == [
        ids(reader.encode([Item(text)]))[0][0] for text in ("Return", "the sum")
    ]
    outputs = [np.asarray([index]) for index in range(3)]
    assert [array.tolist() for array in joined(choices, outputs)] == [[[0], [1]], [2]]


def test_an_item_that_is_too_long_is_named_or_cut(reader):
    long = " ".join(SENTENCES)
    for item in (Item(long), Item("a", long), Item("a", choices=("b", long))):
        with pytest.raises(TooLongError, match="Input 1 has more than the 48 tokens"):
            reader.encode([Item("a"), item], truncate=False)
        cut = reader.encode([Item("a"), item])[1]
        assert max(map(len, cut.sequences)) == reader.max_length
    assert issubclass(TooLongError, InputError)


def test_lines_of_a_text_are_words_only_where_each_has_a_tag(predictor):
    task, text = predictor.task("ner"), "Return the sum\nof the array"
    tags = np.empty(1, dtype=object)
    tags[0] = np.zeros(2, dtype=np.int64)
    assert items_of_rows(Rows([text], None, tags), task)[0].words == tuple(text.split("\n"))
    (item,) = items_of_rows(rows_of_texts([text]), task)
    assert (item.text, item.words) == (text, ())
    (answer,) = predictor.answers(rows_of_texts([text]), "ner")
    assert len(answer.tags) == len(text.split())
    assert len(predictor.answers(Rows([text], None, tags), "ner")[0].tags) == 2


def test_a_task_that_needs_places_reads_the_same_tokens(predictor, reader):
    items = [Item(SENTENCES[0]), Item("Return", "the sum")]
    assert ids(reader.encode(items, predictor.task("ner"))) == ids(reader.encode(items))
    read = reader.encode(items, predictor.task("ner"))
    for item, text in zip(read, (SENTENCES[0], "the sum"), strict=True):
        assert item.reading.text == text
        assert len(item.reading.offsets) == len(item.sequences[0])
