"""The tables of a sweep's page, as rows of text under a header, and the plain sentence that says what was found."""

import math
import re
import textwrap
from collections.abc import Iterable

import numpy as np

from pipelines.reports.words import (
    ABSENT,
    COMPLETE,
    STOPPED,
    UNFINISHED,
    kind,
    number,
    outcome,
    progress,
    score,
    searched,
    setting,
    title,
)
from pipelines.results import CONFIDENCE, CONFIRM, Comparison, Estimate, Findings, Row, rank

Rows = list[tuple[str, ...]]
SIGNIFICANT = 0.05
REASON, RUN = "ended because", "run"  # columns that the page shows in a way of their own
LONGEST = 60  # characters of a reason in the table of trials


def finding(findings: Findings) -> str:
    """What the sweep found, in plain words; names of variants in backticks."""
    ended, planned = progress(findings)
    so_far = f" {ended} of {planned} trials ended so far." if ended < planned else ""
    ranked = rank(findings.rows, findings.objective, higher=findings.higher)
    if not ended:
        return f"No trial has finished yet: 0 of {planned} trials ended so far."
    if not ranked:
        return f"No trial spent its whole budget with a finite {findings.objective}, so there is no best one ({_ends(findings)}).{so_far}"
    values = {score(row, findings.objective) for row in ranked}
    if len(ranked) > 1 and len(values) == 1:
        same = number(values.pop())
        return (
            f"Nothing can be told apart: all {len(ranked)} complete trials have {findings.objective} {same}. Give a larger total_kimg, or "
            f"another sweep.objective.{so_far}"
        )
    repeated = {estimate.configuration: estimate for estimate in findings.estimates}
    best = findings.best if findings.best is not None else ranked[0].configuration
    if best in repeated:
        return _of_repeated(findings, repeated[best]) + so_far
    row = next((row for row in ranked if row.configuration == best), ranked[0])
    value = number(score(row, findings.objective), padded=True)
    alone = " It is the only trial that spent its whole budget." if len(ranked) == 1 else ""
    luck = "" if alone else f" It is the best of {len(ranked)} complete trials by one seed of each, so luck may have chosen it."
    return f"{title(row)} leads by {findings.objective}: {value} (one seed, no interval).{alone}{luck}{so_far}"


def _of_repeated(findings: Findings, estimate: Estimate) -> str:
    name, comparison = title(findings.row(estimate.configuration)), findings.comparison
    value = f"by {findings.objective}: {number(estimate.mean, padded=True)} ({_precision(estimate)})"
    if comparison is None or comparison.winner != estimate.configuration:
        why = "" if len(findings.estimates) > 1 else " No other configuration was repeated."
        return f"{name} leads {value}.{why or ' It shares too few seeds with another configuration for a test.'}"
    other = title(findings.row(comparison.runner_up))
    p = "p < 0.001" if comparison.p < 0.001 else f"p = {number(comparison.p)}"
    test = f"paired t-test over {comparison.seeds} seeds, {p}"
    if not comparison.p < SIGNIFICANT:  # NaN counts as not significant
        return f"{name} leads {value}, but is not distinguishable from {other} (difference {_signed(comparison)}; {test})."
    direction = "better" if findings.better(comparison.difference, 0.0) else "worse over the seeds they share"
    return f"{name} is best {value}, {number(abs(comparison.difference), padded=True)} {direction} than {other} ({test})."


def _precision(estimate: Estimate) -> str:
    seeds = f"{estimate.seeds} seed{'' if estimate.seeds == 1 else 's'}"
    if not math.isfinite(estimate.low) or not math.isfinite(estimate.high):
        return f"{seeds}, no interval"
    return f"{100 * CONFIDENCE:g} % interval {number(estimate.low, padded=True)} to {number(estimate.high, padded=True)}, {seeds}"


def _signed(comparison: Comparison) -> str:
    interval = ""
    if math.isfinite(comparison.low) and math.isfinite(comparison.high):
        interval = f", {100 * CONFIDENCE:g} % interval {number(comparison.low, padded=True)} to {number(comparison.high, padded=True)}"
    return number(comparison.difference, padded=True) + interval


