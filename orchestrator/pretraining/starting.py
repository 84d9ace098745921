"""Where a run starts when it does not start from nothing: what it may take over, and what fits.

From a checkpoint a run takes everything: weights, optimizer, position, curves. It is the other run
up to that step, bit for bit, and its own from there on: a branch. From a package it takes weights,
and begins at step 0 (continued pre-training).

A run goes on with the data that it began with.

Its config only names them. Files that were added, or other versions of the libraries whose docs are
read, make another corpus with another tokenizer: the same ids would mean other words, and the same
step other samples, while shapes still fit.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import RATES, differing_keys, spelled_out
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model, read_config
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import AnyCorpus, vocabulary
from orchestrator.pretraining.plan import with_vocabulary
from orchestrator.storage import RunFolder, sha256_bytes
from orchestrator.storage.json_files import json_bytes
from orchestrator.training.workers import StoredState

if TYPE_CHECKING:
    from orchestrator.pretraining.inputs import AnyCorpus
    from orchestrator.zoo import Package


SHOWN = 5
"""Differences that a message lists."""


def description(config: PretrainConfig, model: ModelConfig, processor: object) -> dict[str, Any]:
    """Return what a checkpoint says of the run that wrote it, for runs that start from it."""
    return {
        "model": model.model_dump(mode="json"),
        "optimizer": config.train.optimizer.type,
        "tokenizer": vocabulary_id(processor),
    }


def check_checkpoint(
    config: PretrainConfig, found: StoredState, corpus: "AnyCorpus | None" = None
) -> None:
    """Refuse a checkpoint that a job cannot go on from; reads no weights.

    Args:
        config: The job.
        found: The checkpoint.
        corpus: The job's corpus; without one, vocabularies are not compared yet.

    Raises:
        InputError: It is no checkpoint of a run, of another model, optimizer or tokenizer, or there
            are no steps left.
    """
    where, there = str(found.path), found.extra
    if "model" not in there:
        raise InputError(
            f"train.start_from: {where} holds the best weights of a run and not what training goes "
            "on from. Name a checkpoint in the run's folder checkpoints, or the run's package."
        )
    theirs = validate_config(ModelConfig, there["model"], where)
    ours = _with_vocabulary(config.model, theirs.vocab_size)
    if corpus is not None:
        ours = with_vocabulary(config, vocabulary(corpus))
        if there["tokenizer"] != vocabulary_id(corpus.processor):
            raise InputError(
                f"train.start_from: {where} was trained with another tokenizer. Use the same data "
                "and data.tokenizer, or set data.tokenizer.path to the folder of its tokenizer."
            )
    _require_same_model(theirs, ours, where)
    optimizer = config.train.optimizer.type
    if there["optimizer"] != optimizer:
        raise InputError(
            f"train.start_from: {where} has the state of {there['optimizer']}, "
            f"train.optimizer.type is {optimizer!r}. Use the same, or start from the package of "
            "that run, of which the weights alone are taken."
        )
    if found.step >= config.train.max_steps:
        raise InputError(
            f"train.start_from: {where} is after step {found.step}, train.max_steps is "
            f"{config.train.max_steps}. It counts from the beginning: raise it."
        )


def _with_vocabulary(model: ModelConfig, size: int) -> ModelConfig:
    return model if model.vocab_size else model.with_vocab(size)


def _require_same_model(theirs: ModelConfig, ours: ModelConfig, where: str) -> None:
    """Refuse weights that mean something else here.

    Raises:
        InputError: Names, shapes or options that change outputs differ; the first are listed.
    """
    require_same_shapes(build_on_meta(theirs).state_dict(), build_on_meta(ours).state_dict(), where)
    keys = differing_keys(spelled_out(theirs), spelled_out(ours))
    wrong = [key for key in keys if not key.endswith(RATES) and not key.startswith("target.")]
    if wrong:
        raise InputError(
            f"train.start_from: {where} is another model; these options differ: "
            f"{', '.join(wrong)}. Make the model section like its own."
        )


def require_same_shapes(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], where: str
) -> None:
    """Refuse weights of another model.

    Raises:
        InputError: Names or shapes differ; the first few are listed.
    """
    lines = [f"{name} is missing there" for name in ours if name not in theirs]
    lines += [f"{name} is only there" for name in theirs if name not in ours]
    lines += [
        f"{name} is {list(theirs[name].shape)} there, {list(ours[name].shape)} here"
        for name in ours
        if name in theirs and theirs[name].shape != ours[name].shape
    ]
    if lines:
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise InputError(
            f"train.start_from: {where} is another model: {'; '.join(lines[:SHOWN])}{more}. "
            "Make the model section like its own."
        )


def check_package(config: PretrainConfig, package: "Package") -> None:
    """Refuse a package whose weights or tokenizer are not this job's; reads no weights.

    Raises:
        InputError: The model or the tokenizer differs; says what to set.
    """
    theirs = read_config(package.path).with_targets(config.model.target)
    _require_same_model(theirs, _with_vocabulary(config.model, theirs.vocab_size), package.ref)
    path = config.data.prepared or config.data.tokenizer.path
    if not theirs.vocab_size:
        return
    mine = None if path is None else vocabulary_id(TextProcessor.load(path))
    if mine != vocabulary_id(TextProcessor.load(package.path)):
        raise InputError(
            f"train.start_from: the weights of {package.ref} belong to its tokenizer. Set "
            f"data.tokenizer: {{path: {package.path}}}."
        )


def take_weights(model: Model, folder: Path) -> None:
    """Copy the weights of a package into a model; heads that it lacks stay new.

    Raises:
        InputError: It is another model.
    """
    theirs = load_model(folder, targets=model.config.target).state_dict()
    require_same_shapes(theirs, model.state_dict(), folder.name)
    model.load_state_dict(theirs)


def vocabulary_id(processor: object) -> str:
    """Return a hash of what a tokenizer's ids mean; images have none."""
    processor = getattr(processor, "text", processor)  # of examples with texts
    if not isinstance(processor, TextProcessor):
        return ""
    tokens: Iterable[tuple[str, int]] = sorted(processor.tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()


STEP = "data"
DECIDES = ("block_size", "documents", "tokens", "blocks", "shards", "rows", "label_names")
"""Of a manifest, what tells data apart and does not depend on where or with what they were made."""


def require_same_data(run: RunFolder, corpus: AnyCorpus) -> None:
    """Note a run's data when it begins, and refuse others when it goes on.

    Raises:
        InputError: They are others; says how many there were.
    """
    seen = {name: corpus.manifest[name] for name in DECIDES if name in corpus.manifest}
    content = json_bytes({**seen, "tokenizer": vocabulary_id(corpus.processor)})
    size = f"{corpus.documents:,} documents, {corpus.tokens:,} tokens"
    now = {"sha256": sha256_bytes(content), "size": size}
    before = run.done(STEP)
    if before is None:
        run.mark(STEP, now)
    elif before["sha256"] != now["sha256"]:
        raise InputError(
            f"run {run.config.run.name!r} began with other data ({before['size']}; now {size}): "
            "tokens and samples have other numbers now. Put back what the section data names "
            "(builtin:pydoc: the versions of the libraries), or choose another run.name."
        )
