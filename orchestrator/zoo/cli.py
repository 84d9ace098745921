"""``orchestrator zoo``: list, show, verify, promote, rollback, history, lineage, gc.

Each command is a function of its parsed arguments and a writer; it returns the exit code. Errors
are raised and become exit codes where the command line ends.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.config.tables import table
from orchestrator.errors import IntegrityError
from orchestrator.storage.atomic import GRACE_S
from orchestrator.storage.json_files import json_bytes
from orchestrator.zoo.alias_history import SUITE_HEADER, alias_terms, suite_rows
from orchestrator.zoo.flatness import flatness_rows, read_flatness
from orchestrator.zoo.names import CHAMPION
from orchestrator.zoo.overview import KEEP
from orchestrator.zoo.suite import read_suite
from orchestrator.zoo.zoo import Zoo

Writer = Callable[[str], Any]
Command = Callable[[argparse.Namespace, Writer], int]

DEFAULT_ZOO = "zoo"
EMPTY_ADVICE = "`orchestrator demo` and `orchestrator pretrain` make some; --zoo names another zoo."
_UNITS = ("B", "KB", "MB", "GB", "TB")


def register(subparsers: Any) -> Any:
    """Add the verb ``zoo`` to a command line.

    Args:
        subparsers: What `argparse.ArgumentParser.add_subparsers` returned.

    Returns:
        The sub-commands of ``zoo``, so that other rooms can add theirs with `add_command`.
    """
    parser = subparsers.add_parser("zoo", help="packages, aliases and their history")
    commands = parser.add_subparsers(dest="zoo_command", metavar="command", required=True)
    add_command(commands, "list", list_packages, "one line per package")
    show = add_command(commands, "show", show_package, "everything a manifest says")
    show.add_argument("ref", help="name, name@alias or name/v0001")
    verify = add_command(commands, "verify", verify_packages, "hash every file again")
    verify.add_argument("ref", nargs="?", help="one package; default: all of them")
    promote = add_command(commands, "promote", promote_package, "point an alias at a package")
    promote.add_argument("ref", help="name@alias or name/v0001")
    promote.add_argument("--alias", default=CHAMPION, help="default: %(default)s")
    promote.add_argument("--force", action="store_true", help="promote a rejected package too")
    promote.add_argument("--reason", help="why; the history of the alias records it")
    rollback = add_command(commands, "rollback", rollback_alias, "point an alias back")
    rollback.add_argument("name", help="name of the package")
    rollback.add_argument("--alias", default=CHAMPION, help="default: %(default)s")
    history = add_command(commands, "history", show_history, "what an alias pointed to, and when")
    history.add_argument("alias", help="alias of all names, like champion; or name@alias")
    lineage = add_command(commands, "lineage", show_lineage, "what a package was made from")
    lineage.add_argument("ref", help="name, name@alias or name/v0001")
    gc = add_command(commands, "gc", collect_garbage, "remove what nobody needs")
    gc.add_argument("--keep", type=int, default=KEEP, help="newest versions kept (%(default)s)")
    gc.add_argument("--delete", action="store_true", help="really remove; default: only say what")
    gc.add_argument("--grace-s", type=float, default=GRACE_S, help="age of swept leftovers")
    return commands


def add_command(commands: Any, name: str, run: Command, help_: str) -> argparse.ArgumentParser:
    """Add one command with the options all of them have; ``func`` runs it."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_, description=help_)
    parser.add_argument("--zoo", default=DEFAULT_ZOO, help="path or address (%(default)s)")
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    parser.set_defaults(func=lambda options: run(options, sys.stdout.write))
    return parser


def list_packages(options: argparse.Namespace, write: Writer) -> int:
    """Write one line per package; an empty zoo says how to fill it."""
    zoo = Zoo(options.zoo)
    index = zoo.index()
    if options.json:
        rows = index.astype({"created_at": "str"}).to_dict(orient="records")
        return write_json(write, rows)
    if index.empty:
        write(f"The zoo {zoo.root!r} holds no packages. {EMPTY_ADVICE}\n")
        return 0
    shown = index.assign(
        size=[_size(count) for count in index["bytes"]],
        created=index["created_at"].dt.strftime("%Y-%m-%d %H:%M"),
    )
    columns = ["ref", "kind", "status", "task", "aliases", "size", "created"]
    header = ["package", *columns[1:]]
    return _write_table(write, header, shown[columns].to_numpy().tolist())


