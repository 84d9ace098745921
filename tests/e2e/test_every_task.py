"""The task × stage matrix: every cell runs, is refused with one clear error, or has a reason.

A cell that this release does not have yet is in ``MISSING`` with its reason, and must still fail: a
cell that begins to work cannot stay in that list. The cells of a kind run as soon as it is
registered.
"""

import asyncio
import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pyarrow.dataset import dataset

from orchestrator.cluster.context import Worker
from orchestrator.config import validate_config
from orchestrator.continual.config import ContinualConfig, ContinualInputs
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import Stream, units_of
from orchestrator.continual.worker import run as learn
from orchestrator.data.rows.rows import TaskData
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.evaluating.config import EvaluateConfig
from orchestrator.finetuning.evaluating.rows import read_asked
from orchestrator.finetuning.evaluating.runner import examined
from orchestrator.finetuning.evaluating.runner import prepare as prepare_evaluation
from orchestrator.finetuning.inputs import job_of, resolve
from orchestrator.finetuning.predicting.config import PredictConfig
from orchestrator.finetuning.predicting.parts import PartJob, PartWorker
from orchestrator.finetuning.predicting.runner import _claim as claim
from orchestrator.finetuning.predicting.runner import prepare as prepare_prediction
from orchestrator.finetuning.results import Summary
from orchestrator.finetuning.worker import finetune
from orchestrator.inference.inputs import Item, items_of_rows
from orchestrator.inference.predictor import Predictor
from orchestrator.quantization.artifact import write_files
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.search import Search
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.storage import RunFolder
from orchestrator.tasks.base import AnyTask, build_task
from orchestrator.training.config import FineTuneConfig
from orchestrator.training.history import History
from orchestrator.training.learning_rates import Rate
from orchestrator.zoo import Package, Zoo
from serving.model.engine import load_engine
from serving.model.whole import answer_files
from tests.support.every_task import (
    CASES,
    FILES,
    HEAD,
    MEDIA,
    ROWS,
    Case,
    commit,
    data_of,
    load,
    task_of,
)
from tests.support.pools import InProcess
from tests.support.serving import NoRecorder, application

STAGES = ("finetune", "evaluate", "predict", "package", "select", "continual", "quantize", "serve")
TRAINING = FineTuneConfig(epochs=10, global_batch_size=8, learning_rate=1e-2, max_length=24)


@dataclass
class Place:
    """A case with its rows, its zoo and its packages."""

    case: Case
    folder: Path

    def __post_init__(self) -> None:
        self.zoo = Zoo(self.folder / "zoo")
        self.spec: DatasetSpec = data_of(self.case, self.folder)
        self.data: TaskData = load(self.case, self.spec)
        self.task: AnyTask = task_of(self.case, self.data)
        self.package: Package = commit(self.zoo, self.case, self.task, "answering")
        self.encoder: Package = commit(self.zoo, self.case, None, "encoder")


def fine_tune(place: Place) -> None:
    """The stage's own worker, in this process; the files of the package are read back."""
    settings = job(
        place,
        package=place.encoder.ref,
        output="child",
        data=place.spec.model_dump(),
        task=place.case.kind,
        head=None if place.task.writes_text else HEAD,
        train={**TRAINING.model_dump(), "patience": None, "dropout": 0.0},
    )
    config = validate_config(FinetuneConfig, settings, "test")
    inputs = resolve(config, place.encoder)
    folder = place.folder / "finetune"
    folder.mkdir()
    found = finetune(Worker.alone(folder), job_of(inputs, folder, Rate(1e-2, "a test"))).result
    assert isinstance(found, Summary)
    losses = [row.value for row in History.from_parquet(folder / "export/history.parquet").rows
              if (row.split, row.metric) == ("train", "loss")]  # fmt: skip
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third])
    (learned,) = found.tasks
    assert learned.task == place.task.spec.model_copy(update={"options": learned.task.options})
    trained = Predictor.open_folder(folder / "export", {place.task.head: build_task(learned.task)})
    measured = trained.measure(place.data.test, place.task.head).primary
    assert measured.value == pytest.approx(learned.test[learned.primary].value, abs=1e-6)
    sign = 1 if place.task.primary.higher_is_better else -1
    random = Predictor.open(place.package).measure(place.data.test).primary
    assert sign * measured.value >= sign * random.value


def evaluate(place: Place) -> None:
    settings = job(place, package=place.package.ref, data=place.spec.model_dump(), split="test")
    config = validate_config(EvaluateConfig, settings, "test")
    report = examined(config, prepare_evaluation(config))
    known = Predictor.open(place.package).measure(place.data.test)
    assert list(known.metrics) == [metric.name for metric in place.task.metrics()]
    assert report.metrics.keys() | {*report.undefined} == known.metrics.keys()
    found = report.metrics[report.primary]
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(known.primary.value, abs=1e-6)
    assert len(report.worst) == min(20, len(place.data.test))


