"""Samples for the targets of a model, and checks that model and data fit them.

Imports neither torch nor ray.
"""

from collections.abc import Iterator

from orchestrator.data.samples.kinds import (
    ExamplesConfig,
    ImageTextConfig,
    LabelledConfig,
    MaskedConfig,
    MaskedPatchesConfig,
    NeighboursConfig,
    NextConfig,
    PairsConfig,
    PrefixConfig,
    ReplacedConfig,
    SampleConfig,
    SpansConfig,
    TextPairsConfig,
    TranscriptsConfig,
    samples,
)
from orchestrator.data.spec import BUILTIN_EXAMPLES, CorpusConfig, TokenizerConfig
from orchestrator.errors import Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import ImageConfig, MaskedPatchConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.pretraining.model_streams import (
    reader_of,
    reads_pictures,
    reads_sounds,
    streams_of,
)

USUAL: tuple[type[SampleConfig], ...] = (
    PairsConfig,
    LabelledConfig,
    MaskedConfig,
    NeighboursConfig,
    ReplacedConfig,
    MaskedPatchesConfig,
)
"""Samples of targets that have only one kind; the first that fits all targets is taken."""

OWN_LABELS = ("tags", "multilabel", "regression")
"""Targets of rows that have no single class as their label; the builtins have none of them."""


def labelled_targets(model: ModelConfig) -> list[str]:
    """Return the types of the targets that need labels from samples."""
    return [t.type_name() for t in model.target if t.has_loss and t.balances is None]


def trained_targets() -> list[str]:
    """Return the types of the targets that can be pre-trained: a sample kind has labels of them."""
    return sorted({name for _, kind in samples.items() for name in (*kind.wants, *kind.also)})


def usual_samples(model: ModelConfig) -> SampleConfig | None:
    """Return the samples that a model's targets are trained on; None: there is no usual kind."""
    targets = labelled_targets(model)
    if reads_sounds(model):
        return TranscriptsConfig() if _fits(TranscriptsConfig, targets) else None
    if model.decoder is not None:
        return None
    if _fits(ImageTextConfig, targets):
        return ImageTextConfig() if reads_pictures(model) else TextPairsConfig()
    if targets == ["lm"]:
        prefix = getattr(model.encoder, "mask", None) == "prefix"
        return PrefixConfig() if prefix else NextConfig()
    for kind in USUAL:
        if _fits(kind, targets):
            return kind()
    return None


def sample_problems(
    model: ModelConfig, given: SampleConfig | None, data: CorpusConfig
) -> Iterator[Problem]:
    """Yield what does not fit together."""
    chosen = given or usual_samples(model)
    if chosen is None:
        yield _no_usual(model)
        return
    if given is not None and not _fits(type(chosen), labelled_targets(model)):
        yield Problem("samples.type", _misfit(chosen, labelled_targets(model)))
    if chosen.decoder not in (None, model.decoder is not None):
        has, fits = ("a", _writers()) if model.decoder else ("no", "another type")
        yield Problem(
            "samples.type", f"{chosen.type_name()!r}: the model has {has} decoder. Use {fits}."
        )
    if isinstance(chosen, PrefixConfig) and getattr(model.encoder, "mask", None) != "prefix":
        yield Problem("samples.type", "'prefix' needs an encoder with `mask: prefix`.")
    yield from _data_problems(model, chosen, data)


def _fits(kind: type[SampleConfig], targets: list[str]) -> bool:
    """Return whether samples of a kind have labels of all targets, each type at most once."""
    known = set(kind.wants) | set(kind.also)
    wanted = [target for target in targets if target in kind.wants]
    return len(wanted) == 1 and set(targets) <= known and len(set(targets)) == len(targets)


def _misfit(chosen: SampleConfig, targets: list[str]) -> str:
    also = f", and optionally {' or '.join(chosen.also)}" if chosen.also else ""
    return (
        f"{chosen.type_name()!r} samples have labels of one target "
        f"{' or '.join(chosen.wants)}{also}; "
        f"the model has {', '.join(targets) or 'none'}. Change model.target or samples.type."
    )


