"""Loaded models behind one interface: arrays in, arrays of each head out.

Shapes: B rows, S tokens of the longest, K outputs, D width.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array, IntArray
from orchestrator.errors import InputError
from orchestrator.inference.batching import EMBEDDING_MASK
from orchestrator.inference.dispatch import Dispatch, RunTimes, measure_times, read_times
from orchestrator.modeling.config import ModelConfig, read_config
from orchestrator.modeling.targets.configs import VectorConfig
from orchestrator.tasks.numerics import most_probable_path

if TYPE_CHECKING:
    from torch import Tensor

    from orchestrator.modeling.generation.config import GenerationConfig
    from orchestrator.modeling.generation.generate import Watch
    from orchestrator.modeling.model import Model
    from orchestrator.modeling.sentence.embedder import SentenceEmbedder

EMBEDDING = "embedding"
"""Name of the output that holds one vector per row, [B, D]."""

TOKEN_EMBEDDINGS = "token_embeddings"  # noqa: S105
"""Name of the output that holds one vector per token, [B, S, D]; of torch models alone."""

ONNX_FILE = "model.onnx"
PLAN_FILE = "plan.json"
"""File of quantized packages that names the back end."""


@dataclass(frozen=True, slots=True)
class Writing:
    """Options of writing text.

    Attributes:
        max_new_tokens: Longest text in tokens.
        end: Token that ends a text; None: of a head that aligns frames.
        start: First token that a decoder reads; None: the padding token.
    """

    max_new_tokens: int
    end: int | None = None
    start: int | None = None


class LoadedModel(Protocol):
    """A model that runs padded arrays.

    Attributes:
        runtime: ``torch`` or the name of another back end.
        dtype: Number format of the weights: ``float32``, ``int8``.
        max_length: Longest input in tokens.
        dispatch: Says which sequences share a run.
    """

    runtime: str
    dtype: str
    max_length: int
    dispatch: Dispatch

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that can be asked for."""
        ...

    def run(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        """Run a padded batch.

        Args:
            batch: ``input_ids`` and its companions [B, S], or ``pixel_values``.
            wanted: Names of heads, and ``embedding``.

        Returns:
            Name → [B, K] or [B, S, K]; ``embedding`` → [B, D].
        """
        ...

    def generates(self, head: str) -> bool:
        """Whether a head predicts the next token."""
        ...

    def write(self, batch: Mapping[str, AnyArray], head: str, options: Writing) -> list[IntArray]:
        """Return the tokens that a head writes for each row, without the one that ends them.

        Args:
            batch: What the encoder reads, or prompts to continue.
            head: A head that predicts the next token, or one that aligns frames (ctc).
            options: How.

        Raises:
            InputError: This runtime writes no text.
        """
        ...


class TorchModel:
    """A torch model in evaluation mode, on any device."""

    runtime = "torch"

    def __init__(
        self, model: "Model", device: str = "cpu", embedder: "SentenceEmbedder | None" = None
    ) -> None:
        self._model = model.to(device).eval()
        self._vector = vector_head(model.config)
        self._embedder = None if embedder is None else embedder.to(device)
        self._device = device
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self.max_length = model.config.max_position_embeddings
        self.dispatch = Dispatch()

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads."""
        return tuple(target.name for target in self._model.config.target)

    def run(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        """Run the encoder once, and what is wanted on top of it."""
        import torch

        with torch.inference_mode():
            found = self.answers(batch, wanted)
            return {name: found[name].float().cpu().numpy() for name in wanted}

    def answers(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> "dict[str, Tensor]":
        """Run as ``run`` does, and return tensors, which gradients may go through."""
        tensors = self._tensors(batch)
        self._model.eval()  # a model in training is asked between its epochs
        memory = self._model.read(tensors)
        found = {}
        if any(name not in (EMBEDDING, TOKEN_EMBEDDINGS) for name in wanted):
            found = self._model.predict(tensors, wanted, memory)
        if EMBEDDING in wanted:
            found[EMBEDDING] = self._embedded(memory, tensors)
        if TOKEN_EMBEDDINGS in wanted:
            found[TOKEN_EMBEDDINGS] = memory[0]
        return {name: found[name] for name in wanted}

    def _embedded(self, memory: "tuple[Tensor, Tensor]", batch: "dict[str, Tensor]") -> "Tensor":
        """Return what the package states, else the vector of its own head, else the mean."""
        if self._embedder is not None:
            stated: Tensor = self._embedder(*memory, batch.get(EMBEDDING_MASK))
            return stated
        if self._vector is None:
            return self._model.pool(memory[0], batch)
        require_embedding(self._model.config, self._vector)
        return self._model.predict(batch, {self._vector.name}, memory)[self._vector.name]

    def generates(self, head: str) -> bool:
        """Whether a head predicts the next token."""
        found = (target for target in self._model.config.target if target.name == head)
        return any(target.type_name() == "lm" for target in found)

    def write(self, batch: Mapping[str, AnyArray], head: str, options: Writing) -> list[IntArray]:
        """Take the most probable token, one after the other, or of each frame."""
        import torch

        tensors = self._tensors(batch)
        self._model.eval()
        with torch.inference_mode():
            if self.generates(head):
                return self._continued(tensors, head, options)
            hidden, mask = self._model.read(tensors)
            logits = cast(Any, self._model.targets[head]).predict(hidden, mask).float()
        real = mask.cpu().numpy()
        blank = self._model.config.pad_token_id
        rows = zip(logits.cpu().numpy(), real, strict=True)
        return [most_probable_path(row[frames], blank) for row, frames in rows]

    def generate(
        self,
        batch: Mapping[str, AnyArray],
        head: str,
        config: "GenerationConfig",
        watch: "Watch",
    ) -> None:
        """Continue prompts as ``config`` says; ``watch`` gets each new token."""
        import torch

        from orchestrator.modeling.generation.generate import generate

        with torch.inference_mode():
            generate(self._model, self._tensors(batch), config, target=head, watch=watch)

    def _continued(self, batch: "dict[str, Tensor]", head: str, options: Writing) -> list[IntArray]:
        """Continue each row up to its end token."""
        from orchestrator.modeling.generation.config import GenerationConfig
        from orchestrator.modeling.generation.generate import generate

        config = GenerationConfig(
            max_new_tokens=options.max_new_tokens,
            eos_token_ids=() if options.end is None else (options.end,),
            start_token_id=options.start,
        )
        found = []
        for row in generate(self._model, batch, config, target=head).tokens.cpu().numpy():
            ends = np.flatnonzero(row == options.end)
            found.append(row[: ends[0]] if len(ends) else row)
        return found

    def _tensors(self, batch: Mapping[str, AnyArray]) -> "dict[str, Tensor]":
        import torch

        from orchestrator.modeling.transfer import to_device

        arrays = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items()}
        return to_device(arrays, self._device)


def vector_head(config: ModelConfig) -> VectorConfig | None:
    """Return the head that makes the embedding (CLIP, SigLIP), if there is one."""
    heads = (head for head in config.target if isinstance(head, VectorConfig))
    return next((head for head in heads if head.is_embedding), None)


def require_embedding(config: ModelConfig, head: VectorConfig) -> None:
    """Refuse the embedding of a text by an encoder that also reads the padding after it.

    Raises:
        InputError: SigLIP's texts are padded to their full length without a mask.
    """
    words = config.embedding.reads_words and head.pooling == "last" and head.attention is None
    if words and config.encoder.visibility == "everything":
        raise InputError(
            f"embed: the vector of {head.name!r} is that of the last position of a text padded to "
            f"{config.max_position_embeddings} tokens without a mask (SigLIP), which is not "
            "supported. Export the package, and embed its texts with transformers."
        )


class OnePassModel:
    """A model of a back end of quantization; it computes every output at once."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        from orchestrator.quantization.backends.backend import backend_of

        backend = backend_of(folder)
        self.runtime = backend.name
        self._model, self._threads = backend.load(folder, threads=threads), threads
        self.dtype = "int8" if (folder / PLAN_FILE).is_file() else "float32"
        self.max_length = self._model.max_length
        self.dispatch = Dispatch()
        if self._model.reads_tokens and self._model.batch_invariant:
            self.dispatch = Dispatch(read_times(folder, threads), self._measured)

    def _measured(self) -> RunTimes | None:
        return measure_times(
            self._model.predict,
            vocabulary=self._model.vocab_size,
            longest=self.max_length,
            threads=self._threads,
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that it answers with."""
        return self._model.targets

    def run(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        """Run the model.

        Raises:
            InputError: It reads other inputs than the batch has.
        """
        outputs = self._model.predict(batch)
        return {name: outputs[name] for name in wanted}

    def generates(self, head: str) -> bool:
        """No head that answers in one pass does."""
        del head
        return False

    def write(self, batch: Mapping[str, AnyArray], head: str, options: Writing) -> list[IntArray]:
        """Refuse: it answers at once.

        Raises:
            InputError: Always.
        """
        raise InputError(f"a quantized model of {self.runtime} writes no text (head {head!r}).")


def load_folder(
    folder: Path, *, threads: int = 1, device: str = "cpu", keep: Collection[str] | None = None
) -> LoadedModel:
    """Load the model of a package folder: its graph or plan where it has one, else its weights.

    Args:
        folder: Folder of a verified package.
        threads: Threads within one run.
        device: Where a torch model goes.
        keep: Names of the heads to load; None: all. Heads over a vocabulary cost memory and time.
    """
    if (folder / ONNX_FILE).is_file() or (folder / PLAN_FILE).is_file():
        return OnePassModel(folder, threads)
    import torch

    from orchestrator.modeling.package import load_model
    from orchestrator.modeling.sentence.embedder import SentenceEmbedder

    torch.set_num_threads(threads)
    stored = read_config(folder).target
    vector = vector_head(read_config(folder))
    heads = None if keep is None else [t for t in stored if t.name in keep or t == vector]
    model = load_model(folder, targets=heads, device=device)
    return TorchModel(model, device, SentenceEmbedder.load(folder))
