"""Metrics of the kinds that give texts, spans, vectors and choices, beside the usual libraries."""

import itertools

import jiwer
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF
from sklearn.metrics import ndcg_score

from orchestrator.data.processors.readings import Reading
from orchestrator.data.rows.labels import object_array
from orchestrator.data.rows.rows import Rows
from orchestrator.tasks.base import build_task
from orchestrator.tasks.kinds.generation import TextAnswer
from orchestrator.tasks.kinds.question_answering import ExtractedAnswer, normalized, word_f1
from orchestrator.tasks.measure import measure
from orchestrator.tasks.numerics import most_probable_path, softmax
from orchestrator.zoo.suite import TaskSpec

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "ran", "far", "away")


def texts(seed, count=20):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(count)]


def values(kind, rows, answers, **options):
    task = build_task(TaskSpec(kind=kind, head="x", options=options))
    return {name: found.value for name, found in measure(task, rows, answers).metrics.items()}


def written(kind, truth, given):
    rows = Rows([""] * len(truth), None, object_array(truth))
    return values(kind, rows, [TextAnswer(text) for text in given])


@pytest.mark.parametrize("seed", range(3))
def test_generation_agrees_with_rouge_score_and_sacrebleu(seed):
    truth, given = texts(seed), texts(seed + 50)
    given[0], given[1] = truth[0], ""
    truth[2], given[2] = "The cat_sat, on (its) mat.", "the Cat sat on: a mat"
    found = written("generation", truth, given)
    scorer = RougeScorer(["rougeL"])
    rouge = [scorer.score(t, g)["rougeL"].fmeasure for t, g in zip(truth, given, strict=True)]
    assert found["rouge_l"] == pytest.approx(np.mean(rouge))
    assert 100 * found["chrf"] == pytest.approx(CHRF().corpus_score(given, [truth]).score)
    assert found["exact_match"] == np.mean([t == g for t, g in zip(truth, given, strict=True)])


@pytest.mark.parametrize("seed", range(3))
def test_transcription_agrees_with_jiwer(seed):
    truth, given = texts(seed), texts(seed + 50)
    given[0], given[1] = truth[0], ""
    found = written("transcription", truth, given)
    assert found["wer"] == pytest.approx(jiwer.wer(truth, given))
    assert found["cer"] == pytest.approx(jiwer.cer(truth, given))


# The cases of SQuAD's evaluation script, v1.1 and v2.0, with what it gives for them.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple,\ta day", "apple day"),
        ("A", ""),
        ("Theatre and another", "theatre and another"),
        ("U.S.A.", "usa"),
        ("twenty-one", "twentyone"),
        ("\u201cquoted\u201d", "\u201cquoted\u201d"),
        ("the a an The", ""),
    ],
)
def test_answers_are_normalized_as_squad_does(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("truth", "given", "f1"),
    [
        ("the Eiffel Tower", "Eiffel tower.", 1.0),
        ("in the north of France", "north of Spain", 2 * (2 / 3 * 2 / 4) / (2 / 3 + 2 / 4)),
        ("cat cat dog", "cat", 0.5),
        ("", "", 1.0),
        ("", "word", 0.0),
        ("the", "a", 1.0),
        ("word", "", 0.0),
    ],
)
def test_words_are_counted_as_squad_does(truth, given, f1):
    assert word_f1(truth, given) == pytest.approx(f1)


def test_the_best_of_several_answers_counts_and_none_must_be_said():
    rows = Rows(
        ["q"] * 4,
        ["c"] * 4,
        object_array([(("a cat", 0), ("the black dog", 9)), (("x", 0),), (), ()]),
    )
    given = ["dog", "", "", "cat"]
    found = values("question_answering", rows, [ExtractedAnswer(t, 0, 0, 1.0) for t in given])
    assert found["f1"] == pytest.approx((2 / 3 + 0 + 1 + 0) / 4)
    assert found["exact_match"] == 1 / 4