def _ends(findings: Findings) -> str:
    words = [outcome(row) for row in findings.rows]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def score_names(findings: Findings) -> list[str]:
    """The objective first, then the other scores by name; without the standard errors of scores that are there."""
    found = {name for row in findings.rows for name, value in row.scores.items() if math.isfinite(value)}
    errors = {f"{name}_error" for name in found}
    return [findings.objective, *sorted(found - errors - {findings.objective})]


def repeated_rows(findings: Findings) -> Rows:
    """A row for each repeated configuration: the objective's mean, interval and seeds, then the means of the other scores."""
    objective, *others = score_names(findings)
    repeats = [row for row in findings.rows if row.phase == CONFIRM and row.complete]
    others = [name for name in others if any(math.isfinite(score(row, name)) for row in repeats)]
    rows = [("trial", "configuration", objective, f"{100 * CONFIDENCE:g} % interval", "seeds", *others)]
    for estimate in findings.estimates:
        mine = [row for row in repeats if row.configuration == estimate.configuration]
        means = (number(_mean(score(row, name) for row in mine), padded=True) for name in others)
        bounded = math.isfinite(estimate.low) and math.isfinite(estimate.high)
        interval = f"{number(estimate.low, padded=True)} to {number(estimate.high, padded=True)}" if bounded else ABSENT
        name = title(findings.row(estimate.configuration))
        mean = number(estimate.mean, padded=True)
        rows.append((f"#{estimate.configuration}", name, mean, interval, str(estimate.seeds), *means))
    return rows


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def trial_order(findings: Findings) -> list[Row]:
    """Complete trials from the best on, then those that ended early, the longest first, then those that still run."""
    ranked = rank(findings.rows, findings.objective, higher=findings.higher)
    rest = [row for row in findings.rows if row not in ranked]
    return [*ranked, *sorted(rest, key=lambda row: (not row.complete, outcome(row) in UNFINISHED, -row.kimg, row.number))]


def trial_rows(findings: Findings) -> Rows:
    """All trials in `trial_order`: settings, scores, what was spent, the reason for the end, and the MLflow run."""
    keys, scores = searched(findings.rows), score_names(findings)
    rows = [("trial", "phase", *keys, "seed", *scores, "kimg", "G steps", "device-seconds", REASON, RUN)]
    for row in trial_order(findings):
        point = [setting(row.point[key]) if key in row.point else ABSENT for key in keys]
        values = [number(score(row, name), padded=True) for name in scores]
        spent = (number(row.kimg), number(row.g_steps), number(row.device_seconds, padded=True))
        rows.append((f"#{row.number}", row.phase, *point, str(row.seed), *values, *spent, _short_reason(row), row.run_id))
    return rows


def _short_reason(row: Row) -> str:
    text = row.reason or outcome(row)
    return textwrap.shorten(text, LONGEST, placeholder=" …")


def reason_rows(findings: Findings) -> Rows:
    """Why trials ended before their budget was spent, with how many they are and what they took, the most frequent first."""
    early = [row for row in findings.rows if outcome(row) not in (COMPLETE, *UNFINISHED)]
    groups: dict[str, list[Row]] = {}
    for row in early:
        # Rungs of a scheduler are counted one by one; where a failure happened to come is not.
        reason = kind(row.reason) if outcome(row) == STOPPED else re.sub(r" at [\d.]+ kimg", "", kind(row.reason))
        groups.setdefault(reason, []).append(row)
    rows: Rows = [(REASON, "trials", "kimg each", "device-seconds in all")]
    for reason, mine in sorted(groups.items(), key=lambda group: -len(group[1])):
        low, high = (number(pick(row.kimg for row in mine)) for pick in (min, max))
        seconds = [row.device_seconds for row in mine if math.isfinite(row.device_seconds)]
        rows.append((reason, str(len(mine)), low if low == high else f"{low} to {high}", number(float(sum(seconds)))))
    return rows


def failures(findings: Findings) -> list[tuple[str, str]]:
    """For each trial that failed, was refused or was ended by an alarm, its name and the whole reason."""
    fine = (COMPLETE, STOPPED, *UNFINISHED)
    ends = ((row, outcome(row)) for row in findings.rows)
    return [(f"#{row.number} {title(row)}: {end}", row.reason or "no reason was recorded") for row, end in ends if end not in fine]
