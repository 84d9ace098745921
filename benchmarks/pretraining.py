"""Pre-training beside its peers: our worker, a bare torch loop, transformers' Trainer.

One BERT-like model with equal first weights, the same batches in the same order, AdamW (fused) at
a constant rate, gradients clipped to 1, no dropout, fp32, one thread a process. Ours and the bare
loop train our module; the Trainer trains transformers' BertForMaskedLM, with the same loss to show
for it. All contenders are alive at once and train in turns, a few steps each, so that other load
on the machine falls on all; what counts are the ratios. CPU seconds are those of all processes of a
contender; memory is the peak of its largest process, libraries included.

Also: what a checkpoint costs, and how long a job takes from its start to its first step, beside a
Ray Train job of two lines that does nothing.

Run: `python benchmarks/pretraining.py --write` (about 6 minutes), `--quick` for a smoke test.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
LENGTH, WIDTH, LAYERS, HEADS, VOCAB = 64, 256, 4, 4, 4096
BATCH = 16
DEFAULT_INTERVAL = 100
"""Steps between checkpoints in the presets."""
ENDLESS = 1_000_000
LOGGED = 10
"""Steps between two log entries, of everybody."""
DEADLINE_S = 300.0
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


# --- what the contenders train -------------------------------------------------------------------


def prepare(folder: Path) -> dict[str, Any]:
    """Make the corpus and the first weights; return what a contender needs, as JSON."""
    from transformers import BertConfig, BertForMaskedLM

    from orchestrator.config import load_config
    from orchestrator.modeling.builder import build_model
    from orchestrator.modeling.huggingface.folder import open_source, read_tensors
    from orchestrator.modeling.package import write_model
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.pretraining.inputs import prepare_inputs, vocabulary

    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    config = load_config(PretrainConfig, folder / "job.yaml")
    corpus = prepare_inputs(config, folder / "corpora")
    theirs = BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary(corpus),
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
    model.load_state_dict(read_tensors(source), strict=False)
    write_model(folder / "ours", model, source.config)
    return {
        "folder": str(folder),
        "corpus": str(corpus.path.resolve()),
        "model": source.config.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def job_of(given: dict[str, Any], settings: Sequence[str]) -> Any:
    """Return the job's config with the model and a contender's settings."""
    from orchestrator.config import load_config
    from orchestrator.pretraining.config import PretrainConfig

    model = f"model={json.dumps(given['model'])}"
    return load_config(PretrainConfig, Path(given["folder"], "job.yaml"), [model, *settings])


# --- the contenders ------------------------------------------------------------------------------


def train_ours(given: dict[str, Any], contender: Contender, rank: int, gate: Gate) -> None:
    """Train with the worker of the pretrain job, as a Ray Train worker does."""
    from orchestrator.cluster.context import WorkerContext
    from orchestrator.pretraining.worker import pretrain

    @dataclass(frozen=True, slots=True)
    class Paced(WorkerContext):
        def emit(self, event: dict[str, Any]) -> None:
            if event["event"] == "metrics":
                LAST["loss"] = event["metrics"]["loss"]

        def should_stop(self) -> bool:
            gate()
            return False

    config = job_of(given, contender.settings)
    run = Path(given["folder"], "runs", contender.title.replace(" ", "-"))
    start = str(Path(given["folder"], "ours"))
    job = {"config": config.model_dump(mode="json"), "corpus": given["corpus"], "start": start}
    pretrain(Paced(rank, contender.workers, run), job)


def source_of(given: dict[str, Any]) -> Any:
    """Return the batches that ours reads, for those that are not ours."""
    from orchestrator.data.steps import StepSource
    from orchestrator.pretraining.inputs import open_inputs, samples_of
    from orchestrator.training.seeding import derive_seed

    config = job_of(given, ALONE)
    corpus = open_inputs(Path(given["corpus"]))
    samples = samples_of(config, corpus, corpus.train)
    return StepSource(samples, BATCH, BATCH, derive_seed(config.seed, "order"))


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


# --- the race ------------------------------------------------------------------------------------


@dataclass
class Runner:
    """The processes of a contender and what they took."""

    contender: Contender
    pipes: list[Connection]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0.0
    loss: float = float("nan")

    def report(self) -> tuple[float, float]:
        """Wait until all processes have trained; return seconds and CPU seconds."""
        for pipe in self.pipes:
            if not pipe.poll(DEADLINE_S):
                raise TimeoutError(f"{self.contender.title} does not answer")
        try:
            reports = [pipe.recv() for pipe in self.pipes]
        except EOFError as error:
            raise RuntimeError(f"{self.contender.title} ended; its reason is above") from error
        self.memory = max(each[2] for each in reports)
        self.loss = reports[0][3]
        return max(each[0] for each in reports), sum(each[1] for each in reports)

    def ask(self, go: bool) -> None:
        """Let all processes train, or end."""
        for pipe in self.pipes:
            pipe.send(go)


def race(given: dict[str, Any], options: argparse.Namespace) -> list[Runner]:
    """Start the contenders and let them train in turns; the first round is not counted."""
    rounds, steps = options.rounds, options.steps
    spawn = multiprocessing.get_context("spawn")
    runners = []
    for template in (each for each in CONTENDERS if re.search(options.only, each.title)):
        settings = tuple(each.format(steps=steps) for each in template.settings)
        contender = Contender(template.title, template.kind, template.workers, settings)
        ends = [spawn.Pipe() for _ in range(contender.workers)]
        for rank, (_, end) in enumerate(ends):
            arguments = (given, contender, rank, steps, end)
            spawn.Process(target=process, args=arguments, daemon=True).start()
            end.close()  # its death is the end of the pipe
        runners.append(Runner(contender, [mine for mine, _ in ends]))
        runners[-1].report()  # its first step is done: the next one has the machine to itself
    for number in range(rounds + 1):
        for runner in runners if number % 2 else reversed(runners):
            runner.ask(go=True)
            wall, cpu = runner.report()
            if number:
                runner.wall.append(wall / steps)
                runner.cpu.append(cpu / steps)
    for runner in runners:
        runner.ask(go=False)
    return runners


# --- start-up ------------------------------------------------------------------------------------

RAY_ALONE = """
import sys, time
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
def loop(config):
    import torch, time
    from pathlib import Path
    Path(config["mark"]).write_text(str(time.time()))
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
TorchTrainer(loop, train_loop_config={"mark": sys.argv[1]}, torch_config=TorchConfig("gloo"),
    scaling_config=ScalingConfig(num_workers=1),
    run_config=RunConfig(storage_path=sys.argv[2])).fit()
