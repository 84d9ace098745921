"""Sections of a selection: matrix with dendrogram, bracket, ranking, and cost beside other ways."""

from collections.abc import Collection, Sequence
from typing import Any

from orchestrator.report.bracket import bracket_blocks
from orchestrator.report.figures import PALETTE, render_svg
from orchestrator.report.heat_map import heat_map
from orchestrator.report.page import Block, Cell, Note, Picture, Section, Table, show
from orchestrator.selection.costs.results import Ledger, MethodCost
from orchestrator.selection.results import RankedModel, SelectionReport

UNMEASURED = ("rows", "wall_s", "slots", "money", "currency")
"""Fields of a ledger with their own lines, where they were measured."""
TOP = 20
"""Models of the choice `best` of the heat map."""


def performance_matrix(report: SelectionReport) -> Section:
    """Return the heat map and the dendrogram of the matrix that a selection read."""
    candidates = [row.model for row in report.ranking]
    scores = {model: report.matrix[model] for model in candidates if model in report.matrix}
    scores = scores or report.matrix
    linkage: Sequence[Sequence[float]] = ()
    if report.linkage is not None:
        scores = {model: report.matrix[model] for model in report.linkage.models}
        linkage = report.linkage.matrix
    tree = "Models that succeed and fail together are joined early in the tree."
    if not linkage:
        tree = "No tree: only one candidate has history."
        if len(scores) != 1:
            tree = "No tree: the selection did not compare its candidates."
    without, others = len({*candidates} - {*scores}), len(report.matrix) - len(scores)
    left_out = [
        f"Left out: {count} {which}."
        for count, which in (
            (without, "without history"),
            (others, "of the matrix that are not candidates, or beyond the first 1,000"),
        )
        if count
    ]
    groups = {
        "recalled": [item.model for item in report.recall if item.kept],
        f"best {TOP}": candidates[:TOP],
    }
    return Section(
        "Performance matrix",
        " ".join(
            [
                "Final test score of every candidate with history on every benchmark set, 1 is "
                f"perfect. {tree}",
                *left_out,
            ]
        ),
        (heat_map(scores, linkage, groups),),
    )


def score_in_words(report: SelectionReport) -> str:
    """Return the winner's score beside what it is compared with."""
    target = report.target
    if report.majority_accuracy is not None and target.metric == "accuracy":
        return (
            f"Always answering the largest class scores {report.majority_accuracy:.3f} on test "
            f"rows, the winner {report.test_accuracy:.3f}."
        )
    direction = "higher" if target.higher_is_better else "lower"
    return (
        f"Task {target.kind}: the winner has {target.metric} {report.test_accuracy:.3f} on test "
        f"rows ({direction} is better)."
    )


def selection(report: SelectionReport) -> Section:
    """Return the bracket, the ranking with reasons, and the cost of a selection."""
    cost = {
        name.replace("_", " "): value for name, value in report.ledger if name not in UNMEASURED
    }
    if report.ledger.wall_s:
        cost |= {"wall s": round(report.ledger.wall_s, 1), "slots": report.ledger.slots}
    if report.ledger.money is not None:
        cost[report.ledger.currency] = report.ledger.money
    return Section(
        f"Selection for {report.target.name}",
        score_in_words(report),
        (
            *bracket_blocks(report),
            ranking_table(report),
            *selection_remarks(report),
            *cost_comparison(report),
            Table.of_figures(cost, "cost"),
            *ledger_table(report.ledger),
        ),
    )


def ranking_table(report: SelectionReport) -> Table:
    """Return every candidate, best first, with scores, ties and reasons."""
    winners = [index for index, row in enumerate(report.ranking) if row.status == "winner"]
    rows = tuple(
        (
            *(row.place, row.model, _outcome(row, report.tied_with_winner), row.epochs),
            row.validation[-1] if row.validation else None,
            *(row.recall_score, row.reason),
        )
        for row in report.ranking
    )
    columns = ("place", "model", "outcome", "epochs", "validation", "recall", "why")
    return Table(columns, rows, highlight=winners[0] if winners else None)


def _outcome(row: RankedModel, tied: Collection[str]) -> str:
    if row.model in tied:
        return f"{row.status}, tied with the winner"
    return f"winner, tied with {len(tied)}" if row.status == "winner" and tied else row.status


