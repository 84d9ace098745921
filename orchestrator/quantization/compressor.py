"""INT8 compression as other stages ask for it: a check without search, and a full search.

The check executes every unit in INT8 with one scale per token, which needs no calibration and costs
one emission. It sees what outliers do to activations, which rounding of weights alone would not.
Gentler forms, with some units in float, are for models that lose by it, as the search would find.
The search is that of the job `quantize`; the caller measures the written files by its own limits on
validation rows. Test rows are read once, by the files that it accepts, and reject nothing here.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError, StageError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.quantization.artifact import (
    COPIED,
    write_evaluation,
    write_files,
    write_model_file,
)
from orchestrator.quantization.backends.backend import default_backend
from orchestrator.quantization.backends.choosing import no_units
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.describing import no_plan
from orchestrator.quantization.inputs import Prepared, prepare
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.plans import Plan, Unit, ffn_only, fully_quant
from orchestrator.quantization.ranking import Point, misses
from orchestrator.quantization.registries import Int8Config
from orchestrator.quantization.results import REPORT_FILE, QuantizationReport
from orchestrator.quantization.search import Search
from orchestrator.quantization.source import read_source
from orchestrator.storage import RunFolder, atomic_write_bytes
from orchestrator.training.compression import CompressionJob, Compressor, Miss, Pool
from orchestrator.zoo import Package, Zoo

QUICK_KIND: Final[KindName] = "row_s7"
STAGE = "quantize"
PERCENTILE = 95
logger = logging.getLogger(__name__)


class Int8Compressor(Compressor):
    """INT8 arithmetic in the GEMMs of an encoder of texts, executed by ONNX Runtime."""

    Config = Int8Config

    def refusal(self, config: ModelConfig) -> str | None:
        """Emit a graph of the same shape with one classifier and a small vocabulary."""
        from orchestrator.modeling.builder import build_on_meta
        from orchestrator.quantization.emission.model import emit

        head = ClsConfig(name="check", num_labels=2)
        try:
            small = config.with_targets([head]).with_vocab(max(8, config.pad_token_id + 1))
            shapes = {name: each.shape for name, each in build_on_meta(small).state_dict().items()}
            state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            units = emit(small, state).units
        except InputError as error:
            return str(error)
        return None if units else no_units(config.encoder.type_name())

    def quick_forms(self, source: Path, folder: Path) -> Iterator[Path]:
        """Execute every unit in INT8; then keep one role, and then all attention, in float."""
        model = read_source(source)
        units = model.emit().units
        if not units:
            raise InputError(no_units(model.model_config.encoder.type_name()))
        processor, backend = TextProcessor.load(source), default_backend()
        for plan in quick_plans(units):
            write_model_file(folder, model, plan, backend)
            for name in COPIED:
                shutil.copyfile(source / name, folder / name)
            processor.save(folder)
            yield folder

    def search(self, job: CompressionJob, pool: Pool, folder: Path) -> list[Miss]:
        """Search as the job `quantize` does; test rows choose nothing."""
        config = _config_of(job, _subject(job))
        prepared = _timed_at_percentile(prepare(config))
        nearest: list[Miss] = []
        with RunFolder.open(config, STAGE) as run:
            search = Search(config, prepared, run, pool)
            for choice in search.choices():
                write_files(folder, prepared, choice)
                missed = list(job.accept(folder))
                if not missed:
                    write_evaluation(folder, config, prepared, search.tested(choice))
                    return []
                _empty(folder)
                words = "; ".join(miss.in_words() for miss in missed)
                logger.info("%s: plan %s is not taken: %s", job.name, choice.point.name, words)
                nearest = _nearer(nearest, missed)
        for point in search.points:
            nearest = _nearer(nearest, list(_misses(point, config.goal)))
        if not nearest:
            raise StageError(no_plan(config.goal, search.points, None))
        return nearest

    def publish(self, folder: Path, draft: Path, parent: Package) -> None:
        """Copy the files; the report names the committed float package as its source."""
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        report = QuantizationReport.model_validate_json((draft / REPORT_FILE).read_bytes())
        report = report.model_copy(update={"source": parent.ref})
        atomic_write_bytes(draft / REPORT_FILE, report.model_dump_json(indent=2).encode() + b"\n")


def quick_plans(units: Sequence[Unit]) -> list[Plan]:
    """Return plans that need no calibration, each once: fully INT8 first, then gentler ones."""
    full = fully_quant(units, QUICK_KIND)
    plans = [full]
    for role in dict.fromkeys(unit.role for unit in units):
        floats: dict[str, KindName] = {unit.name: FLOAT for unit in units if unit.role == role}
        plans.append(Plan({**full.kinds, **floats}))
    plans.append(ffn_only(units, QUICK_KIND))
    return list({plan.digest: plan for plan in plans if plan.integer}.values())


def _subject(job: CompressionJob) -> Package:
    """Return the float model as a package of a zoo that only this search has."""
    zoo = Zoo(job.work / "zoo")
    if job.name in zoo.names():
        return zoo.get(job.name)
    producer = {"stage": STAGE, "job": job.name}
    with zoo.draft(job.name, kind="finetuned", producer=producer, task=job.task) as draft:
        shutil.copytree(job.source, draft.path, dirs_exist_ok=True)
        return draft.commit()


def _config_of(job: CompressionJob, subject: Package) -> QuantizeConfig:
    fields = {
        "run": {"name": job.name, "dir": str(job.work), "zoo": str(job.work / "zoo")},
        "seed": job.seed,
        "cluster": {**job.cluster.model_dump(), "gpus_per_worker": 0},
        "package": subject.ref,
        "target": job.head,
        "data": job.data.model_dump(mode="json"),
        "goal": {
            "max_accuracy_drop": job.max_accuracy_drop,
            "max_latency_ms": job.max_latency_ms,
            "statistic": "mean",  # as the caller compares scores
        },
    }
    return validate_config(QuantizeConfig, fields, f"INT8 of {job.name}")


def _timed_at_percentile(prepared: Prepared) -> Prepared:
    """Time plans on one text that is as long as the 95th percentile of the validation rows."""
    parts = prepared.inputs.texts.validation.parts
    lengths = [length for part in parts for length in part.lengths or ()]
    length = int(np.percentile(lengths, PERCENTILE, method="higher"))
    timing = replace(prepared.inputs.timing, length=length)
    return replace(prepared, inputs=replace(prepared.inputs, timing=timing))


def _misses(point: Point, goal: GoalConfig) -> Iterator[Miss]:
    """Yield the limits that a measured plan does not keep, by the names of the caller."""
    if point.plan.integer or goal.allow_float:
        for miss in misses(point, goal):
            name = "p95_ms" if miss.limit == "max_latency_ms" else miss.limit
            yield Miss(limit=name, value=miss.value, allowed=miss.allowed)


def _nearer(one: list[Miss], other: list[Miss]) -> list[Miss]:
    """Return the misses of the plan that is nearer to its limits; none are an unknown plan's."""
    found = [each for each in (one, other) if each]
    return min(found, key=lambda missed: sum(each.excess for each in missed), default=[])


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
