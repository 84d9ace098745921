"""cluster.yaml and deploy/: valid as shipped, and with the other providers switched on."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster.yaml"
PROVIDERS = ("local", "aws", "gcp")


def with_provider(wanted: str) -> str:
    """The file with one provider's block active, as its header tells people to do it."""
    lines, inside = [], None
    for line in CLUSTER.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"# >>> (\w+)", line):
            inside = match[1]
        elif line.startswith("# <<<"):
            inside = None
        elif inside is not None:
            bare = line.removeprefix("#: ")
            lines.append(bare if inside == wanted else f"#: {bare}")
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"


def ray_schema():
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_shipped_file_is_the_local_one():
    assert with_provider("local") == CLUSTER.read_text(encoding="utf-8")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_provider_is_valid_against_rays_schema(provider):
    config = yaml.safe_load(with_provider(provider))
    assert config["provider"]["type"] == provider
    jsonschema.validate(config, ray_schema())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rays_own_preparation_accepts_each_provider(provider):
    """The first steps of `ray up` with the file: defaults, checks, worker limits."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(with_provider(provider)))
    validate_config(prepared)
    assert prepared["max_workers"] >= 1
    workers = {
        name: entry
        for name, entry in prepared["available_node_types"].items()
        if name != prepared["head_node_type"] or provider == "local"
    }
    assert all(entry["min_workers"] <= entry["max_workers"] for entry in workers.values())


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_clouds_have_spot_cpu_and_gpu_workers_and_a_lasting_head(provider):
    config = yaml.safe_load(with_provider(provider))
    types = config["available_node_types"]
    assert {"head", "cpu", "gpu"} == set(types)
    assert "spot" not in json.dumps(types["head"])
    assert "preemptible" not in json.dumps(types["head"])
    for name in ("cpu", "gpu"):
        assert types[name]["min_workers"] == 0
        assert re.search(r'"MarketType": "spot"|"preemptible": true', json.dumps(types[name]))
    assert config["idle_timeout_minutes"] > 0
    assert sum(entry["max_workers"] for entry in types.values()) <= config["max_workers"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_node_starts_with_token_authentication(provider):
    config = yaml.safe_load(with_provider(provider))
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        assert re.search(r"RAY_AUTH_MODE=token .*ray start", command)
        assert "0.0.0.0" not in command
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"])


def test_setup_installs_this_project():
    config = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    (remote,) = [path for path, local in config["file_mounts"].items() if local == "."]
    assert any("pip install" in c and remote in c for c in config["setup_commands"])
    assert {".git", ".venv"} <= set(config["rsync_exclude"])


# --- deploy/ -------------------------------------------------------------------------------------


def manifests(name):
    text = (ROOT / "deploy/kuberay" / name).read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def cluster_specs():
    job = manifests("rayjob-pretrain.yaml")["RayJob"]["spec"]["rayClusterSpec"]
    service = manifests("rayservice.yaml")["RayService"]["spec"]["rayClusterConfig"]
    return {"job": job, "service": service}


@pytest.mark.parametrize("which", ["job", "service"])
def test_kuberay_clusters_ask_for_the_token_and_run_without_root(which):
    spec = cluster_specs()[which]
    assert spec["authOptions"] == {"mode": "token"}
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    images = {c["image"] for pod in pods for c in pod["template"]["spec"]["containers"]}
    assert len(images) == 1
    assert not any(image.endswith(":latest") for image in images)
    for pod in pods:
        template = pod["template"]["spec"]
        assert template["securityContext"]["runAsNonRoot"] is True
        for container in template["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_versions_are_those_of_the_project():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (ray_version,) = re.findall(r'"ray\[[^\]]+\]==([\d.]+)"', project)
    assert {spec["rayVersion"] for spec in cluster_specs().values()} == {ray_version}
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert f"rayproject/ray:{ray_version}-py311" in dockerfile
    (torch_version,) = re.findall(r'"torch==([\d.]+)"', project)
    assert f"torch=={torch_version}" in dockerfile


def test_the_rayservice_serves_a_config_that_serve_and_we_accept():
    from ray.serve.schema import ServeDeploySchema

    from orchestrator.config import validate_config
    from serving.config import ServingConfig

    service = manifests("rayservice.yaml")["RayService"]["spec"]
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"]))
    (application,) = schema.applications
    assert application.import_path == "serving.app:build"
    config = validate_config(ServingConfig, application.args, "rayservice.yaml")
    assert config.api_keys_file  # it listens on all addresses
    assert "gcsFaultToleranceOptions" in service["rayClusterConfig"]
    assert service["upgradeStrategy"] == {"type": "NewCluster"}


def test_the_rayjob_runs_a_job_that_exists():
    job = manifests("rayjob-pretrain.yaml")["RayJob"]["spec"]
    words = job["entrypoint"].split()
    assert (ROOT / words[1]).is_file()
    assert (ROOT / words[words.index("--config") + 1]).is_file()
    assert job["backoffLimit"] > 0


def test_the_image_ends_as_an_ordinary_user_without_a_token():
    lines = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1] == "ray"
    assert "RAY_AUTH_MODE=token" in "\n".join(lines)
    assert not any(re.search(r"AUTH_TOKEN=|ADD http", line) for line in lines)
