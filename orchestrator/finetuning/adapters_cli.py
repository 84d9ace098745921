"""Adapters in ``orchestrator zoo import --onto PACKAGE`` and ``zoo export --adapter``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError, RefusedError
from orchestrator.storage.json_files import json_bytes
from orchestrator.zoo import Zoo
from orchestrator.zoo.gate import Promotion


def register(commands: Any) -> Any:
    """Add options to the two commands of ``zoo``; return the commands.

    Args:
        commands: Subparsers that have ``import`` and ``export`` already.
    """
    enter, leave = commands.choices["import"], commands.choices["export"]
    enter.add_argument(
        "--onto", metavar="PACKAGE", help="the source is an adapter of peft, trained on PACKAGE"
    )
    enter.add_argument(
        "--keep-adapter", action="store_true", help="with --onto: keep the adapter's own files"
    )
    enter.add_argument(
        "--allow-unverified",
        action="append",
        default=[],
        metavar="HEAD",
        help="with --onto: accept although nothing tells whether this head still answers as well",
    )
    leave.add_argument(
        "--adapter",
        action="store_true",
        help="the package's adapter, for peft, not the whole model",
    )
    whole_import, whole_export = enter.get_default("func"), leave.get_default("func")
    enter.set_defaults(func=lambda o: _import(o) if _is_adapter(o) else whole_import(o))
    leave.set_defaults(func=lambda o: _export(o) if o.adapter else whole_export(o))
    return commands


def _is_adapter(options: argparse.Namespace) -> bool:
    return bool(options.onto or options.keep_adapter or options.allow_unverified)


def _import(options: argparse.Namespace) -> int:
    if not options.onto:
        option = "--keep-adapter" if options.keep_adapter else "--allow-unverified"
        raise InputError(f"{option} needs --onto PACKAGE: an adapter belongs to a package.")
    if not options.source.startswith("hf:"):
        raise InputError(f"{options.source!r} is not an adapter. Use hf:<folder or Hub id>.")
    if options.leave_out:
        raise InputError("--leave-out has no effect with --onto. Leave it out.")
    from orchestrator.finetuning.adapters import import_adapter

    package = import_adapter(
        Zoo(options.zoo),
        options.source,
        options.onto,
        name=options.name,
        keep=options.keep_adapter,
        revision=options.revision,
        licence=options.licence,
        promotion=Promotion(allow_unverified=tuple(options.allow_unverified)),
    )
    metrics = package.manifest.metrics
    _write(
        options, {"package": package.ref, "metrics": metrics}, f"{options.source} → {package.ref}"
    )
    if package.manifest.status == "rejected":
        raise RefusedError(package.ref, package.manifest.reasons)
    return 0


def _export(options: argparse.Namespace) -> int:
    from orchestrator.finetuning.adapters import export_adapter

    layers = export_adapter(Zoo(options.zoo), options.package, Path(options.to))
    _write(
        options,
        {"package": options.package, "folder": options.to, "layers": layers},
        f"adapter of {options.package} → {options.to} ({len(layers)} layers)",
    )
    return 0


def _write(options: argparse.Namespace, values: dict[str, Any], text: str) -> None:
    sys.stdout.write(json_bytes(values).decode("utf-8") if options.json else f"{text}\n")
