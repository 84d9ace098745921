"""Packages as callables: which runtime, which names, which limits; and what cannot be served."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.errors import InputError, IntegrityError
from orchestrator.inference.inputs import Item, TooLongError
from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from orchestrator.zoo.manifest import Task
from serving.model.engine import load_engine
from tests.support.packages import LABELS, MAX_LENGTH, SENTENCES, commit_tiny, write_tiny


def folder_package(folder, **task):
    """A package as the zoo hands it over, for folders a zoo would not take."""
    manifest = SimpleNamespace(task=Task(kind="classification", **task))
    return SimpleNamespace(
        path=folder, name="tiny", version="v0001", ref="tiny/v0001", manifest_sha256="0" * 64,
        manifest=manifest, has=lambda _path: False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def onnx_package(package, tmp_path_factory):
    """The same weights, emitted as a float32 graph."""
    from orchestrator.quantization.emission.model import emit

    folder = tmp_path_factory.mktemp("onnx")
    model = load_model(package.path)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    (folder / "model.onnx").write_bytes(emit(model.config, state).to_bytes())
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        shutil.copy(package.path / name, folder)
    return folder_package(folder, labels={"topic": list(LABELS)})


def test_the_card_says_what_was_committed(engine, package):
    card = engine.card
    assert (card.ref, card.backend, card.dtype) == (package.ref, "torch", "float32")
    assert {name: task.labels for name, task in card.tasks.items()} == {"topic": LABELS}
    assert card.default_target == "topic"
    assert (card.max_length, card.embedding_size) == (MAX_LENGTH, 16)


def test_answers_do_not_depend_on_the_texts_beside_them(engine):
    for name in ("topic", "embedding"):
        together = engine.outputs(SENTENCES)[name]
        alone = [engine.outputs([text])[name][0] for text in SENTENCES]
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_vocabulary_heads_are_left_out_and_unnamed_classes_get_names(tmp_path):
    heads = ({"type": "mlm"}, {"type": "cls", "name": "a", "num_labels": 2},
             {"type": "cls", "name": "b", "num_labels": 4})  # fmt: skip
    write_tiny(tmp_path, targets=heads)
    engine = load_engine(folder_package(tmp_path, labels={"a": ["no", "yes"]}), target="b")
    labels = {name: task.labels for name, task in engine.card.tasks.items()}
    assert labels == {"a": ("no", "yes"), "b": tuple(f"LABEL_{i}" for i in range(4))}
    assert engine.card.default_target == "b"
    answers = engine.outputs(SENTENCES[:2], ("a", "b"))
    assert {name: np.shape(rows) for name, rows in answers.items()} == {"a": (2, 2), "b": (2, 4)}
    whole = load_model(tmp_path)
    loaded = engine.predictor.model._model.targets["a"].output.weight
    assert set(engine.predictor.model.heads) == {"a", "b"}
    np.testing.assert_array_equal(loaded.detach(), whole.targets["a"].output.weight.detach())


def test_a_language_model_gives_embeddings_only(tmp_path):
    write_tiny(tmp_path, targets=({"type": "mlm"},))
    engine = load_engine(folder_package(tmp_path))
    assert engine.card.default_target is None
    assert np.shape(engine.outputs(SENTENCES[:2])["embedding"]) == (2, 16)


def test_the_shortest_of_all_limits_counts(tmp_path):
    write_tiny(tmp_path)
    engine = load_engine(folder_package(tmp_path, max_length=10))
    assert engine.card.max_length == 10
    long = [Item("a"), Item("one two three four five six seven eight nine ten")]
    with pytest.raises(TooLongError, match="Input 1 has more than the 10 tokens"):
        engine.reader.encode(long, truncate=False)
    assert [len(item) for item in engine.reader.encode(long, truncate=True)] == [3, 10]


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_files_are_named(tmp_path, name, damage):
    write_tiny(tmp_path)
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match=name.partition(".")[0]):
        load_engine(folder_package(tmp_path))


def test_what_does_not_fit_is_refused(tmp_path):
    write_tiny(tmp_path)
    with pytest.raises(InputError, match="no head 'other'"):
        load_engine(folder_package(tmp_path), target="other")
    with pytest.raises(IntegrityError, match="3 outputs, its manifest names 2"):
        load_engine(folder_package(tmp_path, labels={"topic": ["a", "b"]}))
    with pytest.raises(InputError, match="reads image and holds no processor"):
        load_engine(folder_package(tmp_path, modality="vision"))


def test_a_committed_package_is_what_the_engine_reads(tmp_path):
    package = commit_tiny(Zoo(str(tmp_path)), seed=3)
    again = load_engine(Zoo(str(tmp_path)).get("tiny"))
    direct = load_engine(package)
    np.testing.assert_array_equal(
        again.outputs(SENTENCES)["topic"], direct.outputs(SENTENCES)["topic"]
    )


def test_onnx_packages_answer_like_torch(onnx_package, engine):
    onnx = load_engine(onnx_package)
    assert (onnx.card.backend, onnx.card.dtype) == ("onnxruntime", "float32")
    assert onnx.card.tasks["topic"].labels == engine.card.tasks["topic"].labels
    expected, actual = engine.outputs(SENTENCES), onnx.outputs(SENTENCES)
    assert set(actual) == set(expected)
    for name, rows in expected.items():
        np.testing.assert_allclose(actual[name], rows, atol=2e-5)


def test_onnx_packages_load_no_torch(onnx_package):
    code = (
        "import sys; from types import SimpleNamespace as N; from pathlib import Path; "
        "from serving.model.engine import load_engine; "
        "from orchestrator.zoo.manifest import Task; "
        f"task = Task(kind='classification', labels={{'topic': {list(LABELS)!r}}}); "
        f"package = N(path=Path({str(onnx_package.path)!r}), name='n', version='v0001', ref='n', "
        "manifest_sha256='', manifest=N(task=task), has=lambda _: False); "
        "found = load_engine(package).outputs(['a text'])['topic']; "
        "print(len(found), len(found[0]), 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=root, check=False
    )
    assert shown.stdout.split() == ["1", "3", "False"], shown.stderr


def test_config_json_stays_json(tmp_path):
    write_tiny(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 16
