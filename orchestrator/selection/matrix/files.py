"""Files of a performance matrix: one Parquet file, or a CSV table of curves."""

import json
from io import BytesIO
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from orchestrator.config import StrictModel
from orchestrator.errors import InputError, IntegrityError
from orchestrator.selection.matrix.facts import DatasetFacts, ModelFacts
from orchestrator.selection.matrix.performance import COLUMNS, PerformanceMatrix

SCHEMA_VERSION = 1
_METADATA_KEY = b"orchestrator.performance_matrix"
_CURVE_PREFIX = "val_epoch"


class MatrixFacts(StrictModel):
    """Metadata of the Parquet file."""

    schema_version: int = SCHEMA_VERSION
    """Format of the file."""
    models: dict[str, ModelFacts]
    """Model id to its facts."""
    datasets: dict[str, DatasetFacts]
    """Data set name to its facts."""


def write_matrix(matrix: PerformanceMatrix, path: str | Path) -> None:
    """Write ``matrix`` to a Parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from orchestrator.storage import atomic_write_bytes

    facts = MatrixFacts(models=dict(matrix.models), datasets=dict(matrix.datasets))
    text = json.dumps(facts.model_dump(mode="json"), sort_keys=True)
    ordered = matrix.cells.sort_values(["model", "dataset", "split", "stage"])
    table = pa.Table.from_pandas(ordered[list(COLUMNS)], preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _METADATA_KEY: text.encode()}
    )
    buffer = BytesIO()
    pq.write_table(table, buffer)
    atomic_write_bytes(path, buffer.getvalue())


def read_matrix(path: str | Path) -> PerformanceMatrix:
    """Read a matrix from ``.parquet`` or ``.csv`` (with the columns that `from_curves` needs).

    Raises:
        InputError: The file does not exist, or has another extension or other columns.
        IntegrityError: The Parquet file is unreadable or not a performance matrix.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"performance matrix: no file {str(path)!r}. Make one with `orchestrator benchmark`."
        )
    if file.suffix == ".csv":
        return from_curves(pd.read_csv(file), str(path))
    if file.suffix != ".parquet":
        raise InputError(f"performance matrix: {str(path)!r} must end in .parquet or .csv.")
    return _read_parquet(file)


def from_curves(table: pd.DataFrame, source: str = "table") -> PerformanceMatrix:
    """Build a matrix from one row per (model, dataset) with ``val_epoch1..E`` and ``test_final``.

    Raises:
        InputError: A required column is missing.
    """
    stages = [name for name in table.columns if str(name).startswith(_CURVE_PREFIX)]
    stages.sort(key=lambda name: int(str(name).removeprefix(_CURVE_PREFIX)))
    missing = [n for n in ("model", "dataset", "test_final") if n not in table.columns]
    if missing or not stages:
        raise InputError(
            f"{source}: needs the columns model, dataset, val_epoch1 .. val_epochE and test_final; "
            f"missing: {', '.join(missing) or 'val_epoch1'}."
        )
    matrix = PerformanceMatrix(
        models={str(name): ModelFacts() for name in table["model"].unique()},
        datasets={str(name): DatasetFacts() for name in table["dataset"].unique()},
    )
    complete = table.dropna(subset=[*stages, "test_final"])
    return matrix.add_cells(
        (str(row["model"]), str(row["dataset"]), [row[s] for s in stages], row["test_final"])
        for row in complete.to_dict("records")
    )


def _read_parquet(file: Path) -> PerformanceMatrix:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(
            f"performance matrix {file}: not readable as Parquet: {error}"
        ) from error
    raw = (table.schema.metadata or {}).get(_METADATA_KEY)
    if raw is None or set(COLUMNS) - set(table.column_names):
        raise IntegrityError(
            f"performance matrix {file}: this Parquet file is not a performance matrix."
        )
    version = json.loads(raw)["schema_version"]
    if version != SCHEMA_VERSION:
        raise InputError(
            f"performance matrix {file}: schema version {version}, this program reads "
            f"{SCHEMA_VERSION}. Make it again with `orchestrator benchmark`."
        )
    try:
        facts = MatrixFacts.model_validate_json(raw)
    except ValidationError as error:
        raise IntegrityError(f"performance matrix {file}: damaged metadata: {error}") from error
    return PerformanceMatrix(table.to_pandas()[list(COLUMNS)], facts.models, facts.datasets)
