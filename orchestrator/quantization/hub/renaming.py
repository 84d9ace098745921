"""Graphs with the inputs and outputs that transformers' users expect, made from our own.

Inputs are int64 (`input_ids`, `attention_mask`, `token_type_ids`), as tokenizers make them. Outputs
have the names of transformers' classes: ``logits``, ``start_logits`` and ``end_logits``, or
``last_hidden_state`` and ``sentence_embedding``. `optimum`, sentence-transformers and
transformers.js find both by name. Nodes that no output needs are left out.

Legend: B batch, S length, C choices of a row, K answers, D width, E width of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.answer_configs import ChoiceConfig, SimilarityConfig, SpanConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.quantization.backends.onnxruntime_cpu.session import (
    EMBEDDING,
    EMBEDDING_MASK,
    LENGTH,
    LOGITS_PREFIX,
)
from orchestrator.quantization.emission.model import HIDDEN

LOGITS: Final = "logits"
BORDERS: Final = ("start_logits", "end_logits")
"""Outputs of a head that extracts answers."""
SENTENCE: Final = "sentence_embedding"
DIMENSIONS: Final = {"batch": "batch_size", LENGTH: "sequence_length"}
"""Symbolic dimensions by their names here."""
CHOICES: Final = "num_choices"

Shape = Sequence[int | str]


def hub_model(
    model: onnx.ModelProto, config: ModelConfig, head: TargetConfig | None
) -> onnx.ModelProto:
    """Return a graph of one head, or of the body, with their inputs and outputs.

    Args:
        model: A graph of `emission.model`; it is changed.
        config: The model's config.
        head: The head to answer with; None: token vectors and the embedding.

    Raises:
        InputError: The graph does not have what the head needs: it is from an older release.
    """
    writer = _Writer(model, by_choice=isinstance(head, ChoiceConfig))
    if head is None or isinstance(head, SimilarityConfig):
        writer.tokens(config.hidden_size)
        vector = EMBEDDING if head is None else f"{LOGITS_PREFIX}{head.name}"
        if not writer.reads_prompts or head is not None:
            writer.rename(vector, SENTENCE)
    elif isinstance(head, SpanConfig):
        writer.borders(f"{LOGITS_PREFIX}{head.name}")
    else:
        writer.rename(f"{LOGITS_PREFIX}{head.name}", LOGITS)
    return writer.finish()


@dataclass(slots=True)
class _Writer:
    """Puts casts before a graph and names behind it."""

    model: onnx.ModelProto
    by_choice: bool
    """Whether inputs are [B, C, S] and answers [B, C], as transformers' multiple choice has them;
    ours are [B * C, S] and [B * C, 1]."""
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _before: list[onnx.NodeProto] = field(default_factory=list)
    _after: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def reads_prompts(self) -> bool:
        """Whether the embedding reads which tokens are a prompt, an input that others lack."""
        return any(value.name == EMBEDDING_MASK for value in self.model.graph.input)

    def rename(self, ours: str, theirs: str) -> None:
        """Declare an output of ours under another name."""
        value = next((each for each in self.model.graph.output if each.name == ours), None)
        if value is None:
            have = ", ".join(each.name for each in self.model.graph.output)
            raise InputError(f"the graph has no output {ours!r}; it has {have}. Quantize it again")
        shape = _shape(value)
        if self.by_choice:
            self._node(self._after, "Shape", ["input_ids"], "shape.choices", start=0, end=2)
            self._node(self._after, "Reshape", [ours, "shape.choices"], theirs)
            shape = ["batch", CHOICES]
        else:
            self._node(self._after, "Identity", [ours], theirs)
        self._declare(theirs, shape)

    def tokens(self, width: int) -> None:
        """Declare the token vectors [B, S, D]."""
        if not any(HIDDEN in node.output for node in self.model.graph.node):
            raise InputError(
                "the graph does not name its token vectors: it was made by an older release. "
                "Quantize the package again"
            )
        self._declare(HIDDEN, ["batch", LENGTH, width])

    def borders(self, ours: str) -> None:
        """Declare the logits of first and last tokens, [B, S] each."""
        parts = [f"{name}.column" for name in BORDERS]
        node = helper.make_node(
            "Split", [ours], parts, axis=-1, num_outputs=2, name="split.borders"
        )
        self._after.append(node)
        axis = self._constant("axis.last", [-1])
        for part, name in zip(parts, BORDERS, strict=True):
            self._node(self._after, "Squeeze", [part, axis], name)
            self._declare(name, ["batch", LENGTH])

    def finish(self) -> onnx.ModelProto:
        """Return the graph that the outputs need."""
        graph = self.model.graph
        renamed: dict[str, str] = {value.name: self._input(value) for value in graph.input}
        for node in graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = renamed.get(name, name)
        nodes = [*self._before, *graph.node, *self._after]
        whole = helper.make_graph(nodes, "model", graph.input, self.outputs, graph.initializer)
        opsets, version = self.model.opset_import, self.model.ir_version
        model = helper.make_model(whole, opset_imports=opsets, ir_version=version)
        inputs, outputs = ([v.name for v in vs] for vs in (graph.input, self.outputs))
        needed: onnx.ModelProto = Extractor(model).extract_model(inputs, outputs)
        read = {name for node in needed.graph.node for name in node.input}
        for value in [each for each in needed.graph.input if each.name not in read]:
            needed.graph.input.remove(value)
        needed.graph.name, needed.producer_name = "model", "orchestrator"
        return needed

    def _input(self, value: onnx.ValueInfoProto) -> str:
        """Make an int32 input int64; return the name of what our nodes read."""
        kind = value.type.tensor_type
        name, shape = str(value.name), _shape(value)
        if kind.elem_type != TensorProto.INT32:
            value.CopyFrom(_info(name, kind.elem_type, shape))
            return name
        cast = f"{name}.int32"
        self._node(self._before, "Cast", [name], cast, to=TensorProto.INT32)
        if not self.by_choice:
            value.CopyFrom(_info(name, TensorProto.INT64, shape))
            return cast
        # Concatenated rows: [B, C, S] → [B * C, S]
        value.CopyFrom(_info(name, TensorProto.INT64, ["batch", CHOICES, LENGTH]))
        self._node(self._before, "Shape", [name], f"{name}.length", start=2, end=3)
        rows = self._constant("rows.all", [-1])
        self._node(self._before, "Concat", [rows, f"{name}.length"], f"{name}.shape", axis=0)
        self._node(self._before, "Reshape", [cast, f"{name}.shape"], f"{name}.rows")
        return f"{name}.rows"

    def _node(
        self, nodes: list[onnx.NodeProto], op: str, inputs: list[str], output: str, **options: int
    ) -> None:
        nodes.append(helper.make_node(op, inputs, [output], name=f"hub.{output}", **options))

    def _constant(self, name: str, values: list[int]) -> str:
        if not any(each.name == name for each in self.model.graph.initializer):
            tensor = numpy_helper.from_array(np.asarray(values, np.int64), name)
            self.model.graph.initializer.append(tensor)
        return name

    def _declare(self, name: str, shape: Shape) -> None:
        self.outputs.append(_info(name, TensorProto.FLOAT, shape))


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    sizes = value.type.tensor_type.shape.dim
    return [size.dim_param or size.dim_value for size in sizes]


def _info(name: str, kind: int, shape: Shape) -> onnx.ValueInfoProto:
    named = [DIMENSIONS.get(size, size) if isinstance(size, str) else size for size in shape]
    return helper.make_tensor_value_info(name, kind, named)
