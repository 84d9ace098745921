"""``orchestrator evaluate``: figures that agree with scikit-learn, and input that is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

import orchestrator
from orchestrator.cli import main
from orchestrator.errors import ConfigError, InputError
from orchestrator.finetuning.evaluating.results import EVALUATION_FILE, EvaluationReport
from orchestrator.storage import read_model
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny

ROWS = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A zoo with two classifiers, and a file of labelled rows."""
    folder = tmp_path_factory.mktemp("evaluate")
    zoo = Zoo(folder / "zoo")
    commit_tiny(zoo)
    commit_tiny(zoo, "other", seed=1)
    frame().to_csv(folder / "rows.csv", index=False)
    return folder


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    texts = [f"{SENTENCES[i % len(SENTENCES)]} {i}" for i in range(ROWS)]
    return pd.DataFrame({"text": texts, "label": rng.choice(LABELS, ROWS)})


@pytest.fixture
def evaluate(place, monkeypatch, capsys):
    """Run the verb; returns exit code, last line and errors."""
    monkeypatch.chdir(place)

    def call(*arguments):
        code = main(["evaluate", *arguments])
        shown = capsys.readouterr()
        return code, shown.out.strip().splitlines()[-1:], shown.err

    return call


def test_figures_are_those_of_scikit_learn(place, evaluate):
    code, (line,), _ = evaluate("package=tiny", "data.source=files:rows.csv", "compare=other")
    assert code == 0
    result = json.loads(line)
    report = read_model(f"{result['run_dir']}/{EVALUATION_FILE}", EvaluationReport)
    answers = orchestrator.load("tiny", zoo=place / "zoo").predict(list(frame().text))
    truth, given = frame().label, [answer.label for answer in answers]
    assert report.split == "all"
    assert report.rows == ROWS
    assert 0 < report.unknown_share < 0.2  # the numbers behind the sentences
    assert report.metrics["accuracy"].value == pytest.approx(accuracy_score(truth, given))
    assert report.metrics["macro_f1"].value == pytest.approx(
        f1_score(truth, given, average="macro")
    )
    assert report.metrics["accuracy"].low <= report.metrics["accuracy"].value
    assert report.confusion.labels == LABELS
    np.testing.assert_array_equal(
        report.confusion.counts, confusion_matrix(truth, given, labels=LABELS)
    )
    assert [row.rows for row in report.labels] == [sum(truth == label) for label in LABELS]
    assert sum(each.rows for each in report.calibration) == ROWS
    others = orchestrator.load("other", zoo=place / "zoo").predict(list(frame().text))
    theirs = accuracy_score(truth, [answer.label for answer in others])
    assert report.differences["accuracy"].parent == pytest.approx(theirs)
    assert result["metrics"]["accuracy"] == report.metrics["accuracy"].value


def test_worst_rows_are_the_most_wrong_ones(place, evaluate):
    _, (line,), _ = evaluate("package=tiny", "data.source=files:rows.csv", "worst_rows=5")
    report = read_model(f"{json.loads(line)['run_dir']}/{EVALUATION_FILE}", EvaluationReport)
    answers = orchestrator.load("tiny", zoo=place / "zoo").predict(list(frame().text))
    probability = [
        answer.scores[LABELS.index(label)]
        for answer, label in zip(answers, frame().label, strict=True)
    ]
    assert [row.row for row in report.worst] == np.argsort(probability, kind="stable")[:5].tolist()
    assert report.worst[0].truth == frame().label[report.worst[0].row]


def test_the_same_command_answers_from_its_run_until_the_rows_change(place, evaluate):
    path = place / "changing.csv"
    frame().to_csv(path, index=False)
    command = ("package=tiny", "data.source=files:changing.csv")
    _, (first,), _ = evaluate(*command)
    file = f"{json.loads(first)['run_dir']}/{EVALUATION_FILE}"
    before = (place / file).stat().st_mtime_ns
    assert evaluate(*command)[1] == [first]
    assert (place / file).stat().st_mtime_ns == before
    frame().assign(label=LABELS[0]).to_csv(path, index=False)
    _, (second,), _ = evaluate(*command)
    assert json.loads(second)["run_dir"] == json.loads(first)["run_dir"]
    assert json.loads(second)["metrics"] != json.loads(first)["metrics"]


def test_label_numbers_are_those_of_the_package_whatever_the_order_of_the_data(place, evaluate):
    """Rows with two of three labels, and names given by a file in another order."""
    folder = place / "numbered"
    folder.mkdir()
    order = LABELS[::-1]
    (folder / "labels.txt").write_text("\n".join(order))
    numbers = frame().assign(label=[order.index(label) for label in frame().label])
    numbers.to_csv(folder / "train.csv", index=False)
    _, (line,), _ = evaluate("package=tiny", "data.source=files:numbered", "split=all")
    _, (whole,), _ = evaluate("package=tiny", "data.source=files:rows.csv")
    assert json.loads(line)["metrics"]["accuracy"] == json.loads(whole)["metrics"]["accuracy"]
    two = frame()[frame().label != LABELS[1]]
    two.to_csv(place / "two.csv", index=False)
    _, (line,), _ = evaluate("package=tiny", "data.source=files:two.csv")
    found = json.loads(line)["metrics"]
    answers = orchestrator.load("tiny", zoo=place / "zoo").predict(list(two.text))
    assert found["accuracy"] == accuracy_score(two.label, [a.label for a in answers])


