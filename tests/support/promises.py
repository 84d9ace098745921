"""Small packages that promise something: heads trained on real rows, with an evaluation suite."""

from pathlib import Path

import numpy as np
import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.inference.examination import examine_draft
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import load_model, write_model
from orchestrator.tasks.base import HeadOptions, build_task
from orchestrator.tasks.suite import Learned
from orchestrator.zoo.suite import TaskSpec

TOPICS = {
    "spam": {"ham": ("meeting", "report", "lunch"), "spam": ("prize", "winner", "cash")},
    "place": {
        "city": ("street", "house", "square"),
        "land": ("hill", "field", "desert"),
        "water": ("lake", "river", "sea"),
    },
    "food": {"fruit": ("apple", "pear", "fig"), "grain": ("rye", "oat", "rice")},
}
FILLER = ("the", "of", "with", "near", "under", "has", "one", "two", "three", "some")
MAX_LENGTH = 16


def topic_data(name, *, test=300, train=240, wrong=0.0, seed=0):
    """Rows of a topic: a word decides the label; a share of the labels is wrong."""
    names = tuple(TOPICS[name])
    rng = np.random.default_rng([seed, len(name)])

    def rows(count, tag):
        labels = rng.integers(0, len(names), count)
        texts = []
        for row, label in enumerate(labels):
            words = [*rng.choice(FILLER, 3), rng.choice(TOPICS[name][names[label]])]
            rng.shuffle(words)
            texts.append(f"{' '.join(words)} {tag}{row}")
        flipped = rng.random(count) < wrong
        labels = np.where(flipped, (labels + 1) % len(names), labels)
        return Rows(texts, None, labels.astype(np.int64))

    return TaskData(name, names, rows(train, "a"), rows(60, "b"), rows(test, "c"))


def topic_task(name, head=None):
    return build_task(
        TaskSpec(kind="classification", head=head or name, labels=tuple(TOPICS[name]))
    )


def lesson(name, **how):
    return Learned(topic_task(name), topic_data(name, **how))


def processor():
    words = [word for topic in TOPICS.values() for group in topic.values() for word in group]
    return TextProcessor.train(
        [" ".join([*FILLER, *words, "0 1 2 3 4 5 6 7 8 9 a b c"])] * 3, 300, max_length=MAX_LENGTH
    )


def commit_encoder(zoo, name="encoder"):
    """Commit a small model without a labelled task."""
    tokenizer = processor()
    config = ModelConfig(
        hidden_size=16,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=MAX_LENGTH,
        embedding={"parts": ["word", "pos"], "dropout": 0.0},
        encoder={"type": "transformer", "num_layers": 1, "num_heads": 2, "intermediate_size": 32},
        target=["mlm"],
    )
    torch.manual_seed(1)
    with zoo.draft(name, kind="pretrained", task={"kind": "mlm"}) as draft:
        write_model(draft.path, build_model(config), config)
        tokenizer.save(draft.path)
        return draft.commit()


def train(model, lessons, tokenizer, steps=120, learning_rate=1e-2):
    """Learn the heads in turn, all weights moving."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    rng = np.random.default_rng(0)
    samples = {
        head: each.task.samples(each.data.train, tokenizer, MAX_LENGTH)
        for head, each in lessons.items()
    }
    model.train()
    for step in range(steps):
        head = list(lessons)[step % len(lessons)]
        chosen = rng.integers(0, len(samples[head]), 32).astype(np.int64)
        loss = model(samples[head].collate(chosen, 0))[f"loss.{head}"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def commit_classifier(zoo, lessons, parent, name="classifier", **examination):
    """Fine-tune a package on lessons by head, examine it and commit it with its suite."""
    torch.manual_seed(2)
    heads = [each.task.target(HeadOptions(dropout=0.0)) for each in lessons.values()]
    tokenizer = TextProcessor.load(parent.path)
    model = train(load_model(parent.path, targets=heads), lessons, tokenizer)
    task = {
        "kind": "classification",
        "labels": {head: list(each.task.labels) for head, each in lessons.items()},
    }
    with zoo.draft(name, kind="finetuned", parents=[parent], task=task) as draft:
        write_model(draft.path, model, model.config)
        tokenizer.save(draft.path)
        examine_draft(draft, learned=lessons, default=next(iter(lessons)), **examination)
        return draft.commit()


def copy_model(parent, folder: Path):
    """Write the model files of a package into a folder and return the loaded model."""
    model = load_model(parent.path)
    TextProcessor.load(parent.path).save(folder)
    write_model(folder, model, model.config)
    return model
