"""Distillation through the stage: every kind is taught, and what cannot be taught is refused."""

from contextlib import closing

import numpy as np
import pytest

from orchestrator.config import load_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.inputs import resolve
from orchestrator.finetuning.plan import describe
from orchestrator.finetuning.results import EVALUATION, FinetuneEvaluation
from orchestrator.modeling.package import load_model, read_config
from orchestrator.training.history import History
from orchestrator.training.watchdog import BUILDING, Watchdog
from orchestrator.zoo import Zoo
from tests.support.lessons import commit_encoder, job, learn, make_lessons, run_here
from tests.support.streams import FILLER, WORDS

TRAIN = {"epochs": 12, "global_batch_size": 16, "max_length": 16, "patience": None}
SHORT = TRAIN | {"epochs": 2}
FILES = ("task2", "multilabel", "tags", "numbers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small encoder, and a teacher for each file, made from a wider one."""
    place = make_lessons(tmp_path_factory.mktemp("taught"))
    commit_encoder(place, "large", layers=2, width=24)
    for file in FILES:
        run = {"name": file, "dir": str(place / "runs"), "zoo": str(place / "zoo")}
        run_here(job(place, file, run=run, package="large", output=f"big-{file}", train=TRAIN))
    return place


def taught(place, file="task2", **teacher):
    return job(place, file, train=TRAIN, teacher={"package": f"big-{file}", **teacher})


@pytest.mark.parametrize("file", FILES)
def test_every_kind_learns_its_teachers_answers(place, tmp_path, file):
    _, folder = learn(taught(place, file, soft_weight=3.0), tmp_path)
    distance = curve(folder, "loss.soft.child")
    assert distance[-1] < 0.5 * distance[0]


def curve(folder, metric):
    """Return a metric of training after each epoch."""
    frame = History.from_parquet(folder / "history.parquet").frame()
    return frame[(frame.split == "train") & (frame.metric == metric)].value.to_numpy()


def test_layers_come_nearer_and_the_projection_is_left_out(place, tmp_path):
    _, folder = learn(taught(place, hidden_weight=0.5), tmp_path)
    assert [target.name for target in read_config(folder).target] == ["child"]
    assert not [name for name in load_model(folder).state_dict() if "distillation" in name]
    hidden = curve(folder, "loss.hidden")
    assert hidden[-1] < 0.8 * hidden[0]


def test_the_package_names_its_teacher(place):
    config = taught(place, temperature=3.0, hidden_weight=0.5, layers=[0, 2])
    text = describe(resolve(config, Zoo(place / "zoo").get("encoder")))
    assert "big-task2/v0001; answers of big-task2 → child (weight 1, temperature 3)" in text
    assert "layers 0 → 0, 2 → 1 (weight 0.5)" in text
    package = Zoo(place / "zoo").get(run_here(config).package)
    teacher = Zoo(place / "zoo").get("big-task2")
    first, second = package.manifest.parents
    assert (first.ref, second.ref) == ("encoder/v0001", "big-task2/v0001")
    assert second.manifest_sha256 == teacher.manifest_sha256
    assert package.read_model(EVALUATION, FinetuneEvaluation).teacher == "big-task2/v0001"


def test_answers_of_another_tokenizer_reach_the_right_words(place, tmp_path):
    """Its tokens are single characters, so that a word's first token is at another place."""
    words = [*FILLER, *(word for kind in WORDS.values() for word in kind)]
    letters = sorted(set("".join(words)))
    commit_encoder(place, "letters", layers=1, width=16, words=[*letters, *letters])
    run = {"name": "letters", "dir": str(place / "runs"), "zoo": str(place / "zoo")}
    run_here(job(place, "tags", run=run, package="letters", output="big-letters", train=SHORT))
    config = job(place, "tags", train=TRAIN, teacher="big-letters")
    planned = resolve(config, Zoo(place / "zoo").get("encoder"))
    from orchestrator.finetuning.plan import data_of
    from orchestrator.training.distillation.teacher import Teacher

    data = data_of(planned)
    rows, samples = data.rows("train"), data.samples("train")
    teacher = Teacher(planned.teaching, "cpu")
    with closing(Watchdog(lambda *_: None, 60)) as dog, dog.phase(BUILDING):
        taught = teacher.teach("child", rows, samples, data.processor, 16)
        assert dog._took[BUILDING]  # many rows take longer than building may without progress
    batch = taught.collate(np.arange(4), 0)
    known = batch["teacher.child"].isfinite().all(-1)
    assert 0 < known.sum() < (batch["labels.child"] != -100).sum()  # it reads 16 letters
    assert not known[batch["labels.child"] == -100].any()
    with pytest.raises(InputError, match=r"different tokens.*hidden_weight to 0"):
        resolve(
            job(place, "tags", teacher={"package": "big-letters", "hidden_weight": 1.0}),
            Zoo(place / "zoo").get("encoder"),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "big-numbers"}, "answers no task of kind classification"),
        ({"teacher": "encoder"}, r"has the labels \['animal'.*earlier.*Names and order"),
        ({"file": "task1", "teacher": "big-task2"}, "Names and order must be equal"),
        ({"teacher": {"package": "big-task2", "hidden_weight": 1, "layers": [0]}}, "2 numbers"),
        ({"teacher": {"package": "big-task2", "hidden_weight": 1, "layers": [0, 3]}}, "0 and 2"),
        ({"teacher": "nobody"}, "nobody"),
        ({"task": "similarity", "file": "pairs", "teacher": "big-task2"}, "a teacher teaches"),
    ],
)
def test_what_cannot_teach_is_refused(place, changes, message):
    (place / "pairs.jsonl").write_text('{"text": "cat", "text_b": "dog"}\n' * 1)
    rows = [f'{{"text": "cat {i}", "text_b": "dog {i}"}}\n' for i in range(30)]
    (place / "pairs.jsonl").write_text("".join(rows))
    config = job(place, **{"file": "task2", **changes})
    with pytest.raises(InputError, match=message):
        resolve(config, Zoo(place / "zoo").get("encoder"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher={package: a, soft_weight: 0}", r"teacher\.soft_weight: is 0"),
        ("teacher={package: a, layers: [0, 1]}", r"teacher\.layers: has no effect"),
        ("teacher={package: a, temperature: 0}", r"teacher\.temperature"),
        ("teacher={temperature: 2}", r"teacher\.package"),
    ],
)
def test_options_that_do_not_go_together(override, message):
    base = ["package=minilm", "output=spam", "data.source=files:mails.csv", override]
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, base)
