"""The numbers behind the pictures of a sweep, apart from how they are drawn."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.reports.words import COMPLETE, RATIO_KEY, STOPPED, UNFINISHED, VARIANT_KEYS, outcome, ratio_of, score, searched, variant_of
from pipelines.results import Findings, Row

Axis = tuple[str, Callable[[Row], str]]

MOST_VALUES = 24  # of a key that can be an axis of the heatmap


class Cell(NamedTuple):
    """One square of the heatmap. `value` is the median objective of `trials` complete ones; where none is `complete`, of
    `trials` that were stopped early, by `lowest_kimg` to `highest_kimg`. `words` counts how the others ended, as in
    {"diverged": 1}. The value is NaN and the number 0 where no trial has a score.
    """

    value: float
    trials: int
    complete: bool
    lowest_kimg: float
    highest_kimg: float
    words: dict[str, int]


class Cells(NamedTuple):
    """The heatmap: names of its axes, their values in order, and the squares that were tried, by row and column."""

    row_name: str
    column_name: str
    rows: list[str]
    columns: list[str]
    squares: dict[tuple[str, str], Cell]

    def best(self, *, higher: bool) -> tuple[str, str] | None:
        """The square with the best median of complete trials."""
        able = {place: cell.value for place, cell in self.squares.items() if cell.complete}
        if not able:
            return None
        return max(able, key=lambda place: able[place] if higher else -able[place])


def cells(findings: Findings) -> Cells | None:
    """Loss variant by step ratio, or else the two searched keys with the most values; rows by their best complete square.

    None where there are no two such keys, a key with continuous values not counting.
    """
    axes = _axes(findings.rows)
    if axes is None:
        return None
    (row_name, row_of), (column_name, column_of) = axes
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in findings.rows:
        if row_of(row) and column_of(row):
            groups.setdefault((row_of(row), column_of(row)), []).append(row)
    if not groups:
        return None
    squares = {place: _cell(rows, findings.objective) for place, rows in groups.items()}
    sign = -1.0 if findings.higher else 1.0

    def place_of(name: str) -> tuple[int, float, str]:
        mine = [cell for (row, _), cell in squares.items() if row == name]
        for complete in (True, False):
            values = [sign * cell.value for cell in mine if cell.complete == complete and cell.trials]
            if values:
                return int(not complete), min(values), name
        return 2, 0.0, name

    names = sorted({row for row, _ in squares}, key=place_of)
    return Cells(row_name, column_name, names, sorted({column for _, column in squares}, key=_in_order), squares)


def _cell(rows: Sequence[Row], objective: str) -> Cell:
    ends = [outcome(row) for row in rows]
    for wanted in ((COMPLETE,), (STOPPED, *UNFINISHED)):
        scored = [row for row, end in zip(rows, ends, strict=True) if end in wanted and math.isfinite(score(row, objective))]
        if scored:
            kimg = [row.kimg for row in scored]
            value = float(np.median([score(row, objective) for row in scored]))
            # That others of the square were stopped is no news beside a comparable score; that one diverged is.
            silent = (COMPLETE, STOPPED) if wanted == (COMPLETE,) else (STOPPED,)
            words = Counter(end for end in ends if end not in silent)
            return Cell(value, len(scored), wanted == (COMPLETE,), min(kimg), max(kimg), dict(words))
    kimg = [row.kimg for row in rows]
    unscored = Counter("no score" if end == COMPLETE else end for end in ends)
    return Cell(math.nan, 0, complete=False, lowest_kimg=min(kimg), highest_kimg=max(kimg), words=dict(unscored))


def _axes(rows: Sequence[Row]) -> tuple[Axis, Axis] | None:
    keys = searched(rows)
    if any(key in keys for key in (*VARIANT_KEYS, RATIO_KEY)):
        return ("loss variant", variant_of), ("step ratio, steps of D : steps of G", ratio_of)
    values = {key: _values(rows, key) for key in keys}
    able = sorted((key for key in keys if values[key]), key=lambda key: -len(values[key]))
    if len(able) < 2:
        return None
    first, second = able[:2]
    return (first, lambda row: _written(row, first)), (second, lambda row: _written(row, second))


def _written(row: Row, key: str) -> str:
    return str(row.point[key]) if key in row.point else ""


def _values(rows: Sequence[Row], key: str) -> set[str]:
    """The values of a key; none where they look drawn from a range: numbers that hardly any two configurations share."""
    given = {row.configuration: row.point[key] for row in rows if key in row.point}
    values = {str(value) for value in given.values()}
    drawn = any(isinstance(value, float) for value in given.values()) and 2 * len(values) > len(given)
    return set() if drawn or len(values) > MOST_VALUES else values


def _in_order(text: str) -> tuple[float, str]:
    """Ratios by d/g, numbers by size, other words after them."""
    try:
        upper, _, lower = text.partition(":")
        return float(upper) / float(lower or 1.0), text
    except (ValueError, ZeroDivisionError):
        return math.inf, text


def front(rows: Sequence[Row], objective: str, *, higher: bool) -> list[Row]:
    """Those of the complete rows that none of them beats in one of cost and objective without losing in the other; the cheapest first."""
    sign = -1.0 if higher else 1.0
    able = [row for row in rows if row.complete and math.isfinite(score(row, objective)) and math.isfinite(row.device_seconds)]
    able.sort(key=lambda row: (row.device_seconds, sign * score(row, objective), row.number))
    kept: list[Row] = []
    for row in able:
        equal = kept and (row.device_seconds, score(row, objective)) == (kept[-1].device_seconds, score(kept[-1], objective))
        if not kept or equal or sign * score(row, objective) < sign * score(kept[-1], objective):
            kept.append(row)
    return kept


def expected_best(values: Sequence[float], *, higher: bool) -> NDArray[np.float64]:
    """The mean over all subsets of n values of the best of them, for n = 1 to all of them.

    The i-th worst value is the best of C(i - 1, n - 1) of the C(N, n) subsets.
    """
    ordered, total = _worst_first(values, higher=higher), len(values)
    shares = [[math.comb(i, n - 1) / math.comb(total, n) for i in range(total)] for n in range(1, total + 1)]
    return np.array(shares).reshape(total, total) @ ordered


def quantile_of_best(values: Sequence[float], share: float, *, higher: bool) -> NDArray[np.float64]:
    """For n = 1 to all: the smallest value that the best of n stays at or below in at least `share` of all subsets of n."""
    ordered, total = np.sort(np.asarray(values, dtype=np.float64)), len(values)
    wanted = Fraction(share).limit_denominator(1000)  # 0.1 is a little more than a tenth, which one subset in ten would not reach
    found = []
    for n in range(1, total + 1):
        # The best is at or below the k-th smallest value: the subset lies among those k, or not among the larger ones if less is better.
        reached = [math.comb(k, n) if higher else math.comb(total, n) - math.comb(total - k, n) for k in range(1, total + 1)]
        found.append(ordered[next(k for k, ways in enumerate(reached) if ways >= wanted * math.comb(total, n))])
    return np.array(found)


def enough(expected: NDArray[np.float64], share: float = 0.9) -> int:
    """The smallest n at which the expected best has gained `share` of all it gains from the first trial to the last."""
    return int(np.argmax(np.abs(expected - expected[0]) >= share * abs(expected[-1] - expected[0]))) + 1


def _worst_first(values: Sequence[float], *, higher: bool) -> NDArray[np.float64]:
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return ordered if higher else ordered[::-1]
