"""Plain halving after a first rung in steps, then any policy on the whole epochs.

The predictors of `default`, `fast` and `paper` have no curves for a part of an epoch. After the
short rung the better half by validation score therefore stays, whatever the policy is; the policy
sees whole epochs only, with their usual numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.selection.policies.base import Judge, Verdict
from orchestrator.selection.policies.sh import better_half
from orchestrator.selection.rungs import Rungs
from orchestrator.selection.score_predictor import Observed


@dataclass(frozen=True)
class ShortRung(Judge):
    """Halves after the short rung, and hands the other rungs to a policy.

    Attributes:
        policy: Decides on whole epochs.
        rungs: With ``first_steps``.
    """

    policy: Judge
    rungs: Rungs

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Keep the better half after the first rung; later ask the policy about epochs."""
        if stage == 1:
            return better_half(pool, stage, observed, self.rungs.name(stage))
        epoch = self.rungs.epoch
        known = {(m, epoch(at)): value for (m, at), value in observed.items() if epoch(at)}
        return self.policy.judge(pool, epoch(stage), epoch(last), known)

    def sizes(self, pool: int, stages: int) -> list[int]:
        """The pool, then what the policy takes of its better half."""
        if stages < self.rungs.count:  # the short rung is over
            return self.policy.sizes(pool, stages)
        return [pool, *self.policy.sizes(max(1, pool // 2), stages - 1)]


def in_rungs(policy: Judge, rungs: Rungs) -> Judge:
    """Return what decides between rungs: the policy, behind a short rung where there is one."""
    return policy if rungs.first_steps is None else ShortRung(policy, rungs)
