"""Phase one as a queue of trials: forward passes, then latencies, until recall is settled.

A candidate that turns out to be broken or too slow leaves the plan, and the others are recalled
anew; that may ask for more passes. Every result is a mark of the run, so that a resumed run repeats
none of them.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.selection.config import SelectConfig
from orchestrator.selection.costs.constraints import too_slow
from orchestrator.selection.costs.results import Latency
from orchestrator.selection.planning import SelectionPlan
from orchestrator.selection.recall import lacks_information, recall_candidates
from orchestrator.selection.results import ProxyScore, Recalled
from orchestrator.selection.scores.feature_cache import FOLDER as FEATURES
from orchestrator.selection.scores.features import ProxyPayload
from orchestrator.storage import RunFolder
from orchestrator.training.events import NewTrial

PROXY, LATENCY = "proxy ", "latency "
"""Beginnings of the names of trials and marks; the model's id follows."""
TRIALS = {
    PROXY: "orchestrator.selection.trials.single:ProxyTrial",
    LATENCY: "orchestrator.selection.trials.single:LatencyTrial",
}
logger = logging.getLogger(__name__)


class Screening:
    """Recalls candidates, as far as the results go.

    Args:
        config: The job.
        plan: Candidates and target.
        folder: The run, with the results so far.

    Attributes:
        plan: The plan without candidates that turned out to be broken or too slow.
        scores: Model to its proxy scores, failures included.
        latencies: Model to its latency, where a constraint asks for it.
        recalled: The ranking; final when nothing is waited for.
        waiting: Names of the trials whose results are missing.

    Raises:
        StageError: No candidate is left.
        InputError: All candidates are too slow.
    """

    def __init__(self, config: SelectConfig, plan: SelectionPlan, folder: RunFolder) -> None:
        self.plan, self._config, self._folder = plan, config, folder
        self.scores: dict[str, ProxyScore] = {}
        self.latencies: dict[str, Latency] = {}
        self.recalled: list[Recalled] = []
        self.waiting: tuple[str, ...] = ()
        for model in plan.packages:
            if (found := folder.done(PROXY + model)) is not None:
                self.scores[model] = ProxyScore.model_validate(found)
        self._advance()

    def trial(self, name: str) -> NewTrial:
        """Return the trial behind a name that is waited for."""
        kind, model = _parts(name)
        cached = kind == PROXY  # a latency is measured anew, not read from the cache
        payload = ProxyPayload(
            package=model,
            zoo=self.plan.zoo,
            task=self.plan.spec,
            proxies=self.plan.proxies,
            asked=self.plan.asked,
            rows=self._config.recall.max_proxy_rows,
            max_length=self._config.fine_tune.max_length,
            seed=self._config.seed,
            layers=self._config.recall.features,
            cache=str((self._folder.path.parent / FEATURES).absolute()) if cached else "",
        )
        return NewTrial(name, TRIALS[kind], payload)

    def record(self, name: str, text: str) -> None:
        """Take the result of a trial, as JSON.

        Raises:
            StageError: No candidate is left.
            InputError: All candidates are too slow.
        """
        kind, _ = _parts(name)
        self._take(name, (ProxyScore if kind == PROXY else Latency).model_validate_json(text))

    def fail(self, name: str, reason: str) -> None:
        """Take the failure of a trial; the candidate is broken.

        Raises:
            StageError: No candidate is left.
        """
        if _parts(name)[0] == PROXY:
            self._take(name, ProxyScore(values={}, floors={}, error=reason))
        else:
            self._take(name, Latency(ms=0.0, tokens=0, host="", error=reason))

    def _take(self, name: str, found: ProxyScore | Latency) -> None:
        if name not in self.waiting:
            return
        model = _parts(name)[1]
        if found.error:
            logger.warning("%s failed: %s", name, found.error)
        if isinstance(found, Latency):
            self.latencies[model] = found
        else:
            self.scores[model] = found
            shown = (f"{n} {v:.3f} (floor {found.floors[n]:.3f})" for n, v in found.values.items())
            if not found.error:
                logger.info("proxy scores of %s: %s", model, ", ".join(sorted(shown)))
        self._folder.mark(name, found.model_dump())
        self.waiting = tuple(other for other in self.waiting if other != name)
        if not self.waiting:
            self._advance()

    def _advance(self) -> None:
        """Go on until a result is missing or recall is settled."""
        while True:
            scores, plan = self.scores, self.plan
            broken = {m: scores[m].error for m in plan.packages if m in scores and scores[m].error}
            if broken:
                self.plan = plan.without(broken, self._config.recall)
            missing = [model for model in self.plan.to_score if model not in scores]
            if missing:
                self.waiting = tuple(PROXY + model for model in missing)
                return
            self.plan, self.recalled = recall(self.plan, scores, self._config.recall.mode)
            if self._settled():
                return

    def _settled(self) -> bool:
        """Return whether recall is settled or a latency is missing; else candidates have left."""
        most = self._config.constraints.max_latency_ms
        if most is None:
            return True
        found, pool = self.latencies, [item.model for item in self.recalled if item.kept]
        for model in pool:
            if (stored := self._folder.done(LATENCY + model)) is not None:
                found[model] = Latency.model_validate(stored)
        self.waiting = tuple(LATENCY + model for model in pool if model not in found)
        if self.waiting:
            return True
        broken = {model: found.pop(model).error for model in pool if found[model].error}
        left_out = broken or too_slow(found, self.plan.packages, most)
        for model, reason in left_out.items():
            logger.info("%s is left out: %s", model, reason)
        if left_out:
            self.plan = self.plan.without(left_out, self._config.recall)
        return not left_out


def recall(
    plan: SelectionPlan, proxies: Mapping[str, ProxyScore], mode: str
) -> tuple[SelectionPlan, list[Recalled]]:
    """Recall candidates; without any information more of them, and the plan says so.

    Args:
        plan: The plan without broken candidates.
        proxies: Scores of at least the models that it asks for.
        mode: As in `RecallConfig`.
    """
    scores = {model: proxies[model] for model in plan.to_score}
    predictor = plan.decider.predictor
    left_out = plan.pool < len(plan.packages)
    if mode == "default" and left_out and lacks_information(plan.recall, predictor, scores):
        taken = "all" if plan.widest == len(plan.packages) else f"{plan.widest} of"
        warning = (
            f"no information: no history, and no proxy above chance; {taken} "
            f"{len(plan.packages)} candidates are taken in order of size"
        )
        logger.warning("%s", warning)
        plan = replace(plan, pool=plan.widest, warnings=(*plan.warnings, warning))
    ranked = recall_candidates(plan.recall, scores, mode=mode, predictor=predictor, pool=plan.pool)
    return plan, ranked


def _parts(name: str) -> tuple[str, str]:
    kind = next(kind for kind in TRIALS if name.startswith(kind))
    return kind, name.removeprefix(kind)
