"""Import of a configuration and weights of TencentPretrain as a package."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.config import validate_config
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Table, to_ours, to_theirs
from orchestrator.modeling.huggingface.classes import architecture_of
from orchestrator.modeling.huggingface.folder import require_same
from orchestrator.modeling.huggingface.importing import ImportOptions, write_json
from orchestrator.modeling.huggingface.sources import (
    PROCESSOR_FILES,
    copy_processor,
    package_name,
)
from orchestrator.modeling.huggingface.tokenization.completion import (
    complete_tokenizer,
    require_rows,
)
from orchestrator.modeling.interfaces import Streams
from orchestrator.modeling.package import load_model, write_model
from orchestrator.modeling.tencentpretrain.architecture import assemble
from orchestrator.modeling.tencentpretrain.deviations import UNTIED
from orchestrator.modeling.tencentpretrain.options import read_options
from orchestrator.modeling.tencentpretrain.sample import batch_of, modality_of
from orchestrator.modeling.tencentpretrain.tensor_names import table, tied_names
from orchestrator.modeling.tencentpretrain.weights import (
    REPEATED,
    canonical,
    in_halves,
    output_is_its_own,
    read_weights,
)
from orchestrator.storage.files import sha256_file
from orchestrator.zoo.package import Package
from orchestrator.zoo.zoo import Zoo

SCHEME = "tencentpretrain:"
REPORT = "evaluation/import.json"


def import_tencentpretrain(zoo: Zoo, source: str, options: ImportOptions) -> Package:
    """Import a model as the next version of a package.

    Args:
        zoo: Where the package goes.
        source: ``tencentpretrain:<config.json>,<weights>[,<folder of a tokenizer>]``.
        options: Name and license; a revision has no meaning here.

    Raises:
        InputError: A file is missing, or an option has no counterpart here.
        IntegrityError: Tensors are missing, unexpected or mis-shaped, tied ones differ, or outputs
            are not finite. Nothing was committed.
    """
    config_path, weights_path, tokenizer = _paths(source)
    if options.revision is not None:
        raise InputError("files have no revisions. Leave --revision out.")
    config, state, details = convert(config_path, read_weights(weights_path), options.leave_out)
    paths = (config_path, weights_path)
    producer = {
        "stage": "import",
        "source": source,
        "source_files": {path.name: sha256_file(path.resolve()) for path in paths},
        "deviations": details["deviations"],
    }
    name = options.name or package_name(weights_path.name.partition(".")[0])
    with zoo.draft(name, kind="imported", producer=producer, licence=options.licence) as draft:
        write_model(draft.path, state, config, options.shard_bytes)
        if tokenizer is not None:
            there = [each for each in PROCESSOR_FILES if (tokenizer / each).is_file()]
            copy_processor(tokenizer, there, draft.path)
            complete_tokenizer(tokenizer, draft.path, config.vocab_size)
            require_rows(draft.path, config.vocab_size)
        details |= {"numeric_check": _check_finite(draft.path, config)}
        draft.task = _task(config)
        draft.metrics["parameters"] = sum(tensor.numel() for tensor in state.values())
        (draft.path / REPORT).parent.mkdir(exist_ok=True)
        write_json(draft.path / REPORT, details)
        return draft.commit()


def _paths(source: str) -> tuple[Path, Path, Path | None]:
    parts = [Path(part).expanduser() for part in source.removeprefix(SCHEME).split(",")]
    if len(parts) not in (2, 3):
        raise InputError(
            f"{source!r} must be {SCHEME}<config.json>,<weights>[,<folder of a tokenizer>]."
        )
    tokenizer = parts[2] if len(parts) == 3 else None
    if tokenizer is not None and not tokenizer.is_dir():
        raise InputError(f"{tokenizer} is not a folder. Give one with tokenizer.json or vocab.txt.")
    return parts[0], parts[1], tokenizer


def convert(
    config_path: Path, theirs: Mapping[str, Tensor], leave_out: Sequence[str] = ()
) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Bring a model into our form.

    Args:
        config_path: Their JSON file.
        theirs: Their tensors by name.
        leave_out: Patterns of tensors that need not be read.

    Returns:
        Our config, our tensors, and what the report says.

    Raises:
        InputError: An option has no counterpart here.
        IntegrityError: Tensors are missing, unexpected or mis-shaped, or tied ones differ.
    """
    options = read_options(config_path)
    state = canonical(options, theirs)
    untied = output_is_its_own(options, state)
    if untied:
        options = options.model_copy(update={"tie_weights": False})
    tied = tied_names(options, state)
    assembly = assemble(options, {name: tensor.shape for name, tensor in state.items()})
    config = validate_config(ModelConfig, assembly.config, str(config_path))
    rows = table(options, state, assembly.heads)
    repeated = {name for name in state if _is_repeated(name, rows, leave_out)}
    for name in tied.keys() & state.keys():
        if tied[name] in state and not torch.equal(state[name], state[tied[name]]):
            raise IntegrityError(
                f"{name} and {tied[name]} differ, but the configuration ties them. Which one is "
                "meant? Set tie_weights or share_embedding to false, or remove one."
            )
    own = {n: t for n, t in state.items() if n not in repeated and n not in tied}
    require_same(_expected(config, rows), own, f"{config_path.name}'s weights")
    details = {
        "deviations": [*assembly.deviations, *([UNTIED] if untied else [])],
        "tensors_left_out": sorted({*repeated, *(tied.keys() & state.keys())}),
        "same_as_in_transformers": _counterpart(config),
    }
    return config, in_halves(options, to_ours(rows, own)), details


def _is_repeated(name: str, rows: Table, leave_out: Sequence[str]) -> bool:
    wanted = any(name in row.theirs for row in rows)
    return not wanted and any(fnmatch(name, pattern) for pattern in (*REPEATED, *leave_out))


def _expected(config: ModelConfig, rows: Table) -> dict[str, torch.Size]:
    skeleton = build_on_meta(config)
    tied = skeleton.tied_names()
    own = {name: t for name, t in skeleton.state_dict().items() if name not in tied}
    return {name: tensor.shape for name, tensor in to_theirs(rows, own).items()}


def _counterpart(config: ModelConfig) -> str | None:
    try:
        return architecture_of(config).name
    except InputError:
        return None


@torch.no_grad()
def _check_finite(folder: Path, config: ModelConfig) -> str:
    """Run a random batch; there is no reference to compare with, as their code is not run.

    Raises:
        IntegrityError: An output is not finite.
    """
    model = load_model(folder).eval()
    batch = batch_of(config)
    if config.target:
        outputs = model.predict(batch)
    else:
        encoded = model.encode(batch)
        streams = encoded if isinstance(encoded, Streams) else (encoded,)
        outputs = {f"encoded.{index}": each for index, each in enumerate(streams)}
    wrong = [name for name, logits in outputs.items() if not logits.isfinite().all()]
    if wrong:
        raise IntegrityError(f"outputs {', '.join(wrong)} are not finite: the weights are damaged.")
    return "outputs are finite; their own code, which deviates as listed, is not run"


def _task(config: ModelConfig) -> dict[str, Any]:
    kind = config.target[0].type_name() if config.target else "embedding"
    return {
        "kind": "classification" if kind == "cls" else kind,
        "modality": modality_of(config),
        "max_length": config.max_position_embeddings,
    }
