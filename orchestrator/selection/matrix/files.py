"""Files of a performance matrix: one Parquet file; tables of scores are read as they are."""

import json
import logging
from io import BytesIO
from pathlib import Path

from pydantic import ValidationError

from orchestrator.config import StrictModel
from orchestrator.errors import InputError, IntegrityError
from orchestrator.selection.matrix.facts import DatasetFacts, ModelFacts, Source
from orchestrator.selection.matrix.importing import import_table
from orchestrator.selection.matrix.performance import (
    COLUMNS,
    COST_COLUMNS,
    PerformanceMatrix,
)
from orchestrator.selection.matrix.table import MATRIX_KEY

logger = logging.getLogger(__name__)
SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Version 1 has neither `COST_COLUMNS` nor sources, and every score is a fraction."""


class MatrixFacts(StrictModel):
    """Metadata of the Parquet file."""

    schema_version: int = SCHEMA_VERSION
    """Format of the file."""
    models: dict[str, ModelFacts]
    """Model id to its facts."""
    datasets: dict[str, DatasetFacts]
    """Data set name to its facts."""
    sources: tuple[Source, ...] = ()
    """Files that cells were imported from."""


def write_matrix(matrix: PerformanceMatrix, path: str | Path) -> None:
    """Write ``matrix`` to a Parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from orchestrator.storage import atomic_write_bytes

    facts = MatrixFacts(
        models=dict(matrix.models), datasets=dict(matrix.datasets), sources=matrix.sources
    )
    text = json.dumps(facts.model_dump(mode="json"), sort_keys=True)
    ordered = matrix.cells.sort_values(["model", "dataset", "split", "stage"])
    table = pa.Table.from_pandas(ordered[[*COLUMNS, *COST_COLUMNS]], preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), MATRIX_KEY: text.encode()}
    )
    buffer = BytesIO()
    pq.write_table(table, buffer)
    atomic_write_bytes(path, buffer.getvalue())


def read_matrix(path: str | Path) -> PerformanceMatrix:
    """Read a matrix from its Parquet file, or a table of scores as `import_table` reads it.

    Raises:
        InputError: The file does not exist, or the table cannot be read as scores.
        IntegrityError: The Parquet file is unreadable or not a performance matrix.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"performance matrix: no file {str(path)!r}. Make one with `orchestrator benchmark` or "
            "`orchestrator matrix import`."
        )
    if file.suffix == ".parquet":
        return _read_parquet(file)
    found = import_table(file)
    matrix = found.matrix
    if found.ignored:
        logger.warning("%s: columns that were not read: %s", path, ", ".join(found.ignored))
    if reasons := matrix.reasons():
        (model, dataset), reason = next(iter(reasons.items()))
        logger.warning(
            "%s: %d cells are not complete, such as %s on %s: %s",
            path, len(reasons), model, dataset, reason,
        )  # fmt: skip
    return matrix


def _read_parquet(file: Path) -> PerformanceMatrix:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(
            f"performance matrix {file}: not readable as Parquet: {error}"
        ) from error
    raw = (table.schema.metadata or {}).get(MATRIX_KEY)
    if raw is None or set(COLUMNS) - set(table.column_names):
        raise IntegrityError(
            f"performance matrix {file}: this Parquet file is not a performance matrix."
        )
    try:
        version = json.loads(raw)["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"performance matrix {file}: damaged metadata: {error!r}") from error
    if version not in READABLE:
        raise InputError(
            f"performance matrix {file}: schema version {version}, this program reads "
            f"{SCHEMA_VERSION}. Make it again with `orchestrator benchmark`."
        )
    try:
        facts = MatrixFacts.model_validate_json(raw)
    except ValidationError as error:
        raise IntegrityError(f"performance matrix {file}: damaged metadata: {error}") from error
    cells = table.to_pandas().reindex(columns=[*COLUMNS, *COST_COLUMNS])
    cells["reason"] = cells["reason"].fillna("")
    unknown = {*cells["model"]} - {*facts.models} or {*cells["dataset"]} - {*facts.datasets}
    if unknown or cells["value"].dtype != "float64":
        what = f"nothing about {min(unknown)!r}" if unknown else "values that are not numbers"
        raise IntegrityError(f"performance matrix {file}: damaged: it has {what}.")
    return PerformanceMatrix(cells, facts.models, facts.datasets, facts.sources)
