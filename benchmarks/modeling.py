"""Time of a training step (forward, loss, backward): our assemblies beside transformers' classes.

Both sides have the same weights and read the same batch, in turns in one process, so that other
load on the machine falls on both; what counts is the ratio. Run: `python benchmarks/modeling.py`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from orchestrator.modeling.builder import build_model
from orchestrator.modeling.huggingface.folder import compare, converted, open_source

VOCAB, WIDTH, LAYERS, HEADS, LENGTH = 8192, 256, 4, 4, 128
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
Step = Callable[[], Tensor]


def references() -> dict[str, nn.Module]:
    """Return the peers, without dropout."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    gpt2 = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    silent = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    return {
        "BertForMaskedLM": BertForMaskedLM(BertConfig(**SIZES, **quiet, intermediate_size=1024)),
        "GPT2LMHeadModel": GPT2LMHeadModel(GPT2Config(**gpt2, **silent)),
        "LlamaForCausalLM": LlamaForCausalLM(
            LlamaConfig(**SIZES, num_key_value_heads=2, intermediate_size=688)
        ),
    }


def ours_like(theirs: Any) -> nn.Module:
    """Return our model with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        source = open_source(Path(folder))
        model = build_model(source.config)
        model.load_state_dict(dict(converted(source, compare(source))), strict=False)
    return model.train()


def steps(theirs: Any, batch_size: int) -> tuple[Step, Step]:
    """Return one training step of ours and one of theirs."""
    ours = ours_like(theirs)
    ids = torch.randint(5, VOCAB, (batch_size, LENGTH))
    masked = isinstance(theirs, BertForMaskedLM)
    labels = ids.clone()
    if masked:
        labels[torch.rand(labels.shape) > 0.15] = -100
    name = "mlm" if masked else "lm"
    ignored = torch.full((batch_size, 1), -100)
    shifted = labels if masked else torch.cat([labels[:, 1:], ignored], 1)

    def own() -> Tensor:
        ours.zero_grad()
        result = ours({"input_ids": ids, f"labels.{name}": shifted})
        loss: Tensor = result[f"loss.{name}"] / result[f"count.{name}"]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def other() -> Tensor:
        theirs.zero_grad()
        loss: Tensor = theirs(input_ids=ids, labels=labels).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return own, other


def race(own: Step, other: Step, rounds: int) -> tuple[list[float], list[float]]:
    """Return seconds of each round for both, in turns; one round before is not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    torch.testing.assert_close(own(), other(), atol=1e-4, rtol=0)
    for index in range(rounds):
        for side in (0, 1) if index % 2 else (1, 0):
            began = time.perf_counter()
            (own, other)[side]()
            seconds[side].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Print one line for each class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}. Quartiles need 2 or more.")
    torch.manual_seed(0)
    print("| class | ours, ms | transformers, ms | ours / transformers (quartiles) |")
    print("| --- | --- | --- | --- |")
    for name, theirs in references().items():
        ours, others = race(*steps(theirs.train(), options.batch_size), options.rounds)
        ratios = [a / b for a, b in zip(ours, others, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        own_ms, their_ms = statistics.median(ours) * 1000, statistics.median(others) * 1000
        print(f"| {name} | {own_ms:.0f} | {their_ms:.0f} | {middle:.2f} ({low:.2f}–{high:.2f}) |")


if __name__ == "__main__":
    main()