"""
OURS_FROM_SHELL = """
import sys, time
from pathlib import Path
from orchestrator.cluster.watch import Watcher
plain = Watcher.observe
def observe(self, event):
    mark = Path(sys.argv[1])
    if event["event"] == "metrics" and not mark.exists():
        mark.write_text(str(time.time()))
    plain(self, event)
Watcher.observe = observe
from orchestrator.cli import job_main
sys.exit(job_main("pretrain", sys.argv[2:]))
"""


def startup(given: dict[str, Any], times: int) -> tuple[list[float], list[float]]:
    """Return seconds from a command to its first step: ours, and to a worker's first line: Ray."""
    folder = Path(given["folder"])
    seconds: tuple[list[float], list[float]] = ([], [])
    model = f"model={json.dumps(given['model'])}"
    for index in range(times):
        mine = [f"run.name=start-{index}", f"run.dir={folder}", f"run.zoo={folder}/zoo", model]
        settings = [*mine, "train.max_steps=1", "train.log_every_steps=1"]
        ours = ["--config", str(folder / "job.yaml"), *settings]
        for side, (code, extra) in enumerate(
            ((OURS_FROM_SHELL, ours), (RAY_ALONE, [str(folder / "ray")]))
        ):
            mark = folder / f"mark-{side}-{index}"
            began = time.time()
            command = [sys.executable, "-c", code, str(mark), *extra]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            seconds[side].append(float(mark.read_text()) - began)
    return seconds