def predict(place: Place) -> None:
    """The body of a worker on a table, or a folder of images or sounds."""
    predictor, spec = Predictor.open(place.package), place.spec
    rows = place.data.test if spec.scheme != "files" else read_asked(spec, place.task, "all").rows
    answers = [answer.to_json() for answer in predictor.answers(rows)]
    back = predictor.answers(rows.take(range(len(rows))[::-1]))[::-1]
    assert [shape(answer.to_json()) for answer in back] == [shape(answer) for answer in answers]
    if spec.scheme != "files":
        return  # predict reads files
    output = place.folder / "out"
    source = place.folder / MEDIA if place.case.modality in FILES else spec.location
    fields = {"package": place.package.ref, "input": str(source), "output": str(output)}
    settings = {**fields, "piece_rows": 20, "run": {"zoo": str(place.zoo.root)}}
    config = validate_config(PredictConfig, settings, "test")
    plan = prepare_prediction(config)
    claim(output, plan)
    worker = PartWorker(
        PartJob(output=str(output), zoo=str(place.zoo.root), threads=1, device="cpu")
    )
    parts = [worker(piece) for piece in plan.pieces]
    assert sum(part.rows for part in parts) == len(rows) == ROWS
    table = dataset(output, format="parquet").to_table()
    found = table.select([f"answer_{name}" for name in answers[0]]).to_pylist()
    found = [{key.removeprefix("answer_"): value for key, value in row.items()} for row in found]
    if place.case.modality in FILES:  # of files, in the order of their names
        order = np.argsort([f"{index}{FILES[place.case.modality]}" for index in range(ROWS)])
        answers = [answers[index] for index in order]
    assert [shape(answer) for answer in found] == [shape(answer) for answer in answers]


