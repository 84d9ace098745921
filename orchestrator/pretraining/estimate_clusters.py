"""Clusters that are not here, on paper: memory, traffic and time of a job for each ZeRO stage.

Everything is a formula over a few sizes; nothing is measured or built. States follow Rajbhandari et
al. 2020 (ZeRO), sections 3 and 5; traffic section 7: reduced gradients and gathered weights are N
values each, stage 3 gathers for both passes. Deviation: stages 2 and 3 are counted as they run
here, gradients reduced after every micro-batch and weights gathered for every micro-batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import ModelSizes, activation_bytes, model_sizes, training_flops
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.peaks import PEAKS
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.estimate_memory import (
    OptimizerMemory,
    WorkerMemory,
    optimizer_memory,
    worker_memory,
)
from orchestrator.training.config import EngineConfig

SECONDS_PER_DAY = 86400.0
RESERVED = 2.5e9
"""Bytes of an accelerator that are not the job's: driver, kernels, libraries, fragments."""
STAGES = (0, 1, 2, 3)
NODE = 8
"""Devices of a node; a larger cluster sends over its network."""
GBIT = 1e9 / 8
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of device, by its maker's data sheet.

    Attributes:
        memory: Bytes.
        half_flops: Dense operations a second in bf16 or fp16.
        single_flops: The same in fp32, without reduced formats.
        link: Bytes a second that a device sends to the others of its node, one direction.
        network: Bytes a second that a device sends to other nodes: its share of the network cards
            of the maker's own server of 8 devices (DGX-1, DGX A100, DGX H100 and H200).
    """

    memory: float
    half_flops: float
    single_flops: float
    link: float
    network: float


def _nvidia(memory: float, name: str, link: float, network: float) -> Accelerator:
    peaks = PEAKS[name]
    return Accelerator(memory, peaks.fp16, peaks.fp32, link, network)


ACCELERATORS: dict[str, Accelerator] = {
    "v100": _nvidia(32e9, "V100", 150e9, 50 * GBIT),
    "a100-40": _nvidia(40e9, "A100", 300e9, 200 * GBIT),
    "a100": _nvidia(80e9, "A100", 300e9, 200 * GBIT),
    "l40s": _nvidia(48e9, "L40S", 32e9, 100 * GBIT),
    "h100": _nvidia(80e9, "H100", 450e9, 400 * GBIT),
    "h200": _nvidia(141e9, "H200", 450e9, 400 * GBIT),
    "mi300x": Accelerator(192e9, 1307e12, 163.4e12, 448e9, 400 * GBIT),
}
"""Names that ``--accelerator`` takes: SXM or OAM versions, without sparsity."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes of each parameter's parts; the defaults are mixed-precision Adam's (ZeRO, 3.1).

    Attributes:
        weights: What passes read.
        gradients: What backward passes write.
        optimizer: fp32 masters and two moments (K = 12 in the paper).
    """

    weights: float = 2.0
    gradients: float = 2.0
    optimizer: float = 12.0


MIXED = Widths()


def state_bytes(parameters: float, workers: int, stage: int, widths: Widths = MIXED) -> float:
    """Return the bytes of model states on one worker (ZeRO, figure 1).

    Stage 0 (w + g + k) N; 1 (w + g + k / workers) N; 2 (w + (g + k) / workers) N;
    3 (w + g + k) N / workers.

    Args:
        parameters: N.
        workers: Data-parallel workers.
        stage: What is cut.
        widths: W, g and k.
    """
    shares = [1.0 / workers if stage >= cut else 1.0 for cut in (3, 2, 1)]
    parts = (widths.weights, widths.gradients, widths.optimizer)
    return parameters * sum(part * share for part, share in zip(parts, shares, strict=True))


def sent_values(parameters: float, stage: int, micro_batches: int = 1) -> float:
    """Return the values that one worker sends in a step, for many workers (ZeRO, section 7).

    A ring sends N (workers - 1) / workers values to reduce-scatter or all-gather N of them: about
    N. Stages 0 and 1 reduce once (N) and gather once (N). Stage 2 reduces after each of the
    a micro-batches, (a + 1) N. Stage 3 also gathers twice for each, 3 a N.

    Args:
        parameters: N.
        stage: What is cut.
        micro_batches: A, those of one worker in a step.
    """
    rounds = {0: 2, 1: 2, 2: 1 + micro_batches, 3: 3 * micro_batches}[stage]
    return parameters * rounds


def exchanged_values(model: ModelConfig, engine: EngineConfig, positions: int) -> float:
    """Return the values that one worker sends in a step because layers are cut.

    Tensor ranks sum what a sub-layer has read and what it returns, in the forward and the backward
    pass (Shoeybi et al. 2020, figure 4); a ring sends twice (t - 1) / t of a sum. A token travels
    to each of its experts and back, in both passes.

    Args:
        model: Its blocks.
        engine: How many ranks cut them.
        positions: Of all samples that one worker reads in a step.
    """
    ranks, experts = engine.tensor_parallel, engine.expert_parallel
    width, values = model.dimensions.hidden_size, 0.0
    for stack, layers in ((model.encoder, 2), (model.decoder, 3)):
        if isinstance(stack, BlockOptions):
            rounds = 2 * layers * 2 * (ranks - 1) / ranks
            if stack.experts is not None:
                rounds += 4 * stack.experts.top_k * (experts - 1) / experts
            values += stack.num_layers * rounds * width * positions
    return values


def step_seconds(flops: float, workers: int, peak: float, mfu: float) -> float:
    """Return the time of a step: operations / (workers x peak x share of it that is reached)."""
    return flops / (workers * peak * mfu)


@dataclass(frozen=True, slots=True)
class Row:
    """One stage on one cluster.

    Attributes:
        workers: Data-parallel workers, one accelerator each.
        stage: ZeRO stage.
        memory: One worker's, with the micro-batch below (or 1 sample if not even that fits).
        fits: Whether that is less than the accelerator has.
        global_batch: Samples of a step: the job's, or the next multiple of ``workers``.
        micro_batch: Largest size that fits and divides a worker's share; 0: none.
        micro_batches: Those of one worker in a step.
        sent: Bytes one worker sends in a step.
        seconds: Time of a step.
        days: Time of all steps.
        limit: Bytes a second that one worker can send.
    """

    workers: int
    stage: int
    memory: WorkerMemory
    fits: bool
    global_batch: int
    micro_batch: int
    micro_batches: int
    sent: float
    seconds: float
    days: float
    limit: float

    @property
    def needed(self) -> float:
        """Bytes a second that one worker sends in a step of that time."""
        return self.sent / self.seconds

    @property
    def carried(self) -> bool:
        """Whether the network carries that."""
        return self.needed <= self.limit


@dataclass(frozen=True, slots=True)
class Job:
    """The parts of a job that an estimate needs.

    Attributes:
        config: Its settings; engine type and stage are varied, the rest of the engine is kept.
        model: With the vocabulary filled in.
        sizes: Of the model.
        optimizer: Memory of the optimizer.
        accelerator: The device.
        mfu: Share of its peak that training reaches.
        flops_a_sample: Operations for one sample, forward and backward.
    """

    config: PretrainConfig
    model: ModelConfig
    sizes: ModelSizes
    optimizer: OptimizerMemory
    accelerator: Accelerator
    mfu: float
    flops_a_sample: float

    @classmethod
    def of(
        cls, config: PretrainConfig, model: ModelConfig, accelerator: Accelerator, mfu: float
    ) -> "Job":
        """Collect the sizes of a job; builds on the meta device."""
        sizes = model_sizes(model, config.train.freeze)
        length = config.data.block_size
        flops = training_flops(model, length) * length
        optimizer = optimizer_memory(config.train, model)
        return cls(config, model, sizes, optimizer, accelerator, mfu, flops)

    @property
    def peak(self) -> float:
        """Operations a second of the accelerator in the job's number format."""
        half = self.config.engine.precision != "fp32"
        return self.accelerator.half_flops if half else self.accelerator.single_flops

    def rows(self, clusters: Sequence[int]) -> Iterator[Row]:
        """Yield every stage on every cluster."""
        stages = (3,) if self.config.engine.cuts_layers else STAGES
        for workers in clusters:
            for stage in stages:
                yield self.row(workers, stage)

    def row(self, workers: int, stage: int) -> Row:
        """Estimate one stage on one cluster."""
        train = self.config.train
        readers = max(1, self.config.engine.data_ranks(workers))
        share = max(1, -(-train.global_batch_size // readers))
        batch = share * readers
        sizes = [size for size in range(share, 0, -1) if share % size == 0]
        limit = self.accelerator.memory - RESERVED
        fitting = [size for size in sizes if self._memory(workers, stage, size, share) <= limit]
        micro = fitting[0] if fitting else 0
        micro_batches = share // max(1, micro)
        seconds = step_seconds(self.flops_a_sample * batch, workers, self.peak, self.mfu)
        short = self.config.engine.precision != "fp32" and stage > 0
        values = 0.0
        if workers > 1:
            values = sent_values(self.sizes.trained * self._held, stage, micro_batches)
            positions = share * self.config.data.block_size
            values += exchanged_values(self.model, self.config.engine, positions)
        return Row(
            workers,
            stage,
            self.memory(workers, stage, max(1, micro), micro_batches),
            bool(fitting),
            batch,
            micro,
            micro_batches,
            values * (2 if short else 4),
            seconds,
            seconds * (train.max_steps + train.late_steps) / SECONDS_PER_DAY,
            self.accelerator.link if workers <= NODE else self.accelerator.network,
        )

    @property
    def _held(self) -> float:
        """Share of a block that one rank gathers."""
        engine, block = self.config.engine, self.sizes.block
        own = self.sizes.on_a_rank(engine.tensor_parallel, engine.expert_parallel)
        return own.block / block if block else 1.0

    def _memory(self, workers: int, stage: int, micro: int, share: int) -> int:
        return self.memory(workers, stage, micro, share // micro).on_accelerator

    def memory(self, workers: int, stage: int, micro: int, micro_batches: int) -> WorkerMemory:
        """Return one worker's memory with micro-batches of a size."""
        engine = self.config.engine
        offload = engine.offload if stage else EngineConfig().offload
        if stage < 3 and offload.parameters:
            offload = offload.model_copy(update={"parameters": None})
        changed = {"type": "zero", "zero_stage": stage, "offload": offload, "replicas": None}
        if engine.cuts_layers:
            changed = {}  # there is one engine that does
        activations = activation_bytes(
            self.model,
            batch_size=micro,
            length=self.config.data.block_size,
            precision=engine.precision,
            checkpointing=engine.activation_checkpointing,
            tensor_ranks=engine.tensor_parallel,
            positions_cut=engine.sequence_parallel,
        )
        return worker_memory(
            self.sizes,
            engine.model_copy(update=changed),
            workers,
            activations,
            micro_batches=micro_batches,
            optimizer=self.optimizer,
            accelerated=True,
        )
