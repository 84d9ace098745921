"""Which settings of a run may change when it goes on: all of them are tried."""

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.config import StrictModel
from orchestrator.config.changes import Effect, change_of, may_change
from orchestrator.config.job import RunProgress
from orchestrator.data.corpora.corpus import prepare_corpus
from orchestrator.errors import ConfigError, InputError
from orchestrator.pretraining import resuming, runner
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.storage.run_changes import changes_between, flatten, refused_changes

CHANGES = resuming.CHANGES
WHOLE = ("train", "engine", "run", "package")
"""Sections whose settings are listed one by one, so that a new one is thought about."""
CONDITIONAL = ("train.max_steps",)
DOCS = Path(__file__).parents[3] / "docs" / "pretraining.md"
WORDS = {
    Effect.NOTHING: "yes",
    Effect.ROUNDING: "yes, up to rounding",
    Effect.NOISE: "yes, up to rounding and the noise of dropout",
    Effect.RESULT: "no",
}


def settings(model, prefix=""):
    """Yield the path of every setting of a config class."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = [s for each in sections(field.annotation) for s in settings(each, f"{path}.")]
        yield from inner or [path]


def sections(annotation):
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        yield annotation
    for each in get_args(annotation):
        yield from sections(each)


ALL = sorted(set(settings(PretrainConfig)))


def test_every_setting_is_classified():
    assert len(ALL) > 100
    assert [path for path in ALL if change_of(CHANGES, path) is None] == []
    assert [name for name in WHOLE if name in CHANGES] == []
    known = [*ALL, *(path.rpartition(".")[0] for path in ALL)]
    known += [path.split(".")[0] for path in ALL]
    assert [path for path in CHANGES if path not in known] == []


def other(value):
    """Return a value of JSON that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value} and more"


def refused(config):
    """Open the folder of a job's run; return the paths that are refused, and what is said."""
    found = {}
    try:
        runner.open_run(config).close()
    except ConfigError as error:
        found = {problem.path: problem.message for problem in error.problems}
    text = " ".join(found.values())
    assert ("start_from={run: tiny}" in text) == bool(found)
    assert "delete" not in text
    return found


def test_every_setting_is_tried(make_config):
    """The run has another value of the setting: it is refused, or it is not, as the table says."""
    config = make_config()
    now = config.model_dump(mode="json")
    wrong = []
    for path in ALL:
        if path in CONDITIONAL:
            continue
        *above, last = path.split(".")
        stored = place = json.loads(json.dumps(now))
        for key in above:
            if isinstance(place.get(key), list):
                place[key] = dict(enumerate(place[key]))
            elif not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        place[last] = other(place.get(last))
        before = flatten(stored)
        changed = changes_between(before, config)
        assert changed, path
        problems = refused_changes(changed, before, config, RunProgress(None))
        if bool(problems) == may_change(CHANGES, path):
            wrong.append(path)
    assert wrong == []


HARMLESS = {
    "run.dir": "",  # of another folder; compared in test_runs
    "run.zoo": "run.zoo=elsewhere",
    "data.prepared": "",  # see test_a_prepared_corpus_may_move
    "train.micro_batch_size": "train.micro_batch_size=2",
    "train.max_skipped_steps": "train.max_skipped_steps=9",
    "train.max_rollbacks": "train.max_rollbacks=9",
    "train.hang_timeout_s": "train.hang_timeout_s=600",
    "train.log_every_steps": "train.log_every_steps=2",
    "train.eval_every_steps": "train.eval_every_steps=1",
    "train.checkpoint_every_steps": "train.checkpoint_every_steps=1",
    "train.eval_batch_size": "train.eval_batch_size=3",
    "train.eval_blocks": "train.eval_blocks=5",
    "train.eval_beside": "train.eval_beside=true",
    "train.prefetch_steps": "train.prefetch_steps=2",
    "train.keep_every_steps": "train.keep_every_steps=4",
    "train.keep_last": "train.keep_last=0",
    "engine.type": "engine.type=single",
    "engine.zero_stage": "engine.zero_stage=3",
    "engine.replicas": (
        "cluster.workers=4",
        "train.micro_batch_size=2",
        "engine={type: fsdp2, replicas: 2}",
    ),
    "engine.tensor_parallel": ("cluster.workers=2", "engine={type: fsdp2, tensor_parallel: 2}"),
    "engine.sequence_parallel": (
        "cluster.workers=2",
        "engine={type: fsdp2, tensor_parallel: 2, sequence_parallel: true}",
    ),
    "engine.expert_parallel": "",  # for models with experts, which this one has not
    "engine.activation_checkpointing": "engine.activation_checkpointing=true",
    "engine.compile": "engine.compile=true",
    "engine.peak_tflops": "engine.peak_tflops=1",
    "engine.offload": "engine={type: fsdp2, offload: {optimizer: true, parameters: true}}",
    "engine.deepspeed": "engine={type: zero, deepspeed: {wall_clock_breakdown: true}}",
    "package.name": "package.name=another",
    "package.licence": "package.licence=MIT",
    "tracking": "tracking.tensorboard=false",
    "cluster": "cluster.max_failures=7",
    "cluster.workers": "cluster.workers=2",
    "cluster.max_workers": "cluster.max_workers=2",
}
"""A valid change of every setting that may change."""


