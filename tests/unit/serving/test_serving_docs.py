"""The page on serving: its requests are answered, its table names every option."""

import json
import re
import shlex
from pathlib import Path

import pytest

from orchestrator.config import StrictModel
from serving.config import ServingConfig
from serving.guard.errors import STATUS

PAGE = (Path(__file__).resolve().parents[3] / "docs/serving.md").read_text(encoding="utf-8")
CURLS = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("curl ")]


def leaves(model, prefix=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, StrictModel):
            yield from leaves(kind, f"{name}.")
        else:
            yield prefix + name, field.default


@pytest.mark.parametrize("words", CURLS, ids=lambda words: words[1])
def test_its_requests_are_answered(call, words):
    path = words[1].removeprefix("localhost:8000")
    if "-d" in words:
        answer = call("POST", path, json=json.loads(words[words.index("-d") + 1]))
    else:
        answer = call("GET", path)
    assert answer.status_code == 200, answer.text


def test_its_table_has_the_defaults_of_the_config():
    options_table = PAGE[PAGE.index("## Options") : PAGE.index("## Protocols")]
    rows = dict(re.findall(r"(?m)^\| `([a-z_.]+)` \| (\S+) ", options_table))
    options = dict(leaves(ServingConfig))
    assert set(rows) <= set(options)
    checked = 0
    for name, shown in rows.items():
        if re.fullmatch(r"[0-9.]+", shown):
            assert float(shown) == options[name], name
            checked += 1
    assert checked >= 12
    delays = {"autoscaling.upscale_delay_s", "autoscaling.downscale_delay_s"}
    hidden = delays | {"autoscaling.look_back_period_s"}
    assert all(name.rpartition(".")[2] in PAGE for name in set(options) - hidden)


def test_its_errors_are_all_errors():
    assert all(f"`{error_type}`" in PAGE for error_type in STATUS)
