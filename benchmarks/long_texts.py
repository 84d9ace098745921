"""ModernBERT on one CPU core beside transformers: batches with padding, and long texts.

Both have the same random weights, in the width of ModernBERT-base with fewer blocks. They take
turns, so that other load on the machine falls on both; the best of the turns counts, since load
only adds. Answers must agree.

Run: `python benchmarks/long_texts.py` (about 2 minutes), `--quick` for a smoke test.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import ModernBertConfig, ModernBertModel

from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import to_ours
from orchestrator.modeling.huggingface.families.modernbert import body, model_config
from orchestrator.modeling.huggingface.values import Values
from orchestrator.modeling.model import Model

VOCAB = 1000
TOLERANCE = 1e-4
"""Largest difference of two answers; their sums are taken in other orders."""
BATCHES = {
    "8 texts, 47 % padding": (100, 20, 60, 128, 40, 30, 90, 75),
    "8 texts, 66 % padding": (512, 40, 200, 128, 64, 300, 90, 75),
    "1 text of 512": (512,),
    "1 text of 2,048": (2048,),
    "1 text of 8,192": (8192,),
}
LONG = 8192
"""Texts of this length are measured twice only."""
Encode = Callable[[], Tensor]


def models(layers: int) -> tuple[ModernBertModel, dict[str, Model]]:
    """Return their model, and ours with and without padding, of the same weights."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    config = ModernBertConfig(num_hidden_layers=layers, vocab_size=VOCAB, pad_token_id=0, **special)
    theirs = ModernBertModel(config).eval()
    ours = model_config([], Values(config.to_dict()))
    weights = to_ours(body("", ours), theirs.state_dict())
    return theirs, {name: _filled(ours, name, weights) for name in ("unpadded", "sdpa")}


def _filled(config: ModelConfig, attention: str, weights: dict[str, Tensor]) -> Model:
    encoder = config.encoder.model_copy(update={"attention": attention})
    model = build_model(config.model_copy(update={"encoder": encoder}))
    model.load_state_dict(weights)
    return model.eval()


def batch(lengths: Sequence[int]) -> dict[str, Tensor]:
    """Return random texts of these lengths, padded on the right."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(1, VOCAB, mask.shape) * mask, "attention_mask": mask}


@torch.no_grad()
def best_times(forms: dict[str, Encode], turns: int) -> dict[str, float]:
    """Return the shortest time of each form in seconds.

    Raises:
        SystemExit: Two forms disagree.
    """
    times: dict[str, float] = {}
    expected: Tensor | None = None
    for _ in range(turns):
        for name, encode in forms.items():
            began = time.perf_counter()
            answer = encode()
            times[name] = min(times.get(name, float("inf")), time.perf_counter() - began)
            expected = answer if expected is None else expected
            if float((answer - expected).abs().max()) > TOLERANCE:
                sys.exit(f"{name} answers differently")
    return times


def measure(lengths: Sequence[int], layers: int, turns: int) -> dict[str, float]:
    """Return the seconds of ours, ours with padding, and theirs for one batch."""
    torch.manual_seed(0)
    theirs, ours = models(layers)
    inputs = batch(lengths)
    real = inputs["attention_mask"].bool()
    forms: dict[str, Encode] = {
        name: lambda model=model: model.encode(inputs)[real]  # type: ignore[misc]
        for name, model in ours.items()
    }
    forms["transformers"] = lambda: theirs(**inputs).last_hidden_state[real]
    return best_times(forms, turns)


def main() -> None:
    """Measure every batch and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short batch, once")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    chosen = dict(list(BATCHES.items())[:1]) if quick else BATCHES
    layers, turns = (2, 1) if quick else (3, 5)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread")
    print("| batch | ours, ms | ours with padding, ms | transformers, ms | times as fast |")
    print("| --- | --- | --- | --- | --- |")
    ratios: dict[str, float] = {}
    for name, lengths in chosen.items():
        found = measure(lengths, layers, turns if max(lengths) < LONG else 2)
        ratios[name] = found["transformers"] / found["unpadded"]
        cells = [f"{1000 * found[each]:,.0f}" for each in ("unpadded", "sdpa", "transformers")]
        print(f"| {name} | {' | '.join(cells)} | {ratios[name]:.2f} |")
    print(json.dumps({"times_as_fast": ratios}))


if __name__ == "__main__":
    main()
