"""``select replay``: selection on stored curves, by our method and by others."""

import argparse
import json
import sys
from typing import Any

from pydantic import JsonValue

from orchestrator.errors import InputError
from orchestrator.selection.matrix.clustering import NLP_THRESHOLD
from orchestrator.selection.policies.base import POLICIES
from orchestrator.selection.replay.methods import METHODS, ReplaySettings


def register(subparsers: Any) -> None:
    """Add ``select replay`` to the command line."""
    select = subparsers.add_parser("select", help="`select replay`: selection on stored curves")
    verbs = select.add_subparsers(dest="select_verb", required=True)
    replay = verbs.add_parser("replay", help="replay the selection on a stored matrix")
    replay.add_argument("--matrix", required=True, help="performance matrix (.parquet or .csv)")
    replay.add_argument("--target", help="data set to select for: one result")
    replay.add_argument("--targets", help="several, comma-separated (default: all): a summary")
    replay.add_argument("--method", choices=METHODS, default="two_phase")
    replay.add_argument("--proxy", help="stored proxy scores of the target")
    replay.add_argument(
        "--never-history", default="", help="columns left out of every history, comma-separated"
    )
    replay.add_argument(
        "--policy", choices=POLICIES.names(), default="default", help="of two_phase"
    )
    replay.add_argument("--keep", type=int, help="models recalled; 0 for all")
    replay.add_argument("--budget", type=int, help="hard limit of epochs")
    replay.add_argument("--tags", action="store_true", help="use declared training sets")
    replay.add_argument(
        "--threshold", type=float, default=NLP_THRESHOLD, help="distance of one cluster, in paper"
    )
    replay.add_argument("--seed", type=int, default=0, help="of random, asha and hyperband")
    replay.add_argument(
        "--first-rung-steps",
        type=int,
        help="halving.first_rung_steps; refused: stored curves have no score within an epoch",
    )
    replay.add_argument("--json", action="store_true", help="print JSON instead of a table")
    replay.set_defaults(func=run_replay)


def run_replay(options: argparse.Namespace) -> int:
    """Replay, print, and return the exit code.

    Raises:
        InputError: The matrix, a target or the proxy scores cannot be used, or the options do not
            fit the method.
    """
    from orchestrator.selection.matrix.cli import names_of
    from orchestrator.selection.matrix.files import read_matrix
    from orchestrator.selection.replay.playing import replay
    from orchestrator.selection.replay.proxy_files import read_proxies

    if options.target is not None and options.targets is not None:
        raise InputError("--target and --targets: give one of them.")
    if options.targets is not None and not names_of(options.targets):
        raise InputError("--targets: names no data set; without it, every one is the target.")
    if options.proxy and not options.target:
        raise InputError("--proxy: the scores belong to one target. Name it with --target.")
    matrix = read_matrix(options.matrix)
    settings = ReplaySettings(
        method=options.method,
        policy=options.policy,
        keep=options.keep,
        never_history=names_of(options.never_history),
        budget=options.budget,
        use_tags=options.tags,
        threshold=options.threshold,
        seed=options.seed,
        first_rung_steps=options.first_rung_steps,
    )
    proxies = read_proxies(options.proxy, matrix.models) if options.proxy else None
    single = options.target is not None
    targets = [options.target] if single else names_of(options.targets)
    report = replay(matrix, targets, settings, proxies)
    told: dict[str, JsonValue]
    if single:
        told = report.results[0].model_dump(mode="json")
    else:
        rows: list[JsonValue] = [result.model_dump(mode="json") for result in report.results]
        told = {"summary": report.summary().model_dump(mode="json"), "targets": list(rows)}
    text = json.dumps(told, indent=1) if options.json else report.table()
    sys.stdout.write(text + "\n")
    return 0
