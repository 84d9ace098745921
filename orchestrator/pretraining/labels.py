"""Labels that the targets of a model need, checked against the rows. Imports without torch."""

from collections.abc import Sequence

from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.data.rows.rows import Rows, require_pairs
from orchestrator.data.samples.kinds import LabelledConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.configs import (
    ClsConfig,
    MultilabelConfig,
    RegressionConfig,
    SpConfig,
)
from orchestrator.modeling.targets.stream_configs import SiameseConfig
from orchestrator.modeling.targets.token_configs import TagsConfig


def form_of(model: ModelConfig) -> LabelForm:
    """Return the form of labels that a model learns from."""
    names = [target.type_name() for target in model.target]
    return next((FORMS[name] for name in names if name in FORMS), CLASSES)


def name_of_labelled(model: ModelConfig) -> str:
    """Return the name of the target that learns from the labels of rows."""
    return next(each.name for each in model.target if each.type_name() in LabelledConfig.wants)


def require_labels(model: ModelConfig, names: Sequence[str], rows: Rows) -> None:
    """Refuse rows with other labels than a model's targets answer with.

    Args:
        model: The model.
        names: Of the labels.
        rows: Those to learn from.

    Raises:
        InputError: The rows have another number of classes, tags, labels or numbers than the
            target, or a target is for pairs and they have one text.
    """
    form = form_of(model)
    for target in model.target:
        if isinstance(
            target, ClsConfig | SiameseConfig | TagsConfig | MultilabelConfig | RegressionConfig
        ):
            form.require_size(names, rows.labels, target.num_labels)
        elif isinstance(target, SpConfig):
            form.require_size(names, rows.labels, 2)
        if isinstance(target, SiameseConfig | SpConfig):
            require_pairs(rows)
