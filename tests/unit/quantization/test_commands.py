"""``orchestrator quantize PACKAGE`` without a file, ``--check --json`` and ``quantize inspect``."""

import json
import shutil

import pytest

from orchestrator.cli import main
from orchestrator.config import validate_config
from orchestrator.errors import InputError
from orchestrator.quantization import checks
from orchestrator.quantization.artifact import write_package
from orchestrator.quantization.backends import backend, hosts
from orchestrator.quantization.backends.hosts import this_host
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.emission import graph
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.inspect_cli import retime_config
from orchestrator.quantization.plans import PlanFile
from orchestrator.quantization.search import Search
from orchestrator.report.pages import package_page
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny
from tests.support.pools import InProcess


@pytest.fixture
def place(tmp_path):
    """Return a folder with a zoo and labelled rows; the package's suite names them."""
    rows = [
        {"text": f"{SENTENCES[index % 6]} {index}", "label": LABELS[index % 3]}
        for index in range(90)
    ]
    data = {"source": f"files:{tmp_path / 'rows.jsonl'}", "max_rows": 60}
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    exam = {
        "task": {"kind": "classification", "head": "topic", "labels": list(LABELS)},
        "data": {"spec": data},
        "status": "unverified",
        "reason": "it was made by a test",
        "primary": "accuracy",
    }
    suite = {"default": "topic", "exams": {"topic": exam}}
    commit_tiny(Zoo(tmp_path / "zoo"), files={"evaluation/suite.json": json.dumps(suite)})
    return tmp_path


def settings(place):
    return {
        "run": {"dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": "tiny",
        "goal": {"max_accuracy_drop": 1.0},
        "kinds": ["row_s7"],
        "calibration_rows": 8,
        "mixed_plans": 1,
        "latency": {"rounds": 3, "calls": 1, "length": 8},
    }


def test_a_package_and_a_goal_are_enough(place, capsys):
    zoo = f"run.zoo={place / 'zoo'}"
    words = ["quantize", "tiny", "goal.max_accuracy_drop=0.05", zoo, "--check"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"data: files:{place / 'rows.jsonl'}" in shown
    assert "max_accuracy_drop needs 59 validation rows with none lost" in shown
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "checked"
    assert found["lines"] == shown.splitlines()


def test_the_data_of_the_suite_are_read_with_its_cap_and_others_without(place):
    config = validate_config(QuantizeConfig, settings(place), "test")
    assert config.run.name.startswith("quantize-")
    assert sum(len(prepare(config).data.split(n)) for n in ("train", "validation", "test")) == 60
    other = {**settings(place), "data": {"source": f"files:{place / 'rows.jsonl'}"}}
    data = prepare(validate_config(QuantizeConfig, other, "test")).data
    assert sum(len(data.split(n)) for n in ("train", "validation", "test")) == 90


@pytest.mark.parametrize("before", [0, 1, 2])
def test_settings_of_retime_stand_before_and_behind_its_options(place, capsys, before):
    """The package is not quantized: what is asked for is read before that is said, as JSON too."""
    words = ["goal.max_accuracy_drop=0.9", "latency.rounds=3"]
    options = ["--zoo", str(place / "zoo")]
    command = ["quantize", "retime", "tiny", *words[:before], *options, *words[before:]]
    assert main(command) == 2
    found = capsys.readouterr()
    assert "tiny/v0001 is not quantized" in found.err
    line = json.loads(found.out.splitlines()[-1])
    assert (line["status"], line["exit_code"]) == ("failed", 2)
    with pytest.raises(SystemExit):
        main([*command, "--unknown"])
    assert "unrecognized arguments: --unknown" in capsys.readouterr().err


def commit_small(place, **changes):
    """Commit an INT8 package of the tiny one, and return what chose it."""
    config = validate_config(QuantizeConfig, {**settings(place), **changes}, "test")
    prepared, zoo = prepare(config), Zoo(place / "zoo")
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, InProcess()).run()
    producer, parents = {"stage": "test", "job": "test"}, [prepared.subject.package.ref]
    with zoo.draft("small", kind="quantized", producer=producer, parents=parents) as draft:
        write_package(draft.path, config, prepared, choice)
        draft.commit()
    return choice


@pytest.mark.slow
def test_a_package_is_chosen_again_among_its_measured_plans(place):
    choice = commit_small(place)
    commit_tiny(Zoo(place / "zoo"), seed=1)  # a newer version of the package that the job names
    config = retime_config("small", str(place / "zoo"), ["goal.max_accuracy_drop=0.9"])
    assert (config.front_of, config.output, config.package) == (
        "small/v0001",
        "small",
        "tiny/v0001",
    )
    assert config.goal.max_accuracy_drop == 0.9
    pool = InProcess()
    with RunFolder.open(config, "quantize") as folder:
        again = Search(config, prepare(config), folder, pool).run()
    assert [point.name for point in again.points] == [point.name for point in choice.points]
    assert pool.calls.count("measure_errors") == 1  # of the equalization, not of units
    assert pool.calls.count("measure_latencies") == 1
    with pytest.raises(InputError, match="is not quantized"):
        retime_config("tiny", str(place / "zoo"), [])


@pytest.mark.skipif(
    not this_host().sums_bytes_exactly, reason="a plan with full-range weights runs on VNNI alone"
)
def test_a_host_without_vnni_leaves_out_plans_that_it_would_saturate(place, monkeypatch):
    """The package was made where full-range weights are exact; it is chosen again where not."""
    commit_small(place, kinds=["row_s8", "row_u8"], mixed_plans=0)
    small = Zoo(place / "zoo").get("small")
    stored = PlanFile.of(small.read_json("plan.json"))
    assert stored.host == this_host()
    here = retime_config("small", str(place / "zoo"), [])
    old = this_host().model_copy(update={"cpu": "an older one", "isa": ("avx2",)})
    for module in (hosts, checks, graph, backend):
        monkeypatch.setattr(module, "this_host", lambda *_: old)
    config = retime_config("small", str(place / "zoo"), [])
    assert config.kinds == ("row_u8",)
    assert config.run.name != here.run.name  # what the other host measured is not taken over
    prepared = prepare(config)
    plans = checks.stored_plans(Zoo(place / "zoo"), "small", prepared.subject.units)
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, InProcess()).run()
        written = PlanFile.read(choice.folder)
    assert {point.name for point in choice.points} == set(plans)
    kinds = {kind for point in choice.points for kind in point.plan.kinds.values()}
    assert kinds == {"fp32", "row_u8"}
    assert written.host == old
    only = commit_wide(place, small)
    with pytest.raises(InputError, match=rf"no plan of {only} runs exactly on this CPU"):
        checks.stored_plans(Zoo(place / "zoo"), only, prepared.subject.units)


