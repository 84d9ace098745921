"""The package of a finished run: its figures and its files."""

import shutil
from pathlib import Path

from orchestrator.config import dump_yaml
from orchestrator.data.samples.kinds import SftConfig
from orchestrator.modeling.targets.answer_configs import AnswersConfig
from orchestrator.pretraining.inputs import PretrainInputs
from orchestrator.pretraining.results import EVALUATION, Evaluation, Figures, Summary, figures_of
from orchestrator.pretraining.starting import pass_on
from orchestrator.storage import atomic_write_json
from orchestrator.zoo.draft import Draft
from orchestrator.zoo.flatness import FLATNESS_FILE

HISTORY = "history.parquet"
EXPORTED = ("config.json", "model*.safetensors*", HISTORY, FLATNESS_FILE)
"""Patterns of the files that become the package; a large model has several of weights."""


def figures(inputs: PretrainInputs, summary: Summary) -> Figures:
    """Return the figures of a run for its package.

    Args:
        inputs: What it read.
        summary: What its workers measured.
    """
    config, corpus = inputs.config, inputs.corpus
    targets = [t for t in config.model.target if f"loss.{t.name}" in summary.validation]
    return figures_of(
        summary,
        [target.name for target in targets],
        chooses=not isinstance(targets[0], AnswersConfig),
        documents=corpus.documents,
        tokens=corpus.tokens,
        unknown_share=corpus.unknown_share,
    )


def write_package(draft: Draft, export: Path, inputs: PretrainInputs, parent: Path | None) -> None:
    """Write the files of a package.

    Args:
        draft: The package.
        export: What the workers exported.
        inputs: What the run read.
        parent: Folder of the package that it started from.
    """
    config = inputs.config
    for path in (path for pattern in EXPORTED for path in export.glob(pattern)):
        target = draft.path / path.relative_to(export)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    inputs.corpus.processor.save(draft.path)
    if parent is not None:
        pass_on(parent, draft.path, inputs.model)
    chosen = config.chosen_samples
    if isinstance(chosen, SftConfig) and chosen.chat_template is not None:
        shutil.copyfile(chosen.chat_template, draft.path / "chat_template.jinja")
    (draft.path / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
    evaluation = Evaluation(data=config.data.title, **draft.metrics)
    atomic_write_json(
        draft.path / EVALUATION, evaluation.model_dump(mode="json", exclude_none=True)
    )
