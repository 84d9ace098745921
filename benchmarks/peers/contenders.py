"""The contenders: each trains the same model on the same batches, and waits at a gate."""

import json
import logging
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LENGTH, WIDTH, LAYERS, HEADS, VOCAB = 64, 256, 4, 4, 4096
BATCH = 16
ENDLESS = 1_000_000
LOGGED = 10
"""Steps between two log entries, of everybody."""
Gate = Callable[[], None]

JOB = f"""
run: {{name: bench}}
data:
  data: {{source: "builtin:pydoc"}}
  max_documents: 2000
  tokenizer: {{vocab_size: {VOCAB}}}
  block_size: {LENGTH}
model: {{encoder: transformer, target: mlm}}
train:
  max_steps: {ENDLESS}
  global_batch_size: {BATCH}
  micro_batch_size: {BATCH // 2}
  optimizer: {{learning_rate: 1.0e-4, weight_decay: 0.0}}
  schedule: {{type: constant}}
  eval_blocks: 8
tracking: {{tensorboard: false}}
package: {{name: bench}}
"""


@dataclass(frozen=True)
class Contender:
    """One way of training.

    Attributes:
        title: What the table calls it.
        kind: ours, bare or trainer.
        workers: Number of processes.
        settings: Overrides of the job.
    """

    title: str
    kind: str = "ours"
    workers: int = 1
    settings: tuple[str, ...] = ()


BARE, TRAINER, OURS = "bare torch loop", "transformers.Trainer", "ours, 1 worker"
SAVING, DDP = "ours, 1 worker, a checkpoint each round", "ours, 2 workers, DDP"
ALONE = (f"train.micro_batch_size={BATCH}",)
CONTENDERS = (
    Contender(BARE, "bare"),
    Contender(TRAINER, "trainer"),
    Contender(OURS, settings=ALONE),
    Contender(SAVING, settings=(*ALONE, "train.checkpoint_every_steps={steps}")),
    Contender(DDP, workers=2),
    *(
        Contender(
            f"ours, 2 workers, ZeRO-{stage}",
            workers=2,
            settings=("engine.type=zero", f"engine.zero_stage={stage}"),
        )
        for stage in (1, 2, 3)
    ),
    Contender("ours, 2 workers, FSDP2", workers=2, settings=("engine.type=fsdp2",)),
)


