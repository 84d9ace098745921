"""Files beside an exported graph: config, tokenizer, modules of sentence-transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.errors import InputError
from orchestrator.modeling.config import CONFIG_FILE, ModelConfig
from orchestrator.modeling.huggingface.classes import padding_of
from orchestrator.modeling.huggingface.exporting import (
    counterpart,
    name_inputs,
    processor_files,
    write_values,
)
from orchestrator.modeling.huggingface.importing import original_of
from orchestrator.modeling.huggingface.sentences import write_sentences
from orchestrator.modeling.huggingface.sources import copy_processor
from orchestrator.modeling.huggingface.values import JsonObject, label_values
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.storage.json_files import read_json

PROBLEMS: Final = {
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
"""``problem_type`` of heads whose outputs are not one class."""


def write_files(
    folder: Path,
    staged: Path,
    config: ModelConfig,
    head: TargetConfig | None,
    labels: Mapping[str, list[str]],
) -> bool:
    """Write config, tokenizer and modules; return whether transformers opens the config."""
    values = _values(folder, config, head, labels)
    known = values is not None
    write_values(staged, values or read_json(folder / CONFIG_FILE))
    copy_processor(folder, processor_files(folder), staged)
    name_inputs(staged, config)
    settings, special = staged / "tokenizer_config.json", staged / "special_tokens_map.json"
    if settings.is_file() and not special.is_file():
        tokens = read_json(settings)
        named = {k: v for k, v in tokens.items() if k.endswith("_token") and v}
        special.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
    embedder = SentenceEmbedder.load(folder)
    if embedder is not None and head is None:
        write_sentences(staged, embedder, config.hidden_size)
    return known


def _values(
    folder: Path,
    config: ModelConfig,
    head: TargetConfig | None,
    labels: Mapping[str, list[str]],
) -> JsonObject | None:
    """Return the config of the class of transformers that has the model, else of its body alone.

    None: there is neither. The graph has the head, whatever layers a class gives it.
    """
    if original_of(folder) is not None:
        return counterpart(folder, config, labels)[1]
    padded = config.model_copy(update={"pad_token_id": padding_of(config)})
    for heads in dict.fromkeys([() if head is None else (head,), ()]):
        try:
            values = counterpart(folder, padded.with_targets(heads), labels)[1]
        except InputError:
            continue
        return values | {"pad_token_id": config.pad_token_id} | _answers(head, labels)
    return None


def _answers(head: TargetConfig | None, labels: Mapping[str, list[str]]) -> JsonObject:
    """Return the names of a head's outputs, and what they are."""
    count = getattr(head, "num_labels", 0)
    if head is None or not count:
        return {}
    names = labels.get(head.name) or [f"LABEL_{index}" for index in range(count)]
    problem = PROBLEMS.get(head.type_name())
    return label_values(names) | ({} if problem is None else {"problem_type": problem})
