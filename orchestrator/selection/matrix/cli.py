"""``orchestrator matrix``: import, show and export performance matrices."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.selection.matrix.performance import PerformanceMatrix

SHOWN_GAPS = 20


def register(subparsers: Any) -> None:
    """Add the verb ``matrix``."""
    parser = subparsers.add_parser("matrix", help="import, show and export performance matrices")
    verbs = parser.add_subparsers(dest="matrix_verb", required=True)
    take = verbs.add_parser("import", help="a table of scores → performance matrix")
    take.add_argument("table", help=".csv, .tsv, .txt or .parquet")
    take.add_argument("--out", required=True, help="performance matrix to write (.parquet)")
    take.add_argument("--layout", choices=("auto", "wide", "long"), default="auto")
    take.add_argument(
        "--scale",
        default="auto",
        help="auto, fraction, percent or range; NAME=SCALE for one data set; comma-separated",
    )
    take.add_argument(
        "--lower-is-better", default="", help="data sets or metrics, comma-separated; or all"
    )
    take.add_argument("--ignore", default="", help="columns to leave out, comma-separated")
    take.add_argument(
        "--rows", default="", help="NAME=SOURCE: rows of a data set, for the guard; comma-separated"
    )
    take.add_argument(
        "--allow-duplicates", action="store_true", help="accept columns with the same scores"
    )
    take.add_argument("--replace", action="store_true", help="overwrite --out")
    take.set_defaults(func=run_import)
    show = verbs.add_parser("show", help="models, data sets, gaps with reasons, provenance")
    show.add_argument("matrix", help="performance matrix (.parquet) or table of scores")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(func=run_show)
    export = verbs.add_parser("export", help="performance matrix → table, or without some columns")
    export.add_argument("matrix", help="performance matrix (.parquet) or table of scores")
    export.add_argument("--out", required=True, help=".csv or .tsv, or .parquet for a matrix")
    export.add_argument(
        "--layout",
        choices=("wide", "long"),
        help="long: every value (the default); wide: final scores, one row per model",
    )
    export.add_argument(
        "--normalized", action="store_true", help="scores from 0 to 1, larger is better"
    )
    export.add_argument("--without", default="", help="data sets to drop, comma-separated")
    export.set_defaults(func=run_export)


def run_import(options: argparse.Namespace) -> int:
    """Import a table, print a summary, and return the exit code.

    Raises:
        InputError: The table cannot be read as scores, or ``--out`` exists.
    """
    from orchestrator.selection.matrix.files import write_matrix
    from orchestrator.selection.matrix.importing import ImportOptions, import_table

    out = Path(options.out)
    if out.suffix != ".parquet":
        raise InputError(f"--out: {options.out!r} must end in .parquet.")
    if out.exists() and not options.replace:
        raise InputError(f"--out: {options.out} exists. Say --replace to overwrite it.")
    chosen = ImportOptions(
        layout=options.layout,
        scale=options.scale,
        lower_is_better=names_of(options.lower_is_better),
        ignore=names_of(options.ignore),
        allow_duplicates=options.allow_duplicates,
    )
    found = import_table(options.table, chosen)
    matrix = _with_rows(found.matrix, names_of(options.rows))
    write_matrix(matrix, out)
    lines = _summary(matrix)
    if found.ignored:
        lines.append(f"columns that were not read: {', '.join(found.ignored)}")
    sys.stdout.write("\n".join([*lines, f"written: {out}"]) + "\n")
    return 0


def run_show(options: argparse.Namespace) -> int:
    """Print what a matrix holds, and return the exit code.

    Raises:
        InputError: The file cannot be read.
    """
    from orchestrator.selection.matrix.files import read_matrix

    matrix = read_matrix(options.matrix)
    if options.json:
        gaps = [{"model": m, "dataset": d, "reason": r} for (m, d), r in _gaps(matrix).items()]
        told = {
            "models": {name: facts.model_dump() for name, facts in matrix.models.items()},
            "datasets": {n: f.model_dump(exclude={"sketch"}) for n, f in matrix.datasets.items()},
            "epochs": matrix.stages,
            "gaps": gaps,
            "sources": [source.model_dump() for source in matrix.sources],
        }
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(_summary(matrix)) + "\n")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write a matrix as a table, and return the exit code.

    Raises:
        InputError: The matrix cannot be read, or ``--out`` or ``--without`` is wrong.
    """
    from orchestrator.selection.matrix.files import read_matrix, write_matrix
    from orchestrator.storage import atomic_write_bytes

    matrix, out = read_matrix(options.matrix), Path(options.out)
    drop = names_of(options.without)
    unknown = sorted(set(drop) - set(matrix.dataset_names))
    if unknown:
        raise InputError(
            f"--without: {unknown[0]!r} is not a data set of {options.matrix}; it has "
            f"{', '.join(matrix.dataset_names)}."
        )
    matrix = matrix.without(drop)
    if not matrix.datasets:
        raise InputError(f"--without: no data set of {options.matrix} is left; name fewer.")
    if out.exists() and out.samefile(options.matrix):
        raise InputError(f"--out: {options.out} is the matrix that is exported; name another file.")
    hint = ""
    if out.suffix == ".parquet":
        if options.normalized:
            raise InputError("--normalized: a .parquet matrix holds the scores as measured.")
        if options.layout:
            raise InputError("--layout: a .parquet matrix has none; --out .csv or .tsv has.")
        write_matrix(matrix, out)
    elif out.suffix in (".csv", ".tsv"):
        hint = "" if options.normalized else _import_hint(matrix)
        text = _export_text(matrix, options, "," if out.suffix == ".csv" else "\t")
        atomic_write_bytes(out, text.encode())
    else:
        raise InputError(f"--out: {options.out!r} must end in .csv, .tsv or .parquet.")
    sys.stdout.write(f"written: {out}\n{hint}")
    return 0


