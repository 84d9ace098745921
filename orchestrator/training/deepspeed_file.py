"""A JSON file that amends the DeepSpeed configuration which an engine generates from ours.

A file may change how DeepSpeed works (buckets, prefetching, communication). What it computes is
decided by our settings, and keys that would decide it differently are refused one by one.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import Problem

_BATCH = "use train.global_batch_size, train.micro_batch_size and cluster.workers"
_PRECISION = "use engine.precision, and engine.loss_scale with fp16"
_OFFLOAD = "use engine.offload"
_LAYOUT = "it changes where parameters lie, which checkpoints rely on. Remove it"
_OTHER = "it changes what is computed, and this system does not know it. Remove it"
_OURS = "the engine sets it. Remove it"

REFUSED: dict[str, str] = {
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "gradient_clipping": "use train.max_grad_norm",
    "optimizer": "use train.optimizer",
    "scheduler": "use train.schedule",
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "activation_checkpointing": "use engine.activation_checkpointing",
    "elasticity": "use cluster.workers: {min, max}",
    "zero_allow_untested_optimizer": _OURS,
    "zero_force_ds_cpu_optimizer": _OURS,
    "pipeline": _OTHER,
    "tensor_parallel": _OTHER,
    "sequence_parallel_size": _OTHER,
    "data_efficiency": _OTHER,
    "curriculum_learning": _OTHER,
    "compression_training": _OTHER,
    "progressive_layer_drop": _OTHER,
    "sparse_gradients": _OTHER,
    "zero_optimization.stage": "use engine.zero_stage",
    "zero_optimization.cpu_offload": _OFFLOAD,
    "zero_optimization.cpu_offload_params": _OFFLOAD,
    "zero_optimization.offload_optimizer.device": _OFFLOAD,
    "zero_optimization.offload_optimizer.nvme_path": _OFFLOAD,
    "zero_optimization.offload_optimizer.ratio": _OFFLOAD,
    "zero_optimization.offload_optimizer.super_offload": _OFFLOAD,
    "zero_optimization.offload_param.device": _OFFLOAD,
    "zero_optimization.offload_param.nvme_path": _OFFLOAD,
    "zero_optimization.zenflow": _OFFLOAD,
    "zero_optimization.round_robin_gradients": _LAYOUT,
    "zero_optimization.mics_shard_size": _LAYOUT,
    "zero_optimization.zero_hpz_partition_size": _LAYOUT,
    "zero_optimization.stage3_module_granularity_threshold": _LAYOUT,
    "zero_optimization.zero_quantized_weights": _OTHER,
    "zero_optimization.zero_quantized_gradients": _OTHER,
    "zero_optimization.zero_quantized_nontrainable_weights": _OTHER,
    "zero_optimization.ignore_unused_parameters": _OURS,
}
"""Keys of a file that are not taken, and what to do instead."""


def read_amendment(value: object) -> object:
    """Return the content of a file when given its path, anything else as it is.

    The content and not the path becomes part of the job, so that it reaches every worker and a
    changed file is a changed job.

    Raises:
        ValueError: The file cannot be read, or is no JSON object.
    """
    if not isinstance(value, str):
        return value
    try:
        content: object = json.loads(Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{value!r} cannot be read: {error.strerror}. Name a JSON file") from error
    except ValueError as error:
        raise ValueError(f"{value!r} is not JSON: {error}. Correct it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{value!r} holds no JSON object. Write {{...}} as DeepSpeed documents it")
    return content


def amendment_problems(content: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """Yield one problem for each key that is refused.

    Args:
        content: What the file holds.
        path: Of the setting, for the messages.
    """
    for key, instead in REFUSED.items():
        if _holds(content, key.split(".")):
            yield Problem(f"{path}.{key}", f"cannot be amended: {instead}")


def _holds(content: object, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True


def amended(generated: Mapping[str, Any], content: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the generated configuration with the content of a file merged in, section by section.

    Args:
        generated: Made from our settings.
        content: Of the file; its values win.
    """
    merged = dict(generated)
    for key, value in (content or {}).items():
        below = merged.get(key)
        nested = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = amended(below, value) if nested else value  # type: ignore[arg-type]
    return merged
