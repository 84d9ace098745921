"""Config of the demo. Imports without torch or ray."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from pydantic import Field, PositiveInt

from orchestrator.config import ClusterSection, JobConfig, RunSection
from orchestrator.errors import Problem

PRETRAIN_PRESETS = (
    "pretrain_bert_nano",
    "pretrain_bert_wide_nano",
    "pretrain_gpt_nano",
    "pretrain_bilstm_nano",
    "pretrain_gatedcnn_nano",
)
STAGES = ("pretrain", "benchmark", "select", "continual", "quantize", "serve")


class DemoConfig(JobConfig):
    """Presets of the demo, and changes to them."""

    run: RunSection = RunSection(name="demo", dir="runs", zoo="runs/demo/zoo")
    """Everything that the demo writes is under `<run.dir>/<run.name>/`."""
    cluster: ClusterSection = ClusterSection(workers=2)
    """Cluster to run on; without an address a local Ray is started."""
    pretrain: tuple[str, ...] = Field(default=PRETRAIN_PRESETS, min_length=2)
    """Presets of the models to pre-train: the candidates of the selection."""
    benchmark: str = "benchmark_pydoc"
    """Preset of the performance matrix."""
    select: str = "select_pydoc"
    """Preset of the selection."""
    continual: str = "continual_pydoc"
    """Preset of the task stream."""
    quantize: str = "quantize_pydoc"
    """Preset of the quantization."""
    requests: PositiveInt = 200
    """HTTP requests sent to the served package."""
    max_drop: float = Field(0.05, ge=0, le=1)
    """Largest fall of a head's score since it was learned with which it counts as kept."""
    overrides: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Changes to presets by stage, for example `{pretrain: ["train.max_steps=20"]}`."""

    def problems(self) -> Iterable[Problem]:
        """Yield presets and stages that do not exist."""
        known = ", ".join(sorted(path.stem for path in preset_folder().glob("*.yaml")))
        named = [(f"pretrain.{i}", name) for i, name in enumerate(self.pretrain)]
        named += [(stage, getattr(self, stage)) for stage in STAGES[1:-1]]
        for path, name in named:
            if not preset(name).is_file():
                yield Problem(path, f"{name!r} is not a preset. Presets: {known}")
        for stage in self.overrides:
            if stage not in STAGES:
                yield Problem(f"overrides.{stage}", f"is not a stage. Stages: {', '.join(STAGES)}")


def preset_folder() -> Path:
    """Return the folder of the job presets that come with the installation."""
    return Path(str(resources.files("jobs") / "configs"))


def preset(name: str) -> Path:
    """Return the file of the preset called ``name``."""
    return preset_folder() / f"{name}.yaml"
