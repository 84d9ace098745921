"""Execute a quantized package with ONNX Runtime: arrays of token ids in, answers per target out.

Needs NumPy and ONNX Runtime only. Legend: B batch, S length, D width, K answers.

With per-tensor activation ranges (kind ``s7``), the answer to a text would depend on the other
texts of its batch. Such models run each row alone, cut to its own length, so that the answer of
every package is a function of the text alone; other plans run the whole batch in one call.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import InputError, IntegrityError
from orchestrator.quantization.backends.onnxruntime_cpu.arithmetic import check_rules
from orchestrator.quantization.backends.onnxruntime_cpu.mapped import graph_of
from orchestrator.quantization.plans import PlanFile

MODEL_FILE: Final = "model.onnx"
EMBEDDING: Final = "embedding"
EMBEDDING_MASK: Final = "embedding_mask"
LOGITS_PREFIX: Final = "logits."
LENGTH: Final = "length"
"""Symbolic dimension of the tokens of a batch."""
METADATA_VOCAB: Final = "vocab_size"
METADATA_POSITIONS: Final = "max_position_embeddings"

WEIGHTS_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""Option of ONNX Runtime."""

IDS: Final = "input_ids"
OPTIONAL: Final = ("attention_mask", "token_type_ids", EMBEDDING_MASK)
"""Integer inputs that have a default where texts are read."""

Feed = dict[str, AnyArray]