def _no_usual(model: ModelConfig) -> Problem:
    targets = labelled_targets(model)
    trained = trained_targets()
    strange = [name for name in targets if name not in trained]
    if strange:
        index = [target.type_name() for target in model.target].index(strange[0])
        message = (
            f"{strange[0]!r} cannot be pre-trained on a corpus. Use one of {', '.join(trained)}."
        )
        return Problem(f"model.target.{index}.type", message)
    if model.decoder is not None and targets == ["lm"]:
        message = f"a model with a decoder is trained on {_writers()}. Set samples.type."
        return Problem("samples", message)
    return Problem(
        "model.target",
        f"{', '.join(targets) or 'no target with labels'}: there are no samples with labels of "
        "these together. Use one of mlm, lm, bilm, rtd, cls, sp, siamese, tags, multilabel, "
        "regression, nsp, sop, mim, clr, itm and ctc, or mlm with cls, sp, tags, multilabel, "
        "regression, nsp, sop or itm.",
    )


def _data_problems(
    model: ModelConfig, chosen: SampleConfig, data: CorpusConfig
) -> Iterator[Problem]:
    yield from _source_problems(model, chosen, data)
    yield from _packing_problems(model, chosen, data)
    if isinstance(chosen, SpansConfig) and data.tokenizer.path is None:
        yield from _sentinel_problems(chosen, data)


def _source_problems(
    model: ModelConfig, chosen: SampleConfig, data: CorpusConfig
) -> Iterator[Problem]:
    source = data.data.source
    if data.prepared and chosen.reads != "blocks":
        kind = chosen.type_name()
        yield Problem("data.prepared", f"holds documents, not {kind} samples. Use data.data")
    if isinstance(chosen, ExamplesConfig):
        yield from _example_problems(model, chosen, data)
    elif chosen.reads == "rows":
        yield from _row_problems(labelled_targets(model), chosen, data)
        yield from _picture_problems(model, chosen, data)
    elif (data.data.labelled or data.data.examples) and not data.mixture:
        yield Problem("data.data.source", f"{source!r} is not a corpus. Use builtin:pydoc.")


def _row_problems(
    targets: list[str], chosen: SampleConfig, data: CorpusConfig
) -> Iterator[Problem]:
    """Yield what labelled rows of a source do not have."""
    spec = data.data
    if chosen.form is not None and spec.scheme == "builtin":
        kind = chosen.type_name()
        yield Problem("data.data.source", f"{spec.source!r} has no {kind} rows. Use files: or hf:.")
        return
    own = [name for name in targets if name in OWN_LABELS]
    if data.mixture:
        yield Problem("data.mixture", "labelled rows come from one source. Use data.data.")
    elif spec.scheme == "builtin" and own:
        yield Problem(
            "data.data.source", f"{spec.source!r} has no labels for {own[0]}. Use files: or hf:."
        )
    elif spec.scheme == "builtin" and not spec.labelled:
        yield Problem(
            "data.data.source", f"{spec.source!r} has no labels. Use builtin:pydoc/<task>."
        )
    if spec.pair_column is not None and "tags" in targets:
        yield Problem("data.data.pair_column", "a row with tags has one text. Leave it out.")


def _picture_problems(
    model: ModelConfig, chosen: SampleConfig, data: CorpusConfig
) -> Iterator[Problem]:
    """Yield what has no effect on, or is not possible with, labelled pictures."""
    pictures = reads_pictures(model) or data.data.source == "builtin:digits"
    if pictures and "mlm" in labelled_targets(model):
        yield Problem("model.target", "images have no tokens to mask. Leave mlm out.")
    if not isinstance(chosen, LabelledConfig):
        return
    files = pictures and data.data.source != "builtin:digits"
    for name in ("family", "crop"):
        if not files and getattr(chosen, name) != LabelledConfig.model_fields[name].default:
            yield Problem(f"samples.{name}", "is for files of pictures. Leave it out.")


