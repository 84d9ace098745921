"""`/openapi.json` describes every request and answer, and the service keeps to it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate
from schemathesis.checks import CHECKS

from serving.guard.errors import STATUS
from serving.protocols.protocol import protocols

schemathesis.experimental = None
PROMISES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
