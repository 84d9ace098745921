"""``orchestrator components``, and a component of another package in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.modeling.config import REGISTERED
from orchestrator.tasks.base import tasks

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples/third_party_encoder"


def run(capsys, *words):
    code = main(["components", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_everything_is_listed(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    for kind, registry in REGISTERED.items():
        assert f"\n{kind}\n" in f"\n{out}"
        assert all(f"\n  {name} " in out for name in registry.names())
    assert "\n  BertForMaskedLM " in out


def test_one_component_with_its_options(capsys):
    out = run(capsys, "transformer", "--kind", "encoder")[1]
    assert "num_layers: int = 2\n      Number of blocks." in out
    assert "mask: bidirectional | causal | prefix" in out
    assert "rotary.theta: float = 10000.0" in out
    assert "position_bias[t5].buckets: int = 32" in out
    assert "decoder transformer" not in out
    assert "decoder transformer" in run(capsys, "transformer")[1]
    assert "(required)" in run(capsys, "transformer")[1]


def test_one_kind(capsys):
    out = run(capsys, "--kind", "target")[1]
    assert "mlm" in out
    assert "\nencoder\n" not in out
    families = run(capsys, "--kind", "family")[1]
    assert "GPT2LMHeadModel" in families
    assert "gatedcnn" not in families


def test_json_holds_the_same(capsys):
    found = json.loads(run(capsys, "--json")[1])
    kinds = {(c["kind"], c["name"]) for c in found["components"]}
    registries = {**REGISTERED, "task": tasks}
    assert kinds == {(kind, name) for kind, r in registries.items() for name in r.names()}
    assert {"name": "GPT2LMHeadModel", "model_type": "gpt2", "processor": "text"} in found[
        "families"
    ]
    one = json.loads(run(capsys, "lstm", "--json")[1])["components"]
    assert [c["name"] for c in one] == ["lstm"]
    assert {"name", "type", "default", "required", "description"} == set(one[0]["options"][0])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["transfomer"], "Did you mean 'transformer'?"),
        (["--kind", "encodr"], "Did you mean 'encoder'?"),
        (["mlm", "--kind", "encoder"], "'mlm' is not a registered encoder"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest(capsys, words, text):
    code, _, err = run(capsys, *words)
    assert code == 2
    assert text in err


def python(code, path=""):
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=ROOT,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from orchestrator.cli import main; main(['components']); "
        "print({'torch', 'transformers', 'ray'} & set(sys.modules) or 'light')"
    )
    assert python(code).splitlines()[-1] == "light"


STEP = """
import torch
from orchestrator.cli import main
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.torch_engines import SingleEngine
assert main(["components", "deepsets"]) == 0
config = ModelConfig(
    hidden_size=16, vocab_size=40, max_position_embeddings=8, target="mlm",
    encoder={"type": "deepsets", "num_layers": 1},
)
torch.manual_seed(0)
engine = SingleEngine(build_model(config), OptimizerConfig(learning_rate=0.01))
ids = torch.randint(5, 40, (4, 8))
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels.mlm": ids}
before = engine.forward_backward([batch])["loss"]
engine.step()
print("better", engine.forward_backward([batch])["loss"] < before)
"""


def test_an_installed_package_adds_an_encoder(tmp_path):
    lines = (EXAMPLE / "third_party_encoder.py").read_text().splitlines()
    assert len(lines) <= 60
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "third_party_encoder.py", "README.md"):
        (copy / name).write_text((EXAMPLE / name).read_text())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(tmp_path / "site"), str(copy)]
    subprocess.run(install, check=True, timeout=120, capture_output=True)
    out = python(STEP, tmp_path / "site")
    assert "num_layers: int = 2\n      Number of layers." in out
    assert out.splitlines()[-1] == "better True"


def test_task_kinds_are_listed_with_their_options(capsys):
    from orchestrator.cli import main

    assert main(["components", "--kind", "task"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("task\n")
    assert all(kind in shown for kind in ("classification", "question_answering", "transcription"))
    assert main(["components", "question_answering"]) == 0
    assert "overlap_tokens: int = 64" in capsys.readouterr().out
