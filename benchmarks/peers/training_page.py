"""The section of selection with real training: tables and verdicts."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Final

from peers.played_methods import Outcome

HEADING: Final = "Real training"
OURS: Final = "two_phase"
BRUTE: Final = "brute force"
POINTS, STEPS, SECONDS = 1.0, 20.0, 25.0
"""Goals: points of the test score below brute force, and percent of its steps and seconds."""
ABOUT: Final = """\
Made by `python benchmarks/selection_training.py`. Every candidate was trained once on every
target, seed and learning rate, by the code of the trials of `select`; the methods are played on
these records. two_phase is the plan, the proxies, the recall, the choice of a learning rate (each
rate on a quarter of the first epoch), the bracket and the tie-breaker of the product; ASHA and
HyperBand are Tune's, and to the baselines a candidate at one rate is one arm. Each seed draws its
own training and validation rows. Validation chooses; test scores are read after the choice.
Seconds: CPU seconds of one thread, of starting, training and evaluating trials, of choosing rates
and of proxies. The policy fast asks for 16 history sets; there are fewer, so that it becomes the
default policy."""

Case = tuple[str, int]
"""A target and a seed."""
Found = Mapping[str, Mapping[Case, Outcome]]
"""Method → case → outcome."""


def below(found: Found, method: str, cases: Sequence[Case]) -> list[float]:
    """Points of the test score that a method is below brute force, case by case."""
    return [100 * (found[BRUTE][case].test - found[method][case].test) for case in cases]


def percent(found: Found, method: str, what: str, cases: Sequence[Case]) -> float:
    """Steps or seconds over those of brute force, in percent."""
    ours, all_of_it = (
        sum(getattr(found[name][case], what) for case in cases) for name in (method, BRUTE)
    )
    return 100 * float(ours) / float(all_of_it)


def section(found: Found, facts: Sequence[str], jobs: Sequence[str]) -> str:
    """The text of the section.

    Args:
        found: Outcomes of all methods.
        facts: Paragraphs on zoo, history and targets.
        jobs: Lines on other targets and whole jobs.
    """
    cases = list(found[BRUTE])
    return "\n".join(
        [ABOUT, "", *facts, "", *_methods(found, cases), "", *_targets(found, cases), "",
         *_verdicts(found, cases), "", *jobs]
    )  # fmt: skip


def _methods(found: Found, cases: Sequence[Case]) -> list[str]:
    lines = [
        "| method | test score | points below brute force, mean (most) | its choice | steps "
        "| CPU seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method, outcomes in found.items():
        played = [case for case in cases if case in outcomes]
        if not played:
            continue
        part = "" if played == cases else f", {len(played)} of {len(cases)} selections"
        lost = below(found, method, played)
        same = mean(outcomes[c].winner == found[BRUTE][c].winner for c in played)
        lines.append(
            f"| {method}{part} | {mean(outcomes[c].test for c in played):.3f} "
            f"| {mean(lost):.2f} ({max(lost):.2f}) | {same:.0%} "
            f"| {percent(found, method, 'steps', played):.1f}% "
            f"| {percent(found, method, 'seconds', played):.1f}% |"
        )
    return lines


def others(found: Found) -> list[str]:
    """Lines on targets that were recorded after the rules of selection were made."""
    cases = list(found[BRUTE])
    names = list(dict.fromkeys(name for name, _ in cases))
    lost = mean(mean(below(found, OURS, [c for c in cases if c[0] == name])) for name in names)
    where = f"{len(names)} other targets, {len(cases)} selections"
    return [
        f"Other targets, recorded after the rules of selection were made: {', '.join(names)}.",
        "",
        *_methods(found, cases),
        "",
        goal(f"two_phase, points below brute force, mean of {where}", lost, POINTS, 2),
        "",
    ]


def _targets(found: Found, cases: Sequence[Case]) -> list[str]:
    lines = [
        "| target | candidates | brute force: test, steps, CPU s | two_phase: points below (each "
        "seed) | steps | CPU seconds | plan |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for target in dict.fromkeys(name for name, _ in cases):
        mine = [case for case in cases if case[0] == target]
        brute = [found[BRUTE][case] for case in mine]
        lost = below(found, OURS, mine)
        plans = " / ".join(sorted({found[OURS][case].notes for case in mine}))
        lines.append(
            f"| {target} | {brute[0].notes} | {mean(o.test for o in brute):.3f}, "
            f"{mean(o.steps for o in brute):.0f}, {mean(o.seconds for o in brute):.0f} "
            f"| {mean(lost):.2f} ({', '.join(f'{each:.1f}' for each in lost)}) "
            f"| {percent(found, OURS, 'steps', mine):.1f}% "
            f"| {percent(found, OURS, 'seconds', mine):.1f}% | {plans} |"
        )
    return lines


def _verdicts(found: Found, cases: Sequence[Case]) -> list[str]:
    """The goals, over all and for the worst target; what a page shows is what is judged."""
    targets = dict.fromkeys(name for name, _ in cases)
    groups = [[case for case in cases if case[0] == name] for name in targets]
    where = f"{len(targets)} targets, {len(cases)} selections"
    lost = [mean(below(found, OURS, group)) for group in groups]
    lines = [
        goal(f"two_phase, points below brute force, mean of {where}", mean(lost), POINTS, 2),
        goal("two_phase, points below brute force, worst target", max(lost), POINTS, 2),
    ]
    for what, limit in (("steps", STEPS), ("seconds", SECONDS)):
        parts = [percent(found, OURS, what, group) for group in groups]
        name = "CPU seconds" if what == "seconds" else what
        lines += [
            goal(f"two_phase, percent of brute force's {name}, all targets",
                 percent(found, OURS, what, cases), limit, 1),
            goal(f"two_phase, percent of brute force's {name}, worst target",
                 max(parts), limit, 1),
        ]  # fmt: skip
    return lines


def goal(text: str, value: float, limit: float, digits: int) -> str:
    """A line with a figure, its limit and the verdict on the figure as it is shown."""
    shown = f"{value:.{digits}f}"
    verdict = "reached" if float(shown) <= limit else "**missed**"
    return f"- {text}: {shown}; goal ≤ {limit:g}: {verdict}"


def goal_found(found: bool) -> str:
    """The line on MiniLM among the candidates."""
    verdict = "reached" if found else "**missed**"
    return f"- selections that find MiniLM among tiny encoders: {found:d}; goal ≥ 1: {verdict}"
