"""``orchestrator zoo import`` and ``zoo export``: import and export Hugging Face checkpoints."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError
from orchestrator.zoo.cli import Writer, add_command, write_json
from orchestrator.zoo.zoo import Zoo

SOURCES = ("hf:<folder or Hub id>", "tencentpretrain:<config.json>,<weights>[,<tokenizer>]")


def register(commands: Any) -> Any:
    """Add the two commands to those of ``zoo``; return the commands."""
    enter = add_command(commands, "import", import_model, "a Hugging Face checkpoint → package")
    enter.add_argument("source", help=" or ".join(SOURCES))
    enter.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    enter.add_argument("--name", help="name of the package; default: the last part of the source")
    enter.add_argument("--licence", help="SPDX identifier")
    enter.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that need not be read although the files hold them; may be repeated",
    )
    leave = add_command(commands, "export", export_model, "a package → folder for transformers")
    leave.add_argument("package", help="name, name@alias or name/v0001")
    leave.add_argument("--to", required=True, help="folder that does not exist yet")
    return commands


def import_model(options: argparse.Namespace, write: Writer) -> int:
    """Import a checkpoint and report the outcome.

    Raises:
        InputError: The source is not of a known kind, or cannot be used.
        IntegrityError: The checkpoint is incomplete, or the numeric check failed.
    """
    scheme = options.source.partition(":")[0]
    importers: dict[str, Callable[[argparse.Namespace], Any]] = {
        "hf": _import_hugging_face,
        "tencentpretrain": _import_tencentpretrain,
    }
    if ":" not in options.source or scheme not in importers:
        raise InputError(
            f"{options.source!r} is not a source of models. Use {' or '.join(SOURCES)}; a folder "
            "is given as hf:./folder."
        )
    package = importers[scheme](options)
    metrics = package.manifest.metrics
    if options.json:
        write_json(write, {"package": package.ref, "metrics": metrics})
        return 0
    write(f"{options.source} → {package.ref}\n")
    if "import.max_abs_difference" in metrics:
        difference = metrics["import.max_abs_difference"]
        write(f"Outputs differ from the original by at most {difference:.2g}.\n")
    if "import.embedding_max_abs_difference" in metrics:
        difference = metrics["import.embedding_max_abs_difference"]
        write(f"Vectors of texts differ from the original by at most {difference:.2g}.\n")
    report = package.read_json("evaluation/import.json")
    for line in report.get("deviations", []):
        write(f"Deviation: {line}.\n")
    if report.get("other_heads_left_out"):
        write(f"Left out: {', '.join(report['other_heads_left_out'])} (of other heads).\n")
    return 0


def export_model(options: argparse.Namespace, write: Writer) -> int:
    """Export a package and report what was checked.

    Raises:
        InputError: The model has no counterpart in transformers, or the folder is not empty.
        IntegrityError: The package is damaged, or the numeric check failed.
    """
    from orchestrator.modeling.huggingface.exporting import export_package

    package = Zoo(options.zoo).get(options.package)
    report = export_package(package, Path(options.to))
    if options.json:
        write_json(write, {"package": package.ref, "folder": options.to} | report.to_json())
        return 0
    write(f"{package.ref} → {options.to}\n")
    write(f"Outputs differ from ours by at most {report.max_abs_difference:.2g}.\n")
    if (difference := report.max_embedding_difference) is not None:
        write(f"Vectors of texts differ from ours by at most {difference:.2g}.\n")
    return 0


def _import_hugging_face(options: argparse.Namespace) -> Any:
    from orchestrator.modeling.huggingface.importing import import_checkpoint

    return import_checkpoint(Zoo(options.zoo), options.source, _how(options))


def _import_tencentpretrain(options: argparse.Namespace) -> Any:
    from orchestrator.modeling.tencentpretrain.importing import import_tencentpretrain

    return import_tencentpretrain(Zoo(options.zoo), options.source, _how(options))


def _how(options: argparse.Namespace) -> Any:
    from orchestrator.modeling.huggingface.importing import ImportOptions

    return ImportOptions(
        revision=options.revision,
        name=options.name,
        leave_out=tuple(options.leave_out),
        licence=options.licence,
    )
