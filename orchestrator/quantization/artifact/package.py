"""Files of a quantized package."""

import shutil
from pathlib import Path
from typing import Final

from orchestrator.config import StrictModel, dump_yaml
from orchestrator.errors import StageError
from orchestrator.quantization.artifact.figures import (
    Choice,
    pareto_report,
    probe,
    quantization_report,
)
from orchestrator.quantization.backends.onnxruntime_cpu.session import MODEL_FILE
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import Prepared
from orchestrator.quantization.plans import PLAN_FILE, Plan
from orchestrator.quantization.results import PARETO_FILE, PROBE_FILE, REPORT_FILE
from orchestrator.quantization.source import Source
from orchestrator.storage import sha256_file

COPIED: Final = ("config.json",)
"""Files of the float package that the quantized one has too."""


def write_model_file(folder: Path, source: Source, plan: Plan) -> bytes:
    """Write ``model.onnx`` and ``plan.json`` and return the model's bytes as read back."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(source.emit(plan).to_bytes())
    _write_json(folder / PLAN_FILE, plan.to_file(source.ranges))
    return (folder / MODEL_FILE).read_bytes()


def write_package(folder: Path, config: QuantizeConfig, prepared: Prepared, choice: Choice) -> None:
    """Write the files of the package.

    Raises:
        StageError: If the model file is not the one that was measured.
    """
    model = choice.folder / MODEL_FILE
    if sha256_file(model) != choice.measured.sha256:
        raise StageError(f"{model} changed after it was measured; start the job again")
    for name in (MODEL_FILE, PLAN_FILE):
        shutil.copyfile(choice.folder / name, folder / name)
    for name in COPIED:
        shutil.copyfile(prepared.subject.package.path / name, folder / name)
    prepared.processor.save(folder)
    (folder / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
    (folder / "evaluation").mkdir(exist_ok=True)
    _write_json(folder / PARETO_FILE, pareto_report(config, choice))
    _write_json(folder / REPORT_FILE, quantization_report(config, prepared, choice))
    _write_json(folder / PROBE_FILE, probe(prepared, choice))


def _write_json(path: Path, content: StrictModel) -> None:
    path.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
