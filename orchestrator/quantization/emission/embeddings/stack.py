"""Embedding stacks as ONNX nodes: the sum of their parts, norm, registers and projection.

Words, positions and segments whose sum is normalized are one fused node.

Legend: B batch, S length, D width.
"""

import numpy as np
import torch

from orchestrator.arrays import Float32Array
from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions, EmbeddingConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import (
    ConvPosConfig,
    ImageConfig,
    PosConfig,
    SegConfig,
    SinusoidalPosConfig,
    SpeechConfig,
    WaveformConfig,
    WordConfig,
)
from orchestrator.modeling.embeddings.positions import waves
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig, WordPatchConfig
from orchestrator.quantization.emission.embedded import Embedded
from orchestrator.quantization.emission.embeddings.images import (
    all_real,
    emit_grid_positions,
    emit_patches,
    tokens_of_batch,
)
from orchestrator.quantization.emission.embeddings.sounds import (
    emit_convolved_positions,
    emit_spectrogram,
    emit_waveform,
)
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.norms import FLOAT, Norm, mark_residual, with_bias
from orchestrator.quantization.emission.weights import Weights


def emit_embedding(graph: GraphBuilder, config: ModelConfig, weights: Weights) -> Embedded:
    """Embed a model's inputs, which are declared here.

    Texts: ``input_ids`` and ``attention_mask`` [B, S], and ``token_type_ids`` if a part reads them;
    images: ``pixel_values`` [B, C, height, width]; sounds: ``input_values`` [B, N] or
    ``input_features`` [B, F, M], and their ``attention_mask``.

    Raises:
        InputError: If a part has no ONNX form here.
    """
    stack = config.embedding
    return StackEmitter(graph, "embedding", stack, config.dimensions, weights).emit()


