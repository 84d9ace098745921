"""The command line: ``orchestrator <verb>``.

A verb that is a job (pretrain, select, ...) reads one config and runs the function of
``jobs/<verb>.py``. The last line on standard output is one JSON object; messages go to standard
error. Nothing heavy is imported before a verb needs it.
"""

import argparse
import atexit
import functools
import gc
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from orchestrator import __version__
from orchestrator.errors import InterruptedRunError, OrchestratorError

if TYPE_CHECKING:
    from pydantic import JsonValue

    from orchestrator.config import JobConfig, JobResult

EXIT_DONE, EXIT_FAILED = 0, 1


@dataclass(frozen=True, slots=True)
class Job:
    """A verb that runs from a config.

    Attributes:
        help: One line for the list of verbs.
        config: ``module:class`` of its config.
        run: ``module:function`` that runs a config.
        check: ``module:function`` that describes what it would do.
        needs_file: Whether ``--config`` must be given.
        subject: Setting that the first word without ``=`` gives, as in ``quantize PACKAGE``.
        subcommands: Further commands of the verb, name → module with ``register(subparsers)``.
        runs: Those of them that run a job: their last line is its result as JSON, or its error.
    """

    help: str
    config: str
    run: str
    check: str
    needs_file: bool = True
    subject: str = ""
    subcommands: Mapping[str, str] = field(default_factory=dict)
    runs: frozenset[str] = frozenset()

    @classmethod
    def of(cls, room: str, config: str, help_: str, runner: str = "runner", **more: Any) -> "Job":
        """Return the job of a room: ``runner.run`` and ``runner.check`` on a ``config`` class.

        Args:
            room: Module below ``orchestrator``.
            config: Class, in the room's module ``config`` unless it names another one.
            help_: See `help`.
            runner: Module of the room with both functions.
            **more: Other attributes.
        """
        place = config if ":" in config else f"config:{config}"
        run, check = (f"orchestrator.{room}.{runner}:{verb}" for verb in ("run", "check"))
        return cls(help_, f"orchestrator.{room}.{place}", run, check, **more)

    @staticmethod
    def load(target: str) -> Any:
        """Import ``module:attribute``."""
        module, attribute = target.split(":")
        return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True, slots=True)
class Tool:
    """A verb with arguments of its own.

    Attributes:
        modules: Each has ``register``, which gets what the one before returned; the first one gets
            the subparsers of the command line.
    """

    modules: tuple[str, ...]

    def register(self, subparsers: Any) -> None:
        """Add the verb to a command line."""
        for module in self.modules:
            subparsers = importlib.import_module(module).register(subparsers)