def _packing_problems(
    model: ModelConfig, chosen: SampleConfig, data: CorpusConfig
) -> Iterator[Problem]:
    if data.packing == "documents":
        if not chosen.packs:
            kinds = _listed([name for name, kind in samples.items() if kind.packs])
            yield Problem("data.packing", f"'documents' is for samples of type {kinds}.")
        elif model.encoder.type_name() != "transformer":
            yield Problem(
                "data.packing",
                f"'documents': {model.encoder.type_name()!r} reads across documents. Use stream.",
            )


def _sentinel_problems(chosen: SpansConfig, data: CorpusConfig) -> Iterator[Problem]:
    _, needed = chosen.sizes(chosen.room(data.block_size))
    if data.tokenizer.sentinels < needed:
        yield Problem(
            "data.tokenizer.sentinels",
            f"{data.tokenizer.sentinels} are too few: blocks of {data.block_size} tokens need "
            f"{needed} (T5 has 100).",
        )


def _example_problems(
    model: ModelConfig, chosen: ExamplesConfig, data: CorpusConfig
) -> Iterator[Problem]:
    """Yield what of the examples the model does not read, and what the source does not have."""
    yield from _example_source_problems(chosen, data)
    stacks = streams_of(model)
    found = sorted(_column(stack) for stack in stacks)
    wanted = sorted("text" if name == "pair" else name for name in chosen.columns)
    if isinstance(chosen, TranscriptsConfig):
        wanted = ["sound"]  # the text is written
    if found != wanted:
        yield Problem(
            "model.embedding.parts",
            f"the model reads {' and '.join(found)}, {chosen.type_name()!r} samples have "
            f"{' and '.join(wanted)}.",
        )
    elif isinstance(chosen, MaskedPatchesConfig) and not isinstance(
        reader_of(stacks[0]), MaskedPatchConfig
    ):
        yield Problem("model.embedding.parts.0", "hides no patches. Use `masked_patch` for `mim`.")
    if "text" not in chosen.columns:
        if data.tokenizer != TokenizerConfig():
            yield Problem("data.tokenizer", "pictures have no tokenizer. Leave it out.")
    else:
        yield from _length_problems(model, stacks, data.block_size)


def _column(stack: EmbeddingStackConfig) -> str:
    """Return the kind of input that a stack reads."""
    part = reader_of(stack)
    if isinstance(part, ImageConfig):
        return "picture"
    return "sound" if part is not None and part.type_name() in ("speech", "waveform") else "text"


def _example_source_problems(chosen: ExamplesConfig, data: CorpusConfig) -> Iterator[Problem]:
    if data.mixture:
        yield Problem("data.mixture", "examples come from one source. Use data.data.")
        return
    spec = data.data
    fitting = [
        f"builtin:{name}"
        for name, columns in BUILTIN_EXAMPLES.items()
        if set(chosen.columns) <= set(columns)
    ]
    if spec.scheme == "hf" or (
        spec.scheme == "builtin" and not set(chosen.columns) <= set(spec.examples or ())
    ):
        yield Problem(
            "data.data.source",
            f"{spec.source!r} has no examples with {' and '.join(chosen.columns)}. Use "
            f"{', '.join(fitting)} or files:.",
        )


def _length_problems(
    model: ModelConfig, stacks: tuple[EmbeddingStackConfig, ...], length: int
) -> Iterator[Problem]:
    """Yield where texts may be longer than what reads or writes them."""
    sizes = model.dimensions
    rooms = [
        stack.max_position_embeddings or dimensions.max_position_embeddings
        for stack, dimensions in zip(stacks, (sizes, sizes.of_second), strict=False)
        if _column(stack) == "text"
    ]
    if model.target_embedding is not None:
        rooms.append(
            model.target_embedding.max_position_embeddings or sizes.max_position_embeddings
        )
    for room in rooms:
        if length > room:
            yield Problem(
                "data.block_size",
                f"{length} exceeds max_position_embeddings ({room}) of what reads the texts. Raise "
                f"that, or use {room} or fewer tokens.",
            )


def _writers() -> str:
    """Return the sample kinds for a model with a decoder; none of them is the usual one."""
    return _listed([name for name, kind in samples.items() if kind.decoder])


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
