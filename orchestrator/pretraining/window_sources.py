"""Sources of windows that stand between the training loop and the data.

`Detour` skips data that makes the loss non-finite: the same steps are replayed with other samples.
`Meter` measures the cost of a run: tokens, operations, waiting for data, memory, checkpoints.
"""

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import training_flops
from orchestrator.modeling.peaks import device_peak
from orchestrator.training.engines.engine import Batch, Engine
from orchestrator.training.loop import WindowSource


class Detour:
    """A source that jumps over samples.

    The samples of a step depend on the step and the jumps alone, so a resumed run that knows its
    jumps reads what the uninterrupted one read.

    Args:
        source: Source of the samples.
        jumps: (step, shift): from ``step`` on, the samples of ``shift`` steps later are read.
    """

    def __init__(self, source: WindowSource, jumps: Iterable[tuple[int, int]] = ()) -> None:
        self.source = source
        self.jumps = list(jumps)

    def around(self, first: int, failed: int) -> None:
        """Skip, starting at step ``first``, everything that steps up to ``failed`` have read."""
        self.jumps.append((first, self.actual(failed) - self.actual(first) + 1))

    def actual(self, step: int) -> int:
        """Return the step of the source whose samples a step reads."""
        return step + sum(shift for start, shift in self.jumps if step >= start)

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Micro-batches of one rank for a step."""
        return self.source.window(self.actual(step), rank, world)

    def epoch(self, step: int) -> float:
        """Epoch that a step belongs to."""
        return self.source.epoch(self.actual(step))

    def samples(self, step: int) -> list[int]:
        """Return the sample numbers of a step; empty if the source does not know them."""
        indices: Any = getattr(self.source, "indices", None)
        return [] if indices is None else [int(i) for i in indices(self.actual(step))[0]]


KIB = 1024
TERA = 1e12


class Meter:
    """Stands between the loop and its source, and measures both.

    Args:
        source: Where the loop's windows come from.
        engine: Adds up over ranks.
        model: What is trained.
        length: Positions of a sequence.
        dtype: Number format of the forward pass.
        peak_tflops: Peak of one device in 10^12 operations a second; None: by its name.
        gradients: Step → number of gradients of that step.
    """

    def __init__(
        self,
        source: WindowSource,
        engine: Engine,
        model: ModelConfig,
        length: int,
        dtype: torch.dtype,
        peak_tflops: float | None = None,
        gradients: Callable[[int], int] = lambda _: 1,
    ) -> None:
        self._source, self._engine, self._gradients = source, engine, gradients
        self._flops = training_flops(model, length)
        self._device = str(next(engine.module.parameters()).device)
        self._ceiling = (
            device_peak(self._device, dtype) if peak_tflops is None else peak_tflops * TERA
        )
        self.begin()

    def begin(self) -> None:
        """Reset at the start of a loop; leftovers of a failed one are dropped."""
        self._tokens, self._passes = 0, 0
        self._waited_s, self._saving_s, self._since = 0.0, 0.0, 0.0

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Micro-batches of one rank for a step."""
        began = time.perf_counter()
        window = self._source.window(step, rank, world)
        self._waited_s += time.perf_counter() - began
        tokens = sum(_tokens(batch) for batch in window)
        self._tokens += tokens
        self._passes += tokens * self._gradients(step)
        return window

    def epoch(self, step: int) -> float:
        """Epoch that a step belongs to."""
        return self._source.epoch(step)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Count the time of a checkpoint."""
        began = time.perf_counter()
        yield
        self._saving_s += time.perf_counter() - began

    def read(self, seconds: float) -> dict[str, float]:
        """Return the figures since the last call; collective.

        Args:
            seconds: Since the loop began.

        Returns:
            ``tokens`` (padding not counted) and ``tokens_per_second`` over all ranks,
            ``model_flops_per_second``, ``mfu`` (their share of the devices' peak, see
            `device_peak`), ``data_wait_share`` (of the ranks' time), ``memory_bytes`` (the largest
            rank's peak), ``checkpoint_seconds``.
        """
        counts = [self._tokens, self._passes, self._waited_s, self._ceiling]
        local = torch.tensor(counts, dtype=torch.float64)
        tokens, passes, waited, ceiling = self._engine.sum_over_ranks(local).tolist()
        passed = max(seconds - self._since, 1e-9)
        flops = passes * self._flops / passed
        figures = {
            "tokens": tokens,
            "tokens_per_second": tokens / passed,
            "model_flops_per_second": flops,
            "mfu": flops / ceiling / self._engine.tensor_ranks,
            "data_wait_share": waited / self._engine.world / passed,
            "memory_bytes": self._most_memory(),
            "checkpoint_seconds": self._saving_s,
        }
        self._tokens, self._passes = 0, 0
        self._waited_s, self._saving_s, self._since = 0.0, 0.0, seconds
        return figures

    def _most_memory(self) -> float:
        """Return the largest peak of all ranks: each one writes its own place and adds."""
        peaks = torch.zeros(self._engine.world, dtype=torch.float64)
        peaks[self._engine.rank] = float(
            torch.cuda.max_memory_allocated(self._device)
            if self._device.startswith("cuda")
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
        )
        return float(self._engine.sum_over_ranks(peaks).max())


def _tokens(batch: Batch) -> int:
    """Positions that are not padding; images have patches, not tokens: samples are counted."""
    sides = [batch[key] for key in ("attention_mask", "decoder_attention_mask") if key in batch]
    return sum(int(side.sum()) for side in sides) or len(next(iter(batch.values())))
