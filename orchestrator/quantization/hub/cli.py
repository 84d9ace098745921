"""The format ``onnx`` of ``orchestrator zoo export``."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError
from orchestrator.storage.json_files import json_bytes
from orchestrator.zoo import Zoo


def register(commands: Any) -> Any:
    """Add options to the command ``export`` of ``zoo``; return the commands."""
    leave = commands.choices["export"]
    leave.add_argument(
        "--format",
        choices=("transformers", "onnx"),
        default="transformers",
        help="weights for transformers (default), or an ONNX graph with tokenizer and config",
    )
    leave.add_argument(
        "--target",
        help="with --format onnx: the head that answers, or `embedding`; default: the package's",
    )
    other = leave.get_default("func")
    leave.set_defaults(func=lambda o: _export(o) if o.format == "onnx" else _other(o, other))
    return commands


def _other(options: argparse.Namespace, run: Any) -> Any:
    if options.target is not None:
        raise InputError("--target needs --format onnx: transformers' classes have one head.")
    return run(options)


def _export(options: argparse.Namespace) -> int:
    if options.adapter:
        raise InputError("--adapter has no graph of its own. Leave out --format onnx.")
    from orchestrator.quantization.hub.exporting import export_onnx

    package = Zoo(options.zoo).get(options.package)
    done = export_onnx(package, Path(options.to), options.target)
    if options.json:
        values = {"package": package.ref, "folder": options.to, **asdict(done)}
        sys.stdout.write(json_bytes(values).decode("utf-8"))
        return 0
    lines = [
        f"{package.ref} → {options.to}/{done.file} ({done.dtype}: {', '.join(done.outputs)})",
        f"Outputs differ from {done.compared} by at most {done.max_abs_difference:.2g}.",
        *done.notes,
        *([] if done.opens_in_transformers else [NO_CONFIG]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


NO_CONFIG = (
    "No class of transformers has this encoder, so that `optimum` does not open the folder; ONNX "
    "Runtime opens the graph."
)
