"""A part of another package, installed beside the orchestrator, in a real short stream."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.streams import make_place

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples/third_party_continual_part"

STREAM = """
import json, sys
from pathlib import Path
import torch
from orchestrator.cluster.context import Worker
from orchestrator.continual.config import ContinualInputs
from orchestrator.continual.outcome import Outcome
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import units_of
from orchestrator.continual.worker import run
from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from tests.support.streams import job

place = Path(sys.argv[1])
parent = Zoo(place / "zoo").get("encoder")
found = {}
for name, parts in {"plain": [], "lwf": [{"type": "lwf", "weight": 4.0}]}.items():
    config = job(place, dropout=0.0, method={"preset": "finetune", "parts": parts})
    folder = place / name
    folder.mkdir()
    inputs = ContinualInputs(config=config, zoo=config.run.zoo, package="encoder")
    run(Worker.alone(folder), inputs)
    outcome = Outcome.read(config, parent, Stages(folder / "stream", units_of(config)))
    answers = []
    for unit in (0, 1):
        model = load_model(parent.path, targets=outcome.stream.heads(parent.path)).eval()
        model.load_state_dict(outcome.stages.weights(unit))
        batch = outcome.stream.samples(1, "test").collate(torch.arange(20).numpy(), 0)
        with torch.no_grad():
            answers.append(model.predict(batch)["task0"].softmax(-1))
    frame = outcome.stages.history(1).frame()
    found[name] = {
        "moved": float((answers[1] - answers[0]).abs().mean()),
        "metrics": sorted(set(frame[frame.split == "train"].metric)),
        "method": outcome.evaluation().method,
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Install the example into a folder of its own and learn two tasks without and with it."""
    folder = tmp_path_factory.mktemp("third_party")
    copy, site, place = folder / "source", folder / "site", folder / "place"
    copy.mkdir()
    for path in EXAMPLE.iterdir():
        if path.is_file():
            (copy / path.name).write_text(path.read_text())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(site), str(copy)]
    subprocess.run(install, check=True, timeout=120, capture_output=True)
    place.mkdir()
    make_place(place, dropout=0.0)
    shown = subprocess.run(
        [sys.executable, "-c", STREAM, str(place)],
        capture_output=True, text=True, timeout=300, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


def test_the_part_adds_its_term_to_the_loss(found):
    assert {"loss.lwf", "count.lwf"} <= set(found["lwf"]["metrics"])
    assert not any("lwf" in metric for metric in found["plain"]["metrics"])
    assert found["lwf"]["method"]["lwf"] is True
    assert "lwf" not in found["plain"]["method"]


def test_the_earlier_head_answers_as_before(found):
    assert found["lwf"]["moved"] < 0.5 * found["plain"]["moved"]
