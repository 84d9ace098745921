"""The winner becomes a package: its fine-tuned files, how it was chosen, and what it cost."""

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from orchestrator.config import dump_yaml
from orchestrator.errors import IntegrityError
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.planning import SelectionPlan
from orchestrator.selection.trainable import PACKAGE, committed_rows
from orchestrator.storage import RunFolder

STAGE = "select"
IDENTITY = "identity"


def publish_winner(
    config: SelectConfig, plan: SelectionPlan, report: dict[str, Any], run: RunFolder, state: Path
) -> str:
    """Commit the winner and return its reference; a second call finds the first one's package.

    Args:
        config: The job.
        plan: Candidates and target.
        report: `outcome.selection_report`, stored as ``evaluation/selection.json``.
        run: The run, which remembers its identity and the package.
        state: The winner's committed training state with its package files.

    Raises:
        IntegrityError: The state holds no whole package.
    """
    from orchestrator.zoo import Zoo

    if (known := run.done("package")) is not None:
        return str(known["ref"])
    identity = run.done(IDENTITY) or {"id": uuid.uuid4().hex}
    run.mark(IDENTITY, identity)
    zoo = Zoo(config.run.zoo)
    reference = _published(zoo, config.package, identity["id"])
    if reference is None:
        reference = _commit(zoo, config, plan, report, state, identity["id"])
    run.mark("package", {"ref": reference})
    return reference


def summary_of(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report that fit one JSON line and a manifest."""
    names = ("winner", "test_accuracy", "validation_accuracy", "majority_accuracy", "policy")
    return {**{name: report[name] for name in names}, **report["ledger"]}


def _published(zoo: Any, name: str, identity: str) -> str | None:
    """The package that this run committed before it was interrupted."""
    for package in zoo.packages():
        extra = package.manifest.producer.model_extra or {}
        if package.name == name and extra.get("selection") == identity:
            return str(package.ref)
    return None


def _commit(
    zoo: Any,
    config: SelectConfig,
    plan: SelectionPlan,
    report: dict[str, Any],
    state: Path,
    identity: str,
) -> str:
    if not committed_rows(state) or not (state / PACKAGE).is_dir():
        raise IntegrityError(f"{state} holds no fine-tuned package. Delete {state} and run again.")
    parent = plan.packages[report["winner"]]
    images = plan.task.train.images is not None
    head = json.loads((state / PACKAGE / "config.json").read_text())["target"][0]["name"]
    with zoo.draft(
        config.package,
        kind="finetuned",
        producer={"stage": STAGE, "job": config.run.name, "selection": identity},
        parents=[parent],
        task={
            "kind": "classification",
            "modality": "vision" if images else "text",
            "labels": {head: list(plan.task.label_names)},
            "max_length": None if images else config.fine_tune.max_length,
        },
        metrics=summary_of(report),
        licence=parent.manifest.licence,
    ) as draft:
        shutil.copytree(state / PACKAGE, draft.path, dirs_exist_ok=True)
        (draft.path / "evaluation").mkdir(exist_ok=True)
        text = json.dumps(report, indent=1, sort_keys=True, allow_nan=False)
        (draft.path / "evaluation" / "selection.json").write_text(text + "\n", encoding="utf-8")
        (draft.path / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
        return str(draft.commit().ref)
