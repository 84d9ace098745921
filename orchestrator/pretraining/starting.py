"""Start of a run from a checkpoint or a package, and checks that they fit the job.

From a checkpoint a run takes everything: weights, optimizer, position, curves. Up to that step it
is bit-identical to the other run, and goes its own way from there: a branch. From a package it
takes weights only, and begins at step 0 (continued pre-training).

A resumed run must use the data it started with, which its config only names. Files that were added,
or other versions of the libraries whose docs are read, make another corpus with another tokenizer:
the same ids would mean other words, and the same step other samples, while all shapes still fit. So
do the same documents in another order, where all counts are equal. The hashes of the data's files,
which its manifest holds, cover both.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from orchestrator.config import StrictModel
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.tokenizer_files import TOKENIZER
from orchestrator.data.randomness import derive_seed
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_on_meta, first_values
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import RATES, differing_keys, spelled_out
from orchestrator.modeling.huggingface.importing import ORIGINAL
from orchestrator.modeling.huggingface.sources import PROCESSOR_FILES
from orchestrator.modeling.initialization import Values, Zeros
from orchestrator.modeling.lora import freeze
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import StoredValues, read_config
from orchestrator.modeling.sentence.statement import copy_statement
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.continued import new_heads
from orchestrator.pretraining.inputs import AnyCorpus, PretrainInputs
from orchestrator.pretraining.state import Origin, RunState
from orchestrator.storage import RunFolder, sha256_bytes
from orchestrator.storage.json_files import json_bytes
from orchestrator.storage.remote.mirror import local_copy
from orchestrator.training.worker_context import StoredState
from orchestrator.zoo import Package

MAX_SHOWN = 5
"""Differences that a message lists."""


def start_line(config: PretrainConfig, source: Package | StoredState | None) -> list[str]:
    """Check where a job starts, and return what ``--check`` says of it."""
    if source is None:
        return []
    if isinstance(source, Package):
        check_package(config, source)
        return [f"{'start':12} weights of {source.ref}, step 0{_heads_made(config, source)}"]
    check_checkpoint(config, source)
    return [f"{'start':12} everything of {source.path}, step {source.step}"]


def _heads_made(config: PretrainConfig, source: Package) -> str:
    """Return which heads the package lacks, and the peak of the learning rate, in words."""
    made = [target.name for target in new_heads(read_config(source.path), config.model)]
    new = f", new heads: {', '.join(made)}" if made else ", no new heads"
    return f"{new}, learning rate {config.train.optimizer.learning_rate:g}"


def origin_of(inputs: PretrainInputs) -> Origin:
    """Describe the run of a job, for the checkpoints it writes."""
    return Origin(
        model=inputs.model,
        optimizer=inputs.config.train.optimizer.type,
        tokenizer=vocabulary_id(inputs.corpus.processor),
    )


def _read_origin(found: StoredState) -> Origin:
    """Read what a checkpoint records.

    Raises:
        InputError: It is not one that training can go on from.
    """
    if not found.has("model"):
        raise InputError(
            f"train.start_from: {found.path} holds the best weights of a run, which training "
            "cannot go on from. Name a checkpoint in the run's folder checkpoints, or the run's "
            "package."
        )
    return found.read(RunState)


def check_checkpoint(
    config: PretrainConfig, found: StoredState, inputs: PretrainInputs | None = None
) -> None:
    """Refuse a checkpoint that a job cannot go on from; reads no weights.

    Args:
        config: The job.
        found: The checkpoint.
        inputs: The job's inputs; without them, vocabularies are not compared yet.

    Raises:
        InputError: It is not a checkpoint of a run, is of another model, optimizer or tokenizer,
            or there are no steps left.
    """
    where, theirs = str(found.path), _read_origin(found)
    ours = _with_vocabulary(config.model, theirs.model.vocab_size)
    if inputs is not None:
        ours = inputs.model
        if theirs.tokenizer != vocabulary_id(inputs.corpus.processor):
            raise InputError(
                f"train.start_from: {where} was trained with another tokenizer. Use the same data "
                "and data.tokenizer, or set data.tokenizer.path to the folder of its tokenizer."
            )
    _require_same_model(theirs.model, ours, where)
    optimizer = config.train.optimizer.type
    if theirs.optimizer != optimizer:
        raise InputError(
            f"train.start_from: {where} has the state of {theirs.optimizer}, "
            f"train.optimizer.type is {optimizer!r}. Use the same, or start from that run's "
            "package, which provides weights only."
        )
    if found.step >= config.train.max_steps:
        raise InputError(
            f"train.start_from: {where} is after step {found.step}, train.max_steps is "
            f"{config.train.max_steps}. It counts from the beginning: raise it."
        )


def _with_vocabulary(model: ModelConfig, size: int) -> ModelConfig:
    return model if model.vocab_size else model.with_vocab(size)


def _require_same_model(theirs: ModelConfig, ours: ModelConfig, where: str) -> None:
    """Refuse weights that mean something else in this job.

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
        more = f"; and {len(lines) - MAX_SHOWN} more" if len(lines) > MAX_SHOWN else ""
        raise InputError(
            f"train.start_from: {where} is another model: {'; '.join(lines[:MAX_SHOWN])}{more}. "
            "Make the model section like its own."
        )


