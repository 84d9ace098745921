"""A proxy score of another package: accepted by configs, computed, used in recall, reported."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.candidates import make_world

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples/third_party_proxy"

SELECTION = """
import sys
from pathlib import Path
from orchestrator.config import json_schema
from orchestrator.errors import ConfigError
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.halving import Bracket
from orchestrator.selection.outcome import selection_report
from orchestrator.selection.planning import plan_selection
from orchestrator.selection.recall import recall_candidates
from orchestrator.selection.results import JournalRow
from orchestrator.selection.scores.features import score_package
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.scores.features import ProxyPayload
from tests.support.candidates import select_job

world = Path(sys.argv[1])
config = select_job(world, matrix=None, recall={"proxies": ["fisher"], "k": 1})
assert "fisher" in str(json_schema(SelectConfig))
plan = plan_selection(config)
proxies = {
    model: score_package(
        ProxyPayload(
            package=model, zoo=plan.zoo, task=plan.spec, proxies=config.recall.proxies,
            rows=60, max_length=12, seed=3,
        )
    )
    for model in plan.to_score
}
recalled = recall_candidates(
    plan.recall, proxies, mode="default", predictor=plan.decider.predictor, pool=plan.pool
)
best = max(proxies, key=lambda model: proxies[model].values["fisher"])
assert [item.model for item in recalled if item.kept] == [best]
journal = Journal(world / "trials.jsonl")
bracket = Bracket((best,), 1, plan.decider.policy)
journal.append(JournalRow(trial=best, rung=1, validation=0.5, test=0.5, steps=1))
bracket.record(best, 1, 0.5)
report = selection_report(plan, recalled, proxies, bracket, journal)
for model, score in sorted(report.proxies.items()):
    print(model, sorted(score.values), score.values["fisher"] > 0, sorted(score.floors))
try:
    select_job(world, recall={"proxies": ["fischer"]})
except ConfigError as error:
    print(error)
"""


def test_an_installed_package_adds_a_proxy(tmp_path):
    world, source = tmp_path / "world", tmp_path / "source"
    world.mkdir()
    source.mkdir()
    make_world(world, encoders=("bert", "conv"))
    for name in ("pyproject.toml", "third_party_proxy.py", "README.md"):
        (source / name).write_text((EXAMPLE / name).read_text())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(tmp_path / "site"), str(source)]
    subprocess.run(install, check=True, timeout=120, capture_output=True)
    shown = subprocess.run(
        [sys.executable, "-c", SELECTION, str(world)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])},
        cwd=ROOT,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[:2] == [f"{model}/v0001 ['fisher'] True ['fisher']" for model in ("bert", "conv")]
    assert "'fischer' is not a registered proxy. Did you mean 'fisher'?" in shown.stdout
