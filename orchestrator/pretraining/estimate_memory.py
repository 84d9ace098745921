"""Memory of one worker during training, by formula.

N parameters; T are trained, the largest has L, the largest block B and everything outside
of blocks R; w workers; b bytes per weight in passes (4, in bf16 and fp16 under ZeRO 2); s bytes of
optimizer state per trained parameter (AdamW 8); A bytes of activations of one micro-batch.

Kept between steps:

============= ============ ========= ============= =====================================
engine        weights      masters   optimizer     buffers
============= ============ ========= ============= =====================================
single, DDP   4 N          -         s T           DDP on several workers: 4 T
ZeRO-1, 2     b N          4 T / w   s T / w       one bucket
ZeRO-3        b N / w      4 T / w   s T / w       4 T / w of gradients, one bucket
FSDP2         4 N / w      -         s T / w       -
============= ============ ========= ============= =====================================

Where FSDP2's ranks also cut layers, each element is still on one of w workers; B is what a worker
gathers of a block, and A what it keeps.

A bucket has 2.5e6 values on a CPU; on an accelerator 5e8, or T if that is less, and stages 1 and 2
have two of them, so that one is filled while the other is reduced (``cluster/engines/
zero_settings.py``). There ZeRO-3 keeps up to 1e9 gathered values until the backward pass.

Frozen parameters have masters, too, where ZeRO's weights are short: 4 (N - T) / w in host memory.

Beside that, the larger of two moments counts. The **backward pass**: A, and the gradients that are
there when activations are. Those of earlier micro-batches (if there are several) come on top of A;
those of the last one arrive as A goes. The **optimizer's step**: gradients, the copy of them that
ZeRO flattens for each parameter group, and one parameter in fp64, for the norm. After it ZeRO-1 and
2 gather the new weights, on a CPU through a copy of all of them (gloo's; NCCL writes in place).
Muon gathers one matrix at a time and has it six times in fp32: what is sent, what arrives, and
products.
`train.flatness` holds a copy of the trained weights (4 T, sharded 4 T / w) for its second gradient.

**Building** counts as well: each rank makes its own part of each parameter
(``cluster/engines/building.py``). ZeRO-1 and 2 then move the weights to one flat tensor, one
parameter at a time (stage 1 with bf16: all at once), ZeRO-3 its parts of them; their optimizers
make their state at once.

Sources: Rajbhandari et al. 2020 for what each stage cuts; what is kept beyond that was found by
measuring workers (``tests/chaos/test_memory.py`` holds the formula to 15 % on that model and on
a wider one that nothing was derived from, where it was 6 % off at most). DeepSpeed keeps fp32
masters beside the weights even when those are fp32 themselves, and in stage 1 with bf16 all
gradients in fp32 on every worker (4 T), which are copied in fp32 and in bf16 to be reduced.
"""

import math
from dataclasses import dataclass, replace

from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import FP32_BYTES, HALF_BYTES, ModelSizes
from orchestrator.modeling.lora import freeze
from orchestrator.pretraining.job_sections import TrainingSection
from orchestrator.training.config import EngineConfig
from orchestrator.training.engines.optimizers import hidden_matrices

BUCKET_VALUES = 2_500_000
"""Gradients that ZeRO reduces at a time on a CPU (``cluster/engines/zero_settings.py``)."""
ACCELERATOR_VALUES = 500_000_000
"""The same on an accelerator."""
REUSED_VALUES = 1_000_000_000
"""Weights that ZeRO-3 keeps on an accelerator until the backward pass uses them again."""
FALLBACK_VALUES = 500_000_000
"""Gradients that DeepSpeed reduces at a time in stage 1 with bf16."""
FP64_BYTES = 8
MUON_COPIES = 6
"""Times that Muon holds one matrix in fp32."""


@dataclass(frozen=True, slots=True)
class OptimizerMemory:
    """Memory of an optimizer.

    Attributes:
        state_bytes: Bytes of state of one trained parameter, on average.
        workspace: Bytes of one worker during a step, whatever the number of workers.
        ascends: Whether gradients are taken at the worst point nearby, while a copy of the trained
            weights waits.
    """

    state_bytes: float = 8.0
    workspace: int = 0
    ascends: bool = False


ADAMW = OptimizerMemory()