def check_package(config: PretrainConfig, package: Package) -> None:
    """Refuse a package whose weights or tokenizer are not this job's; reads no weights.

    Raises:
        InputError: The model or the tokenizer differs; says what to set.
    """
    theirs = read_config(package.path).with_targets(config.model.target)
    _require_same_model(theirs, _with_vocabulary(config.model, theirs.vocab_size), package.ref)
    if not theirs.vocab_size:
        return
    path = config.data.prepared or config.data.tokenizer.path
    mine = None if path is None else vocabulary_id(TextProcessor.load(path))
    if mine != vocabulary_id(TextProcessor.load(package.path)):
        raise InputError(
            f"train.start_from: the weights of {package.ref} belong to its tokenizer. Set "
            f"data.tokenizer: {{path: {package.path}}}."
        )


def first_model(
    inputs: PretrainInputs, start: str | None, found: StoredState | None
) -> tuple[Model, Values]:
    """Return the model on the meta device, and what its parameters begin as.

    Args:
        inputs: Of the job.
        start: Folder of a package whose weights it takes; None: it is new.
        found: The checkpoint that is loaded afterwards; nothing is drawn or read before.
    """
    model = build_on_meta(inputs.model)
    if inputs.config.train.freeze:
        freeze(model, inputs.config.train.freeze)
    if found is not None:
        return model, Zeros()
    new = first_values(model, inputs.model, derive_seed(inputs.config.seed, "model"))
    return model, new if start is None else stored_weights(model, local_copy(start), new)


def stored_weights(model: Model, folder: Path, new: Values) -> Values:
    """Return the weights of a package for a model; heads that it lacks have `new` ones.

    Nothing of a parameter is read that is not asked for. Buffers are copied into the model.

    Raises:
        InputError: It is another model.
    """
    config = read_config(folder).with_targets(model.config.target)
    require_same_shapes(build_on_meta(config).state_dict(), model.state_dict(), folder.name)
    return StoredValues(folder, model, new)


def pass_on(parent: Path, child: Path, model: ModelConfig) -> None:
    """Give a package that was trained on from another one the files that still hold for it.

    Args:
        parent: Folder of the other one.
        child: Folder of the new one, with its tokenizer.
        model: The new model; with the same heads it stays the same class of transformers.
    """
    tokenizers = [folder / TOKENIZER for folder in (parent, child)]
    if all(path.is_file() for path in tokenizers):
        same = tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
        if same:  # its limit is that of the model, not the size of the blocks
            TextProcessor.load(parent).save(child)
        for name in PROCESSOR_FILES if same else ():
            if (parent / name).is_file():
                shutil.copyfile(parent / name, child / name)
    if read_config(parent) == model:
        copy_statement(parent, child)
        if (parent / ORIGINAL).is_file():
            shutil.copyfile(parent / ORIGINAL, child / ORIGINAL)


def vocabulary_id(processor: object) -> str:
    """Return a hash of a tokenizer's ids and the text of each; empty for images."""
    processor = getattr(processor, "text", processor)  # the tokenizer of examples with texts
    if not isinstance(processor, TextProcessor):
        return ""
    tokens: Iterable[tuple[str, int]] = sorted(processor.tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()


STEP = "data"
IDENTIFYING = ("block_size", "documents", "tokens", "blocks", "shards", "rows", "label_names")
"""Keys of a manifest that distinguish data and do not depend on where or how they were made."""
DESCRIBING = (".json", ".txt")
"""Endings of files beside the data: plans, sidecars and tokenizers, which name places."""


class Data(StrictModel):
    """Record in a run folder of the data that the run started with."""

    sha256: str
    """Hash of its counts and of its tokenizer."""
    size: str
    """Amount of data, for people."""
    content: str | None = None
    """Hash of its files' hashes; null: the run was started by a version that compared counts."""


def require_same_data(run: RunFolder, corpus: AnyCorpus, step: str = STEP) -> None:
    """Record a run's data when it begins, and refuse other data when it goes on.

    Args:
        run: The run.
        corpus: Its data, or the text of its guard.
        step: Where the run records it.

    Raises:
        InputError: The data changed; says how much there was.
    """
    now = _identify(corpus)
    before = run.once(step, Data, lambda: now)
    known = before.content is not None
    if before.sha256 == now.sha256 and (not known or before.content == now.content):
        if not known:
            run.pin(step, now.model_dump(mode="json"))
        return
    counted = before.size != now.size or before.sha256 != now.sha256
    what = f"{before.size}; now {now.size}" if counted else f"{now.size} as now, in another order"
    raise InputError(
        f"run {run.config.run.name!r} began with other data ({what}): its samples have other "
        "numbers now. Put back what the section data names (builtin:pydoc: the versions of the "
        "libraries), or go on with this data in another run: run.name=<new> "
        f"train.start_from={{run: {run.config.run.name}}}, which needs the same tokenizer."
    )


def _identify(corpus: AnyCorpus) -> Data:
    manifest = corpus.manifest.model_dump(mode="json")
    seen = {name: manifest[name] for name in IDENTIFYING if name in manifest}
    counts = json_bytes({**seen, "tokenizer": vocabulary_id(corpus.processor)})
    files = {
        name: entry.sha256
        for name, entry in sorted(corpus.manifest.files.items())
        if not name.endswith(DESCRIBING)
    }
    return Data(
        sha256=sha256_bytes(counts),
        size=f"{corpus.documents:,} documents, {corpus.tokens:,} tokens",
        content=sha256_bytes(json_bytes(files)),
    )
