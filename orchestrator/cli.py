"""The command line: ``orchestrator <verb>``.

Every verb that is a job (pretrain, select, ...) reads one config and runs the same function as
``jobs/<verb>.py``. The last line on standard output is one JSON object; everything else a person
reads goes to standard error. Nothing heavy is imported before a verb needs it.
"""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from orchestrator import __version__
from orchestrator.errors import InterruptedRunError, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.config import JobConfig, JobResult

EXIT_DONE, EXIT_FAILED = 0, 1


@dataclass(frozen=True, slots=True)
class Job:
    """A verb that runs from a config: where its config class and its functions live."""

    help: str
    config: str
    run: str
    check: str
    needs_file: bool = True

    def load(self, target: str) -> Any:
        """Import ``module:attribute``."""
        module, attribute = target.split(":")
        return getattr(importlib.import_module(module), attribute)


def _job(stage: str, config: str, help_: str, runner: str = "runner") -> Job:
    base = f"orchestrator.{stage}"
    return Job(help_, f"{base}.config:{config}", f"{base}.{runner}:run", f"{base}.{runner}:check")


JOBS: dict[str, Job] = {
    "demo": Job(
        "the whole life of a model on data that needs no download",
        "orchestrator.demo.config:DemoConfig",
        "orchestrator.demo.runner:run",
        "orchestrator.demo.runner:check",
        needs_file=False,
    ),
    "corpus": Job(
        "documents → tokenized, packed shards",
        "orchestrator.pretraining.corpus_config:CorpusJobConfig",
        "orchestrator.pretraining.corpus_runner:run",
        "orchestrator.pretraining.corpus_runner:check",
    ),
    "pretrain": _job("pretraining", "PretrainConfig", "corpus → package"),
    "benchmark": _job(
        "selection",
        "BenchmarkConfig",
        "packages × benchmark sets → performance matrix",
        "benchmark_runner",
    ),
    "select": _job(
        "selection",
        "SelectConfig",
        "zoo + matrix + target data → fine-tuned package",
        "select_runner",
    ),
    "continual": _job("continual", "ContinualConfig", "package + task stream → package"),
    "quantize": _job("quantization", "QuantizeConfig", "package + goal → INT8 package"),
}

# Verbs with sub-commands of their own: module with `register(subparsers)`.
TOOLS: dict[str, str] = {
    "zoo": "orchestrator.zoo.cli",
    "serve": "serving.cli",
    "report": "orchestrator.report.cli",
    "components": "orchestrator.modeling.components_cli",
    "estimate": "orchestrator.pretraining.estimate_cli",
    "doctor": "orchestrator.doctor",
}
REPLAY = "orchestrator.selection.cli"
EXCHANGE = "orchestrator.modeling.exchange"
"""Adds `import` and `export` to the commands of `zoo`, which knows nothing of models itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] and arguments[0] in JOBS and arguments[:2] != ["select", "replay"]:
        return job_main(arguments[0], arguments[1:])
    return guarded(lambda: _tool_main(arguments))


def job_main(verb: str, argv: Sequence[str] | None = None) -> int:
    """Run one job verb: parse, validate, run; print the JSON result line last."""
    job = JOBS[verb]
    parser = _job_parser(verb, job)
    options = parser.parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    if job.needs_file and options.config is None and not options.print_schema:
        parser.error(f"--config FILE is needed; presets are jobs/configs/{verb}_*.yaml")
    return guarded(lambda: _run_job(job, options), json_line=True)


def guarded(work: Callable[[], int], *, json_line: bool = False) -> int:
    """Run ``work``; turn every error into one message on stderr and the right exit code."""
    _configure_logging()
    _raise_on_signals()
    try:
        return work()
    except KeyboardInterrupt:
        error: BaseException = InterruptedRunError(
            "Interrupted. Start the same command again to continue where it stopped."
        )
    except OrchestratorError as caught:
        error = caught
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as caught:  # the last frame: report, then exit 1
        logging.getLogger(__name__).exception("unexpected error")
        error = caught
    code = error.exit_code if isinstance(error, OrchestratorError) else EXIT_FAILED
    try:
        sys.stderr.write(f"{error}\n")
        if json_line:
            status = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
            _write_json_line({"status": status, "error": str(error), "exit_code": code})
    except OSError:  # nobody listens: the terminal is gone; the exit code still tells
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _run_job(job: Job, options: argparse.Namespace) -> int:
    from orchestrator.config import dump_yaml, json_schema, load_config

    config_class: type[JobConfig] = job.load(job.config)
    if options.print_schema:
        sys.stdout.write(json.dumps(json_schema(config_class), indent=2) + "\n")
        return EXIT_DONE
    config = load_config(config_class, options.config, options.overrides)
    if options.print_config:
        sys.stdout.write(dump_yaml(config))
        return EXIT_DONE
    if options.check:
        sys.stdout.write(job.load(job.check)(config).rstrip() + "\n")
        return EXIT_DONE
    result: JobResult = job.load(job.run)(config)
    _write_json_line(result.model_dump(mode="json"))
    return EXIT_DONE


def _job_parser(verb: str, job: Job) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"orchestrator {verb}",
        description=job.help,
        epilog="Exit codes: 0 done, 1 failed, 2 bad config or input, 3 interrupted and resumable, "
        "4 integrity failure.",
    )
    parser.add_argument("-c", "--config", help="YAML file of this job")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a setting")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="validate and estimate, run nothing")
    action.add_argument("--print-config", action="store_true", help="print the resolved config")
    action.add_argument("--print-schema", action="store_true", help="print the JSON schema")
    return parser


def _tool_main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="orchestrator", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="verb", required=True)
    for name, job in JOBS.items():
        verbs.add_parser(name, help=job.help, add_help=False)
    wanted = arguments[0] if arguments else ""
    if wanted == "select":
        verbs.choices.pop("select")
        importlib.import_module(REPLAY).register(verbs)
    for name, module in TOOLS.items():
        if wanted == name or wanted not in TOOLS:
            commands = importlib.import_module(module).register(verbs)
            if name == "zoo":
                importlib.import_module(EXCHANGE).register(commands)
    options = parser.parse_args(list(arguments))
    return int(options.func(options))


def _write_json_line(payload: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(payload, default=str) + "\n")
    sys.stdout.flush()


def _configure_logging() -> None:
    level = os.environ.get("ORCHESTRATOR_LOG_LEVEL", "INFO").upper()
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )


def _raise_on_signals() -> None:
    """Make SIGTERM and SIGHUP act like Ctrl-C: work ends through the same `finally` blocks.

    SIGHUP comes when a terminal or its connection is gone; under ``nohup`` it stays ignored.
    """

    def handler(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, handler)
    except ValueError:  # not the main thread: whoever owns the process handles its signals
        logging.getLogger(__name__).debug("signal handlers stay as they are")