JOBS: dict[str, Job] = {
    "demo": Job.of(
        "demo",
        "DemoConfig",
        "the whole life of a model on data that needs no download",
        needs_file=False,
    ),
    "corpus": Job.of(
        "pretraining",
        "CorpusJobConfig",
        "documents → tokenized, packed shards",
        "corpus_runner",
    ),
    "pretrain": Job.of(
        "pretraining", "PretrainConfig", "corpus (and a package) → package", needs_file=False
    ),
    "finetune": Job.of(
        "finetuning",
        "FinetuneConfig",
        "package + labelled data → package",
        needs_file=False,
    ),
    "benchmark": Job.of(
        "selection",
        "BenchmarkConfig",
        "packages × benchmark sets → performance matrix",
        "benchmark_runner",
    ),
    "select": Job.of(
        "selection",
        "SelectConfig",
        "zoo + matrix + target data → fine-tuned package",
        "select_runner",
        subcommands={"replay": "orchestrator.selection.replay.cli"},
    ),
    "continual": Job.of("continual", "ContinualConfig", "package + task stream → package"),
    "evaluate": Job.of(
        "finetuning",
        "evaluating.config:EvaluateConfig",
        "package + labelled rows → every metric with its interval",
        "evaluating.runner",
        needs_file=False,
    ),
    "predict": Job.of(
        "finetuning",
        "predicting.config:PredictConfig",
        "package + table or folder → answers for every row (Ray Data)",
        "predicting.runner",
        needs_file=False,
    ),
    "generate": Job.of(
        "finetuning",
        "generating.config:GenerateConfig",
        "package + prompt → text",
        "generating.runner",
        needs_file=False,
    ),
    "quantize": Job.of(
        "quantization",
        "QuantizeConfig",
        "package + goal → INT8 package",
        needs_file=False,
        subject="package",
        subcommands=dict.fromkeys(("inspect", "retime"), "orchestrator.quantization.inspect_cli"),
        runs=frozenset({"retime"}),
    ),
}
VERBS: dict[str, Job | Tool] = {
    **JOBS,
    # `import` and `export` are commands of `zoo`, which itself knows nothing of models.
    "zoo": Tool(
        (
            "orchestrator.zoo.cli",
            "orchestrator.modeling.exchange",
            "orchestrator.finetuning.adapters_cli",
            "orchestrator.quantization.hub.cli",
        )
    ),
    "serve": Tool(("serving.cli",)),
    "load": Tool(("serving.load.cli",)),
    "report": Tool(("orchestrator.report.cli",)),
    "components": Tool(("orchestrator.tasks.components_cli",)),
    "estimate": Tool(("orchestrator.pretraining.estimate_cli",)),
    "matrix": Tool(("orchestrator.selection.matrix.cli",)),
    "doctor": Tool(("orchestrator.doctor.cli",)),
}
"""Every verb of the command line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = VERBS.get(arguments[0]) if arguments else None
    if isinstance(verb, Job) and not set(arguments[1:2]) & set(verb.subcommands):
        return job_main(arguments[0], arguments[1:])
    runs = isinstance(verb, Job) and arguments[1] in verb.runs
    return guarded(lambda: _tool_main(arguments), json_line=runs)


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
    _leave_cycles()
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
            _write_json_line(_error_line(error, code))
    except OSError:  # the terminal is gone; the exit code is all that is left
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


@functools.cache
def _leave_cycles() -> None:
    """End this process without a search for cycles among the objects of torch and Ray.

    Python would look at all of them twice when it exits, which takes about a second.
    """
    atexit.register(gc.freeze)


def _error_line(error: BaseException, code: int) -> "dict[str, JsonValue]":
    """Return the JSON line of a job that did not end well, with what its error knows."""
    status = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
    line: dict[str, JsonValue] = {"status": status, "error": str(error), "exit_code": code}
    return {**line, **error.result} if isinstance(error, OrchestratorError) else line


def _run_job(job: Job, options: argparse.Namespace) -> int:
    from orchestrator.config import dump_yaml, json_schema, load_config

    config_class: type[JobConfig] = job.load(job.config)
    if options.print_schema:
        sys.stdout.write(json.dumps(json_schema(config_class), indent=2) + "\n")
        return EXIT_DONE
    config = load_config(config_class, options.config, _overrides(job, options.overrides))
    if options.print_config:
        sys.stdout.write(dump_yaml(config))
        return EXIT_DONE
    if options.check:
        text = job.load(job.check)(config).rstrip()
        if options.json:
            _write_json_line({"status": "checked", "lines": text.splitlines()})
        else:
            sys.stdout.write(f"{text}\n")
        return EXIT_DONE
    result: JobResult = job.load(job.run)(config)
    _write_json_line(result.model_dump(mode="json"))
    return EXIT_DONE


def _overrides(job: Job, words: Sequence[str]) -> list[str]:
    """Return the settings of a command line; its first word may name the subject alone."""
    if job.subject and words and "=" not in words[0]:
        return [f"{job.subject}={words[0]}", *words[1:]]
    return list(words)


def _job_parser(verb: str, job: Job) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"orchestrator {verb}",
        description=job.help,
        epilog="Exit codes: 0 done, 1 failed, 2 bad config or input, 3 interrupted and resumable, "
        "4 integrity failure, 5 refused by a gate.",
    )
    parser.add_argument("-c", "--config", help="YAML file of this job")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a setting")
    parser.add_argument(
        "--json", action="store_true", help="print a check as JSON; a result always is"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="validate and estimate, run nothing")
    action.add_argument("--print-config", action="store_true", help="print the resolved config")
    action.add_argument("--print-schema", action="store_true", help="print the JSON schema")
    return parser


def _tool_main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="orchestrator", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="verb", required=True)
    wanted = arguments[0] if arguments else ""
    only_one = isinstance(VERBS.get(wanted), Tool)  # importing all of them takes a while
    for name, verb in VERBS.items():
        if isinstance(verb, Tool):
            if name == wanted or not only_one:
                verb.register(verbs)
        elif name == wanted:
            importlib.import_module(verb.subcommands[arguments[1]]).register(verbs)
        else:
            verbs.add_parser(name, help=verb.help, add_help=False)
    options, others = parser.parse_known_args(list(arguments))
    settings = getattr(options, "overrides", None)
    if wrong := [word for word in others if settings is None or word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if settings is not None:  # words behind an option are among the others
        options.overrides = [*settings, *others]
    return int(options.func(options))


def _write_json_line(payload: "Mapping[str, JsonValue]") -> None:
    sys.stdout.write(json.dumps(payload, default=str) + "\n")
    sys.stdout.flush()


def _configure_logging() -> None:
    level = os.environ.get("ORCHESTRATOR_LOG_LEVEL", "INFO").upper()
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )


def _raise_on_signals() -> None:
    """Make SIGTERM and SIGHUP act like Ctrl-C, so that work ends through its `finally` blocks.

    SIGHUP comes when a terminal or its connection is gone; under ``nohup`` it stays ignored.
    """

    def handler(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, handler)
    except ValueError:  # not the main thread: the owner of the process handles its signals
        logging.getLogger(__name__).debug("signal handlers stay as they are")