def test_partners_are_ranked_as_scikit_learn_ranks_them():
    generator = np.random.default_rng(0)
    from orchestrator.tasks.kinds.similarity import Similarity, SimilarityTaskConfig

    task = Similarity(SimilarityTaskConfig(), (), "x")
    vectors = generator.normal(size=(40, 2, 3))
    answers = task.answers(list(vectors))
    labels = np.where(np.arange(40) % 5 == 4, 0.0, 1.0).astype(np.float32)
    rows = Rows(["a"] * 40, ["b"] * 40, labels)
    found = {n: e.value for n, e in measure(task, rows, answers).metrics.items()}
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    cosines = unit[:, 0] @ unit[:, 1].T
    asked = labels == 1
    expected = ndcg_score(np.eye(40)[asked], cosines[asked], k=10)
    assert found["ndcg_10"] == pytest.approx(expected)
    ranks = (cosines >= np.diag(cosines)[:, None]).sum(axis=1)
    assert found["mrr"] == pytest.approx((1 / ranks[asked]).mean())
    assert answers[3].cosine == pytest.approx(cosines[3, 3])


def reading(windows, tokens):
    """A context of one-letter words, read in windows behind a question of two tokens."""
    words, offsets, begins = [], [], []
    for first in windows:
        begins.append(len(words))
        inside = range(first, first + tokens)
        words += [-1, -1, -1, *inside, -1]
        offsets += [(0, 0)] * 3 + [(2 * i, 2 * i + 1) for i in inside] + [(0, 0)]
    text = " ".join(chr(97 + i) for i in range(max(windows) + tokens))
    return Reading(text, np.asarray(offsets), np.asarray(words), tuple(begins))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("unanswerable", [False, True])
def test_the_best_span_of_all_windows_is_that_of_an_exhaustive_search(seed, unanswerable):
    """What ``run_squad`` computes, over every span instead of the 20 best starts and ends."""
    read = reading([0, 4, 8], 8)
    logits = np.random.default_rng(seed).normal(size=(len(read.words), 2)) * 2
    options = {"max_answer_tokens": 3, "unanswerable": unanswerable}
    task = build_task(TaskSpec(kind="question_answering", head="x", options=options))
    (answer,) = task.answers([logits], [read])
    borders = [*read.windows, len(logits)]
    spans = []
    for begin, stop in itertools.pairwise(borders):
        places = [i for i in range(begin, stop) if read.words[i] >= 0]
        sure = softmax(logits[[begin, *places]].T).T
        probability = dict(zip([begin, *places], sure, strict=True))
        for start, end in itertools.product(places, repeat=2):
            if start <= end < start + 3:
                score = logits[start, 0] + logits[end, 1]
                spans.append((score, start, end, probability[start][0] * probability[end][1]))
    score, start, end, sure = max(spans)
    null = min(logits[begin].sum() for begin in read.windows)
    if unanswerable and null > score:
        assert (answer.text, answer.start, answer.end) == ("", 0, 0)
    else:
        first, last = read.offsets[start, 0], read.offsets[end, 1]
        assert (answer.start, answer.end) == (first, last)
        assert answer.text == read.text[first:last]
        assert answer.score == pytest.approx(sure)


def test_some_of_these_questions_have_no_answer():
    read = reading([0, 4], 6)
    logits = np.zeros((len(read.words), 2))
    logits[list(read.windows)] = 5.0
    logits[5] = 4.0
    task = build_task(TaskSpec(kind="question_answering", head="x", options={"unanswerable": True}))
    (answer,) = task.answers([logits], [read])
    assert answer.text == ""
    assert 0 < answer.score < 1
    logits[read.windows[1]] = 0.0  # one window that has the answer is enough
    (answer,) = task.answers([logits], [read])
    assert answer.text == "c"


def test_repeated_letters_of_ctc_are_joined_and_blanks_removed():
    path = [0, 3, 3, 0, 3, 4, 4, 0, 0, 5]
    assert most_probable_path(np.eye(6)[path], 0).tolist() == [3, 3, 4, 5]
    assert most_probable_path(np.zeros((0, 6)), 0).tolist() == []
    assert most_probable_path(np.eye(6)[[0, 0]], 0).tolist() == []