def prepare(folder: Path) -> dict[str, Any]:
    """Make the corpus and the first weights; return what a contender needs, as JSON."""
    from transformers import BertConfig, BertForMaskedLM

    from orchestrator.config import load_config
    from orchestrator.modeling.builder import build_model
    from orchestrator.modeling.huggingface.folder import compare, converted, open_source
    from orchestrator.modeling.package import write_model
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.pretraining.inputs import prepare_inputs

    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    config = load_config(PretrainConfig, folder / "job.yaml")
    inputs = prepare_inputs(config, folder / "corpora")
    theirs = BertForMaskedLM(
        BertConfig(
            vocab_size=inputs.model.vocab_size,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    for name in ("theirs", "ours"):
        (folder / name).mkdir()
    theirs.save_pretrained(folder / "theirs")
    source = open_source(folder / "theirs")
    model = build_model(source.config)
    model.load_state_dict(dict(converted(source, compare(source))), strict=False)
    write_model(folder / "ours", model, source.config)
    return {
        "folder": str(folder),
        "corpus": str(inputs.corpus.path.resolve()),
        "model": source.config.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def job_of(given: dict[str, Any], settings: Sequence[str], run: Path, start: Path | None) -> Any:
    """Return what a worker gets, with the model and a contender's settings."""
    from orchestrator.config import load_config
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.pretraining.state import PretrainJob

    model = f"model={json.dumps(given['model'])}"
    config = load_config(PretrainConfig, Path(given["folder"], "job.yaml"), [model, *settings])
    return PretrainJob(
        config=config,
        model=config.model,
        corpus=given["corpus"],
        run_dir=str(run),
        start=None if start is None else str(start),
    )


def train_ours(given: dict[str, Any], contender: Contender, rank: int, gate: Gate) -> None:
    """Train with the worker of the pretrain job, as a Ray Train worker does."""
    from orchestrator.cluster.context import Worker
    from orchestrator.pretraining.worker import pretrain
    from orchestrator.training.events import Event, Measurement

    @dataclass(frozen=True, slots=True)
    class Paced(Worker):
        def emit(self, event: Event) -> None:
            if isinstance(event, Measurement):
                LAST["loss"] = event.metrics["loss"]

        def should_stop(self) -> bool:
            gate()
            return False

    run = Path(given["folder"], "runs", contender.title.replace(" ", "-"))
    job = job_of(given, contender.settings, run, Path(given["folder"], "ours"))
    pretrain(Paced(rank, contender.workers, run), job)


def source_of(given: dict[str, Any]) -> Any:
    """Return the batches that ours reads, for those that are not ours."""
    from orchestrator.pretraining.inputs import open_inputs

    return open_inputs(job_of(given, ALONE, Path(given["folder"]), None)).steps()


def train_bare(given: dict[str, Any], contender: Contender, rank: int, gate: Gate) -> None:
    """Train our module in a loop of ten lines."""
    del contender, rank
    import torch

    from orchestrator.modeling.package import load_model

    source, model = source_of(given), load_model(Path(given["folder"], "ours")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    losses: list[float] = []
    for step in range(ENDLESS):
        (batch,) = source.window(step, 0, 1)
        optimizer.zero_grad()
        outputs = model(batch)
        loss = outputs["loss.mlm"] / outputs["count.mlm"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) == LOGGED:
            LAST["loss"], losses = statistics.mean(losses), []
        gate()


def train_trainer(given: dict[str, Any], contender: Contender, rank: int, gate: Gate) -> None:
    """Train transformers' class with transformers' Trainer."""
    del contender, rank
    import torch
    from transformers import BertForMaskedLM, Trainer, TrainerCallback, TrainingArguments

    source = source_of(given)

    class Steps(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for step in range(ENDLESS):
                (batch,) = source.window(step, 0, 1)
                labels = batch.pop("labels.mlm")
                yield {**batch, "labels": labels}

    class Paced(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            gate()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            LAST["loss"] = float(logs.get("loss", LAST["loss"]))

    arguments = TrainingArguments(
        output_dir=str(Path(given["folder"], "trainer")),
        per_device_train_batch_size=1,  # a sample of the data set is a batch already
        max_steps=ENDLESS,
        learning_rate=1e-4,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        logging_steps=LOGGED,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(
        model=BertForMaskedLM.from_pretrained(Path(given["folder"], "theirs")),
        args=arguments,
        train_dataset=Steps(),
        data_collator=lambda samples: samples[0],
        callbacks=[Paced()],
    ).train()


TRAIN = {"ours": train_ours, "bare": train_bare, "trainer": train_trainer}
LAST = {"loss": float("nan")}
"""Mean loss of the last ten steps that were logged."""


def process(
    given: dict[str, Any], contender: Contender, rank: int, steps: int, pipe: Connection
) -> None:
    """Be one process of a contender: train ``steps`` steps at each request, report, wait."""
    import torch

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if contender.workers > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": contender.workers}
        os.environ |= {name: str(value) for name, value in place.items()}  # as Ray Train does
        store = Path(given["folder"], contender.title.replace(" ", "-")).as_uri()
        torch.distributed.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=contender.workers
        )
    left, began, used = 1, 0.0, 0.0

    def gate() -> None:
        nonlocal left, began, used
        left -= 1
        if left:
            return
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((time.perf_counter() - began, time.process_time() - used, memory, LAST["loss"]))
        if not pipe.recv():
            os._exit(0)
        left, began, used = steps, time.perf_counter(), time.process_time()

    TRAIN[contender.kind](given, contender, rank, gate)
