"""Configs of verbs that need no file: ``orchestrator evaluate package=spam data.source=...``."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, ClassVar

from pydantic import model_validator

from orchestrator.config.job import JobConfig

NAMELESS = ("run", "cluster")
"""Sections that say where a job runs; they are not part of its name."""


class CommandConfig(JobConfig):
    """A job whose run is named after its settings where ``run.name`` is not given.

    The same command continues its run; another one gets a folder of its own.
    """

    verb: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _with_name(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        section = data.get("run", {})
        if not isinstance(section, Mapping) or "name" in section:
            return data
        settings = {key: value for key, value in data.items() if key not in NAMELESS}
        text = json.dumps([settings, section.get("zoo")], sort_keys=True, default=str)
        name = f"{cls.verb}-{sha256(text.encode()).hexdigest()[:12]}"
        return {**data, "run": {**section, "name": name}}
