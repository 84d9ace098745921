"""Dashboards and rules: well-formed, and every metric they use is one that somebody exports."""

import functools
import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from serving import metrics

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "dashboards"
BOARDS = sorted(FOLDER.glob("*.json"))
# Exported by Ray 2.60 but on none of the dashboards it ships.
MORE_OF_RAY = {"ray_node_cpu_utilization"}
WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
VARIABLES = {
    "datasource", "SessionName", "Cluster", "Application", "Deployment", "Replica", "Route",
    "TrainRunName",
}  # fmt: skip


@functools.cache
def names_of_ray() -> frozenset[str]:
    """Metric names in the panels that the installed Ray ships."""
    package = Path(find_spec("ray").origin).parent / "dashboard/modules/metrics/dashboards"
    text = "\n".join(path.read_text() for path in package.glob("*_panels.py"))
    return frozenset(re.findall(r"\b(?:ray|autoscaler)_[a-z0-9_]+", text)) | MORE_OF_RAY


@functools.cache
def names_of_training() -> frozenset[str]:
    """The driver's exported metrics of every training run."""
    from orchestrator.cluster.observe import watch as training

    source = Path(training.__file__).read_text(encoding="utf-8")
    written_out = re.findall(r'"(orch_train_[a-z_]+)"', source)
    return frozenset(
        f"ray_{name}"
        for name in (*written_out, *(f"orch_train_{gauge}" for gauge in training.GAUGES))
    )


def names_of_selection() -> frozenset[str]:
    """The driver's exported metrics of every selection."""
    from orchestrator.selection.monitoring import GAUGES

    return frozenset(f"ray_{name}" for name in GAUGES)


def known() -> frozenset[str]:
    exported = names_of_training() | names_of_selection() | metrics.EXPORTED
    return names_of_ray() | exported | recorded()


def metric_names(expression: str) -> set[str]:
    """Names of the series an expression reads: words followed by a selector or a range."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    return {
        word
        for word in WORD.findall(bare)
        if word.startswith(("ray_", "orch:", "orch_", "autoscaler_"))
    }


def board(path):
    return json.loads(path.read_text(encoding="utf-8"))


def panels(path):
    return [panel for panel in board(path)["panels"] if panel["type"] != "row"]


def rules():
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def test_there_is_a_dashboard_for_each_part():
    assert [path.stem for path in BOARDS] == ["selection", "serving", "train"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
class TestDashboard:
    def test_it_has_our_identity_and_known_variables(self, path):
        found = board(path)
        assert found["uid"].startswith("orch")
        assert found["tags"] == ["orchestrator"]
        variables = {variable["name"] for variable in found["templating"]["list"]}
        assert {"datasource", "SessionName", "Cluster"} <= variables <= VARIABLES
        used = set(re.findall(r"\$\{?([A-Za-z_]+)\}?", json.dumps(found["panels"])))
        assert used <= variables | {"__rate_interval"}
        assert variables <= used

    def test_every_panel_asks_for_metrics_that_exist(self, path):
        assert panels(path)
        for panel in panels(path):
            assert panel["targets"], panel["title"]
            for target in panel["targets"]:
                names = metric_names(target["expr"])
                assert names, panel["title"]
                assert names <= known(), panel["title"]
                assert 'SessionName=~"$SessionName"' in target["expr"]

    def test_panels_have_titles_and_do_not_overlap(self, path):
        taken, numbers, titles = set(), set(), set()
        for panel in board(path)["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells
            numbers.add(panel["id"])
            titles.add(panel["title"])
        assert len(numbers) == len(titles) == len(board(path)["panels"])

    def test_selectors_and_brackets_close(self, path):
        for panel in panels(path):
            for target in panel["targets"]:
                for opening, closing in ("()", "{}", "[]"):
                    assert target["expr"].count(opening) == target["expr"].count(closing)


def test_every_metric_of_a_selection_has_a_panel():
    shown = set()
    for panel in panels(FOLDER / "selection.json"):
        for target in panel["targets"]:
            shown |= metric_names(target["expr"])
    assert names_of_selection() <= shown


def test_dashboards_have_different_identities():
    assert len({board(path)["uid"] for path in BOARDS}) == len(BOARDS)


def test_rules_use_metrics_that_exist_and_say_what_to_do():
    for rule in rules():
        names = metric_names(rule["expr"])
        assert names <= known(), rule
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert {"summary", "action"} == set(rule["annotations"])


def test_burn_rates_are_those_of_the_objective():
    alerts = {rule["alert"]: rule["expr"] for rule in rules() if "alert" in rule}
    fast, slow = alerts["ServingErrorBudgetBurnsFast"], alerts["ServingErrorBudgetBurnsSlowly"]
    assert fast.count("> 14.4 * 0.001") == 2
    assert {"rate1h", "rate5m"} <= set(re.findall(r"ratio:(\w+)", fast))
    assert slow.count("> 6 * 0.001") == 2
    assert {"rate6h", "rate30m"} <= set(re.findall(r"ratio:(\w+)", slow))


def test_configuration_files_fit_together():
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert prometheus["rule_files"] == ["rules.yml"]
    (job,) = prometheus["scrape_configs"]
    discovery = job["file_sd_configs"][0]["files"][0]
    assert discovery.endswith("/prom_metrics_service_discovery.json")
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    mounts = [mount for service in services.values() for mount in service["volumes"]]
    for mount in mounts:
        source = mount.split(":")[0]
        assert source.startswith("/tmp/ray") or (FOLDER / source).exists(), mount
    providers = yaml.safe_load((FOLDER / "provisioning/dashboards/orchestrator.yml").read_text())
    ours = providers["providers"][0]["options"]["path"]
    assert any(mount.split(":")[1] == ours for mount in mounts)
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())
    assert sources["datasources"][0]["type"] == "prometheus"
    assert not any(image["image"].endswith(":latest") for image in services.values())


def test_promtool_accepts_the_rules_and_their_tests():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    for arguments in (("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")):
        shown = subprocess.run(
            [promtool, *arguments],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
