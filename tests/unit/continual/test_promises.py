"""A package with a promise learns two more tasks without its data: kept, or refused."""

from pathlib import Path

import pytest

from orchestrator.cluster.context import Worker
from orchestrator.config import validate_config
from orchestrator.continual import runner, worker
from orchestrator.continual.config import ContinualConfig, ContinualInputs
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import units_of
from orchestrator.errors import InputError, RefusedError
from orchestrator.inference.predictor import Predictor
from orchestrator.inference.protection import FISHER, stored_tensors
from orchestrator.modeling.package import read_state
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import SuiteConfig, read_suite
from tests.support.promises import commit_classifier, commit_encoder, lesson, topic_data

BOUND = {"default": 0.02}
FEW = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A zoo with a classifier of accuracy .78, and two labelled files without its rows."""
    root = tmp_path_factory.mktemp("promises")
    zoo = Zoo(root / "zoo")
    encoder = commit_encoder(zoo)
    promised = {"place": lesson("place", wrong=0.2, test=1000)}
    commit_classifier(zoo, promised, encoder)
    commit_classifier(zoo, promised, encoder, "bare", config=SuiteConfig(keep_rows=0))
    only_importance = SuiteConfig(exemplars=0)
    commit_classifier(zoo, promised, encoder, "weighed", config=only_importance, trained=True)
    nothing = SuiteConfig(exemplars=0, protect=False)
    commit_classifier(zoo, promised, encoder, "naked", config=nothing, trained=True)
    for name in ("spam", "food"):
        data = topic_data(name, train=320)
        lines = [
            f"{text}\t{data.label_names[label]}"
            for text, label in zip(data.train.texts, data.train.labels, strict=True)
        ]
        (root / f"{name}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    return root


def job(place, run, *, package="classifier", preset="c&f+replay", rate=5e-3, steps=100, **changes):
    """Return a job; with few steps it learns little, where only what it says counts."""
    fields = {
        "run": {"name": run, "dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": package,
        "output": "learned",
        "tasks": [{"source": f"files:{place}/{name}.tsv"} for name in ("spam", "food")],
        "method": {"preset": preset, "find": {"fisher_samples": 64}, "replay": {"every_steps": 2}},
        "train": {
            "max_steps": steps,
            "global_batch_size": 16,
            "micro_batch_size": 16,
            "optimizer": {"learning_rate": rate},
        },
        "dropout": 0.0,
        **changes,
    }
    return validate_config(ContinualConfig, fields, "test")


def learn(config):
    """Learn in this process what the workers of a cluster learn; return the run's folder."""
    folder = Path(config.run.dir) / config.run.name
    folder.mkdir(parents=True)
    inputs = ContinualInputs(config=config, zoo=config.run.zoo, package=config.package)
    worker.run(Worker.alone(folder), inputs)
    return folder


def run(config):
    """Learn, then let the job examine and commit."""
    learn(config)
    return runner.run(config)


def newest(place):
    return max(
        (p for p in Zoo(place / "zoo").packages() if p.name == "learned"), key=lambda p: p.version
    )


def test_a_kept_promise_is_accepted_and_stays_the_default(place):
    result = run(job(place, "kept", promotion={"max_drop": BOUND, "alias": "champion"}))
    package = Zoo(place / "zoo").get("learned@champion")
    assert (result.status, result.package) == ("done", package.ref)
    suite = read_suite(package)
    assert list(suite.exams) == ["place", "spam", "food"]
    assert all(exam.status == "measured" for exam in suite.exams.values())
    assert suite.exams["place"].differences["accuracy"].bound <= 0.02
    assert suite.exams["place"].metrics["accuracy"].value > 0.75
    assert suite.exams["spam"].metrics["accuracy"].value > 0.8
    assert package.manifest.task.default == Predictor.open(package).default == "place"
    assert result.metrics["unwatched_heads"] == []
    assert package.has("state/exemplars/place.parquet")


def test_a_broken_promise_is_committed_as_rejected(place):
    before = Zoo(place / "zoo").aliases("learned")
    config = job(place, "broken", preset="finetune", rate=5e-2, promotion={"alias": "champion"})
    with pytest.raises(RefusedError, match="place accuracy: fell by 0") as caught:
        run(config)
    package = newest(place)
    assert caught.value.package == package.ref
    assert package.rejected
    assert package.manifest.metrics["promotion"] == "refused"
    assert read_suite(package).exams["food"].status == "measured"
    assert Zoo(place / "zoo").aliases("learned") == before
    with pytest.raises(RefusedError):  # the same command once more
        runner.run(config)
    assert newest(place).ref == package.ref


