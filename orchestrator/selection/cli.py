"""``orchestrator select replay``: the selection on stored curves."""

import argparse
import json
import sys
from typing import Any

from orchestrator.errors import InputError


def register(subparsers: Any) -> None:
    """Add ``select replay`` to the command line."""
    from orchestrator.selection.policies.base import POLICIES

    select = subparsers.add_parser("select", help="`select replay`: selection on stored curves")
    verbs = select.add_subparsers(dest="select_verb", required=True)
    replay = verbs.add_parser("replay", help="replay the selection on a stored matrix")
    replay.add_argument("--matrix", required=True, help="performance matrix (.parquet or .csv)")
    replay.add_argument("--targets", help="data sets to select for, comma-separated (default: all)")
    replay.add_argument(
        "--never-history", default="", help="columns left out of every history, comma-separated"
    )
    replay.add_argument("--policy", choices=POLICIES.names(), default="default")
    replay.add_argument("--keep", type=int, help="models recalled; 0 for all")
    replay.add_argument("--budget", type=int, help="hard limit of epochs")
    replay.add_argument("--tags", action="store_true", help="use declared training sets")
    replay.add_argument("--json", action="store_true", help="print JSON instead of a table")
    replay.set_defaults(func=run_replay)


def run_replay(options: argparse.Namespace) -> int:
    """Replay, print, and return the exit code.

    Raises:
        InputError: The matrix or a target does not exist.
    """
    from orchestrator.selection.matrix.files import read_matrix
    from orchestrator.selection.replay import ReplaySettings, replay

    if options.keep is not None and options.keep < 0:
        raise InputError(f"--keep: {options.keep} models cannot be recalled. Use 0 for all.")
    matrix = read_matrix(options.matrix)
    settings = ReplaySettings(
        policy=options.policy,
        keep=options.keep,
        never_history=tuple(_names(options.never_history)),
        budget=options.budget,
        use_tags=options.tags,
    )
    report = replay(matrix, _names(options.targets) or list(matrix.dataset_names), settings)
    if options.json:
        rows = [result.model_dump() for result in report.results]
        text = json.dumps({"summary": report.summary().model_dump(), "targets": rows}, indent=1)
    else:
        text = report.table()
    sys.stdout.write(text + "\n")
    return 0


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]