BAD = {
    "a path without files:": (("data.source=rows.csv",), "Did you mean 'files:rows.csv'?"),
    "an unknown column": (
        ("data.source=files:rows.csv", "data.text_column=txt"),
        "no column 'txt' for the text. Did you mean 'text'? Columns: text, label.",
    ),
    "swapped columns": (
        ("data.source=files:rows.csv", "data.text_column=label", "data.label_column=text"),
        "Swap data.text_column and data.label_column.",
    ),
    "an unknown label": (
        ("data.source=files:strange.csv",),
        "label 'wroker' is not a label of task 'topic'. Did you mean 'worker'?",
    ),
    "a file that is not UTF-8": (("data.source=files:latin.csv",), "is not UTF-8"),
    "only empty texts": (("data.source=files:empty.csv",), "no rows. Left out: 2 × empty text."),
    "an unknown head": (
        ("data.source=files:rows.csv", "target=topik"),
        "has no head 'topik'. Did you mean 'topic'?",
    ),
    "a missing file": (
        ("data.source=files:rowz.csv",),
        "rowz.csv does not exist. Did you mean 'rows.csv'?",
    ),
    "a cluster": (("data.source=files:rows.csv", "cluster.workers=2"), "has no effect"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_error_and_writes_nothing(place, evaluate, arguments, message):
    frame().assign(label="wroker").to_csv(place / "strange.csv", index=False)
    (place / "latin.csv").write_bytes("text,label\ncafé,array\n".encode("latin1"))
    (place / "empty.csv").write_text('text,label\n" ",array\n" ",error\n')
    before = sorted(place.rglob("*"))
    code, _, errors = evaluate("package=tiny", *arguments)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert sorted(place.rglob("*")) == before


def test_a_package_that_is_not_there_is_named(evaluate):
    code, _, errors = evaluate("package=tiyn", "data.source=files:rows.csv")
    assert code == 2
    assert "tiyn" in errors
    assert "tiny" in errors


def test_other_labels_cannot_be_compared(place, evaluate):
    commit_tiny(
        Zoo(place / "zoo"), "flags", targets=({"type": "cls", "name": "topic", "num_labels": 2},)
    )
    code, _, errors = evaluate("package=tiny", "data.source=files:rows.csv", "compare=flags")
    assert code == 2
    assert "cannot be compared" in errors


def test_a_data_frame_is_a_file_named_after_its_content(place, monkeypatch):
    monkeypatch.chdir(place)
    package = orchestrator.load("tiny", zoo="zoo")
    report = package.evaluate(frame())
    source = report.data.spec["source"]
    assert source.startswith("files:")
    stored = pd.read_parquet(source.removeprefix("files:"))
    assert stored.to_dict("records") == frame().to_dict("records")
    again = orchestrator.run("evaluate", {"package": "tiny", "data": {"source": source}})
    assert again.metrics["accuracy"] == report.metrics["accuracy"].value
    rows = frame().rename(columns={"text": "body"}).to_dict("records")
    listed = package.evaluate(rows, text_column="body")
    assert listed.metrics["accuracy"].value == report.metrics["accuracy"].value
    assert listed.data.spec["source"].endswith(".jsonl")
    files = sorted((place / "runs" / "data").iterdir())
    package.evaluate(frame())
    assert sorted((place / "runs" / "data").iterdir()) == files


def test_python_refuses_what_the_command_line_refuses(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(InputError, match="Did you mean 'evaluate'"):
        orchestrator.run("evaluat", {})
    with pytest.raises(ConfigError, match="Did you mean 'worst_rows'"):
        orchestrator.run("evaluate", {"package": "tiny", "worst_row": 1})
    package = orchestrator.load("tiny", zoo="zoo")
    with pytest.raises(InputError, match="Give a list"):
        package.predict("one text")
    with pytest.raises(InputError, match=r"texts\[1\] is empty"):
        package.predict(["one", " "])
    with pytest.raises(InputError, match="no rows"):
        package.evaluate(frame().iloc[:0])


def test_the_report_page_shows_an_evaluation(place, evaluate, capsys):
    _, (line,), _ = evaluate("package=tiny", "data.source=files:rows.csv", "compare=other")
    assert main(["report", json.loads(line)["run_dir"], "-o", str(place / "page.html")]) == 0
    page = (place / "page.html").read_text()
    for part in ("Metrics", "Labels", "Calibration", "Worst rows", "other/v0001", "<svg"):
        assert part in page