def commit_wide(place, small):
    """Commit a package whose measured plans all have full-range weights; return its reference."""
    front = small.read_json("evaluation/pareto.json")
    front["points"] = [p for p in front["points"] if "row_s8" in p["plan"].values()]
    assert front["points"]
    with Zoo(place / "zoo").draft(
        "wide", kind="quantized", producer={"stage": "test", "job": "t"}, parents=["tiny/v0001"]
    ) as draft:
        shutil.copytree(small.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        (draft.path / "evaluation/pareto.json").write_text(json.dumps(front))
        return draft.commit().ref


@pytest.mark.slow
def test_inspect_shows_plan_audit_front_and_rows(place, capsys):
    choice = commit_small(place)
    words = ["quantize", "inspect", "small", "--zoo", str(place / "zoo")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"{len(choice.point.plan.integer)} of 4 units executed in integers" in shown
    assert "encoder.layers.0.feed_forward.down" in shown
    assert f"{choice.point.name}*" in shown
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["digest"] == choice.point.plan.digest
    assert set(found["report"]["splits"]) == {"calibration", "validation", "test"}
    page = package_page(Zoo(place / "zoo"), "small").html()
    assert page.count("<svg") == 2  # the front, and the precision of every layer
    assert "divergence that the unit adds alone" in page
    assert "mathdefault" not in page  # formulas are not rendered in an SVG with real text
    assert main(["quantize", "inspect", "tiny", "--zoo", str(place / "zoo")]) == 2
    assert "is not quantized" in capsys.readouterr().err