def test_every_harmless_change_is_accepted_from_a_config(make_config):
    listed = {path for path in CHANGES if may_change(CHANGES, path)} - set(CONDITIONAL)
    assert listed == set(HARMLESS)
    runner.open_run(make_config()).close()
    for path, override in HARMLESS.items():
        if not override:
            continue
        with runner.open_run(
            make_config(*([override] if isinstance(override, str) else override))
        ) as run:
            assert any(key.startswith(path) for key in run.changed), path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=8", "is 8 now, but the run has 7."),
        ("train.optimizer.learning_rate=0.5", "is 0.5 now, but the run has 0.001."),
        ("train.schedule.type=cosine", "is 'cosine' now, but the run has 'linear'."),
        ("train.freeze=[embedding]", "is 'embedding' now, but the run has not set."),
        ("engine.precision=bf16", "is 'bf16' now, but the run has 'fp32'."),
    ],
)
def test_what_decides_is_refused_with_both_values(make_config, override, message):
    runner.open_run(make_config()).close()
    found = refused(make_config(override))
    assert any(text.startswith(message) for text in found.values()), found


def test_refusals_are_listed_one_by_one(make_config):
    runner.open_run(make_config()).close()
    found = refused(make_config("seed=8", "model.hidden_size=32", "train.log_every_steps=3"))
    assert set(found) == {"seed", "model.hidden_size"}


STOPPING = "train.early_stopping={patience: 2}"


def test_evaluations_are_fixed_where_they_decide(make_config):
    runner.open_run(make_config(STOPPING)).close()
    found = refused(make_config(STOPPING, "train.eval_every_steps=2", "train.eval_blocks=4"))
    assert set(found) == {"train.eval_every_steps", "train.eval_blocks"}
    assert "train.early_stopping ends the run" in found["train.eval_blocks"]
    assert refused(make_config(STOPPING, "train.log_every_steps=2")) == {}


TEXT = "{parts: [word, pos]}"
CONTRAST = (
    "data={data: {source: 'builtin:pydoc_pairs', max_rows: 60}, block_size: 16}",
    f"model.embedding={{parts: [{{type: dual, first: {TEXT}, second: {TEXT}}}],"
    " layernorm: false, dropout: 0.0}",
    "model.encoder={type: dual, first: {type: transformer, num_layers: 1, num_heads: 2}}",
    "model.target={type: clr, first: {pooling: mean}}",
)


def test_the_number_of_pairs_of_a_pass_is_fixed_where_they_are_compared(make_config):
    runner.open_run(make_config(*CONTRAST)).close()
    found = refused(make_config(*CONTRAST, "train.micro_batch_size=2"))
    assert set(found) == {"train.micro_batch_size"}
    assert "compares the pairs of one pass, 2 in place of 4" in found["train.micro_batch_size"]
    same = (*CONTRAST, "train.micro_batch_size=2", "cluster.workers=2")
    assert refused(make_config(*same)) == {}


def test_the_docs_have_the_table():
    rows = [
        f"| `{path}` | {WORDS[change.effect]} | {change.reason} |"
        for path, change in CHANGES.items()
    ]
    text = DOCS.read_text(encoding="utf-8")
    missing = [row for row in rows if row not in text]
    assert not missing, "\n".join(missing)


def test_what_is_said_of_changes(make_config):
    with runner.open_run(make_config()) as run:
        assert list(resuming.notes_on(run.config, run.changed)) == []
    changed = make_config("train.micro_batch_size=2", "run.zoo=elsewhere")
    with runner.open_run(changed) as run:
        first, second = resuming.notes_on(run.config, run.changed)
    assert first == "changed since the last start: train.micro_batch_size (4 -> 2)"
    assert second == resuming.OTHER_NOISE
    with runner.open_run(make_config("train.log_every_steps=3")) as run:
        assert len(list(resuming.notes_on(run.config, run.changed))) == 2
    assert not resuming.is_noisy(
        make_config("model.embedding.dropout=0", "model.encoder.dropout=0").model
    )


def test_documents_in_another_order_are_other_data(make_config, tmp_path):
    lines = [f"the fox number {n} sees a dog and likes {n % 7} red balls" for n in range(2000)]
    source = tmp_path / "lines.txt"
    source.write_text("\n".join(lines))
    config = make_config(f"data.data.source=files:{source}")
    with runner.open_run(config) as run:
        for _ in range(2):
            runner._Work(config, run).prepare()
        source.write_text("\n".join(reversed(lines)))
        with pytest.raises(InputError, match=r"2,000 documents.* in another order"):
            runner._Work(config, run).prepare()


def test_a_prepared_corpus_may_move(make_config, tmp_path):
    made = prepare_corpus(make_config().data, tmp_path / "corpora").path
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(made, first)
    with runner.open_run(config := prepared(make_config, first)) as run:
        runner._Work(config, run).prepare()
    first.rename(second)
    with runner.open_run(config := prepared(make_config, second)) as run:
        assert set(run.changed) == {"data.prepared"}
        runner._Work(config, run).prepare()


def prepared(make_config, folder):
    return make_config(f"data={{prepared: '{folder}'}}")


def test_a_run_of_an_earlier_version_takes_its_data_as_it_is(make_config):
    config = make_config()
    with runner.open_run(config) as run:
        runner._Work(config, run).prepare()
        stored = run.done("data")
        content = stored.pop("content")
        run.mark("data", stored)
        runner._Work(config, run).prepare()
        assert run.done("data")["content"] == content
