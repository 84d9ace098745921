"""The exam of a draft, in every stage that makes a package: measure, judge, accept or reject.

A stage calls ``examine_draft`` when all files of its package are written, and commits afterwards.
What is measured is the artifact itself, read back from the draft's folder.
"""

import logging
from collections.abc import Mapping

from orchestrator.inference.heads import package_tasks
from orchestrator.inference.predictor import Predictor
from orchestrator.inference.protection import protect
from orchestrator.modeling.config import read_config
from orchestrator.storage.json_files import json_bytes
from orchestrator.tasks.base import AnyTask, build_task
from orchestrator.tasks.suite import Learned, Parent, examine
from orchestrator.zoo.draft import Draft
from orchestrator.zoo.gate import Promotion, judge
from orchestrator.zoo.package import Package
from orchestrator.zoo.suite import SUITE_FILE, Exam, Suite, SuiteConfig, TaskSpec, read_suite

logger = logging.getLogger(__name__)


def examine_draft(
    draft: Draft,
    *,
    parent: Package | None = None,
    learned: Mapping[str, Learned] | None = None,
    default: str | None = None,
    promotion: Promotion | None = None,
    config: SuiteConfig | None = None,
    trained: bool = False,
) -> Suite:
    """Measure every task of a draft, write its suite, and set why the gate rejects it.

    Args:
        draft: All files are written; its ``task`` names the labels of each head.
        parent: Package whose promises the draft keeps; None: it starts a new suite.
        learned: Data of the job by head.
        default: Head that answers where none is named; None: the parent's.
        promotion: Limits of the gate; None: the default ones.
        config: What is kept for later stages.
        trained: Whether the draft holds weights that were just fine-tuned: how important each is
            for its tasks is measured and stored, unless ``config.protect`` is false.

    Raises:
        IntegrityError: The files of the draft do not fit together.
        StageError: A new task cannot be measured.
    """
    learned, config = learned or {}, config or SuiteConfig()
    promised = None if parent is None else promises(parent)
    stated = draft.task or {}
    tasks = _draft_tasks(draft, promised, learned)
    if default is None and promised is not None and promised.default in tasks:
        default = promised.default
    child = Predictor.open_folder(
        draft.path, tasks, default=default, max_length=stated.get("max_length")
    )
    known = None
    if parent is not None and promised is not None and promised.exams:
        known = Parent(parent.ref, parent.path, promised, Predictor.open(parent))
    suite = examine(
        child, draft.path, parent=known, learned=learned, default=default, config=config
    )
    if trained and config.protect:
        protect(draft.path, child.tasks, learned, child.max_length)
    verdict = judge(promised, suite, promotion or Promotion())
    suite = suite.model_copy(update={"notes": verdict.notes})
    if suite.exams:
        (draft.path / SUITE_FILE).parent.mkdir(parents=True, exist_ok=True)
        (draft.path / SUITE_FILE).write_bytes(json_bytes(suite))
    if draft.task is not None:
        draft.task["default"] = default
    draft.reasons = list(verdict.reasons)
    for reason in verdict.reasons:
        logger.warning("event=refused reason=%r", reason)
    return suite


def promises(package: Package) -> Suite:
    """Return what a child of a package is held to.

    Its suite, and each head with label names that its suite does not list: such a head has learned
    a labelled task in a stage that made no suite, so what it promises is unknown.
    """
    suite = read_suite(package) or Suite()
    named = {} if package.manifest.task is None else package.manifest.task.labels
    tasks = package_tasks(package) if named else {}
    unknown = {
        head: Exam(
            task=task.spec,
            status="unverified",
            reason=f"{package.ref} was made without an evaluation suite",
            primary=task.primary.name,
        )
        for head, task in tasks.items()
        if head in named and head not in suite.exams
    }
    return suite.model_copy(update={"exams": {**suite.exams, **unknown}})


def _draft_tasks(
    draft: Draft, promised: Suite | None, learned: Mapping[str, Learned]
) -> dict[str, AnyTask]:
    """Return the tasks of a draft, with the label names that its manifest is going to state."""
    specs: dict[str, TaskSpec] = {}
    labels = (draft.task or {}).get("labels", {})
    for target in read_config(draft.path).target:
        head = target.name
        if head in learned:
            spec = learned[head].task.spec
        elif promised is not None and head in promised.exams:
            spec = promised.exams[head].task
        else:
            continue
        if stated := labels.get(head):
            spec = spec.model_copy(update={"labels": tuple(stated)})
        specs[head] = spec
    return {head: build_task(spec) for head, spec in specs.items()}
