"""``orchestrator load``: how an endpoint behaves under a load that does not wait for it."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

KEY_VARIABLE = "ORCHESTRATOR_API_KEY"


def register(subparsers: Any) -> None:
    """Add the ``load`` verb."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "load",
        help="send requests to an endpoint at a given rate and measure the answers",
        description="Open-loop load: requests arrive at random times (Poisson) and do not wait for "
        "answers. Latency counts from the moment at which a request was due. Exit code 1: nothing "
        f"was answered. The key, if one is needed, is read from {KEY_VARIABLE}.",
    )
    parser.add_argument("url", help="the server, as in http://127.0.0.1:8000")
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="length (default 30)")
    parser.add_argument("--path", default="/predict", help="path (default /predict)")
    parser.add_argument("--body", help='JSON with "{text}" where a text goes')
    parser.add_argument("--texts", metavar="FILE", help="one text per line; default: made up")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="default 10")
    parser.add_argument("--processes", type=int, default=1, help="senders (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and texts (default 0)")
    parser.add_argument("--samples", metavar="FILE", help="write every request as CSV")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(func=_main)


def _main(options: argparse.Namespace) -> int:
    from orchestrator.config import validate_config
    from serving.load.plan import LoadPlan, read_texts
    from serving.load.results import summarize
    from serving.load.sender import send

    given: dict[str, Any] = {
        "url": options.url.rstrip("/"),
        "path": options.path,
        "rate": options.rate,
        "seconds": options.seconds,
        "timeout_s": options.timeout,
        "processes": options.processes,
        "seed": options.seed,
        "key": os.environ.get(KEY_VARIABLE, ""),
    }
    if options.body is not None:
        given["body"] = options.body
    if options.texts is not None:
        given["texts"] = read_texts(options.texts)
    plan = validate_config(LoadPlan, given, "orchestrator load")
    samples = send(plan)
    if options.samples is not None:
        _write_samples(Path(options.samples), samples)
    result = summarize(plan, samples)
    shown = json.dumps(result.model_dump()) if options.json else "\n".join(result.lines())
    sys.stdout.write(shown + "\n")
    return 0 if result.answered is not None else 1


def _write_samples(path: Path, samples: Any) -> None:
    import pandas as pd

    from orchestrator.storage import atomic_write_text

    columns = ("due", "sent", "ended", "status", "retry_after")
    frame = pd.DataFrame({name: getattr(samples, name) for name in columns})
    atomic_write_text(path, frame.to_csv(index=False))