def names_of(text: str | None) -> tuple[str, ...]:
    """Parts of a comma-separated option."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _export_text(matrix: "PerformanceMatrix", options: argparse.Namespace, separator: str) -> str:
    if options.layout == "wide":
        wide = matrix.normalized() if options.normalized else matrix.final()
        return str(wide.rename_axis("model").to_csv(sep=separator, lineterminator="\n"))
    long = matrix.cells.sort_values(["model", "dataset", "split", "stage"])
    if options.normalized:
        pairs = zip(long["dataset"], long["value"], strict=True)
        long = long.assign(value=[float(matrix.datasets[d].normalized(v)) for d, v in pairs])
    declared = {name: ";".join(facts.trained_on) for name, facts in matrix.models.items()}
    long = long.assign(trained_on=long["model"].map(declared))
    return str(long.to_csv(index=False, sep=separator, lineterminator="\n"))


def _import_hint(matrix: "PerformanceMatrix") -> str:
    """Options of the import that give back directions and scales; empty: none is needed."""
    told = matrix.datasets.items()
    lower = ",".join(name for name, facts in told if not facts.higher_is_better)
    scales = ",".join(f"{name}={facts.scale}" for name, facts in told if facts.scale != "fraction")
    flags = f" --lower-is-better {lower}" * bool(lower) + f" --scale {scales}" * bool(scales)
    return f"a table has no directions and scales; import it with{flags}\n" if flags else ""


def _with_rows(matrix: "PerformanceMatrix", pairs: Iterable[str]) -> "PerformanceMatrix":
    """The matrix with digests and sketches of the rows behind its columns."""
    from orchestrator.data.sources.opening import load_task
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.selection.candidates import dataset_facts

    pairs = tuple(pairs)
    named = [pair.partition("=")[0] for pair in pairs]
    if len(set(named)) < len(named):
        raise InputError(f"--rows: {','.join(pairs)!r} names a data set twice; keep one source.")
    for pair in pairs:
        name, _, source = pair.partition("=")
        if name not in matrix.datasets or not source:
            raise InputError(
                f"--rows: {pair!r} is not NAME=SOURCE with a data set of the table "
                f"({', '.join(matrix.dataset_names)})."
            )
        content = dataset_facts(load_task(DatasetSpec(source=source)), protocol="")
        kept = {"digest": content.digest, "sketch": content.sketch}
        matrix = matrix.add_dataset(name, matrix.datasets[name].model_copy(update=kept))
    return matrix


def _gaps(matrix: "PerformanceMatrix") -> dict[tuple[str, str], str]:
    """Incomplete cells and why, sorted."""
    known = matrix.reasons()
    pairs = {*known, *matrix.missing()}
    return {pair: known.get(pair, "not in the table") for pair in sorted(pairs)}


def _summary(matrix: "PerformanceMatrix") -> list[str]:
    finals, cells = matrix.final(), matrix.cells
    lines = [
        f"{len(matrix.models)} models x {len(matrix.datasets)} data sets, "
        f"{int(finals.notna().to_numpy().sum())} final scores, curves of up to {matrix.stages} "
        "epochs"
    ]
    for name in matrix.dataset_names:
        facts, column = matrix.datasets[name], cells[cells["dataset"] == name]
        stages = column.loc[column["value"].notna(), "stage"].tolist()
        seconds = column["seconds"].dropna().tolist()
        lines.append(
            f"  {name}: {facts.metric}, {'higher' if facts.higher_is_better else 'lower'} is "
            f"better, {facts.scale}, {int(finals[name].notna().sum())} models, "
            f"{max(stages, default=0)} epochs"
            + (f", {mean(seconds):.1f} s per epoch" if seconds else "")
            + (", rows known" if facts.digest else "")
        )
    lines += [
        f"  from {source.file} (sha256 {source.sha256[:12]}, {source.imported_at}, "
        f"{source.rows} rows; {', '.join(f'{k}={v}' for k, v in source.options.items())})"
        for source in matrix.sources
    ]
    gaps = _gaps(matrix)
    shown = list(gaps.items())[:SHOWN_GAPS]
    lines += [f"  incomplete: {model} on {dataset}: {why}" for (model, dataset), why in shown]
    if len(gaps) > len(shown):
        lines.append(f"  and {len(gaps) - len(shown)} more (--json lists all)")
    return lines