def show_package(options: argparse.Namespace, write: Writer) -> int:
    """Write the manifest of a package, its suite, and where it lies."""
    package = Zoo(options.zoo).peek(options.ref)
    manifest, suite, flatness = package.manifest, read_suite(package), read_flatness(package)
    if options.json:
        content = manifest.model_dump(mode="json")
        more = {} if flatness is None else {"flatness": flatness}
        content = {"location": package.location, **content, "suite": suite, **more}
        return write_json(write, content)
    producer, task = manifest.producer, manifest.task
    facts = [
        ("package", package.ref),
        ("kind", package.kind),
        ("status", manifest.status),
        *(("refused", reason) for reason in manifest.reasons),
        ("location", package.location),
        ("created", f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("made by", " ".join(filter(None, (producer.stage, producer.job)))),
        ("git revision", producer.git_revision or ""),
        ("task", f"{task.kind} ({task.modality})" if task else ""),
        ("default target", (task and task.default) or ""),
        ("licence", manifest.licence or "not stated"),
        ("parents", ", ".join(parent.ref for parent in manifest.parents)),
        ("manifest", package.manifest_sha256),
    ]
    _write_table(write, ("", ""), [fact for fact in facts if fact[1]])
    metrics = [(name, _figure(value)) for name, value in manifest.metrics.items()]
    _write_table(write, ("metric", "value"), metrics)
    if suite is not None:
        _write_table(write, SUITE_HEADER, suite_rows(suite))
    if flatness is not None:
        _write_table(write, ("flatness", ""), list(flatness_rows(flatness)))
    files = [(name, _size(e.bytes), e.sha256[:16]) for name, e in manifest.files.items()]
    return _write_table(write, ("file", "size", "sha256"), files)


def verify_packages(options: argparse.Namespace, write: Writer) -> int:
    """Write one line per package; exit code 4 when one is not whole."""
    findings = Zoo(options.zoo).verify(options.ref)
    bad = [finding for finding in findings if not finding.ok]
    if options.json:
        write_json(write, findings)
    else:
        rows = [(f.ref, "ok" if f.ok else "DAMAGED", f.message) for f in findings]
        _write_table(write, ("package", "state", "reason"), rows)
        write(f"{len(findings) - len(bad)} of {len(findings)} whole.\n")
    return IntegrityError.exit_code if bad else 0


def promote_package(options: argparse.Namespace, write: Writer) -> int:
    """Point an alias at a verified package; exit code 5 when it is rejected."""
    package = Zoo(options.zoo).promote(
        options.ref, options.alias, force=options.force, reason=options.reason
    )
    return _write_move(options, write, package.name, package.ref)


def rollback_alias(options: argparse.Namespace, write: Writer) -> int:
    """Point an alias back at the version it held before."""
    package = Zoo(options.zoo).rollback(options.name, options.alias)
    return _write_move(options, write, package.name, package.ref)


def show_history(options: argparse.Namespace, write: Writer) -> int:
    """Write what an alias pointed to, from when to when, with the suite values of that version."""
    terms = alias_terms(Zoo(options.zoo), options.alias)
    if options.json:
        return write_json(write, terms)
    if not terms:
        write(f"No package has ever held the alias {options.alias!r}.\n")
    header = ("package", "from", "until", "moved by", "suite", "note")
    return _write_table(write, header, [term.row() for term in terms])


def show_lineage(options: argparse.Namespace, write: Writer) -> int:
    """Write a package and its ancestors; exit code 4 when one is missing or damaged."""
    lineage = Zoo(options.zoo).lineage(options.ref)
    if options.json:
        write_json(write, lineage)
    else:
        rows = [(f"{'  ' * a.depth}{a.ref}", a.kind, a.status, a.message) for a in lineage]
        _write_table(write, ("package", "kind", "state", "reason"), rows)
    return IntegrityError.exit_code if any(a.status != "ok" for a in lineage) else 0


def collect_garbage(options: argparse.Namespace, write: Writer) -> int:
    """Write what is, or would be, removed; nothing is removed without ``--delete``."""
    zoo = Zoo(options.zoo)
    done = zoo.gc(dry_run=not options.delete, keep=options.keep, grace_s=options.grace_s)
    if options.json:
        return write_json(write, done)
    rows = [(ref, "removed" if options.delete else "would go", "") for ref in done.removed]
    rows += [(path, "swept", "leftover of a killed writer") for path in done.swept]
    rows += [(ref, "kept", why) for ref, why in done.kept.items()]
    _write_table(write, ("package", "state", "reason"), rows)
    write(f"{len(done.removed)} packages, {_size(done.freed_bytes)}.\n")
    if done.removed and not options.delete:
        write("Nothing was removed. Run again with --delete to remove them.\n")
    return 0


def _write_move(options: argparse.Namespace, write: Writer, name: str, ref: str) -> int:
    if options.json:
        return write_json(write, {"alias": f"{name}@{options.alias}", "package": ref})
    write(f"{name}@{options.alias} → {ref}\n")
    return 0


def write_json(write: Writer, value: Any) -> int:
    """Write a value as JSON, and return exit code 0."""
    write(json_bytes(value).decode("utf-8"))
    return 0


def _write_table(write: Writer, header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Write a table, with a header if it has words, and an empty line; nothing without rows."""
    if rows:
        write(table(rows, header if any(header) else ()) + "\n\n")
    return 0


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _size(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"
