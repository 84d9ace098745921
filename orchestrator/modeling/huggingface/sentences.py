"""Folders of sentence-transformers: modules after the encoder, limit and prompts, read and written.

Read are the layouts of its versions 2 to 6: module types ``sentence_transformers.models.Pooling``
and the newer paths, ``pooling_mode_*`` flags and the newer ``pooling_mode``. Written are the older
names, which all versions open. The library itself is not used: it builds modules that the folder
names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, get_args

from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.config import require_no_problems
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.modeling.huggingface.values import JsonObject
from orchestrator.modeling.sentence.embedder import ACTIVATIONS, SentenceEmbedder
from orchestrator.modeling.sentence.statement import (
    DenseLayer,
    Layer,
    NormalizeLayer,
    PoolingMode,
    SentenceEmbedding,
)

MODULES: Final = "modules.json"
PROMPTS: Final = "config_sentence_transformers.json"
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
ENCODERS: Final = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
LIMITS: Final = tuple(f"sentence_{name}_config.json" for name in ENCODERS)
"""Files of the encoder's settings; newer versions write the first one for every encoder."""
FLAGS: Final[dict[str, PoolingMode]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flag of the older layout → mode, in the order of the concatenation."""
VECTOR: Final = "sentence_embedding"
TYPES: Final = "sentence_transformers.models."
ADVICE: Final = (
    "Import the encoder alone from a copy of the folder without modules.json, if it is enough"
)
"""Way out where a module has no counterpart: such a package takes the mean over the tokens."""


@dataclass(frozen=True, slots=True)
class SentenceFolder:
    """The modules of a folder.

    Attributes:
        embedder: The same computation here, with its weights.
        files: Names of the files that were read.
    """

    embedder: SentenceEmbedder
    files: tuple[str, ...]


class _Reader:
    """Reads JSON files of a folder, and remembers their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []

    def json(self, name: str) -> Any:
        """Return the content of a file; {} where it is not there."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}.") from error
        self.files.append(name)
        return content

    def settings(self, name: str) -> JsonObject:
        """Return a file that holds a mapping; {} where it is not there."""
        content = self.json(name)
        if not isinstance(content, dict):
            raise InputError(f"{self.folder / name} is not a mapping.")
        return content

    def refuse(self, module: str, file: str, what: str) -> InputError:
        """Return the error that a module cannot be expressed here."""
        return InputError(
            f"{self.folder / file}: {module}: {what}, which cannot be expressed here. {ADVICE}."
        )


def read_sentences(
    folder: Path, hidden_size: int, longest: int, positions: int
) -> SentenceFolder | None:
    """Read the modules of a folder; None: it is not one of sentence-transformers.

    Args:
        folder: The checkpoint.
        hidden_size: Width of the encoder's token vectors.
        longest: Limit in tokens where the folder names none.
        positions: Most tokens that the encoder reads.

    Raises:
        InputError: A module or a setting cannot be expressed, or a file is missing or damaged.
    """
    if not (folder / MODULES).is_file():
        return None
    reader = _Reader(folder)
    modules = _modules(reader)
    pooling, include_prompt = _pooling(reader, modules[1][1], hidden_size)
    layers: list[Layer] = []
    tensors: dict[str, Tensor] = {}
    for kind, path in modules[2:]:
        if kind == "Dense":
            layer, weights = _dense(reader, path)
            tensors |= {f"layers.{len(layers)}.{name}": each for name, each in weights.items()}
            layers.append(layer)
        else:
            _require_vector(reader, kind, path, reader.settings(_within(path, CONFIG)))
            layers.append(NormalizeLayer())
    limit, lowercase = _limit(reader, longest, positions)
    try:
        statement = SentenceEmbedding(
            pooling=pooling,
            include_prompt=include_prompt,
            layers=tuple(layers),
            max_length=limit,
            lowercase=lowercase,
            **_prompts(reader),
        )
        require_no_problems(statement, str(folder / MODULES))
    except (ValidationError, OrchestratorError) as error:
        raise InputError(f"{folder / MODULES}: its modules do not fit: {error}") from error
    first = next((layer for layer in layers if isinstance(layer, DenseLayer)), None)
    if first is not None and first.in_features != hidden_size * len(pooling):
        raise InputError(
            f"{folder / MODULES}: Dense reads {first.in_features} values; the pooling makes "
            f"{hidden_size * len(pooling)}. The files are not those of one model."
        )
    embedder = SentenceEmbedder(statement)
    try:
        embedder.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise InputError(f"{folder / MODULES}: weights of Dense do not fit: {error}") from error
    return SentenceFolder(embedder, tuple(reader.files))


def _modules(reader: _Reader) -> list[tuple[str, str]]:
    """Return the kind and the folder of each module; the first ones are encoder and pooling."""
    listed = reader.json(MODULES)
    try:
        found = [(str(each["type"]), str(each["path"])) for each in listed]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{reader.folder / MODULES} is not a list of modules: {error!r}."
        ) from error
    for kind, path in found:
        if not kind.startswith("sentence_transformers."):
            raise reader.refuse(kind, MODULES, "it is code of its own")
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(
                f"{reader.folder / MODULES}: {kind} is in {path!r}, outside the folder."
            )
    modules = [(kind.rpartition(".")[2], path) for kind, path in found]
    for place, (kind, path) in enumerate(modules):
        allowed = (("Transformer",), ("Pooling",))[place] if place < 2 else ("Dense", "Normalize")
        if kind not in allowed:
            what = f"module {place} is of type {kind}; read is {' or '.join(allowed)}"
            raise reader.refuse(f"{kind} in {path!r}", MODULES, what)
    if len(modules) < 2:
        raise reader.refuse("Pooling", MODULES, "there is no pooling")
    if modules[0][1]:
        raise reader.refuse("Transformer", MODULES, f"it is in {modules[0][1]!r}, not at the top")
    return modules


def _pooling(reader: _Reader, path: str, hidden_size: int) -> tuple[tuple[PoolingMode, ...], bool]:
    """Return the modes, and whether the tokens of a prompt take part."""
    file = _within(path, CONFIG)
    settings = reader.settings(file)
    widths = ("word_embedding_dimension", "embedding_dimension")
    known = {*FLAGS, *widths, "pooling_mode", "include_prompt"}
    if unknown := sorted(settings.keys() - known):
        raise reader.refuse("Pooling", file, f"it has {', '.join(unknown)}")
    width = next((settings[name] for name in widths if name in settings), None)
    if width != hidden_size:
        raise InputError(
            f"{reader.folder / file}: Pooling reads vectors of {width} values; the encoder makes "
            f"{hidden_size}. The files are not those of one model."
        )
    chosen: Any = settings.get("pooling_mode")
    if chosen is None:
        chosen = [mode for flag, mode in FLAGS.items() if settings.get(flag)] or ["mean"]
    modes: list[Any] = [chosen] if isinstance(chosen, str) else list(chosen)
    if unknown := [str(mode) for mode in modes if mode not in get_args(PoolingMode)]:
        raise reader.refuse("Pooling", file, f"its mode is {unknown[0]!r}")
    return tuple(modes), bool(settings.get("include_prompt", True))


def _dense(reader: _Reader, path: str) -> tuple[DenseLayer, dict[str, Tensor]]:
    """Return a projection with its ``weight`` and ``bias``."""
    file = _within(path, CONFIG)
    settings = reader.settings(file)
    _require_vector(reader, "Dense", path, settings)
    function = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    names = {each.__name__: name for name, each in ACTIVATIONS.items()}
    name = str(function).rpartition(".")[2]
    if not str(function).startswith("torch.nn.") or name not in names:
        raise reader.refuse("Dense", file, f"its activation is {function!r}")
    weights = _within(path, WEIGHTS)
    if not (reader.folder / weights).is_file():
        raise InputError(
            f"{reader.folder / weights} is not there. Weights of Dense are read from safetensors "
            "alone: a pickled pytorch_model.bin can run code. Save the folder again with "
            "SentenceTransformer(...).save(...)."
        )
    layer = {
        key: settings[key] for key in ("in_features", "out_features", "bias") if key in settings
    }
    try:
        dense = DenseLayer.model_validate(layer | {"activation": names[name]})
        stored = load_file(reader.folder / weights)
    except Exception as error:  # validation, and safetensors' own types
        raise InputError(f"{reader.folder / file}: Dense cannot be read: {error}") from error
    reader.files.append(weights)
    return dense, {name.removeprefix("linear."): each for name, each in stored.items()}


def _require_vector(reader: _Reader, kind: str, path: str, settings: Mapping[str, Any]) -> None:
    """Refuse a module that reads or writes something else than the vector of the text."""
    file = _within(path, CONFIG)
    plain = {"module_input_name": VECTOR, "module_output_name": VECTOR, "use_residual": False}
    known = {"in_features", "out_features", "bias", "activation_function"} | plain.keys()
    for key, value in settings.items():
        if key not in known or value not in (None, plain.get(key, value)):
            raise reader.refuse(kind, file, f"{key} is {value!r}")


def _limit(reader: _Reader, longest: int, positions: int) -> tuple[int, bool]:
    """Return the limit in tokens, and whether texts are folded to lower case first."""
    file = next((name for name in LIMITS if (reader.folder / name).is_file()), LIMITS[0])
    settings = reader.settings(file)
    plain: JsonObject = {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"}
        },
        "module_output_name": "token_embeddings",
    }
    for key, value in settings.items():
        free = key in ("max_seq_length", "do_lower_case", "unpad_inputs")
        # Arguments of loading alone; the library drops this one, too.
        empty = not value or (isinstance(value, dict) and value.keys() <= {"trust_remote_code"})
        if not (free or empty or value == plain.get(key)):
            raise reader.refuse("Transformer", file, f"{key} is {value!r}")
    limit = settings.get("max_seq_length") or longest
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"{reader.folder / file}: max_seq_length is {limit!r}, not a number.")
    return min(limit, positions), bool(settings.get("do_lower_case"))


def _prompts(reader: _Reader) -> JsonObject:
    settings = reader.settings(PROMPTS)
    free = ("__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name")
    for key, value in settings.items():
        if key not in free and value not in (None, False, {}, []):
            raise reader.refuse("SentenceTransformer", PROMPTS, f"{key} is {value!r}")
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise reader.refuse(str(kind), PROMPTS, f"model_type is {kind!r}")
    return {
        "prompts": settings.get("prompts") or {},
        "default_prompt": settings.get("default_prompt_name"),
        "similarity": settings.get("similarity_fn_name"),
    }


def _within(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def write_sentences(folder: Path, embedder: SentenceEmbedder, hidden_size: int) -> None:
    """Write the files that sentence-transformers opens beside those of the encoder."""
    statement = embedder.statement
    modules: list[tuple[str, str]] = [("Transformer", ""), ("Pooling", "1_Pooling")]
    (folder / "1_Pooling").mkdir()
    _write(folder / "1_Pooling" / CONFIG, _pooling_settings(embedder, hidden_size))
    for place, layer in enumerate(statement.layers):
        kind = "Dense" if isinstance(layer, DenseLayer) else "Normalize"
        path = f"{place + 2}_{kind}"
        modules.append((kind, path))
        (folder / path).mkdir()
        if isinstance(layer, DenseLayer):
            function = ACTIVATIONS[layer.activation]
            settings = layer.model_dump(exclude={"type", "activation"})
            settings["activation_function"] = f"{function.__module__}.{function.__name__}"
            _write(folder / path / CONFIG, settings)
            state = embedder.layers[place].state_dict()
            tensors = {f"linear.{name}": tensor.contiguous() for name, tensor in state.items()}
            save_file(tensors, folder / path / WEIGHTS, metadata={"format": "pt"})
        else:
            _write(folder / path / CONFIG, {})
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": TYPES + kind}
        for index, (kind, path) in enumerate(modules)
    ]
    _write(folder / MODULES, listed)
    limits = {"max_seq_length": statement.max_length, "do_lower_case": statement.lowercase}
    _write(folder / LIMITS[0], limits)
    prompts = {
        "prompts": statement.prompts,
        "default_prompt_name": statement.default_prompt,
        "similarity_fn_name": statement.similarity,
    }
    _write(folder / PROMPTS, prompts)


def _pooling_settings(embedder: SentenceEmbedder, width: int) -> JsonObject:
    """Return the older flags, or the newer list where the order is not that of the flags."""
    statement = embedder.statement
    modes: list[str] = [*statement.pooling]
    settings: JsonObject = {"word_embedding_dimension": width}
    if modes == [mode for mode in FLAGS.values() if mode in modes]:
        settings |= {flag: mode in modes for flag, mode in FLAGS.items()}
    else:
        settings |= {"embedding_dimension": settings.pop("word_embedding_dimension")}
        settings["pooling_mode"] = [*modes]
    return settings | {"include_prompt": statement.include_prompt}


def _write(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