# --- the report ----------------------------------------------------------------------------------


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios of each round, with its quartiles."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def table(runners: Sequence[Runner]) -> Iterator[str]:
    """Yield the lines of the table."""
    by_title = {runner.contender.title: runner for runner in runners}
    yield "| | tokens/s | CPU s a step | peak memory, MB | CPU ÷ bare loop | CPU ÷ DDP | loss |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for runner in runners:
        tokens = BATCH * LENGTH / statistics.median(runner.wall)
        cpu = statistics.median(runner.cpu)
        base = ratio(runner.cpu, by_title[BARE].cpu) if BARE in by_title else ""
        two = runner.contender.workers > 1 and DDP in by_title
        ddp = ratio(runner.cpu, by_title[DDP].cpu) if two else ""
        yield (
            f"| {runner.contender.title} | {tokens:,.0f} | {cpu:.3f} | {runner.memory / 1e6:,.0f} "
            f"| {base} | {ddp} | {runner.loss:.3f} |"
        )


def goals(
    runners: Sequence[Runner], steps: int, starts: tuple[list[float], list[float]]
) -> Iterator[str]:
    """Yield what was aimed at and what was reached."""
    by = {runner.contender.title: runner for runner in runners}
    ours = by[OURS].cpu
    yield f"- speed of one worker ÷ bare loop: {ratio(by[BARE].cpu, ours)}; goal ≥ 0.97"
    yield f"- speed of one worker ÷ Trainer: {ratio(by[TRAINER].cpu, ours)}; goal ≥ 1.0"
    for title, goal in (("ZeRO-1", 1.15), ("ZeRO-2", 1.15), ("FSDP2", 1.5)):
        found = ratio(by[f"ours, 2 workers, {title}"].cpu, by[DDP].cpu)
        yield f"- CPU time of {title} ÷ DDP: {found}; goal ≤ {goal}"
    share = DEFAULT_INTERVAL / steps
    for name, figures in (("CPU", "cpu"), ("wall", "wall")):
        pairs = zip(getattr(by[SAVING], figures), getattr(by[OURS], figures), strict=True)
        cost = statistics.median((a / b - 1) / share for a, b in pairs)
        yield (
            f"- a checkpoint every {DEFAULT_INTERVAL} steps: {cost:+.1%} of {name} time; goal ≤ 5 %"
        )
    mine, rays = (statistics.median(each) for each in starts)
    yield (
        f"- start-up to the first step: {mine:.1f} s, Ray's own {rays:.1f} s: "
        f"{mine - rays:+.1f} s; goal ≤ +15 s"
    )


def report(options: argparse.Namespace) -> str:
    """Measure and return the page."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(ROOT.parent):
        given = prepare(Path(name))
        starts = ([], []) if options.only else startup(given, 1 if options.quick else 3)
        runners = race(given, options)
    head = [
        "# Pre-training beside its peers",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} CPUs, load "
        f"{os.getloadavg()[0]:.1f}; torch {_version('torch')}, ray {_version('ray')}, transformers "
        f"{_version('transformers')}. `python benchmarks/pretraining.py --rounds {options.rounds} "
        f"--steps {options.steps}`",
        "",
        f"BERT of {given['parameters'] / 1e6:.1f} M parameters ({LAYERS} layers of {WIDTH}), "
        f"batches of {BATCH} × {LENGTH} tokens, fp32, one thread a process. What is compared, and "
        "how: the first lines of the script.",
        "",
    ]
    goal_lines = [] if options.only else goals(runners, options.steps, starts)
    return "\n".join([*head, *table(runners), "", *goal_lines, ""])


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def main() -> None:
    """Print the page, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="steps of a round")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--only", default="", help="contenders by regular expression; no goals")
    parser.add_argument("--write", action="store_true", help="write benchmarks/pretraining.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps = 1, 2
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    page = report(options)
    print(page)
    if options.write:
        (ROOT / "pretraining.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
