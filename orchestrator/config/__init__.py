"""One strict config a job: YAML, then ``a.b=c`` overrides; all problems reported at once."""

from orchestrator.config.job import (
    NAME_PATTERN,
    ClusterSection,
    ElasticClusterSection,
    JobConfig,
    JobResult,
    Name,
    RunSection,
    TrialClusterSection,
)
from orchestrator.config.load import dump_yaml, json_schema, load_config, validate_config
from orchestrator.config.messages import did_you_mean, nearest
from orchestrator.config.strict import StrictModel, collect_problems, require_no_problems

__all__ = [
    "NAME_PATTERN",
    "ClusterSection",
    "ElasticClusterSection",
    "JobConfig",
    "JobResult",
    "Name",
    "RunSection",
    "StrictModel",
    "TrialClusterSection",
    "collect_problems",
    "did_you_mean",
    "dump_yaml",
    "json_schema",
    "load_config",
    "nearest",
    "require_no_problems",
    "validate_config",
]
