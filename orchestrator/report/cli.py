"""``orchestrator report``: the page of a run or a package."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

PACKAGE = re.compile(r"[^/.~][^/]*(/v\d+)?")
"""Pattern of package references, which no path in the file system matches."""


def register(subparsers: Any) -> None:
    """Add the ``report`` verb."""
    parser = subparsers.add_parser(
        "report", help="a run or a package → one self-contained HTML page"
    )
    parser.add_argument("subject", help="folder or address of a finished run, or a package")
    parser.add_argument("--zoo", default="zoo", help="zoo that holds the package")
    parser.add_argument("-o", "--output", default="report.html", help="file to write")
    parser.set_defaults(func=_main)


def _main(options: argparse.Namespace) -> int:
    from orchestrator.errors import InputError
    from orchestrator.report.pages import (
        evaluation_page,
        holds_evaluation,
        package_of_run,
        package_page,
    )
    from orchestrator.storage import atomic_write_text
    from orchestrator.zoo import Zoo

    subject, output = options.subject, Path(options.output)
    if not output.parent.is_dir():
        raise InputError(f"--output: {output.parent} is not a folder. Make it first.")
    if output.is_dir():
        raise InputError(f"--output: {output} is a folder. Name the file to write in it.")
    folder, remote = Path(subject), "://" in subject
    if not remote and not folder.is_dir() and not PACKAGE.fullmatch(subject):
        raise InputError(
            f"{subject} is not a folder. Give the folder of a finished run, such as "
            "runs/my-run, or a package, such as name or name/v0001."
        )
    if folder.is_dir() and holds_evaluation(folder):
        page = evaluation_page(folder)
    else:
        run = folder if folder.is_dir() else None
        ref = package_of_run(subject) if remote or run is not None else subject
        page = package_page(Zoo(options.zoo), ref, run)
    atomic_write_text(output, page.html())
    sys.stdout.write(f"{output}: {page.title}, {len(page.sections)} sections\n")
    return 0
