"""Export of a package as an ONNX graph, in the layout of the Hub; checked before it appears.

``onnx/model.onnx``, ``config.json`` and the tokenizer's files: what `optimum`, transformers.js and
the ONNX back end of sentence-transformers open. The exporter of `optimum` is not used: it traces
torch modules of transformers, and packages hold others, INT8 graphs too.

Legend: B batch, S length.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from orchestrator.config import did_you_mean
from orchestrator.errors import InputError
from orchestrator.inference.batching import EMBEDDING_MASK
from orchestrator.inference.heads import default_head, package_tasks
from orchestrator.inference.models import EMBEDDING, ONNX_FILE, vector_head
from orchestrator.modeling.config import ModelConfig, read_config
from orchestrator.modeling.huggingface.exporting import appearing
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.quantization.emission.outputs.heads import answering
from orchestrator.quantization.hub.checking import answers_batches, check
from orchestrator.quantization.hub.files import write_files
from orchestrator.quantization.hub.renaming import SENTENCE, hub_model
from orchestrator.quantization.source import read_source
from orchestrator.zoo import Package

FILE: Final = "onnx/model.onnx"


@dataclass(frozen=True, slots=True)
class Exported:
    """Outcome of an export.

    Attributes:
        file: The graph, below the folder.
        dtype: Arithmetic of the matrix products: ``float32`` or ``int8``.
        head: Head that answers; None: the embedding.
        outputs: Names of the outputs.
        compared: What they were compared with.
        max_abs_difference: Largest difference.
        notes: What the graph does not have, and how it must be asked.
        opens_in_transformers: Whether ``config.json`` is that of a class of transformers.
    """

    file: str
    dtype: str
    head: str | None
    outputs: tuple[str, ...]
    compared: str
    max_abs_difference: float
    notes: tuple[str, ...]
    opens_in_transformers: bool


def export_onnx(package: Package, to: Path, target: str | None = None) -> Exported:
    """Write a package as a folder with an ONNX graph.

    Args:
        package: A float package, whose weights become a graph; or a quantized one, whose graph is
            written.
        to: A folder that does not exist yet, or is empty.
        target: Head that answers; ``embedding``: token vectors and the embedding; None: the
            package's default head, or the embedding of a package without heads.

    Raises:
        InputError: A component has no ONNX form, the head is unknown, or the folder is not empty.
        IntegrityError: The package is damaged, or the graph answers differently. Nothing was
            written.
    """
    config = read_config(package.path)
    head = _choose(package, config, target)
    quantized = (package.path / ONNX_FILE).is_file()
    with appearing(to) as staged:
        graph = package.path / ONNX_FILE
        ours = onnx.load(graph) if quantized else read_source(package.path).emit().model
        notes = _notes(package.path, config, head, ours)
        model = hub_model(ours, config, head)
        (staged / FILE).parent.mkdir()
        (staged / FILE).write_bytes(model.SerializeToString())
        labels = package.manifest.task.labels if package.manifest.task else {}
        known = write_files(package.path, staged, config, head, labels)
        return Exported(
            file=FILE,
            dtype="int8" if quantized else "float32",
            head=None if head is None else head.name,
            outputs=tuple(value.name for value in model.graph.output),
            compared="the package's own graph" if quantized else "torch",
            max_abs_difference=check(staged / FILE, package.path, config, head),
            notes=notes,
            opens_in_transformers=known,
        )


def _choose(package: Package, config: ModelConfig, wanted: str | None) -> TargetConfig | None:
    """Return the head that answers; None: the embedding.

    Raises:
        InputError: The head is unknown, or the package has several and no default.
    """
    heads = {head.name: head for head in answering(config)}
    if wanted == EMBEDDING or (wanted is None and not heads):
        return None
    name = wanted or default_head(package, package_tasks(package))
    if name is None and len(heads) == 1:
        name = next(iter(heads))
    if name is None:
        raise InputError(
            f"{package.ref} has several heads: {', '.join(heads)}. Name one with --target, or "
            f"`{EMBEDDING}`."
        )
    if name not in heads:
        names = [*heads, EMBEDDING]
        raise InputError(
            f"{package.ref} has no head {name!r} that answers in one pass. "
            f"{did_you_mean(name, names, 'Targets')}"
        )
    return heads[name]


def _notes(
    folder: Path, config: ModelConfig, head: TargetConfig | None, graph: onnx.ModelProto
) -> tuple[str, ...]:
    """Return what the graph does not have, and how it must be asked."""
    own = vector_head(config) if head is None else head
    found = [
        f"Left out: head {each.name} ({each.type_name()})." for each in config.target if each != own
    ]
    if head is None and any(value.name == EMBEDDING_MASK for value in graph.graph.input):
        found.append(
            f"Left out: {SENTENCE}. Its pooling leaves out prompts, whose tokens such a graph does "
            "not know; sentence-transformers pools the token vectors."
        )
    if not answers_batches(folder):
        found.append(
            "Ask for one text at a time: with kind s7 an answer depends on the others of its batch."
        )
    return tuple(found)