def test_missing_rows_are_refused_as_unverified(place):
    with pytest.raises(RefusedError, match="place: unverified: the package keeps no test rows"):
        run(job(place, "unverified", package="bare", steps=FEW))
    assert newest(place).manifest.metrics["unwatched_heads"] == ["place"]
    allow = {"allow_unverified": ["place"]}
    allowed = job(place, "allowed", package="bare", steps=FEW, promotion=allow)
    assert run(allowed).status == "done"


@pytest.mark.parametrize("preset", ["finetune", "joint"])
def test_unknown_forgetting_is_refused(place, preset):
    promotion = {"max_forgetting": 0.5, "max_drop": {"default": 1.0}}
    config = job(place, f"unknown-{preset}", preset=preset, promotion=promotion, steps=FEW)
    if preset == "finetune":
        config = config.model_copy(update={"tasks": config.tasks[:1]})
    with pytest.raises(RefusedError, match="forgetting is unknown"):
        run(config)


def test_exemplars_protect_from_the_first_step_on(place):
    config = job(place, "protected", promotion={"max_drop": {"default": 1.0}}, steps=FEW)
    frame = Stages(learn(config) / "stream", units_of(config)).history(0).frame()
    assert frame[frame.metric == "penalty"]["value"].max() > 0
    assert frame[frame.metric == "replay_loss"]["value"].notna().any()


def test_fine_tuning_stores_importance_and_a_stream_keeps_what_it_weighs(place):
    package = Zoo(place / "zoo").get("weighed")
    assert not package.has("state/exemplars/place.parquet")
    found = stored_tensors(package.path, FISHER)
    weights = read_state(package.path)
    assert found.keys() == weights.keys()
    assert all(found[name].shape == weights[name].shape for name in found)
    assert all((value >= 0).all() for value in found.values())
    assert found["targets.place.output.bias"].all()

    method = {"preset": "ewc", "find": {"penalty": 300.0}}
    kept = job(place, "weighed", package="weighed", method=method, promotion={"max_drop": BOUND})
    assert run(kept).metrics["unprotected_heads"] == []
    suite = read_suite(newest(place))
    assert suite.exams["place"].differences["accuracy"].bound <= 0.02
    assert suite.exams["food"].metrics["accuracy"].value > 0.5
    # Without the penalty the same steps break the promise: it is the importance that keeps it.
    free = job(place, "free", package="weighed", preset="finetune", promotion={"max_drop": BOUND})
    with pytest.raises(RefusedError, match="place accuracy: fell by 0"):
        run(free)
    assert newest(place).manifest.metrics["unprotected_heads"] == ["place"]


def test_a_head_that_nothing_protects_is_named(place, caplog):
    allowed = {"max_drop": {"default": 1.0}}
    config = job(place, "naked", package="naked", promotion=allowed, steps=FEW)
    with caplog.at_level("WARNING"):
        result = run(config)
    assert result.metrics["unprotected_heads"] == ["place"]
    assert "nothing protects head place of naked/v0001" in caplog.text
    # The child carries importance of its own: for what it learned, not for what nothing measured.
    heads = {name.split(".")[1] for name, value in importance(newest(place)).items() if value.any()}
    assert heads == {"spam", "food"}


def test_distillation_protects_a_head_for_which_nothing_is_stored(place):
    found, allowed = {}, {"max_drop": {"default": 1.0}}
    for preset in ("finetune", "lwf"):
        method = {"preset": preset, "distill": {"weight": 4.0}}
        config = job(place, preset, package="naked", method=method, promotion=allowed)
        metrics = run(config).metrics
        assert metrics["unprotected_heads"] == (["place"] if preset == "finetune" else [])
        found[preset] = read_suite(newest(place)).exams
    falls = {name: exams["place"].differences["accuracy"].drop for name, exams in found.items()}
    # The new rows have none of the words that this head reads: they can hold only a part of it.
    assert falls["lwf"] < 0.9 * falls["finetune"]


def importance(package):
    found = stored_tensors(package.path, "importance")
    return {name: value for name, value in found.items() if name.startswith("targets.")}


def test_labels_in_another_order_are_refused_before_any_work(place):
    data = topic_data("place", train=60)
    path = place / "places.csv"
    lines = [
        f"{text},{'xyz'[label]}"
        for text, label in zip(data.train.texts, data.train.labels, strict=True)
    ]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    config = job(place, "labels", tasks=[{"source": f"files:{path}", "name": "place"}])
    with pytest.raises(InputError, match=r"answers \['city', 'land', 'water'\], the task of"):
        runner.run(config)
