"""Salvage: merging of other candidates of the winner's base into the winner.

Fine-tunings that start from one base often lie in one basin of the loss, where weights can be
averaged (Wortsman et al. 2022, "Model soups", ICML). No gradient step is taken: each trial costs
one evaluation of the validation rows.

The recipe is the paper's greedy soup (its algorithm 1): the other candidates are taken in the order
of their validation scores, and one stays in if the score does not only hold but rises. Deviations:
the soup begins with the winner, whatever the scores of the others; a candidate enters with the best
of several shares, not with the equal share of an average; a merge that does not help
leaves the winner's weights bit for bit.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from orchestrator.errors import InputError, OrchestratorError
from orchestrator.selection.salvage.results import Salvage, SalvageTrial
from orchestrator.zoo import Package, Zoo

SHARES = (0.25, 0.5, 0.75)
MAX_ANCESTORS = 100
TOKENIZER = "tokenizer.json"
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Ingredient:
    """A trained candidate of the winner's base.

    Attributes:
        model: Its id.
        validation: Its last validation score.
        weights: Reads its trained weights; only called when it is its turn.
    """

    model: str
    validation: float
    weights: Callable[[], Weights]


def mix(first: Weights, second: Weights, share: float) -> dict[str, torch.Tensor]:
    """Return ``(1 - share) * first + share * second`` of every tensor.

    Shares 0 and 1 return the values of one side bit for bit. Tensors that hold no real numbers
    (positions, counters) must be equal on both sides.

    Raises:
        InputError: Names, shapes or the integer tensors differ.
    """
    if (difference := different(first, second)) is not None:
        raise InputError(f"weights cannot be merged: {difference}.")
    if share in (0.0, 1.0):
        return {name: value.clone() for name, value in (second if share else first).items()}
    return {
        name: torch.lerp(value.float(), second[name].float(), share).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in first.items()
    }


def different(first: Weights, second: Weights) -> str | None:
    """Return why two sets of weights cannot be merged; None: they can."""
    if only := sorted(first.keys() ^ second.keys()):
        return f"only one of them has {only[0]}"
    for name, value in first.items():
        other = second[name]
        if value.shape != other.shape:
            return f"{name} has shapes {tuple(value.shape)} and {tuple(other.shape)}"
        if not value.is_floating_point() and not torch.equal(value, other):
            return f"{name} is not equal in both"
    return None


def salvage(
    winner: Weights,
    before: float,
    others: Iterable[Ingredient],
    measure: Callable[[Weights], float],
    shares: Sequence[float] = SHARES,
) -> tuple[dict[str, torch.Tensor], Salvage]:
    """Merge other candidates into the winner as long as its validation score rises.

    Args:
        winner: Its trained weights.
        before: Its validation score; larger is better.
        others: Trained candidates of the same base.
        measure: Returns the validation score of merged weights; a score that is not a number never
            replaces anything.
        shares: Of the candidate in the merged weights.

    Returns:
        The weights to publish, and what was tried.
    """
    weights = mix(winner, winner, 0.0)
    score, trials, left_out = before, list[SalvageTrial](), dict[str, str]()
    for other in sorted(others, key=lambda each: (-each.validation, each.model)):
        try:
            theirs = other.weights()
        except OrchestratorError as error:  # the winner is trained: a broken state ends nothing
            left_out[other.model] = str(error)
            continue
        if (difference := different(weights, theirs)) is not None:
            left_out[other.model] = difference
            continue
        found = [(measure(mix(weights, theirs, share)), share) for share in shares]
        value, best = max((each for each in found if math.isfinite(each[0])), default=(score, 0.0))
        taken = value > score
        trials += [
            SalvageTrial(
                model=other.model,
                share=share,
                validation=each if math.isfinite(each) else None,
                taken=taken and share == best,
            )
            for each, share in found
        ]
        if taken:
            weights, score = mix(weights, theirs, best), value
    return weights, Salvage(before=before, after=score, trials=tuple(trials), left_out=left_out)


def same_base(winner: Package, others: Iterable[Package], zoo: Zoo) -> dict[str, str | None]:
    """Say which packages come from the winner's base.

    Packages share a base if one of them, or a package that it was made from, is (by the hash of its
    manifest) also the other one or one that the other one was made from. They must read text by the
    same tokenizer and have one license, because the merged package states the winner's. A teacher
    is an ancestor too: whether weights fit and help is measured.

    Returns:
        Reference → None, or why it may not be merged.
    """
    mine, tokenizer, licence = _bases(winner, zoo), _tokenizer(winner), winner.manifest.licence
    reasons: dict[str, str | None] = {}
    for package in others:
        if not mine & _bases(package, zoo):
            reasons[package.ref] = f"it was not made from a base that {winner.ref} was made from"
        elif _tokenizer(package) != tokenizer:
            reasons[package.ref] = "its tokenizer differs from the winner's"
        elif package.manifest.licence != licence:
            theirs = package.manifest.licence
            reasons[package.ref] = f"its license is {theirs}, the winner's {licence}"
        else:
            reasons[package.ref] = None
    return reasons


def _bases(package: Package, zoo: Zoo) -> set[str]:
    """Hashes of the manifests of a package and of the packages it was made from."""
    found = {package.manifest_sha256}
    queue = list(package.manifest.parents)
    while queue and len(found) < MAX_ANCESTORS:
        parent = queue.pop()
        if parent.manifest_sha256 in found:
            continue
        found.add(parent.manifest_sha256)
        try:
            made = zoo.get(parent.ref)
        except InputError:
            continue  # it was removed: its hash is known, what lies behind it is not
        if made.manifest_sha256 == parent.manifest_sha256:
            queue += made.manifest.parents
    return found


def _tokenizer(package: Package) -> str | None:
    entry = package.manifest.files.get(TOKENIZER)
    return None if entry is None else entry.sha256
