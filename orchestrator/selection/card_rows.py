"""Section of a finalist's model card: what it was selected from, ties and cost."""

from collections import Counter

from orchestrator.selection.results import SelectionReport

MAX_NAMES = 10


def card_rows(report: SelectionReport, place: int) -> list[tuple[str, str]]:
    """Return the rows of the section.

    Args:
        report: The selection.
        place: 1 for the winner.
    """
    statuses = Counter(row.status for row in report.ranking)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    policy = report.policy
    if report.first_rung_steps is not None:
        policy += f"; the better half after {report.first_rung_steps} steps"
    sets = {name for row in report.matrix.values() for name in row}
    finalist, ledger = report.finalists[place - 1], report.ledger
    rows = [
        ("target", f"{report.target.name}, {report.target.rows.get('train', 0):,} training rows"),
        ("fine-tuned from", finalist.model),
        ("place", f"{place} of {len(report.ranking)} candidates: {counts}"),
        ("history", f"{len(sets)} data sets" if sets else "none"),
        ("policy", policy),
    ]
    if place == 1:
        tied = _names(report.tied_with_winner)
        rows.append(("tied with it on validation rows", tied or "none"))
    elif finalist.model in report.tied_with_winner:
        rows.append(("tied with the winner", report.winner))
    if place == 1 and report.salvage is not None and report.salvage.merged:
        rows.append(("salvage", report.salvage.in_words(report.winner)))
    share = f"{ledger.share_of_brute_force:.0%} of the {ledger.brute_force_epochs} of brute force"
    cost = [f"{ledger.total_epochs:g} epochs with proxies ({share})"]
    if ledger.wall_s:
        cost.append(f"{ledger.wall_s:.0f} s on {ledger.slots:g} slots")
    if ledger.money is not None:
        cost.append(f"{ledger.money:.4g} {ledger.currency}")
    rows.append(("cost", ", ".join(cost)))
    if report.ended:
        rows.append(("ended early", report.ended))
    return rows + [("warning", text) for text in report.warnings]


def _names(models: tuple[str, ...]) -> str:
    shown = ", ".join(models[:MAX_NAMES])
    more = len(models) - MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