class OnnxModel:
    """An ONNX Runtime session with the batch convention of ``orchestrator.modeling``."""

    def __init__(self, session: ort.InferenceSession, *, batch_invariant: bool) -> None:
        self.session = session
        self.batch_invariant = batch_invariant
        self.inputs: tuple[str, ...] = tuple(value.name for value in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(value.name for value in session.get_outputs())
        self._per_token = {v.name for v in session.get_outputs() if LENGTH in v.shape[1:]}
        metadata = session.get_modelmeta().custom_metadata_map
        self.vocab_size = int(metadata.get(METADATA_VOCAB, 0))
        self.max_length = int(metadata.get(METADATA_POSITIONS, 0))

    @classmethod
    def load(cls, folder: str | Path, *, threads: int = 1) -> "OnnxModel":
        """Open ``model.onnx`` of a package folder.

        Args:
            folder: A quantized package (``plan.json`` beside the model) or any emitted model.
            threads: Threads within one call; 1 with several replicas serves most requests.

        Raises:
            InputError: If the folder has no ``model.onnx``, or its plan is not readable.
            IntegrityError: If ONNX Runtime cannot execute the file.
        """
        path = Path(folder) / MODEL_FILE
        if not path.is_file():
            raise InputError(
                f"{folder} has no {MODEL_FILE}: give the folder of a quantized package"
            )
        plan = PlanFile.read(Path(folder))
        invariant = plan is None or plan.batch_invariant
        return cls(open_session(path, threads=threads), batch_invariant=invariant)

    @classmethod
    def from_bytes(cls, model: bytes, *, batch_invariant: bool, threads: int = 1) -> "OnnxModel":
        """Open a model that is in memory."""
        return cls(open_session(model, threads=threads), batch_invariant=batch_invariant)

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads tokens and nothing else."""
        return {IDS} <= set(self.inputs) <= {IDS, *OPTIONAL}

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(
            name.removeprefix(LOGITS_PREFIX)
            for name in self.outputs
            if name.startswith(LOGITS_PREFIX)
        )

    def predict(self, batch: Mapping[str, AnyArray]) -> dict[str, Float32Array]:
        """Compute the answers of each target, [B, K] or [B, S, K], and ``embedding`` [B, D].

        Args:
            batch: ``input_ids`` [B, S]; optional ``attention_mask`` [B, S] (1 real, 0 padding;
                default: all real), ``token_type_ids`` [B, S] (default: 0) and ``embedding_mask``
                [B, S], 1 at the tokens that the embedding pools (default: all real). A graph that
                reads no tokens takes its own inputs (``pixel_values``). Other keys are ignored.

        Returns:
            Name → values; answers per token are zeros at columns that are padding in every row.

        Raises:
            InputError: If an input is missing, shapes differ, an id is outside the vocabulary, a
                text has no real token, or it is longer than the model's positions.
        """
        reads_tokens = IDS in self.inputs
        known = {*batch, *OPTIONAL} if reads_tokens else set(batch)
        if missing := [name for name in self.inputs if name not in known]:
            raise InputError(
                f"the graph reads {', '.join(missing)}; the batch has {', '.join(batch)}"
            )
        feed = self._tokens(batch) if reads_tokens else {}
        for name in self.inputs:
            if name not in feed:  # images and sounds
                feed[name] = np.asarray(batch[name], np.int32 if name in OPTIONAL else np.float32)
        count = len(next(iter(feed.values())))
        if self.batch_invariant or count == 1:
            return self._run(feed)
        rows = [self._run(_row(feed, index)) for index in range(count)]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _run(self, feed: Feed) -> dict[str, Float32Array]:
        """Run rows without the columns that are padding in all of them."""
        trimmed = _trimmed(feed) if IDS in feed else feed
        values = self.session.run(None, {name: trimmed[name] for name in self.inputs})
        found = {}
        for name, each in zip(self.outputs, values, strict=True):
            wide = IDS in feed and name in self._per_token
            whole = _widened(each, trimmed[IDS], feed[IDS]) if wide else each
            found[name.removeprefix(LOGITS_PREFIX)] = whole
        return found

    def _tokens(self, batch: Mapping[str, AnyArray]) -> Feed:
        ids = np.asarray(batch[IDS])
        self._check_ids(ids)
        feed: Feed = {IDS: ids.astype(np.int32)}
        for name, default in (("attention_mask", 1), ("token_type_ids", 0)):
            if name in batch:
                values = np.asarray(batch[name])
                if values.shape != ids.shape:
                    raise InputError(f"{name} has shape {values.shape}, input_ids {ids.shape}")
                feed[name] = values.astype(np.int32)
            elif default or name in self.inputs:
                feed[name] = np.full(ids.shape, default, np.int32)
        if EMBEDDING_MASK in self.inputs:
            chosen = batch.get(EMBEDDING_MASK, feed["attention_mask"])
            feed[EMBEDDING_MASK] = np.asarray(chosen, np.int32)
        empty = np.flatnonzero(~feed["attention_mask"].any(axis=1))
        if empty.size:
            raise InputError(
                f"rows {empty.tolist()} have no real token: give every text at least one"
            )
        return feed

    def _check_ids(self, ids: AnyArray) -> None:
        if ids.ndim != 2 or 0 in ids.shape:
            raise InputError(
                f"input_ids has shape {ids.shape}; it must be [batch, length], not empty"
            )
        if ids.min() < 0 or (self.vocab_size and ids.max() >= self.vocab_size):
            raise InputError(
                f"input_ids range from {ids.min()} to {ids.max()}; the vocabulary has "
                f"{self.vocab_size} tokens: use the tokenizer of this package"
            )
        if self.max_length and ids.shape[1] > self.max_length:
            raise InputError(
                f"texts of {ids.shape[1]} tokens; the model has {self.max_length} positions: cut "
                "the texts"
            )


def open_session(
    model: Path | bytes,
    *,
    threads: int = 1,
    optimized: Path | None = None,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Open a CPU session with the options that all measuring and serving share.

    Args:
        model: Path of an ONNX file, whose weights are mapped, or the content of one.
        threads: Threads within one call.
        optimized: Write the graph after the runtime's optimizations here.
        profile: Record executed nodes into files with this prefix.

    Raises:
        IntegrityError: If the runtime cannot execute the model.
        InputError: If its arithmetic on this host is not what the model relies on.
    """
    name = str(model) if isinstance(model, Path) else "the model in memory"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        if isinstance(model, Path):
            path = model.resolve()  # the runtime refuses weights behind a symbolic link
            options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
            model = graph_of(path)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own types share no public base class
        raise IntegrityError(f"{name} is not executable by ONNX Runtime: {error}") from error
    check_rules(session.get_modelmeta().custom_metadata_map, name)
    return session


def _row(feed: Feed, index: int) -> Feed:
    return {name: values[index : index + 1] for name, values in feed.items()}


def _widened(values: Float32Array, trimmed: AnyArray, ids: AnyArray) -> Float32Array:
    """Return answers per token [B, S, K] for all columns of the ids, not the trimmed ones alone."""
    missing = ids.shape[1] - trimmed.shape[1]
    of_tokens = values.shape[1] == trimmed.shape[1]  # a text with an image has more positions
    return np.pad(values, ((0, 0), (0, missing), (0, 0))) if of_tokens else values


def _trimmed(feed: Feed) -> Feed:
    """Drop columns on the right that are padding in every row."""
    length = int(np.flatnonzero(feed["attention_mask"].any(axis=0))[-1]) + 1
    return {
        name: np.ascontiguousarray(values[:, :length]) if name in (IDS, *OPTIONAL) else values
        for name, values in feed.items()
    }
