"""Speed of a training step on an accelerator: our parts beside transformers' LlamaForCausalLM.

Both sides train the same LLaMA-like model of about 370 M parameters from the same first weights on
the same random tokens: forward, loss, backward, clipping and a fused AdamW step, four micro-batches
to a step, batches copied from the host. They take turns in one process, and each round begins with
another one; tokens/s is the median over rounds. MFU counts the operations of Chowdhery et al. 2022,
appendix B (recomputed activations are not counted, attention as if it were not causal), over the
maker's peak in the number format. The peer is compiled as a whole and takes SDPA, autocast and
TF32 as our side does.

Run: `python benchmarks/accelerator.py --json benchmarks/accelerator.json`; it needs neither Ray nor
DeepSpeed, and on a CPU only runs the checks of `accelerator_checks.py`. The page is made from the
figures by `python benchmarks/accelerator_page.py`.
"""

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerator_checks import run_checks
from accelerator_page import COMPILED, PEER
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record

from orchestrator.cluster.engines import build_engine
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import training_flops
from orchestrator.modeling.peaks import device_peak
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.descent import plain_step
from orchestrator.training.engines.engine_config import Precision
from orchestrator.training.engines.precision import COMPUTE

BETAS, EPS, DECAY, RATE, MAX_NORM = (0.9, 0.95), 1e-8, 0.1, 3e-4, 1.0
Batch = dict[str, Tensor]
Step = Callable[[list[Batch]], float]


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of a step."""

    layers: int = 24
    width: int = 1024
    heads: int = 8
    inner: int = 2816
    vocab: int = 32000
    length: int = 2048
    micro_batch: int = 8
    micro_batches: int = 4

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.length * self.micro_batch * self.micro_batches


@dataclass
class Contender:
    """One way of training the model."""

    name: str
    step: Step
    precision: Precision
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first_step_s: float = 0.0
    syncs: int = 0
    memory: int = 0


def our_config(shape: Shape) -> ModelConfig:
    """Return the model section of a LLaMA-like model."""
    encoder = {
        "type": "transformer",
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "intermediate_size": shape.inner,
        "mask": "causal",
        "rotary": {},
        "norm": "rms",
        "norm_eps": 1e-6,
        "norm_position": "pre",
        "feed_forward": "gated",
        "activation": "silu",
        "bias": False,
        "dropout": 0.0,
    }
    return ModelConfig.model_validate(
        {
            "hidden_size": shape.width,
            "vocab_size": shape.vocab,
            "max_position_embeddings": shape.length,
            "embedding": {"parts": ["word"], "layernorm": False, "dropout": 0.0},
            "encoder": encoder,
            "target": {"type": "lm", "tie": False, "bias": False},
            "share_embedding": False,
        }
    )


def peer_model(shape: Shape) -> Any:
    """Return transformers' model of the same shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=shape.length,
        rms_norm_eps=1e-6,
        attn_implementation="sdpa",
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def peer_weights(model: nn.Module, layers: int) -> dict[str, Tensor]:
    """Return our weights under the peer's names."""
    ours = model.state_dict()
    names = {
        "model.embed_tokens.weight": "embedding.word.weight",
        "model.norm.weight": "encoder.norm.weight",
        "lm_head.weight": "targets.lm.output.weight",
    }
    parts = {"self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key"}
    parts |= {"self_attn.v_proj": "attention.value", "self_attn.o_proj": "attention.output"}
    parts |= {f"mlp.{part}_proj": f"feed_forward.{part}" for part in ("gate", "up", "down")}
    parts |= {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
    for layer in range(layers):
        for theirs, own in parts.items():
            names[f"model.layers.{layer}.{theirs}.weight"] = f"encoder.layers.{layer}.{own}.weight"
    return {theirs: ours[own] for theirs, own in names.items()}


def optimizer_config() -> OptimizerConfig:
    """Return the settings of both sides' AdamW."""
    return OptimizerConfig(learning_rate=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY)


def our_step(model: nn.Module, device: str, **engine: Any) -> Step:
    """Return the step of our single-process engine."""
    config = EngineConfig(type="single", **engine)
    built = build_engine(model.to(device).train(), optimizer_config(), config, world=1)
    take = plain_step(MAX_NORM)

    def step(window: list[Batch]) -> float:
        # Number formats of products are global to the process, where both sides take turns.
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        return take(built, window, RATE)["loss"]

    return step


def peer_step(model: Any, device: str) -> Step:
    """Return the usual loop around the peer, in bf16."""
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )
    run: Any = torch.compile(model)

    def step(window: list[Batch]) -> float:
        torch.set_float32_matmul_precision("high")
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for batch in window:
            ids = batch["input_ids"].pin_memory().to(device, non_blocking=True)
            labels = batch["labels.lm"].pin_memory().to(device, non_blocking=True)
            with torch.autocast(device, torch.bfloat16):
                loss = run(input_ids=ids, shift_labels=labels, labels=labels).loss / len(window)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return float(total)

    return step


