"""Parts of a batch prediction: a worker answers a piece and commits its files.

The files of a part are renamed into place, then its record is written; a part without a record is
answered again and gives the same bytes. No Ray.
"""

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import StrictModel
from orchestrator.data.processors.unknown import unknown_share
from orchestrator.data.rows.rows import WORD_BREAK, Rows
from orchestrator.errors import IntegrityError
from orchestrator.finetuning.predicting.results import (
    PLAN,
    REJECTED,
    STATE,
    OutputFile,
    PartDone,
    Piece,
    PredictPlan,
    Source,
    part_name,
)
from orchestrator.finetuning.predicting.tables import (
    Content,
    answer_columns,
    input_table,
    read_piece,
)
from orchestrator.inference.predictor import Predictor
from orchestrator.storage import (
    atomic_write_json,
    read_model,
    sha256_bytes,
    sha256_file,
    temporary_sibling,
)
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.json_files import json_bytes
from orchestrator.storage.operations import make_folder, replace, sync_file
from orchestrator.tasks.base import AnyTask
from orchestrator.zoo import Zoo

SAMPLED_ROWS: Final = 256
"""Rows of a part that are searched for unknown tokens."""


class PartJob(StrictModel):
    """Job of a worker; it travels as JSON."""

    output: str
    """Folder of the answers, shared by all workers."""
    zoo: str
    """The zoo that holds the package."""
    threads: int
    """Threads of the model."""
    device: str
    """Device of the model."""


class PartWorker:
    """A loaded package that answers pieces.

    Raises:
        IntegrityError: The package is not the one of the plan.
    """

    def __init__(self, job: PartJob) -> None:
        self.folder = Path(job.output)
        self.plan = read_model(self.folder / STATE / PLAN, PredictPlan)
        self.digest = plan_digest(self.plan)
        package = Zoo(job.zoo).get(self.plan.package)
        if package.manifest_sha256 != self.plan.package_sha256:
            raise IntegrityError(f"{package.ref} is not the package that this job began with.")
        self.predictor = Predictor.open(
            package,
            target=self.plan.head,
            threads=job.threads,
            device=job.device,
            max_length=self.plan.max_length,
        )
        self.task: AnyTask | None = None
        if self.plan.head is not None:
            self.task = self.predictor.task(self.plan.head)

    def __call__(self, piece: Piece) -> PartDone:
        """Answer a piece and commit its part, unless that is there already."""
        done = finished_part(self.folder, self.digest, piece.number)
        if done is not None:
            return done
        began = time.perf_counter()
        tagged = self.task is not None and self.task.form().tagged
        choices = self.task is not None and "choices" in self.task.modalities
        content = read_piece(self.plan, piece, words=tagged, choices=choices)
        rows = _rows(content, self.plan.source, tagged=tagged)
        table = self._answered(content, rows)
        files = self._files(piece, content, table)
        done = PartDone(
            number=piece.number,
            plan_sha256=self.digest,
            rows=len(content.rows),
            rejected=dict(Counter(reject.reason for reject in content.rejects)),
            repaired=content.repaired,
            unknown_share=self._unknown_share(rows),
            seconds=time.perf_counter() - began,
            files=files,
        )
        atomic_write_json(self.folder / STATE / f"{part_name(piece.number)}.json", done)
        return done

    def _answered(self, content: Content, rows: Rows) -> pa.Table:
        """Return the rows with their answers."""
        answers: list[Any] = []
        vectors = None
        if len(rows) and self.task is not None:
            if self.plan.embedding and not getattr(self.task, "writes_text", False):
                outputs = self.predictor.outputs(
                    rows, self.task, embeddings=True, prompt=self.plan.prompt
                )
                answers = self.task.answers(outputs.logits, outputs.readings)
                vectors = outputs.embeddings
            else:
                answers = list(self.predictor.answers(rows, self.task.head))
        if self.plan.embedding and vectors is None:
            vectors = np.zeros((0, 0), np.float32)
            if len(rows):
                vectors = self.predictor.embed(rows, prompt=self.plan.prompt)
        plain = [answer.to_json() for answer in answers]
        table = input_table(self.plan, content)
        for name, column in answer_columns(self.plan, self.task, plain, vectors).items():
            table = table.append_column(name, column)
        return table

    def _unknown_share(self, rows: Rows) -> float | None:
        reader = self.predictor.reader
        return unknown_share(None if reader is None else reader.processor, rows, SAMPLED_ROWS)

    def _files(self, piece: Piece, content: Content, table: pa.Table) -> dict[str, OutputFile]:
        """Write the files of a part and put them into place."""
        name = part_name(piece.number)
        final = {f"{name}.{self.plan.format}": self._writer(table, content)}
        if content.rejects:
            text = "".join(reject.line() for reject in content.rejects)
            final[f"{REJECTED}/{name}.jsonl"] = lambda path: path.write_text(text, "utf-8")
        found: dict[str, OutputFile] = {}
        with explained(self.folder):
            staged = temporary_sibling(self.folder / STATE / name)
            make_folder(staged)
            try:
                for relative, write in final.items():
                    path = staged / Path(relative).name
                    write(path)
                    sync_file(path)
                    found[relative] = OutputFile(
                        sha256=sha256_file(path), bytes=path.stat().st_size
                    )
                    (self.folder / relative).parent.mkdir(exist_ok=True)
                    replace(path, self.folder / relative)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
        return found

    def _writer(self, table: pa.Table, content: Content) -> Any:
        if self.plan.format == "parquet":
            return lambda path: pq.write_table(table, path)
        new = [name for name in table.column_names if name.startswith(self.plan.prefix)]
        added = table.select(new).to_pylist()
        lines = [
            json.dumps(row | answer, ensure_ascii=False, default=str) + "\n"
            for row, answer in zip(content.rows, added, strict=True)
        ]
        return lambda path: path.write_text("".join(lines), "utf-8")


def plan_digest(plan: PredictPlan) -> str:
    """Return the SHA-256 of a plan."""
    return sha256_bytes(json_bytes(plan))


def finished_part(folder: Path, digest: str, number: int) -> PartDone | None:
    """Return the record of a part of this plan whose files are whole in size, or None."""
    try:
        done = read_model(folder / STATE / f"{part_name(number)}.json", PartDone)
        sizes = {name: (folder / name).stat().st_size for name in done.files}
    except (OSError, IntegrityError):
        return None
    whole = all(sizes[name] == entry.bytes for name, entry in done.files.items())
    return done if whole and done.plan_sha256 == digest else None


def _rows(content: Content, source: Source, *, tagged: bool) -> Rows:
    """Return what the model reads of each row."""
    count = np.zeros(len(content.texts), dtype=np.int64)
    if source == "picture":
        return Rows([], None, count, pictures=content.texts)
    if source == "sound":
        return Rows([], None, count, sounds=content.texts)
    pairs = content.pairs or None
    if tagged and any(isinstance(text, list) for text in content.texts):
        words = [text if isinstance(text, list) else text.split() for text in content.texts]
        labels = np.empty(len(words), dtype=object)
        return Rows([WORD_BREAK.join(row) for row in words], None, labels)
    return Rows(content.texts, pairs, count, choices=content.choices or None)
