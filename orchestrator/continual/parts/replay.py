"""Rehearsal: which rows of a task are stored, and when they are trained on again.

After each task a share of its training rows is chosen, at random or as the rows nearest to k-means
centers of their features (the C&F code's choice). While later tasks are learned, every
``every_steps`` steps each earlier task gets one whole update on its rows.
"""

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.continual.parts.base import Leftovers, Part, Task
from orchestrator.continual.parts.configs import ReplayConfig
from orchestrator.data.randomness import derive_seed
from orchestrator.data.rows.rows import Rows
from orchestrator.training.engines.engine import Batch, Engine
from orchestrator.training.events import Metrics
from orchestrator.training.loop import WindowSource
from orchestrator.training.metrics import StepMetrics
from orchestrator.training.watchdog import unwatched


class Replay(Part[ReplayConfig]):
    """Rehearse the stored rows of earlier tasks.

    Reports ``replay_loss`` at the steps with rehearsals: the mean loss over the earlier tasks.
    """

    _buffers: Sequence[WindowSource] = ()

    def before_task(self, task: Task) -> None:
        """Take the rows that earlier tasks left."""
        self._buffers = task.buffers()

    def after_step(
        self, engine: Engine, done: int, update: Callable[[Sequence[Batch]], StepMetrics]
    ) -> Metrics:
        """Take one update per earlier task, if it is time."""
        if not self._buffers or done % self.config.every_steps:
            return {}
        turn = done // self.config.every_steps - 1
        losses = [
            update(buffer.window(turn, engine.rank, engine.world))["loss"]
            for buffer in self._buffers
        ]
        return {"replay_loss": sum(losses) / len(losses)}

    def after_task(self, task: Task) -> Leftovers:
        """Choose the rows to rehearse later."""
        features = task.features() if self.config.choice == "kmeans" else None
        rows = {}
        for one in task.learned():
            seed = derive_seed(task.seed, "replay", one.index)
            chosen = choose_rows(one.train, self.config.fraction, one.classes, seed, features)
            rows[one.title] = chosen.tolist()
        return Leftovers(rows=rows)


def buffer_size(rows: int, fraction: float, classes: int) -> int:
    """Return how many rows to store: the fraction, at least one per class, at most all."""
    return min(rows, max(round(rows * fraction), classes))


def choose_random(rows: int, size: int, seed: int) -> IntArray:
    """Choose ``size`` of ``rows`` rows at random, in ascending order."""
    chosen = np.random.default_rng(seed).choice(rows, size, replace=False)
    return np.sort(chosen).astype(np.int64)


def choose_by_kmeans(features: Float32Array, size: int, seed: int) -> IntArray:
    """Choose the row nearest to each of ``size`` k-means centers (the C&F code's choice).

    Args:
        features: One vector per row, [N, D].
        size: Number of centers.
        seed: Seed of the clustering.

    Returns:
        ``size`` different row indices, ascending: a row that is nearest to two centers is
        taken once, and the second center takes its nearest row that is still free.
    """
    from sklearn.cluster import KMeans

    with unwatched():
        found = KMeans(size, n_init=1, random_state=seed % 2**32).fit(features)
    chosen: list[int] = []
    for center in found.cluster_centers_:
        distance = np.square(features - center).sum(1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return np.sort(np.array(chosen, dtype=np.int64))


def choose_rows(
    train: Rows,
    fraction: float,
    classes: int,
    seed: int,
    features: Callable[[Rows], Float32Array] | None,
) -> IntArray:
    """Choose the buffer of one task from its training rows.

    Args:
        train: The task's training rows; validation and test rows never reach this function.
        fraction: Share to store.
        classes: Number of the task's classes.
        seed: Seed of the choice.
        features: Rows to vectors [N, D], for k-means; None chooses at random.
    """
    size = buffer_size(len(train), fraction, classes)
    if features is None:
        return choose_random(len(train), size, seed)
    return choose_by_kmeans(features(train), size, seed)