def shape(answer: object) -> object:
    """Numbers rounded: sums in another order differ in the last bits."""
    if isinstance(answer, dict):
        return {key: shape(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [shape(value) for value in answer]
    return round(answer, 4) if isinstance(answer, float) else answer


def package(place: Place) -> None:
    copy = Zoo(place.folder / "copy")
    shutil.copytree(place.zoo.root, copy.root)
    assert all(finding.ok for finding in copy.verify())
    there, here = (Predictor.open(zoo.get(place.package.ref)) for zoo in (copy, place.zoo))
    assert there.task().spec == here.task().spec == place.task.spec
    rows = place.data.test
    assert there.answers(rows) == here.answers(rows)


def select(place: Place) -> None:
    payload = TrialPayload(
        trial=place.encoder.ref,
        package=place.encoder.ref,
        zoo=str(place.zoo.root),
        task=place.spec,
        fine_tune=TRAINING,
        seed=3,
        state=str(place.folder / "state"),
    )
    row = FineTuneTrial(payload).step()
    if row.error:  # errors that a retry would repeat are results
        raise InputError(row.error)
    assert row.validation is not None
    assert 0 <= row.validation <= 1


def job(place: Place, **fields: object) -> dict[str, object]:
    run = {"name": "job", "dir": str(place.folder / "runs"), "zoo": str(place.zoo.root)}
    return {"run": run, **fields}


def learn_continually(place: Place) -> None:
    train = {"max_steps": 4, "global_batch_size": 8, "micro_batch_size": 8}
    task = {**place.spec.model_dump(), "name": place.task.head}
    fields = job(place, package=place.package.ref, tasks=[task], train=train)
    config = validate_config(ContinualConfig, fields, "test")
    Stream.load(config, place.package.path)  # in the driver, before workers start
    folder = place.folder / "stream"
    folder.mkdir()
    inputs = ContinualInputs(config=config, zoo=str(place.zoo.root), package=place.package.ref)
    learn(Worker.alone(folder), inputs)
    record = Stages(folder / "stream", units_of(config)).record(0)
    assert record.accuracy.keys() == {place.task.head}


def quantize(place: Place) -> None:
    shape = {} if place.case.modality in FILES else {"length": 8}
    settings = job(
        place,
        package=place.package.ref,
        data=place.spec.model_dump(),
        goal={"max_accuracy_drop": 1.0},
        kinds=["row_s7"],
        calibration_rows=8,
        mixed_plans=0,
        latency={"rounds": 3, "calls": 1, **shape},
    )
    config = validate_config(QuantizeConfig, settings, "test")
    prepared = prepare(config)
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, InProcess()).run()
    assert choice.point.plan.integer
    files, head = place.folder / "int8", place.task.head
    files.mkdir()
    write_files(files, prepared, choice)
    deployed = Predictor.open_folder(files, {head: place.task}).measure(prepared.data.test, head)
    assert choice.measured.test is not None
    reported = choice.measured.test.paired
    assert reported is not None
    assert deployed.primary.value == pytest.approx(reported.accuracy, abs=1e-6)


def serve(place: Place) -> None:
    engine = load_engine(place.package)
    assert engine.card.default_target == place.task.head
    rows = place.data.test.take(range(3))
    rows = dataclasses.replace(rows, labels=np.zeros(3))  # clients give no labels
    service = application(engine, NoRecorder()).service
    known = Predictor.open(place.package).answers(rows)
    if place.task.kind() == "similarity":
        vectors, _ = asyncio.run(service.embed([Item(text) for text in rows.texts], truncate=True))
        np.testing.assert_allclose(vectors, [answer.vector for answer in known], atol=1e-5)
        return
    if rows.media:
        served = asyncio.run(answer_files(service, rows.media))
    else:
        served = asyncio.run(service.predict(items_of_rows(rows, None), truncate=True))
    assert [shape(a.to_json()) for a in served] == [shape(a.to_json()) for a in known]


RUN: dict[str, Callable[[Place], None]] = {
    "finetune": fine_tune,
    "evaluate": evaluate,
    "predict": predict,
    "package": package,
    "select": select,
    "continual": learn_continually,
    "quantize": quantize,
    "serve": serve,
}


TEXT_KINDS = (
    *("multilabel", "tags", "regression", "similarity"),
    *("question_answering", "multiple_choice", "generation"),
)
NEW_KINDS = (*TEXT_KINDS, "transcription", "transcription, decoder")
NOT_CLASSES = r"no rows in train|no column called"
MISSING: dict[tuple[str, str], str] = {}
"""Cells that this release does not have, with the reason. They must still fail."""
REFUSED: dict[tuple[str, str], str] = {
    ("classification, image", "serve"): "reads image and holds no processor",
    ("classification, picture", "continual"): "does not read yet",
    ("classification, audio", "continual"): "does not read yet",
    ("multiple_choice", "continual"): "holds candidates",
    ("multiple_choice", "select"): "holds candidates",
    **{(name, "select"): NOT_CLASSES for name in NEW_KINDS if name != "multiple_choice"},
    **{(name, "continual"): NOT_CLASSES for name in NEW_KINDS if name != "multiple_choice"},
    ("generation", "quantize"): "answers no labelled task",
    ("transcription", "quantize"): "writes texts about recordings",
    ("transcription, decoder", "quantize"): "answers no labelled task",
}
"""Cells that are refused, with what the error says."""


def missing(case: Case, stage: str) -> str | None:
    """Return why a cell is not there, if it is not."""
    if not case.registered:
        return f"kind {case.kind} is not in this release"
    return MISSING.get((case.name, stage))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The places of all cases, made when first asked for."""
    made: dict[str, Place] = {}

    def place(case: Case) -> Place:
        if case.name not in made:
            made[case.name] = Place(case, tmp_path_factory.mktemp("case"))
        return made[case.name]

    return place


CELLS = [pytest.param(case, stage, id=f"{case.name}-{stage}") for case in CASES for stage in STAGES]


@pytest.mark.parametrize(("case", "stage"), CELLS)
def test_a_cell_runs_or_is_refused_before_any_work(places, case, stage):
    if not case.registered:
        return  # the first release that has the kind runs all of its cells
    place = places(case)
    if (case.name, stage) in MISSING:
        with pytest.raises(Exception):  # noqa: B017, PT011 - however it fails, it is not there
            RUN[stage](place)
        return
    wanted = REFUSED.get((case.name, stage))
    if wanted is None:
        RUN[stage](place)
        return
    before = written(place)
    with pytest.raises(InputError, match=wanted):
        RUN[stage](place)
    assert written(place) == before


def written(place: Place) -> set[Path]:
    """Return every package, state and result; the empty folder of a run is not one."""
    return {path for path in place.folder.rglob("*") if path.suffix in (".safetensors", ".onnx")}


def test_the_matrix_has_no_silent_cell(capsys):
    lines = [f"{'':24}" + "".join(f"{stage:>11}" for stage in STAGES)]
    reasons = []
    for case in CASES:
        marks = []
        for stage in STAGES:
            gap = missing(case, stage)
            marks.append(
                "missing" if gap else "refused" if (case.name, stage) in REFUSED else "runs"
            )
            reasons += [] if gap is None else [f"{case.name} x {stage}: {gap}"]
        lines.append(f"{case.name:24}" + "".join(f"{mark:>11}" for mark in marks))
    with capsys.disabled():
        print("", *lines, *sorted(set(reasons)), sep="\n")
    known = {(case.name, stage) for case in CASES for stage in STAGES}
    assert known >= set(MISSING) | set(REFUSED)
    assert not set(MISSING) & set(REFUSED)
