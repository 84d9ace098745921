"""docs/continual.md: its presets, options, YAML and code are those of the library."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from orchestrator.cli import JOBS, main
from orchestrator.continual.config import PRESETS, MethodConfig
from orchestrator.continual.parts.configs import CONTINUAL_PARTS
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from tests.support.streams import job, make_place
from tests.unit.continual.cf_reference import Net, task_data, torch_batch
from tests.unit.continual.net_task import step_of

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/continual.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def rows(pattern):
    return re.findall(rf"^\| `({pattern})` \| ([^|]+) \|", PAGE, flags=re.MULTILINE)


def test_presets_are_complete():
    told = {name: tuple(p for p in parts.strip().split(", ") if p != "–")
            for name, parts in rows(r"[a-z&+]+")}  # fmt: skip
    assert told == PRESETS


def test_every_option_is_listed_with_its_default():
    parts = "|".join(part.type_name() for part in MethodConfig().sections)
    told = {name: yaml.safe_load(default) for name, default in rows(rf"(?:{parts})\.\w+")}
    assert told == {
        f"{part.type_name()}.{name}": value
        for part in MethodConfig().sections
        for name, value in part.model_dump().items()
        if name != "enabled"
    }


@pytest.fixture(scope="module")
def pull():
    """The recipe's part, registered as its entry point would."""
    found = {"__name__": "recipe"}
    (code,) = blocks("python")
    exec(compile(code, "docs/continual.md", "exec"), found)
    return CONTINUAL_PARTS.add(found["Pull"])


def test_yaml_is_valid(pull, tmp_path):
    make_place(tmp_path)
    for text in blocks("yaml"):
        job(tmp_path, **yaml.safe_load(text))


def test_the_recipe_pulls_weights_back(pull):
    moved = []
    for strength in (0.0, 100.0):
        engine = SingleEngine(Net(), OptimizerConfig(learning_rate=0.02))
        before = engine.gathered()
        shared = {name: v for name, v in before.items() if name.startswith("trunk")}
        method = MethodConfig(preset="finetune", parts=[{"type": "pull", "strength": strength}])
        step = step_of(method, engine, weights=shared)
        for _ in range(10):
            step(engine, [torch_batch("one", *task_data(0))], 0.02)
        away = [(engine.gathered()[name] - value).norm() for name, value in shared.items()]
        moved.append(float(torch.stack(away).sum()))
    assert moved[1] < 0.8 * moved[0]


@pytest.mark.parametrize(
    "command", re.findall(r"^    orchestrator (.+?)(?: {2,}#.*)?$", PAGE, re.M)
)
def test_commands_are_accepted(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    verb, *words = command.split()
    assert verb in JOBS
    make_place(tmp_path)
    words = [word for word in words if word != "--check"]
    words += [f"run.zoo={tmp_path}/zoo", f"run.dir={tmp_path}/runs", "--check"]
    assert main([verb, *words]) == 0, capsys.readouterr().err
