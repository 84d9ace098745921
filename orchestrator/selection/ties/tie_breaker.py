"""Candidates tied with the winner, and the choice among ties.

A candidate is tied when a paired test on the rows of the last rung that it shares with the winner
does not tell them apart (`paired_tests`), or when it is a copy of the winner.

Among ties the preferred candidate wins: the smaller, then the faster, then the better licensed. A
test that finds nothing does not show that nothing is there; the preferred candidate therefore wins
only if its score is also within ``margin`` of the leader's. The default is one point, the average
difference of repeated runs of one model on the published data.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.selection.policies.base import Verdict
from orchestrator.selection.score_predictor import Observed
from orchestrator.selection.ties.paired_tests import corrected_p_values, paired_p_value
from orchestrator.selection.ties.row_scores import read_row_scores
from orchestrator.storage import sha256_bytes

if TYPE_CHECKING:
    from orchestrator.zoo import Package
    from orchestrator.zoo.manifest import Manifest

LICENSES = (
    r"(mit|apache-2\.0|bsd-.*|isc|unlicense|cc0-1\.0|cc-by-\d\.\d|zlib|0bsd)",
    r"(lgpl-.*|mpl-.*|epl-.*|cc-by-sa-.*)",
    r"(gpl-.*|agpl-.*)",
)
"""SPDX identifiers, the fewest duties first. Others (non-commercial, own terms) come after them."""
CONTENT = (".safetensors", ".onnx", ".json", ".model", ".txt")
"""Suffixes of the files that decide the answers of a package: weights, config, tokenizer."""


class TiesConfig(StrictModel):
    """Candidates that cannot be told apart from the winner."""

    alpha: float = Field(0.05, gt=0, lt=1)
    """Level of the paired tests, corrected for the number of candidates."""
    margin: float = Field(0.01, ge=0)
    """A tied candidate can take the leader's place only within this difference of scores."""
    prefer: tuple[Literal["size", "latency", "licence"], ...] = ("size", "latency", "licence")
    """Order of preference among ties; empty keeps the leader."""


@dataclass(frozen=True)
class Traits:
    """Facts of a candidate that decide among ties.

    Attributes:
        size: Bytes of its weights.
        licence: SPDX identifier; None without one.
        content: Digest of weights, config and tokenizer; equal for copies.
        latency_ms: Measured milliseconds per row; None where not measured.
    """

    size: int
    licence: str | None
    content: str
    latency_ms: float | None = None

    @classmethod
    def of(cls, package: "Package") -> "Traits":
        """Read the traits of a package from its manifest."""
        manifest = package.manifest
        return cls(weights_bytes(manifest), manifest.licence, content_digest(package))

    def order(self, prefer: Iterable[str]) -> tuple[float, ...]:
        """Return the sort key of an order of preference; smaller is preferred."""
        found = {
            "size": float(self.size),
            "latency": float("inf") if self.latency_ms is None else self.latency_ms,
            "licence": float(_license_rank(self.licence)),
        }
        return tuple(found[name] for name in prefer)

    def words(self) -> str:
        """Return the traits as text."""
        latency = "" if self.latency_ms is None else f", {self.latency_ms:.1f} ms"
        return f"{self.size / 1e6:.2f} MB{latency}, license {self.licence or 'not declared'}"


@dataclass(frozen=True)
class TieBreaker:
    """Finds ties and settles them.

    Attributes:
        config: Level, margin and preference.
        folder: Folder of the scores per row.
        traits: Candidate to its traits.
    """

    config: TiesConfig
    folder: Path
    traits: Mapping[str, Traits]

    def tied(self, winner: str, last_rungs: Mapping[str, int]) -> dict[str, float]:
        """Return the candidates tied with ``winner`` and their corrected p-values.

        Args:
            winner: The winner, or the leader of a rung.
            last_rungs: Trained candidate to its last rung; the winner reached each of them.
        """
        p_values = {}
        for other in sorted(set(last_rungs) - {winner}):
            rung = last_rungs[other]
            one = read_row_scores(self.folder, winner, rung)
            two = read_row_scores(self.folder, other, rung)
            if one is not None and two is not None:
                p_values[other] = paired_p_value(one, two)
        level = self.config.alpha
        ties = {m: p for m, p in corrected_p_values(p_values).items() if p > level}
        return ties | dict.fromkeys(self._copies(winner), 1.0)

    def settle(self, verdict: Verdict, rung: int, observed: Observed) -> Verdict:
        """Give the place of a lone survivor to the preferred candidate among its ties.

        Args:
            verdict: Decision of the policy that leaves one candidate.
            rung: The complete rung.
            observed: Every value recorded.
        """
        leader, margin = verdict.kept[0], self.config.margin
        if not self.config.prefer or leader not in self.traits:
            return verdict
        alive = [m for m in verdict.scores if m in self.traits and (m, rung) in observed]
        near = [
            model
            for model in alive
            if observed[model, rung] >= observed[leader, rung] - margin
            and verdict.scores[model] >= verdict.scores[leader] - margin
        ]
        ties = self.tied(leader, dict.fromkeys(alive, rung))
        key = {m: self.traits[m].order(self.config.prefer) for m in near if m in {leader, *ties}}
        best = min(key, key=lambda model: (key[model], model != leader, model), default=leader)
        if best == leader:
            return verdict
        why = (
            f"tied with {best} (p = {ties[best]:.2f}), which is preferred: "
            f"{self.traits[best].words()}; {leader}: {self.traits[leader].words()}"
        )
        dropped = {m: reason for m, reason in verdict.dropped.items() if m != best}
        return Verdict((best,), {**dropped, leader: why}, verdict.scores)

    def _copies(self, winner: str) -> list[str]:
        content = self.traits[winner].content if winner in self.traits else None
        return sorted(m for m, t in self.traits.items() if t.content == content and m != winner)


def weights_bytes(manifest: "Manifest") -> int:
    """Bytes of the weights of a package; of all its files where it names no weights."""
    stored = (".safetensors", ".onnx")
    weights = sum(e.bytes for name, e in manifest.files.items() if name.endswith(stored))
    return weights or manifest.total_bytes


def content_digest(package: "Package") -> str:
    """Digest of weights, config and tokenizer of a package: equal for copies of one package."""
    entries = sorted(
        f"{name} {entry.sha256}"
        for name, entry in package.manifest.files.items()
        if name.endswith(CONTENT) and not name.startswith("evaluation/")
    )
    return sha256_bytes("\n".join(entries).encode())


def ties_in_words(winner: str, tied: Iterable[str]) -> str:
    """Return the line that names the ties; empty without any."""
    names = sorted(tied)
    if not names:
        return ""
    count = "this one" if len(names) == 1 else f"these {len(names)}"
    return f"{count} cannot be told apart from the winner {winner}: {', '.join(names)}"


def _license_rank(licence: str | None) -> int:
    """Place of a license among `LICENSES`; one that is not declared comes last."""
    if licence is None:
        return len(LICENSES) + 1
    for place, pattern in enumerate(LICENSES):
        if re.fullmatch(pattern, licence.lower()):
            return place
    return len(LICENSES)
