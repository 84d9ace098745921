"""Packages with planted outlier channels: equal in float, and broken by INT8 activations.

A channel is scaled by a factor between two linear maps, and the weights that read it are divided by
it. The float function stays; a row of activations gets one value that takes its whole INT8 range.
"""

import json

import numpy as np
import torch

from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.selection.config import SelectConfig
from orchestrator.zoo import Zoo
from tests.support.candidates import FILLER, TOPICS, make_processor, spec

SCALE = 200.0
WIDTH = 32
CHANNELS = tuple(range(0, WIDTH, 2))
BATCH, MAX_STEPS = 64, 400
LEARNED, HALF_LEARNED = 0.02, 0.35
"""Losses at which training ends: of the package with outliers, and of the one without."""
LABELS, TASK = ("same", "different"), "pairs"
ANIMALS = tuple(TOPICS["animals"].values())
FINE_TUNE = {
    "epochs": 2,
    "global_batch_size": 16,
    "learning_rate": 2e-2,
    "max_length": 12,
    "pooling": "last",
    "freeze": ["embedding", "encoder"],
    "dropout": 0.0,
}
"""Only the head learns, so that the planted factors stay what they are."""
TRANSFORMER = {
    "type": "transformer",
    "num_layers": 1,
    "num_heads": 4,
    "intermediate_size": 64,
    "dropout": 0.0,
}
RECURRENT = {"type": "lstm", "num_layers": 1}
"""Its one unit cannot stay in float, so that no plan of the quantizer avoids the outliers."""


def plant(model, scale=SCALE, channels=CHANNELS):
    """Scale channels before GEMMs, and undo it behind them.

    In a transformer: the values, so that its output GEMM alone reads outliers. In an LSTM: the
    embedding, which its one unit reads.
    """
    places = list(channels)
    if hasattr(model.encoder, "layers"):
        attentions = [layer.attention for layer in model.encoder.layers]
        links = [(each.value, (each.output.weight,)) for each in attentions]
    else:
        inputs = [p for name, p in model.encoder.named_parameters() if "weight_ih" in name]
        links = [(model.embedding.norm, inputs)]
    with torch.no_grad():
        for source, targets in links:
            source.weight[places] *= scale
            source.bias[places] *= scale
            for target in targets:
                target[:, places] /= scale


def trained_encoder(processor, encoder, rows, until):
    """An encoder that has learned the task with the head of its last token, and its config."""
    config = ModelConfig(
        hidden_size=WIDTH,
        vocab_size=processor.vocab_size,
        max_position_embeddings=16,
        embedding={"parts": ["word", "pos"], "dropout": 0.0},
        encoder=encoder,
        target=[{"type": "cls", "name": "topic", "num_labels": 2, "pooling": "last"}],
    )
    torch.manual_seed(1)
    model, drawn_by = build_model(config), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = processor([row["text"] for row in rows])
    batch["labels.topic"] = torch.tensor([LABELS.index(row["label"]) for row in rows])
    for _ in range(MAX_STEPS):
        drawn = torch.randint(0, len(rows), (BATCH,), generator=drawn_by)
        optimizer.zero_grad()
        loss = model({name: values[drawn] for name, values in batch.items()})["loss.topic"] / BATCH
        loss.backward()
        optimizer.step()
        if loss < until:
            break
    return model.eval(), config


def make_rows(seed, count):
    """Texts with two animals; the label says whether both are tame or both are wild."""
    rng, rows = np.random.default_rng(seed), []
    for index in range(count):
        one, two = rng.integers(0, 2, 2)
        words = [*rng.choice(FILLER, 2), rng.choice(ANIMALS[one]), rng.choice(ANIMALS[two])]
        rng.shuffle(words)
        rows.append({"text": f"{' '.join(words)} {index}", "label": LABELS[int(one != two)]})
    return rows


def commit(zoo, name, model, config, processor):
    with zoo.draft(
        name, kind="pretrained", producer={"stage": "test"}, task={"kind": "mlm", "max_length": 16}
    ) as draft:
        write_model(draft.path, model, config)
        processor.save(draft.path)
        return draft.commit()


def make_outlier_world(root, encoder, rows=480):
    """Two candidates: ``outliers`` is better in float, ``plain`` has no outliers."""
    lines = [json.dumps(row) for row in make_rows(0, rows)]
    (root / f"{TASK}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    zoo, processor, lessons = Zoo(root / "zoo"), make_processor(), make_rows(1, 1200)
    for name, until in (("outliers", LEARNED), ("plain", HALF_LEARNED)):
        model, config = trained_encoder(processor, encoder, lessons, until)
        if name == "outliers":
            plant(model)
        commit(zoo, name, model, config, processor)
    return root


def outlier_job(root, name, **changes):
    fields = {
        "run": {"name": name, "dir": str(root / "runs"), "zoo": str(root / "zoo")},
        "target": spec(root, TASK),
        "recall": {"mode": "all"},
        "fine_tune": FINE_TUNE,
        "package": name,
        **changes,
    }
    return validate_config(SelectConfig, fields, "test")