def windows(shape: Shape, count: int) -> list[list[Batch]]:
    """Return the micro-batches of some steps, as a loader makes them: with a mask of ones."""
    draw = torch.Generator().manual_seed(1)
    size = (shape.micro_batch, shape.length + 1)
    found = []
    for _ in range(count):
        ids = [torch.randint(shape.vocab, size, generator=draw) for _ in range(shape.micro_batches)]
        found.append(
            [
                {
                    "input_ids": each[:, :-1].contiguous(),
                    "attention_mask": torch.ones(
                        shape.micro_batch, shape.length, dtype=torch.int64
                    ),
                    "labels.lm": each[:, 1:].contiguous(),
                }
                for each in ids
            ]
        )
    return found


def contenders(shape: Shape, device: str, names: list[str]) -> list[Contender]:
    """Return both sides, all with the same first weights."""
    torch.manual_seed(0)
    first = build_model(our_config(shape))
    quick = {"precision": "bf16", "compile": True}
    engines: dict[str, dict[str, Any]] = {
        "ours, fp32 (TF32)": {"tf32": True},
        "ours, bf16": {"precision": "bf16"},
        COMPILED: quick,
        "ours, bf16 + compile + checkpointing": {**quick, "activation_checkpointing": True},
    }
    found = [
        Contender(
            name, our_step(copy.deepcopy(first), device, **engine), engine.get("precision", "fp32")
        )
        for name, engine in engines.items()
        if not names or name in names
    ]
    if not names or PEER in names:
        peer = peer_model(shape)
        peer.load_state_dict(peer_weights(first, shape.layers))
        found.append(Contender(PEER, peer_step(peer, device), "bf16"))
    return found


def timed(contender: Contender, window: list[Batch], device: str) -> float:
    """Return the seconds of one step; its loss is read, so all work is done."""
    began = time.perf_counter()
    contender.losses.append(contender.step(window))
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def warm_up(contender: Contender, steps: list[list[Batch]], device: str) -> None:
    """Compile, count waits for the device, and note the memory of a step."""
    contender.first_step_s = timed(contender, steps[0], device)
    if device != "cuda":
        return
    timed(contender, steps[1], device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        contender.losses.append(contender.step(steps[2]))
        torch.cuda.set_sync_debug_mode("default")
    contender.syncs = sum("synchroniz" in str(each.message) for each in found)
    contender.memory = torch.cuda.max_memory_allocated() - before


def figures(each: Contender, shape: Shape, device: str) -> dict[str, Any]:
    """Return one row of the table."""
    seconds = statistics.median(each.seconds)
    torch.set_float32_matmul_precision("high")
    peak = device_peak("cuda:0" if device == "cuda" else device, COMPUTE[each.precision])
    rate = shape.tokens / seconds
    flops = rate * training_flops(our_config(shape), shape.length)
    return {
        "name": each.name,
        "tokens_per_second": rate,
        "spread": [shape.tokens / max(each.seconds), shape.tokens / min(each.seconds)],
        "tflops": flops / 1e12,
        "peak_tflops": peak / 1e12,
        "mfu": flops / peak,
        "waits": each.syncs,
        "activation_bytes": each.memory,
        "losses": each.losses,
    }


def measure(shape: Shape, device: str, rounds: int, names: list[str]) -> list[dict[str, Any]]:
    """Let both sides take turns; return one row for each contender."""
    steps = windows(shape, 3 + rounds)
    found = contenders(shape, device, names)
    for each in found:
        warm_up(each, steps, device)
        print(f"{each.name}: first step {each.first_step_s:.1f} s, {each.syncs} waits", flush=True)
    for index in range(rounds):
        turn = index % len(found)
        for each in found[turn:] + found[:turn]:
            each.seconds.append(timed(each, steps[3 + index], device))
    return [figures(each, shape, device) for each in found]


def profile(shape: Shape, device: str, names: list[str], folder: Path) -> None:
    """Write the kernels of one step of each contender, the longest first."""
    steps = windows(shape, 3)
    for each in contenders(shape, device, names):
        for window in steps[:2]:
            each.step(window)
        with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            each.step(steps[2])
        table = profiler.key_averages().table(sort_by="self_device_time_total", row_limit=40)
        name = "".join(c if c.isalnum() else "_" for c in each.name)
        (folder / f"profile_{name}.txt").write_text(table)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return everything that is measured."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = Shape(**{k: v for k, v in vars(options).items() if k in vars(Shape()) and v})
    found: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat()}
    found["device"] = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    found |= {"torch": torch.__version__, "shape": vars(shape)}
    if not options.no_checks:
        found["checks"] = run_checks(device)
    if options.profile:
        profile(shape, device, options.only, options.profile)
    if options.rounds and (device == "cuda" or options.layers):
        found["rows"] = measure(shape, device, options.rounds, options.only)
    return found


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", action="append", default=[], help="contenders; default: all")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--profile", type=Path, help="folder of the profiles")
    parser.add_argument("--json", type=Path, help="file to write")
    for each in fields(Shape):
        parser.add_argument(f"--{each.name}", type=int)
    options = parser.parse_args()
    found = run(options)
    print(text := json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
