"""`orchestrator serve` and the config files, up to the point where Ray would start."""

import re
import socket
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.errors import ConfigError, InputError, IntegrityError
from orchestrator.zoo import Zoo
from serving.config import ServingConfig
from serving.preflight import resolve
from serving.serve_file import Plan, check_plan, read_plan
from tests.support.packages import commit_tiny

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "serving/configs").glob("*.yaml"))


@pytest.fixture
def zoo(tmp_path):
    zoo = Zoo(str(tmp_path / "zoo"))
    commit_tiny(zoo, "news")
    return zoo


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(capsys, *arguments):
    code = main(["serve", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_check_shows_the_pinned_package_and_starts_nothing(capsys, zoo, tmp_path):
    port = free_port()
    code, out, _ = serve(
        capsys, "--model", "news", "--zoo", tmp_path / "zoo", "--port", port, "--check"
    )
    assert code == 0
    assert "news/v0001" in out
    assert f"http://127.0.0.1:{port}" in out


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nwes", "news"),
        ("news@champoin", "champoin"),
        ("news/v0007", "v0007"),
        ("../news", "../news"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_what_is(capsys, zoo, tmp_path, model, expected):
    code, out, err = serve(capsys, "--model", model, "--zoo", tmp_path / "zoo", "--check")
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err


def test_a_missing_zoo_is_named(capsys, tmp_path):
    code, _, err = serve(capsys, "--model", "news", "--zoo", tmp_path / "none", "--check")
    assert code == 2
    assert str(tmp_path / "none") in err


def test_a_corrupt_package_is_refused_before_anything_starts(capsys, zoo, tmp_path):
    weights = zoo.get("news").path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    for ref in ("news", "news/v0001"):
        with pytest.raises(IntegrityError, match=re.escape("model.safetensors")):
            resolve(ServingConfig(model=ref, zoo=str(tmp_path / "zoo")))
    code, _, err = serve(capsys, "--model", "news/v0001", "--zoo", tmp_path / "zoo", "--check")
    assert code == 4
    assert "model.safetensors" in err


def test_a_busy_port_is_one_error_at_once(capsys, zoo, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code, out, err = serve(capsys, "--model", "news", "--zoo", tmp_path / "zoo", "--port", port)
    assert (code, out) == (2, "")
    assert f"127.0.0.1:{port} cannot be used" in err
    assert len(err.strip().splitlines()) == 1


def test_settings_are_checked_with_all_problems(capsys, zoo, tmp_path):
    code, _, err = serve(
        capsys, "--model", "news", "--zoo", tmp_path / "zoo", "--check",
        "limits.max_body_byte=1", "batching.max_batch_size=0",
    )  # fmt: skip
    assert code == 2
    assert "2 problems" in err
    assert "max_body_bytes" in err


def test_everybody_may_only_reach_a_service_that_asks_for_keys(capsys, zoo, tmp_path):
    code, _, err = serve(
        capsys, "--model", "news", "--zoo", tmp_path / "zoo", "--host", "0.0.0.0", "--check"
    )
    assert code == 2
    assert "api_keys_file" in err
    code, line, err = serve(capsys, "--new-key", "alice")
    keys = tmp_path / "keys.txt"
    keys.write_text(line)
    assert code == 0
    secret = err.strip().rpartition(" ")[2]
    assert secret not in line
    code, out, _ = serve(
        capsys, "--model", "news", "--zoo", tmp_path / "zoo", "--host", "0.0.0.0",
        "--port", free_port(), "--check", f"api_keys_file={keys}",
    )  # fmt: skip
    assert code == 0
    assert str(keys) in out


def test_nothing_to_serve_is_said(capsys):
    code, _, err = serve(capsys, "--check")
    assert code == 2
    assert "--model" in err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_presets_are_valid_for_serve_and_for_us(path):
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    plan = read_plan(path, [])
    check_plan(plan)
    assert schema.http_options.host == plan.host == "127.0.0.1"
    assert (schema.http_options.port, schema.applications[0].name) == (plan.port, plan.name)
    assert plan.config.autoscaling.max_replicas > plan.config.autoscaling.min_replicas
    assert schema.http_options.request_timeout_s > plan.config.limits.request_timeout_s


def test_there_are_presets():
    assert [path.name for path in CONFIGS] == ["classify.yaml", "embed.yaml"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"applications": []}, "lists no `applications`"),
        ({"applications": [{"import_path": "os:system"}]}, "os:system"),
        ({"applications": [{}, {}]}, "2 are listed"),
        ("just text", "lists no `applications`"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_plan(path, [])


def test_overrides_reach_the_arguments_of_the_application():
    plan = read_plan(CONFIGS[0], ["model=other/v0002", "limits.max_body_bytes=10"])
    assert plan.config.model == "other/v0002"
    assert plan.config.limits.max_body_bytes == 10


def test_a_plan_for_ipv6_has_a_usable_address():
    assert Plan(ServingConfig(model="m"), host="::1", port=80).url == "http://[::1]:80"


def test_a_removed_key_file_is_an_input_error(zoo, tmp_path):
    keys = str(tmp_path / "gone")
    with pytest.raises(InputError, match="gone"):
        resolve(ServingConfig(model="news", zoo=str(tmp_path / "zoo"), api_keys_file=keys))
