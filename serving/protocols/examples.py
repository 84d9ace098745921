"""One request body a route, shown on ``/docs``."""

from typing import Any, Final

PREDICT: Final[dict[str, Any]] = {"inputs": ["Return the sum of the elements."], "truncate": True}
EMBED: Final[dict[str, Any]] = {"inputs": ["Return the sum of the elements."], "normalize": True}
TOKENIZE: Final[dict[str, Any]] = {"inputs": "Return the sum of the elements."}
EMBEDDINGS: Final[dict[str, Any]] = {"input": ["Return the sum of the elements."]}
INFER: Final[dict[str, Any]] = {
    "inputs": [
        {
            "name": "text",
            "datatype": "BYTES",
            "shape": [1],
            "data": ["Return the sum of the elements."],
        }
    ],
    "parameters": {"truncate": True},
}