class StackEmitter:
    """Writes one stack of embedding parts.

    Args:
        graph: Where the nodes go.
        prefix: Name of the stack.
        config: Its options.
        dimensions: Sizes of the model.
        weights: Its parameters.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        prefix: str,
        config: EmbeddingStackConfig,
        dimensions: Dimensions,
        weights: Weights,
    ) -> None:
        self.graph, self.prefix, self.config, self.weights = graph, prefix, config, weights
        self.wide, self.sizes = dimensions, config.dimensions_of_parts(dimensions)
        self.pixels, self.tokens = "", 0

    def emit(self) -> Embedded:
        """Embed the inputs into [B, S, D]."""
        config, graph = self.config, self.graph
        embedded = self._fused() if self._is_fused() else self._summed()
        x, sized = embedded.hidden, config.size is not None and config.projection != "none"
        if sized and config.projection == "first":
            x = self._project(x)
        if config.layernorm and not self._is_fused():
            norm = Norm(graph, self.weights, "layernorm", config.norm_eps)
            x = norm.plain(f"{self.prefix}.norm", x)
        if config.layernorm:
            mark_residual(graph, self.weights, f"{self.prefix}.norm", x)
        if config.registers:
            registers = self.weights.array(f"{self.prefix}.registers")
            x = self._put_registers(x, registers)
            embedded = Embedded(x, all_real(graph, x), padded=False)
        if sized and config.projection == "last":
            x = self._project(x)
        return Embedded(x, embedded.mask, embedded.padded)

    def _project(self, x: str) -> str:
        layer = f"{self.prefix}.projection"
        product = self.graph.gemm(layer, x, self.weights.matrix(layer))
        return with_bias(self.graph, product, (f"{layer}.bias", self.weights.bias(layer)))

    def _summed(self) -> Embedded:
        """Add up the parts."""
        first, *others = self.config.parts
        embedded = self._first(first)
        total = embedded.hidden
        for part in others:
            value = self._other(part, Embedded(total, embedded.mask, embedded.padded))
            total = self.graph.op("Add", [total, value])
        return Embedded(total, embedded.mask, embedded.padded)

    def _first(self, part: EmbeddingConfig) -> Embedded:
        """Embed the input itself."""
        name = f"{self.prefix}.{part.type_name()}"
        match part:
            case WordConfig():
                mask = self.graph.input("attention_mask", ["batch", "length"])
                ids = self.graph.input("input_ids", ["batch", "length"])
                return Embedded(self.graph.lookup(name, self._words(part), ids), mask)
            case ImageConfig():
                hidden, self.pixels = emit_patches(self.graph, self.weights, name, part)
                self.tokens = part.class_token + part.distillation_token
                return Embedded(hidden, all_real(self.graph, hidden), padded=False)
            case SpeechConfig():
                return emit_spectrogram(self.graph, self.weights, name, part, self.sizes)
            case WaveformConfig():
                return emit_waveform(self.graph, self.weights, name, part)
            case WordPatchConfig():
                return self._text_and_image(name, part)
        raise InputError(
            f"embedding part {part.type_name()!r} has no graph: each of its streams is a model of "
            "its own. Export the tower that you need"
        )

    def _other(self, part: EmbeddingConfig, sum_before: Embedded) -> str:
        """Return what a part adds, [B, S, D] or [S, D]."""
        name, graph = f"{self.prefix}.{part.type_name()}", self.graph
        match part:
            case PosConfig() if self.sizes.grid is not None:
                grid = self.sizes.grid
                rows = self.weights.array(f"{name}.weight")[part.offset :]
                table = rows[: self.tokens + grid.side**2]
                return emit_grid_positions(graph, name, table, self.pixels, grid)
            case PosConfig():
                positions = graph.constant(name, self.weights.array(f"{name}.weight"))
                if not part.pad_aware:
                    return self._first_rows(positions, sum_before, part.offset)
                return graph.op("Gather", [positions, self._counted(sum_before.mask, part.offset)])
            case SegConfig():
                segments = graph.input("token_type_ids", ["batch", "length"])
                table = self.weights.array(f"{name}.weight")
                return graph.op("Gather", [graph.constant(name, table), segments])
            case SinusoidalPosConfig():
                return self._waves(name, part, sum_before)
            case ConvPosConfig():
                return emit_convolved_positions(graph, self.weights, name, part, sum_before)
        raise InputError(f"embedding part {part.type_name()!r} has no graph; leave it out")

    def _is_fused(self) -> bool:
        """Return whether the parts are those of ``EmbedLayerNormalization``."""
        config = self.config
        names = [part.type_name() for part in config.parts]
        normed = config.layernorm and config.norm_bias and config.projection != "first"
        plain = normed and self.graph.plan.tables == "float"
        return plain and names in (["word", "pos"], ["word", "pos", "seg"])

    def _fused(self) -> Embedded:
        graph, part = self.graph, self.config.parts
        names = [f"{self.prefix}.{each.type_name()}" for each in part]
        word, pos = part[0], part[1]
        assert isinstance(word, WordConfig)
        assert isinstance(pos, PosConfig)
        mask = graph.input("attention_mask", ["batch", "length"])
        ids = graph.input("input_ids", ["batch", "length"])
        segments, of_segments = "", ""
        if len(part) == 3:
            segments = graph.input("token_type_ids", ["batch", "length"])
            of_segments = graph.constant(names[2], self.weights.array(f"{names[2]}.weight"))
        words = graph.constant(names[0], self._words(word))
        table = self.weights.array(f"{names[1]}.weight")
        positions = ["", self._counted(mask, pos.offset)] if pos.pad_aware else []
        rows = graph.constant(names[1], table if positions else table[pos.offset :])
        norm = f"{self.prefix}.norm"
        shape = [
            graph.constant(f"{norm}.{each}", self.weights.array(f"{norm}.{each}"))
            for each in ("weight", "bias")
        ]
        inputs = [ids, segments, words, rows, of_segments, *shape, *positions]
        hidden, _ = graph.ops(
            "EmbedLayerNormalization", inputs, 2, domain=MICROSOFT, epsilon=self.config.norm_eps
        )
        return Embedded(hidden, mask)

    def _words(self, part: WordConfig) -> Float32Array:
        """Return the word table, its scale included."""
        table = self.weights.array(f"{self.prefix}.word.weight")
        factor = np.float32(self.sizes.hidden_size**0.5 if part.scale else 1.0)
        return np.asarray(table * factor, np.float32)

    def _first_rows(self, table: str, embedded: Embedded, offset: int) -> str:
        """Take rows [offset, offset + S) of a table, [S, D]: it broadcasts over the batch."""
        graph = self.graph
        length = graph.op("Shape", [embedded.hidden], start=1, end=2)
        end = graph.op("Add", [length, graph.shape(offset)]) if offset else length
        return graph.op("Slice", [table, graph.shape(offset), end, graph.shape(0)])

    def _counted(self, mask: str, offset: int) -> str:
        """Number real positions from ``offset``; padding has the row before (RoBERTa) or row 0."""
        graph = self.graph
        counted = graph.op("Mul", [graph.op("CumSum", [mask, graph.scalar(1, np.int64)]), mask])
        shifted = graph.op("Add", [counted, graph.scalar(offset - 1, np.int32)])
        return graph.op("Max", [shifted, graph.scalar(0, np.int32)])

    def _waves(self, name: str, part: SinusoidalPosConfig, sum_before: Embedded) -> str:
        graph = self.graph
        if part.stored:
            table = self.weights.array(f"{name}.weight")
        else:
            numbers = torch.arange(self.sizes.max_position_embeddings + part.offset)
            table = waves(numbers, self.sizes.hidden_size, part).numpy()
        rows = graph.constant(name, table)
        if not part.pad_aware:
            return self._first_rows(rows, sum_before, part.offset)
        # padding reads a row like the others, which the mask sets to zero
        places = self._counted(sum_before.mask, part.offset)
        real = graph.op(
            "Unsqueeze", [graph.op("Cast", [sum_before.mask], to=FLOAT), graph.shape(2)]
        )
        return graph.op("Mul", [graph.op("Gather", [rows, places]), real])

    def _put_registers(self, x: str, registers: Float32Array) -> str:
        """Put the registers behind the class token."""
        graph = self.graph
        own = tokens_of_batch(graph, x, registers, f"{self.prefix}.registers")
        first, rest = graph.ops("Split", [x, self._after_first(x)], 2, axis=1)
        return graph.op("Concat", [first, own, rest], axis=1)

    def _after_first(self, x: str) -> str:
        """Return the sizes 1 and S - 1, int64 [2]."""
        graph, one = self.graph, self.graph.shape(1)
        rest = graph.op("Sub", [graph.op("Shape", [x], start=1, end=2), one])
        return graph.op("Concat", [one, rest], axis=0)

    def _text_and_image(self, name: str, part: WordPatchConfig) -> Embedded:
        """Put the image behind the text (ViLT)."""
        graph = self.graph
        both = [
            StackEmitter(graph, f"{name}.{side}", stack, self.wide, self.weights).emit()
            for side, stack in (("text", part.text), ("image", part.image))
        ]
        hidden = [each.hidden for each in both]
        if part.modalities:
            modality = self.weights.array(f"{name}.modality")
            hidden = [
                graph.op("Add", [each, graph.constant(f"{name}.modality.{index}", modality[index])])
                for index, each in enumerate(hidden)
            ]
        mask = graph.op("Concat", [each.mask for each in both], axis=1)
        return Embedded(graph.op("Concat", hidden, axis=1), mask)
