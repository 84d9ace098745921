"""The search of ``learning_rate: auto``: up to four values on a share of the rows.

Successive halving (Jamieson & Talwalkar 2016): every value trains one epoch on the same rows, the
better half goes on for another epoch, and so on until one is left. Values lie around the usual one
(``training.learning_rates``), a factor of 3 apart. It runs in one process, on rank 0: a share of
the rows is soon read, and every rank would find the same.
"""

from collections.abc import Callable, Sequence
from math import isnan, nan
from pathlib import Path

from orchestrator.finetuning.results import RateTrial
from orchestrator.training.config import FineTuneConfig
from orchestrator.training.finetune.finetuner import FineTuner, Heads, Lesson, Method, Place
from orchestrator.training.learning_rates import Rate
from orchestrator.training.loop import NonFiniteError

FACTORS = (1.0, 3.0, 1 / 3, 9.0)
"""Tried values, as factors of the usual one."""
SHARE, FEWEST, MOST = 0.1, 256, 2048
"""Share of the training rows that is read, and its bounds."""
EVAL_ROWS = 512
"""Validation rows of each measurement at most."""

MakeConfig = Callable[[float], FineTuneConfig]


def search_rate(
    package: Path,
    lessons: Sequence[Lesson],
    make: MakeConfig,
    usual: float,
    seed: int,
    *,
    heads: Heads,
    place: Place,
    method: Method,
) -> tuple[Rate, tuple[RateTrial, ...]]:
    """Return the best learning rate, and what was tried.

    Args:
        package: Folder of the package.
        lessons: What is learned; the first one's primary metric decides.
        make: Returns the options of the trainer for a learning rate.
        usual: The rate by the rule.
        seed: Seed of the job.
        heads: As in the run itself.
        place: Device of this process; one rank.
        method: As in the run itself.
    """
    rates = [float(f"{usual * factor:.3g}") for factor in FACTORS]
    fewest = min(len(lesson.data.train) for lesson in lessons)
    rows = max(min(FEWEST, fewest), min(MOST, round(SHARE * fewest)))
    epochs = len(FACTORS).bit_length() - 1
    primary = lessons[0].task.primary
    sign = 1.0 if primary.higher_is_better else -1.0

    def tuner_of(rate: float) -> FineTuner:
        caps = {"epochs": epochs, "max_train_rows": rows, "max_eval_rows": EVAL_ROWS}
        config = make(rate).model_copy(update=caps)
        return FineTuner(package, lessons, config, seed, heads=heads, place=place, method=method)

    tuners = {rate: tuner_of(rate) for rate in rates}
    scores: dict[float, list[tuple[float, float]]] = {rate: [] for rate in rates}
    left = rates
    for _ in range(epochs):
        for rate in left:
            scores[rate].append(_trained(tuners[rate]))
        # NaN, of a rate at which training diverges, is the worst; of equal ones, the lower loss.
        left = sorted(left, key=lambda rate: _place(scores[rate][-1], sign))[: len(left) // 2]
    trials = tuple(
        RateTrial(
            learning_rate=rate,
            scores=tuple(score for score, _ in scores[rate]),
            steps=tuners[rate].steps_done,
        )
        for rate in rates
    )
    reason = f"the best of {len(rates)} values on {rows:,} rows"
    return Rate(left[0], reason), trials


def _trained(tuner: FineTuner) -> tuple[float, float]:
    """Return primary metric and loss after one more epoch; NaN where training diverges."""
    try:
        tuner.train_epoch()
    except NonFiniteError:
        return nan, nan
    found = tuner.evaluate("validation")
    return found[tuner.watched], found["loss"]


def _place(score: tuple[float, float], sign: float) -> tuple[bool, float, float]:
    value, loss = score
    undefined = isnan(value) or isnan(loss)
    return undefined, 0.0 if undefined else -sign * value, 0.0 if undefined else loss