def optimizer_memory(train: TrainingSection, model: ModelConfig) -> OptimizerMemory:
    """Measure on the meta device what the steps of a run take for a model.

    Args:
        train: The optimizer, what is frozen, flatness.
        model: The model.
    """
    config, ascends = train.optimizer, train.flatness is not None and train.flatness.rho > 0
    if config.type != "muon":
        return OptimizerMemory(config.state_bytes(1, 0), ascends=ascends)
    built = build_on_meta(model)
    freeze(built, train.freeze)
    stacks = hidden_matrices(built).values()
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    state = config.state_bytes(trained, sum(stack.count * stack.size for stack in stacks))
    largest = max((stack.size for stack in stacks), default=0)
    return OptimizerMemory(state / trained, MUON_COPIES * FP32_BYTES * largest, ascends)


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Bytes one worker holds while it trains, libraries (about 0.7 GB) not counted.

    Attributes:
        weights: What passes read.
        masters: fp32 copies that the optimizer steps, where they are not the weights.
        optimizer: Its state.
        buffers: What else is kept between steps.
        backward: Beside that at the height of a backward pass.
        step: Beside that at the height of an optimizer step.
        building: The most while the engine is built, before the first step.
        offloaded: Part of the total that lies in the host's memory where there is an accelerator.
    """

    weights: int
    masters: int
    optimizer: int
    buffers: int
    backward: int
    step: int
    building: int
    offloaded: int = 0

    @property
    def kept(self) -> int:
        """Bytes between steps."""
        return self.weights + self.masters + self.optimizer + self.buffers

    @property
    def total(self) -> int:
        """The most at any moment, from the start on."""
        return max(self.building, self.kept + max(self.backward, self.step))

    @property
    def on_accelerator(self) -> int:
        """The total without what is offloaded."""
        return self.total - self.offloaded

    def formula(self) -> str:
        """The sum, part by part."""
        moment = "backward pass" if self.backward >= self.step else "optimizer step"
        parts = {name: getattr(self, name) for name in ("weights", "masters", "optimizer")}
        parts |= {"buffers": self.buffers, moment: max(self.backward, self.step)}
        text = " + ".join(f"{name} {show_bytes(size)}" for name, size in parts.items() if size)
        text += f"; {show_bytes(self.building)} while it is built"
        if self.offloaded:
            text += f"; {show_bytes(self.offloaded)} of it in host memory"
        return text


def worker_memory(
    sizes: ModelSizes,
    engine: EngineConfig,
    workers: int,
    activations: int,
    *,
    micro_batches: int = 1,
    optimizer: OptimizerMemory = ADAMW,
    accelerated: bool = False,
) -> WorkerMemory:
    """Estimate what one worker holds (see the module).

    Args:
        sizes: Of the model.
        engine: Type, stage, number format, offload.
        workers: Number of workers.
        activations: Bytes one micro-batch keeps.
        micro_batches: Those of one worker in a step.
        optimizer: Memory of the optimizer.
        accelerated: Whether workers have accelerators, where buckets are larger.
    """
    sizes = sizes.on_a_rank(engine.tensor_parallel, engine.expert_parallel)
    window = _Window(sizes, engine, workers, activations, micro_batches, optimizer, accelerated)
    memory = window.memory()
    return replace(memory, buffers=memory.buffers + window.saved)


@dataclass(frozen=True, slots=True)
class _Window:
    """Everything a formula needs."""

    sizes: ModelSizes
    engine: EngineConfig
    workers: int
    activations: int
    micro_batches: int
    optimizer: OptimizerMemory
    accelerated: bool

    def memory(self) -> WorkerMemory:
        """Return the estimate without weights that a step returns to."""
        if self.engine.sharding_stage == 0:
            return self.whole()
        if self.engine.type == "fsdp2":
            return self.rows()
        return self.chunks() if self.engine.zero_stage == 3 else self.ranges()

    @property
    def saved(self) -> int:
        """Bytes of the weights that a step returns to."""
        if not self.optimizer.ascends:
            return 0
        return self.part(self.gradients) if self.engine.sharding_stage else self.gradients

    @property
    def bucket(self) -> int:
        """Bytes of a bucket of gradients; DeepSpeed allocates it whole."""
        if not self.accelerated:
            return self.width * BUCKET_VALUES
        return self.width * min(ACCELERATOR_VALUES, self.sizes.trained)

    @property
    def width(self) -> int:
        """Bytes of a weight in passes."""
        return FP32_BYTES if self.engine.precision == "fp32" else HALF_BYTES

    @property
    def state(self) -> int:
        """Bytes of optimizer state in all."""
        return round(self.optimizer.state_bytes * self.sizes.trained)

    @property
    def gradients(self) -> int:
        """Bytes of all gradients in fp32."""
        return FP32_BYTES * self.sizes.trained

    @property
    def norm(self) -> int:
        """Bytes of the largest parameter in fp64."""
        return FP64_BYTES * self.sizes.largest

    def part(self, size: int) -> int:
        """One worker's share; replicas have all of it each."""
        return math.ceil(size * (self.engine.replicas or 1) / self.workers)

    def height(self, arriving: int) -> int:
        """Activations with gradients that arrive as those go, or that are there already."""
        if self.micro_batches > 1:
            return self.activations + arriving
        return max(self.activations, arriving)

    def whole(self) -> WorkerMemory:
        """Single process and DDP; autocast keeps short copies of the weights for a pass."""
        short = 0 if self.engine.precision == "fp32" else HALF_BYTES * self.sizes.total
        weights, buffers = FP32_BYTES * self.sizes.total, self.gradients if self.workers > 1 else 0
        return WorkerMemory(
            weights=weights,
            masters=0,
            optimizer=self.state,
            buffers=buffers,
            building=weights + buffers,
            backward=self.height(self.gradients) + short,
            step=self.gradients + max(self.norm, self.optimizer.workspace),
        )

    def ranges(self) -> WorkerMemory:
        """ZeRO-1 and 2: stage 1 reduces whole gradients after the last micro-batch."""
        part, bucket = self.part(self.gradients), self.bucket * (2 if self.accelerated else 1)
        trained, whole = self.sizes.trained, 0
        gathered = 0 if self.accelerated else self.width * trained
        if self.engine.zero_stage == 1 and self._keeps_whole_gradients:
            whole = self.gradients
            reduced = (FP32_BYTES + HALF_BYTES) * min(trained, FALLBACK_VALUES)
            backward = max(self.activations, HALF_BYTES * trained) + reduced
        elif self.engine.zero_stage == 1:
            backward = self.height(self.gradients) + bucket
        else:
            backward = self.activations + part * min(2, self.micro_batches) + bucket
        return self._zero(
            weights=self.width * self.sizes.total,
            buffers=whole,
            backward=backward,
            step=max(2 * part + self.optimizer.workspace, gathered),
            copied=self.width * (self.sizes.total + (trained if whole else self.sizes.largest)),
        )

    @property
    def _keeps_whole_gradients(self) -> bool:
        """DeepSpeed's own optimizer for bf16, which runs stage 1 unless it is offloaded."""
        return self.engine.precision == "bf16" and not self.engine.offload.optimizer

    def chunks(self) -> WorkerMemory:
        """ZeRO-3: one parameter at a time is gathered, and has a gradient not yet reduced."""
        bucket, reused = self.bucket, REUSED_VALUES if self.accelerated else 0
        gathered = self.width * max(2 * self.sizes.largest, min(reused, self.sizes.total))
        return self._zero(
            weights=self.part(self.width * self.sizes.total),
            buffers=self.part(self.gradients) + bucket,
            backward=self.activations + gathered + 2 * bucket,
            step=self.part(self.gradients) + self.optimizer.workspace,
            copied=self.width * (2 * self.part(self.sizes.total) + self.sizes.largest),
        )

    def _zero(
        self, weights: int, buffers: int, backward: int, step: int, copied: int
    ) -> WorkerMemory:
        masters, optimizer = self.part(self.gradients), self.part(self.state)
        frozen = 0
        if self.engine.precision != "fp32":  # kept as they were, always in host memory
            frozen = self.part(FP32_BYTES * (self.sizes.total - self.sizes.trained))
        offload, offloaded = self.engine.offload, frozen
        if offload.optimizer:
            offloaded += masters + optimizer + self.part(self.gradients)
        if offload.parameters:
            offloaded += weights
        masters += frozen
        # The optimizer's state is made by a step with gradients of zero.
        ready = weights + masters + optimizer + buffers + self.part(self.gradients)
        building = max(copied, ready)
        return WorkerMemory(
            weights, masters, optimizer, buffers, backward, step, building, offloaded
        )

    def rows(self) -> WorkerMemory:
        """FSDP2: root and two blocks are gathered, one of them has gradients to be reduced."""
        rows = self.part(FP32_BYTES * self.sizes.total)
        gathered = self.width * (2 * self.sizes.root + 2 * self.sizes.block)
        reduced = FP32_BYTES * (self.sizes.root + self.sizes.block)
        optimizer, gradients = self.part(self.state), self.part(self.gradients)
        return WorkerMemory(
            weights=rows,
            masters=0,
            optimizer=optimizer,
            buffers=0,
            building=rows,
            backward=self.activations + gradients + gathered + reduced,
            step=gradients + max(self.part(self.norm), self.optimizer.workspace),
            offloaded=rows + optimizer + gradients if self.engine.offload.any else 0,
        )


def show_bytes(size: float) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
