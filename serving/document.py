"""``python -m serving.document > docs/openapi.json``: the OpenAPI document of all protocols."""

import json
import sys
from typing import Any, cast

from serving.asgi import create_app
from serving.config import Limits
from serving.guard.guard import Policy
from serving.metrics import Recorder
from serving.model.service import Service


def document() -> dict[str, Any]:
    """Return the document; it is the same for all packages, so none is loaded."""
    nothing = cast(Any, None)
    policy = Policy(Limits())
    service = Service(nothing, nothing, policy)
    found: dict[str, Any] = create_app(service, policy, cast(Recorder, nothing)).openapi()
    return found


def main() -> None:
    """Print the document."""
    sys.stdout.write(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
