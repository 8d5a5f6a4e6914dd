"""What `raygan theory` found, as text for the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from gan_core.theory.check import DIFFERS, FAILS, HOLDS, Check
from gan_core.theory.dirac import FATES, Verdict, fate
from pipelines.theory_plots import eigenvalues_in_words

Rows = list[tuple[str, ...]]
HEADER = ("check", "theory", "measured", "difference", "allowed", "verdict")


class Findings(NamedTuple):
    """One part: what it is about, its checks and its picture; tables of its own, by title; curves for MLflow, by name and step; and tables
    that are too long for a terminal.
    """

    title: str
    checks: list[Check]
    picture: Path
    tables: dict[str, Rows]
    curves: dict[str, list[tuple[int, float]]]
    appendices: dict[str, Rows] = {}  # noqa: RUF012  (never changed)


def check_rows(checks: Iterable[Check]) -> Rows:
    """A header and a row for each check."""
    return [HEADER, *(_row(check) for check in checks)]


def _row(check: Check) -> tuple[str, ...]:
    allowed = "none" if check.low == check.high == 0.0 else f"{check.low:.2g} to {check.high:.2g}"
    numbers = (f"{check.theory:.7g}", f"{check.measured:.7g}", f"{check.difference:+.1e}", allowed)
    return (check.claim, *numbers, check.verdict)


def count(checks: Sequence[Check]) -> str:
    """How many there are of each verdict, in words."""
    holding, differing, failing = (sum(check.verdict == verdict for check in checks) for verdict in (HOLDS, DIFFERS, FAILS))
    failed = f"; {failing} FAIL{'S' if failing == 1 else ''}" if failing else ""
    return (
        f"{holding} of {len(checks)} checks hold"
        + (f"; {differing} differ{'s' if differing == 1 else ''} as known" if differing else "")
        + failed
    )


def departures(checks: Iterable[Check]) -> list[str]:
    """For each check in which practice is known to depart from theory, a line that says why."""
    return [f"{check.claim}: {DIFFERS}, because {check.departs}." for check in checks if check.departs]


def verdict_rows(verdicts: Sequence[Verdict]) -> Rows:
    """A row for each loss and objective, a column for each penalty."""
    penalties = tuple(dict.fromkeys(verdict.penalty for verdict in verdicts))
    games: dict[tuple[str, str], dict[str, str]] = {}
    for verdict in verdicts:
        games.setdefault((verdict.loss, verdict.objective), {})[verdict.penalty] = fate(verdict)
    return [("loss", "objective", *penalties), *((*game, *(cells[penalty] for penalty in penalties)) for game, cells in games.items())]


def legend_rows() -> Rows:
    """What the words of `verdict_rows` mean."""
    left_out = ("(left out)", "the loss mmd, whose logits are made of whole batches, and the penalty bcr: a point cannot be shifted")
    return [("word", "what becomes of the game"), *FATES.items(), left_out]


def eigenvalue_rows(verdicts: Iterable[Verdict]) -> Rows:
    """A row for each game, with its eigenvalues."""
    header = ("loss", "objective", "penalty", "eigenvalues", "stationary", "converges")
    return [
        header,
        *(
            (each.loss, each.objective, each.penalty, eigenvalues_in_words(each), str(each.stationary), str(each.converges))
            for each in verdicts
        ),
    ]


def as_text(rows: Rows) -> str:
    """Columns of equal width, with a line under the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def as_markdown(rows: Rows) -> str:
    """A table of Markdown."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def as_csv(checks: Iterable[Check]) -> str:
    """Every check with all digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("name", "claim", "theory", "measured", "difference", "low", "high", "verdict", "departs"))
    for check in checks:
        numbers = (check.theory, check.measured, check.difference, check.low, check.high)
        writer.writerow((check.name, check.claim, *(repr(number) for number in numbers), check.verdict, check.departs))
    return out.getvalue()


def document(findings: Iterable[Findings], summary: str) -> str:
    """The whole report as Markdown, pictures included."""
    parts = [f"# Theory, checked\n\n{summary}"]
    for found in findings:
        parts.append(f"## {found.title}\n\n![{found.title}]({found.picture.name})\n\n{as_markdown(check_rows(found.checks))}")
        parts += departures(found.checks)
        parts += [f"### {title}\n\n{as_markdown(rows)}" for title, rows in (found.tables | found.appendices).items()]
    return "\n\n".join(parts) + "\n"
