"""Heads that classify by words, made from the masked-word head of a package."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model, read_config
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.token_configs import MlmConfig, PromptConfig


def completed(folder: Path, target: TargetConfig) -> TargetConfig:
    """Return a head for words with the options of the package's masked-word head; others as is.

    Args:
        folder: Folder of the package.
        target: Config of the head.

    Raises:
        InputError: The package has no masked-word head or no mask token, or a word is not one
            token.
    """
    if not isinstance(target, PromptConfig):
        return target
    head, processor = _masked_word_head(folder), TextProcessor.load(folder)
    if "mask" not in processor.settings.special:
        raise InputError(f"{folder.parent.name}: its tokenizer has no mask token for a template.")
    for words in target.words:
        token_ids(processor, words)
    options = ("transform", "activation", "norm_eps", "norm_bias", "transform_bias", "bias")
    own = {name: getattr(head, name) for name in options}
    return target.model_copy(update={**own, "mask_token": processor.settings.special["mask"]})


def token_ids(processor: TextProcessor, words: Sequence[str]) -> list[int]:
    """Return the token of each word, as it stands behind a blank.

    Raises:
        InputError: A word is several tokens, or none that the tokenizer knows.
    """
    found = []
    for word, ids in zip(words, processor.encode([f" {word}" for word in words]), strict=True):
        pieces = [processor.tokenizer.id_to_token(each) for each in ids]
        if len(ids) != 1 or ids[0] == processor.settings.special.get("unk"):
            raise InputError(
                f"verbalizer: {word!r} is {pieces} in this tokenizer, and must be one known token. "
                "Take another word for the class."
            )
        found += ids
    return found


def fill_prompts(model: Model, folder: Path, names: Collection[str]) -> None:
    """Give heads for words the values of the package's masked-word head.

    Args:
        model: Has the heads, completed.
        folder: Folder of the package.
        names: Heads to fill; those of other types are left as they are.
    """
    heads = [each for each in model.config.target if isinstance(each, PromptConfig)]
    heads = [each for each in heads if each.name in names]
    if not heads:
        return
    head, processor = _masked_word_head(folder), TextProcessor.load(folder)
    theirs = cast(Any, load_model(folder, targets=[head]).targets[head.name])
    for config in heads:
        mine = cast(Any, model.targets[config.name])
        rows = token_ids(processor, [word for words in config.words for word in words])
        with torch.no_grad():
            mine.output.weight.copy_(theirs.output.weight[rows])
            if config.bias:
                mine.output.bias.copy_(theirs.output.bias[rows])
        if config.transform:
            mine.transform_layer.load_state_dict(theirs.transform_layer.state_dict())


def new_prompts(folder: Path, targets: Sequence[TargetConfig]) -> list[str]:
    """Return the names of heads for words that a package does not have."""
    stored = read_config(folder).target
    return [each.name for each in targets if isinstance(each, PromptConfig) and each not in stored]


def _masked_word_head(folder: Path) -> MlmConfig:
    """Return the config of the head that predicts masked words."""
    config = read_config(folder)
    for head in config.target:
        if isinstance(head, MlmConfig) and config.decoder is None:
            return head
    named = ", ".join(f"{head.name} ({head.type_name()})" for head in config.target)
    raise InputError(
        f"a template needs a masked-word head (mlm), and {folder.parent.name}/{folder.name} has "
        f"{named}. Start from a package that was pre-trained with one, or leave task.template out."
    )
