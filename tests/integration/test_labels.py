"""Workers of every kind run on the nodes whose labels a job names, and nowhere else."""

import json
import shutil

import pytest
import ray

import orchestrator
from orchestrator.cluster.launcher import NODE_LABEL
from orchestrator.errors import ConfigError, InputError
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory, local_ray):
    """A zoo with a tiny package, and rows of its labels."""
    folder = tmp_path_factory.mktemp("labels")
    commit_tiny(Zoo(folder / "zoo"))
    rows = [{"text": f"{SENTENCES[i % 6]} {i}", "label": LABELS[i % 3]} for i in range(90)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def start(place, verb, name, **settings):
    run = {"name": name, "dir": str(place / "runs"), "zoo": str(place / "zoo")}
    shutil.rmtree(place / "runs" / name, ignore_errors=True)
    return orchestrator.run(verb, {"run": run, **settings})


def jobs(place):
    """Return verb and settings of a job for each way of starting workers."""
    data = {"source": f"files:{place / 'rows.jsonl'}"}
    train = {"epochs": 1, "max_length": 8, "learning_rate": 1e-3}
    finetune = {"package": "tiny", "data": data, "train": train}
    return {
        "train": ("finetune", {**finetune, "output": "one"}),
        "tune": (
            "finetune", {**finetune, "output": "two", "search": {"global_batch_size": [8, 16]}}
        ),
        "tasks": (
            "quantize",
            {
                "package": "tiny", "output": "three", "data": data, "calibration_rows": 8,
                "goal": {"max_accuracy_drop": 1.0}, "promotion": {"max_drop": {"default": 1.0}},
                "kinds": ["row_s7"], "mixed_plans": 0,
                "latency": {"rounds": 3, "calls": 1, "length": 8},
            },
        ),
        "data": (
            "predict",
            {
                "package": "tiny", "input": str(place / "rows.jsonl"),
                "output": str(place / "out"), "format": "jsonl",
            },
        ),
        "corpus": (
            "corpus",
            {
                "data": {
                    "data": {"source": "builtin:pydoc"}, "max_documents": 40, "block_size": 16,
                    "tokenizer": {"type": "wordpiece", "vocab_size": 300},
                },
            },
        ),
    }  # fmt: skip


@pytest.mark.parametrize("way", ["train", "tune", "tasks", "data", "corpus"])
def test_workers_follow_labels(place, way):
    verb, settings = jobs(place)[way]
    here = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
    with pytest.raises(InputError, match=r"asked on nodes labeled \{'kind': 'fast'\}, 0 CPUs"):
        start(place, verb, f"{way}-nowhere", cluster={"labels": {"kind": "fast"}}, **settings)
    done = start(place, verb, way, cluster={"labels": here}, **settings)
    assert done.status == "done"


@pytest.mark.parametrize("value", ["!H100", "in(H100, A100)", "", "a b"])
def test_operators_are_refused(place, value):
    verb, settings = jobs(place)["train"]
    with pytest.raises(ConfigError, match=r"labels\.kind.*is not the value of a label"):
        start(place, verb, "operators", cluster={"labels": {"kind": value}}, **settings)
