import json
import re
import subprocess
import sys

import pytest

from orchestrator.config import require_no_problems, validate_config
from orchestrator.errors import ConfigError
from serving.config import Limits, ServingConfig


def test_defaults_are_those_of_text_embeddings_inference():
    limits = Limits()
    assert limits.max_concurrent_requests == 512
    assert limits.max_batch_tokens == 16384
    assert limits.max_client_batch_size == 32
    assert limits.max_body_bytes == 2_000_000


def test_flat_texts_of_serve_run_become_sections():
    config = ServingConfig.model_validate(
        {
            "model": "7",
            "cpus_per_replica": "0.5",
            "limits.max_body_bytes": "1000",
            "limits.request_timeout_s": "2",
            "autoscaling": {"max_replicas": 3},
            "autoscaling.min_replicas": "2",
            "target": "null",
        }
    )
    assert config.model == "7"
    assert config.cpus_per_replica == 0.5
    assert config.limits.max_body_bytes == 1000
    assert (config.autoscaling.min_replicas, config.autoscaling.max_replicas) == (2, 3)
    assert config.target is None


def test_misspelt_names_are_reported_with_the_nearest_one():
    with pytest.raises(ConfigError) as caught:
        validate_config(ServingConfig, {"model": "m", "limit": {}, "zo": "z"}, "somewhere")
    assert len(caught.value.problems) == 2
    assert "'limits'" in str(caught.value)
    assert "'zoo'" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "autoscaling.min_replicas"),
        ({"target_ongoing_requests": 1000}, "autoscaling.target_ongoing_requests"),
    ],
)
def test_contradictions_are_named(changes, path):
    config = ServingConfig.model_validate({"model": "m", "autoscaling": changes})
    with pytest.raises(ConfigError, match=re.escape(path)):
        require_no_problems(config, "test")


def test_a_config_survives_json():
    config = ServingConfig(model="m")
    assert ServingConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_importing_the_config_and_the_verb_is_light():
    code = (
        "import sys, serving.config, serving.cli, serving.serve_file; "
        "print(sorted({'torch', 'ray', 'fastapi', 'onnxruntime'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout.strip() == "[]"