def selection_remarks(report: SelectionReport) -> tuple[Table, ...]:
    """Return ties, objective, salvage and warnings of a selection, one row each, if any."""
    rows: list[tuple[Cell, ...]] = []
    if report.tied_with_winner:
        names = ", ".join(report.tied_with_winner)
        rows.append(("tied with the winner", f"{names}: validation rows do not tell them apart"))
    if report.objective is not None:
        rows.append((f"score after {report.objective.after}", report.objective.in_words()))
    if report.salvage is not None:
        rows.append(("salvage", report.salvage.in_words(report.winner)))
    if report.ended:
        rows.append(("ended early", report.ended))
    rows += [("warning", text) for text in report.warnings]
    return (Table(("remark", ""), tuple(rows)),) if rows else ()


def cost_comparison(report: SelectionReport) -> tuple[Block, ...]:
    """Return bars and a table of the cost beside brute force, halving, ASHA and HyperBand."""
    costs, ledger = report.comparison, report.ledger
    if not costs:
        return (Note("Made by an earlier release: the cost of other methods is not stored."),)
    money = any(cost.money is not None for cost in costs)
    timed = costs[0].seconds is not None
    columns = ["method", "epochs", "share of brute force"]
    columns += ["seconds of work", "start-up and idle"] * timed + [ledger.currency] * money
    brute_force = costs[1].epochs
    rows = tuple(
        (
            *(cost.method, cost.epochs, f"{cost.epochs / brute_force:.0%}"),
            *((cost.seconds, cost.waiting_s or None) if timed else ()),
            *((cost.money,) if money else ()),
        )
        for cost in costs
    )
    note = (
        "The others were not run: their epochs are those that the method would train on the same "
        f"{ledger.candidates} candidates of {ledger.epochs_each} epochs (ASHA: mean over orders of "
        "arrival; ASHA and HyperBand as in Ray Tune, reduction factor 3)"
    )
    note += (
        ", times the measured seconds per epoch; each trains the winner to the end. Their start-up "
        "and idle slots are not counted."
        if timed
        else ". No epoch was timed: epochs are compared, not seconds."
    )
    return (_bars(costs, ledger.currency), Note(note), Table(tuple(columns), rows, highlight=0))


def _bars(costs: Sequence[MethodCost], currency: str) -> Picture:
    """Draw one bar per method: seconds and money, or epochs where nothing was timed."""
    if costs[0].seconds is None:
        panels: list[tuple[str, list[float], list[float]]] = [
            ("epochs", [cost.epochs for cost in costs], [0.0] * len(costs))
        ]
    else:
        works = [cost.seconds or 0.0 for cost in costs]
        panels = [("seconds of one slot", works, [cost.waiting_s for cost in costs])]
        if costs[0].money is not None:
            panels.append((currency, [c.money or 0.0 for c in costs], [0.0] * len(costs)))
    colors = [PALETTE[1], *[PALETTE[0]] * (len(costs) - 1)]

    def draw(axes: Any) -> None:
        for axis, (title, values, waiting) in zip(
            axes if len(panels) > 1 else [axes], panels, strict=True
        ):
            places = range(len(costs))
            axis.barh(places, values, color=colors, height=0.62)
            axis.barh(places, waiting, left=values, color="#bbbbbb", height=0.62)
            axis.set_yticks(places, [cost.method for cost in costs])
            axis.invert_yaxis()
            axis.set_xlabel(title + ("; gray: start-up and idle slots" if any(waiting) else ""))
            for place, value in enumerate(map(sum, zip(values, waiting, strict=True))):
                axis.annotate(
                    show(float(value)), (value, place), xytext=(4, 0), va="center", fontsize=8,
                    textcoords="offset points",
                )  # fmt: skip
            axis.margins(x=0.14)

    return render_svg(draw, width=9.4, height=2.3, ncols=len(panels))


def ledger_table(ledger: Ledger) -> tuple[Table, ...]:
    """Return the rows of a ledger as one table; none for files of earlier releases."""
    if not ledger.rows:
        return ()
    columns = ("phase", "model", "rung", "epochs", "steps", "seconds", "start-up s", "slots")
    money = (ledger.currency,) if ledger.money is not None else ()
    rows = [
        (
            *(row.phase, row.model, row.rung or "", row.epochs, row.steps),
            *(round(row.seconds, 2), round(row.startup_s, 2), round(row.slots, 2)),
            *((row.money or 0.0,) if money else ()),
        )
        for row in ledger.rows
    ]
    return (Table((*columns, *money), tuple(rows)),)
