"""DeepSpeed's configuration for each kind of device, without DeepSpeed.

Settings that are not DeepSpeed's defaults, and why:

- ``gradient_clipping: 0``: its default is 1.0; clipping is ours, over shards.
- ``gradient_accumulation_steps: 1``: the window is ours, so a pass never advances anything.
- ``grad_accum_dtype: fp32``: otherwise bf16 gradients are accumulated and exposed in bf16.
- ``fp16.loss_scale: 1``: scaling is ours (``training/engines/precision.py``), over shards.
- ``bf16.check_grad_overflow: false``, ``compute_grad_norm: false`` where DeepSpeed allows it: the
  norm is ours and has decided before the step; DeepSpeed would wait for the device to do it again.
- ``zero_force_ds_cpu_optimizer: false``: offloaded masters are stepped by torch's fused kernel;
  DeepSpeed's own would be compiled at the first use.

On a CPU:

- ``reduce_bucket_size``: the default of 5e8 elements is allocated anew at every backward pass;
  2.5e6 fit a cache.
- ``reduce_scatter: false``: gloo all-reduces whole buckets faster than it scatters them.
- ``stage3_param_persistence_threshold: 0``: the default leaves small models unsharded.
- ``stage3_max_reuse_distance: 0``: with the default, models below 1e9 parameters stay gathered from
  the forward to the backward pass, and stage 3 takes more memory than stage 2.
- Nothing is fetched ahead in stage 3: no stream could overlap it.

On an accelerator DeepSpeed's own figures hold. Buckets are at most as large as the model, since
they are allocated whole, and ``overlap_comm`` is on in every stage: its default is on in stage 3
only, its documentation recommends it for all.
"""

from typing import Any

from orchestrator.training.engines.engine_config import EngineConfig, amended

CPU_BUCKET = 2_500_000
"""Elements that are reduced at a time on a CPU."""
ACCELERATOR_BUCKET = 500_000_000
"""The same on an accelerator: DeepSpeed's default."""
NEVER = 10**9  # steps between DeepSpeed's own reports; ours replace them


def zero_settings(config: EngineConfig, device: str, elements: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration.

    Args:
        config: The engine's settings.
        device: Type of the device: ``cpu``, ``cuda``, ...
        elements: Trained parameters.
    """
    precision = config.precision
    generated = {
        "train_micro_batch_size_per_gpu": 1,  # not used: batches come cut from the loop
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "steps_per_print": NEVER,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": False},
        "fp16": {"enabled": precision == "fp16", "loss_scale": 1.0},
        "zero_optimization": _sharding(config, device, elements),
    }
    if precision != "fp32":
        generated["data_types"] = {"grad_accum_dtype": "fp32"}
    return amended(generated, config.deepspeed)


def _sharding(config: EngineConfig, device: str, elements: int) -> dict[str, Any]:
    stage, offload, on_cpu = config.zero_stage, config.offload, device == "cpu"
    zero: dict[str, Any] = {"stage": stage}
    if not on_cpu:
        zero |= {"reduce_bucket_size": min(ACCELERATOR_BUCKET, elements), "overlap_comm": True}
    elif stage == 3:
        zero |= {
            "reduce_bucket_size": CPU_BUCKET,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": 0,
            "stage3_max_live_parameters": 0,
        }
    else:
        zero |= {"reduce_bucket_size": CPU_BUCKET, "reduce_scatter": False}
    # Refused by DeepSpeed with offload, in stage 3, and by its own optimizer for stage 1 with bf16.
    own_norm = offload.optimizer or stage == 3 or (stage == 1 and config.precision == "bf16")
    if not own_norm:
        zero["compute_grad_norm"] = False
    host = {"device": "cpu", "pin_memory": not on_cpu}
    if offload.optimizer:
        zero["offload_optimizer"] = host
    if offload.parameters:
        zero["offload_param"] = host
    return zero
