"""A sentence embedder through the stages: what it states about vectors goes with its children."""

import numpy as np
import pandas as pd
import pytest
from torch import nn

import orchestrator
from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.sentence.statement import read_statement
from orchestrator.zoo import Zoo
from tests.support.sentences import TEXTS, sentence_folder

pytestmark = pytest.mark.slow

EXACT = 1e-6
WORDS = {"array": ["sum", "axis", "mean"], "worker": ["queue", "tasks", "worker"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory, local_ray):
    """The folder of a zoo with ``embedder``, ``topic`` and ``topic-int8``; and theirs."""
    root = tmp_path_factory.mktemp("stages")
    theirs = sentence_folder(
        root / "m", "cls", ((12, nn.Tanh()), "normalize"), include_prompt=False
    )  # fmt: skip
    zoo = Zoo(str(root / "zoo"))
    import_checkpoint(zoo, f"hf:{root / 'm'}", ImportOptions(name="embedder"))
    rng = np.random.default_rng(0)
    rows = [
        {"text": f"the {' of '.join(rng.choice(WORDS[label], 2))} {n}", "label": label}
        for n in range(160)
        for label in WORDS
    ]
    run = {"name": "made", "zoo": zoo.root, "dir": str(root / "runs")}
    # Shorter texts than the embedder's limit, and a body that stays as it is.
    train = {"epochs": 1, "max_length": 8, "freeze": ["embedding", "encoder"]}
    data = {"source": rows, "text_column": "text", "label_column": "label"}
    orchestrator.run(
        "finetune",
        {"package": "embedder", "output": "topic", "data": data, "train": train, "run": run},
    )
    orchestrator.run(
        "quantize",
        {
            "package": "topic",
            "output": "topic-int8",
            "data": data,
            "goal": {"max_accuracy_drop": 1.0},
            "promotion": {"max_drop": {"default": 1.0}},
            "calibration_rows": 16,
            "mixed_plans": 1,
            "latency": {"rounds": 3, "calls": 1, "length": 8},
            "run": run | {"name": "smaller"},
        },
    )
    return root, theirs


def test_a_head_changes_neither_pooling_nor_limit_nor_prompts(made):
    root, theirs = made
    zoo = Zoo(root / "zoo")
    stated = [read_statement(zoo.get(name).path) for name in ("embedder", "topic", "topic-int8")]
    assert stated[0] is not None
    assert stated == [stated[0]] * 3
    child = orchestrator.load("topic", zoo=root / "zoo")
    for prompt in (None, "query"):
        expected = theirs.encode(list(TEXTS), prompt_name=prompt)
        np.testing.assert_allclose(child.embed(TEXTS, prompt), expected, atol=EXACT)
    assert child.predictor.max_length == 8
    assert child.predictor.embedding_reader.max_length == 24


def test_a_graph_in_int8_has_the_same_pooling(made):
    root, theirs = made
    graph = orchestrator.load("topic-int8", zoo=root / "zoo")
    for prompt in (None, "query"):
        expected = theirs.encode(list(TEXTS), prompt_name=prompt)
        cosines = (graph.embed(TEXTS, prompt) * expected).sum(axis=1)  # of unit length both
        assert cosines.min() > 0.98


def test_a_table_gets_the_vectors_of_a_prompt(made, tmp_path):
    root, theirs = made
    settings = {
        "package": "topic",
        "output": str(tmp_path / "out"),
        "embedding": True,
        "prompt": "query",
        "run": {"zoo": str(root / "zoo"), "dir": str(root / "runs")},
    }
    (tmp_path / "rows.txt").write_text("\n".join(TEXTS[:3]) + "\n")
    orchestrator.run("predict", {**settings, "input": str(tmp_path / "rows.txt")})
    found = np.stack(pd.read_parquet(tmp_path / "out")["answer_embedding"])
    expected = theirs.encode(list(TEXTS[:3]), prompt_name="query")
    np.testing.assert_allclose(found, expected, atol=EXACT)
    with pytest.raises(InputError, match="no prompt 'qery'"):
        orchestrator.run(
            "predict", {**settings, "prompt": "qery", "input": str(tmp_path / "rows.txt")}
        )
