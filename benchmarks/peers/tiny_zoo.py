"""Tiny encoders of different corpora and components, pre-trained by the product's own worker.

Texts, images and sounds: none of their rows is a row of a target of the benchmark. Training runs in
this process, without a cluster; what is committed already is not trained again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from orchestrator.cluster.context import Worker
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.outcome import figures, write_package
from orchestrator.pretraining.results import Summary
from orchestrator.pretraining.runner import CORPORA, EXPORT, open_run
from orchestrator.pretraining.worker import pretrain
from orchestrator.zoo import Package, Zoo, commit_once

Settings = dict[str, JsonValue]
WIDTH: Final = 64
LENGTH: Final = 64
"""Tokens of a block."""
BLOCK: Final[Settings] = {
    "type": "transformer", "num_layers": 2, "num_heads": 4, "intermediate_size": 128, "dropout": 0.0
}  # fmt: skip
PRE: Final[Settings] = {**BLOCK, "norm_position": "pre"}
GATED: Final[Settings] = {
    **PRE, "feed_forward": "gated", "bias": False, "rotary": {"theta": 10000.0}
}  # fmt: skip
DISTANCES: Final[Settings] = {
    "type": "disentangled", "buckets": 32, "max_distance": 64, "shared_projections": True,
    "norm": True,
}  # fmt: skip
WORDS: Final = ("word", "pos", "seg")


@dataclass(frozen=True)
class Recipe:
    """One encoder.

    Attributes:
        corpus: Name of its data.
        encoder: Its encoder.
        target: What it learns.
        parts: Of its embedding.
        tokenizer: Kind of its vocabulary; empty: images.
        steps: Optimizer steps.
        rate: Peak learning rate.
        model: More of its model.
        samples: Kind of its samples; None: the usual ones.
        side: Pixels of an image side.
    """

    corpus: str
    encoder: Settings
    target: JsonValue
    parts: tuple[JsonValue, ...] = WORDS
    tokenizer: str = "wordpiece"
    steps: int = 350
    rate: float = 3e-3
    model: Settings | None = None
    samples: Settings | None = None
    side: int = 0


def _patches(side: int, kind: str = "patch") -> tuple[JsonValue, ...]:
    patch: Settings = {"type": kind, "image_size": side, "patch_size": side // 4, "channels": 1}
    return (patch, "pos")


SPEECH: Final[tuple[JsonValue, ...]] = (
    {"type": "speech", "mel_bins": 16, "kernels": [5, 5], "strides": [2, 2], "channels": 128},
    {"type": "sinusoidalpos"},
)
HEARD: Final[Settings] = {
    "type": "transcripts", "rate": 8000, "max_seconds": 4,
    "augment": {"frequency_masks": 1, "frequency_width": 2, "time_masks": 1, "time_width": 2},
}  # fmt: skip
CODES: Final[Settings] = {"type": "masked_patches", "crop": None}
CLASSES: Final[Settings] = {"type": "cls", "num_labels": 10, "pooling": "mean", "dropout": 0.0}
MIM: Final[Settings] = {"type": "mim", "num_codes": 32}
BILSTM: Final[Settings] = {"type": "bilstm", "num_layers": 1}
BIGRU: Final[Settings] = {"type": "bigru", "num_layers": 1}
CNN: Final[Settings] = {"type": "gatedcnn", "num_layers": 2, "mask": "bidirectional"}
RECIPES: Final[Mapping[str, Recipe]] = {
    "bert-reviews": Recipe("reviews", BLOCK, "mlm", steps=500, rate=2e-3),
    "bert-docstrings": Recipe("docstrings", BLOCK, "mlm"),
    "albert-encyclopedia": Recipe(
        "encyclopedia", {**BLOCK, "shared_layers": True}, ["mlm", "sop"], rate=1e-3
    ),
    "electra-questions": Recipe("questions", BLOCK, "rtd"),
    "rope-questions": Recipe("questions", GATED, "mlm", ("word",)),
    "deberta-encyclopedia": Recipe(
        "encyclopedia", {**BLOCK, "position_bias": DISTANCES}, "mlm", ("word",), rate=1e-3
    ),
    "llama-mails": Recipe("mails", {**GATED, "norm": "rms", "mask": "causal"}, "lm", ("word",)),
    "gatedcnn-reviews": Recipe(
        "reviews", {"type": "gatedcnn", "num_layers": 3, "kernel_size": 3}, "lm", ("word",)
    ),
    "vit-digits": Recipe("digits", PRE, CLASSES, _patches(8), "", 300, 2e-3, side=8),
    "vit-fashion": Recipe("fashion", PRE, CLASSES, _patches(28), "", 300, side=28),
    "beit-digits": Recipe("digits", PRE, MIM, _patches(8, "masked_patch"), "", 300, side=8),
    "beit-fashion": Recipe(
        "fashion", PRE, MIM, _patches(28, "masked_patch"), "", 300, 2e-3, side=28
    ),
    "bilstm-digits": Recipe("digits", BILSTM, CLASSES, _patches(8), "", 300, side=8),
    "gatedcnn-fashion": Recipe("fashion", CNN, CLASSES, _patches(28), "", 300, side=28),
    "ctc-morse": Recipe("morse", PRE, "ctc", SPEECH, "characters", 100),
    "ctc-speech": Recipe("speech", PRE, "ctc", SPEECH, "characters", 200),
    "bilstm-morse": Recipe("morse", BILSTM, "ctc", SPEECH, "characters", 100),
    "bigru-speech": Recipe("speech", BIGRU, "ctc", SPEECH, "characters", 200),
    "gatedcnn-speech": Recipe("speech", CNN, "ctc", SPEECH, "characters", 200),
    "rope-morse": Recipe("morse", GATED, "ctc", SPEECH[:1], "characters", 100),
}
"""Package name → how it is made: 8 read texts, 6 images, 6 sounds."""


def make_zoo(folder: Path, sources: Mapping[str, str]) -> Zoo:
    """Pre-train every encoder that is not in the zoo yet.

    Args:
        folder: Work folder.
        sources: Corpus name to its source, as in ``DatasetSpec``.
    """
    zoo = Zoo(folder / "zoo")
    for name, recipe in RECIPES.items():
        if name not in zoo.names():
            pretrain_one(config_of(name, recipe, folder, sources[recipe.corpus]))
    return zoo


def config_of(name: str, recipe: Recipe, folder: Path, source: str) -> PretrainConfig:
    """The pre-training job of one encoder."""
    texts, sounds = recipe.parts[0] == "word", recipe.parts[:1] == SPEECH[:1]
    data: dict[str, JsonValue] = {"data": {"source": source}, "block_size": LENGTH}
    samples: Settings | None = HEARD if sounds else None
    if recipe.tokenizer:
        size = 2000 if texts else 300
        data["tokenizer"] = {"type": recipe.tokenizer, "vocab_size": size}
    if recipe.side:
        samples = CODES if recipe.target == MIM else {"type": "labelled"}
    if texts:
        data["max_documents"] = 4000
    return PretrainConfig.model_validate(
        {
            "run": {
                "name": name,
                "dir": str(folder / "pretrain" / name),
                "zoo": str(folder / "zoo"),
            },
            "data": data,
            "samples": samples,
            "model": {
                "hidden_size": WIDTH,
                "max_position_embeddings": 17 if recipe.side else 128 if sounds else LENGTH,
                "initializer_range": 0.08,  # 0.02 is for a width of 768
                "embedding": {"parts": recipe.parts, "dropout": 0.0, "layernorm": texts},
                "encoder": recipe.encoder,
                "target": recipe.target,
                **(recipe.model or {}),
            },
            "train": {
                "max_steps": recipe.steps,
                "micro_batch_size": 32,
                "optimizer": {"learning_rate": recipe.rate},
                "schedule": {"warmup_steps": 20},
                "eval_blocks": 64,
            },
            "tracking": {"tensorboard": False},
            "package": {"name": name},
        }
    )


def pretrain_one(config: PretrainConfig) -> Package:
    """Train one encoder in this process and commit its package."""
    with open_run(config) as run:
        inputs = prepare_inputs(config, run.path / CORPORA)
        summary = pretrain(Worker.alone(run.path), inputs.job(run.path))
        assert isinstance(summary, Summary)
        write = partial(write_package, export=run.path / EXPORT, inputs=inputs, parent=None)
        found = figures(inputs, summary).model_dump(mode="json", exclude_none=True)
        return commit_once(
            run,
            config.package.name,
            write=write,
            kind="pretrained",
            parents=[],
            task=inputs.task,
            metrics=found,
            licence=None,
        )
