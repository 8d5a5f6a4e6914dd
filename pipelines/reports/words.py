"""Names and numbers of a sweep as a reader should meet them, the same on the page, in the pictures and in the terminal."""

import math
import re
from collections.abc import Sequence

from pipelines.results import CONFIRM, Findings, Row

ABSENT = "-"
COMPLETE, STOPPED, FAILED, REFUSED, DIVERGED = "complete", "stopped", "failed", "refused", "diverged"
RUNNING, INTERRUPTED = "running", "interrupted"
UNFINISHED = (RUNNING, INTERRUPTED)  # the sweep goes on with them
VARIANT_KEYS, RATIO_KEY = ("variant", "loss.name"), "step_ratio"


def number(value: float, *, padded: bool = False) -> str:
    """Three significant digits, whole thousands grouped; counts in full; `-` for what is not a finite number.

    `padded` keeps the zeros at the end, so that a column has one precision.
    """
    if not math.isfinite(value):
        return ABSENT
    if isinstance(value, int):
        text = f"{value:,}"
    elif abs(value) >= 999.5:
        text = f"{float(f'{value:.3g}'):,.0f}"
    elif padded and value:
        text = f"{value:#.3g}".rstrip(".")
    else:
        text = f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def thousands(kimg: float) -> str:
    """Such as `10k` images."""
    return f"{number(kimg)}k"


def setting(value: object) -> str:
    """A searched value: numbers short, all else as written."""
    return number(value) if isinstance(value, float) else str(value)


def searched(rows: Sequence[Row]) -> list[str]:
    """The dotted keys that were searched, in the order in which trials name them."""
    return list(dict.fromkeys(key for row in rows for key in row.point))


def variant_of(row: Row) -> str:
    """The loss variant; that of the point where the config was refused; may be empty."""
    return row.variant or next((str(row.point[key]) for key in VARIANT_KEYS if key in row.point), "")


def ratio_of(row: Row) -> str:
    """The step ratio d:g; that of the point where the config was refused; may be empty."""
    return row.step_ratio or str(row.point.get(RATIO_KEY, ""))


def others_of(row: Row) -> str:
    """What was searched beside the variant and the ratio, such as `batch_size=64, ema=0.999`."""
    return ", ".join(f"{key}={setting(value)}" for key, value in row.point.items() if key not in (*VARIANT_KEYS, RATIO_KEY))


def by_variant(row: Row) -> bool:
    """Whether variant and ratio tell this trial from others: not where only other keys were searched."""
    return not row.point or any(key in row.point for key in (*VARIANT_KEYS, RATIO_KEY))


def label(row: Row) -> str:
    """Short, for pictures: `r1 1:1`, or the searched settings by the last part of their names, `lr=0.0002, batch_size=64`."""
    if not by_variant(row):
        return ", ".join(f"{key.rpartition('.')[2]}={setting(value)}" for key, value in row.point.items())
    return f"{variant_of(row)} {ratio_of(row)}".strip() or f"trial {row.number}"


def title(row: Row) -> str:
    """In a sentence, with the variant in backticks: "`r1` at 1:1 with batch_size=64"."""
    variant, ratio, others = variant_of(row), ratio_of(row), others_of(row)
    name = f"`{variant}`" + (f" at {ratio}" if ratio else "") if variant else f"trial {row.number}"
    return f"{name} with {others}" if others else name


def outcome(row: Row) -> str:
    """How a trial ended, in a word: one of those above, or the name of the alarm that ended it."""
    if row.complete:
        return COMPLETE
    if not row.reason:
        return {"FAILED": FAILED, "KILLED": INTERRUPTED}.get(row.status, RUNNING)
    head = kind(row.reason).lower()
    if head.startswith("alarm"):
        return re.split(r"\W+", head)[-1]
    if "refus" in head:
        return REFUSED
    if "diverg" in head or (row.status == "FAILED" and "divergenceerror" in row.reason.lower()):
        return DIVERGED
    return FAILED if row.status == "FAILED" else STOPPED


def kind(reason: str) -> str:
    """What a reason says before its first colon or line break, of an alarm its name too: trials that ended alike are counted together."""
    alarm = re.match(r"alarm: \w+", reason)
    if alarm:
        return alarm[0]
    return re.split(r":\s|\n", reason.strip(), maxsplit=1)[0].rstrip(":") or "no reason given"


def score(row: Row, name: str) -> float:
    """The trial's last score of this name, NaN where there is none."""
    return row.scores.get(name, math.nan)


def directed(name: str, *, higher: bool) -> str:
    """A score's name for an axis: `kid (less is better)`."""
    return f"{name} ({'more' if higher else 'less'} is better)"


def progress(findings: Findings) -> tuple[int, int]:
    """How many trials have ended, and of how many: those planned for screening, and the repeats that there are."""
    ended = sum(outcome(row) not in UNFINISHED for row in findings.rows)
    repeats = sum(row.phase == CONFIRM for row in findings.rows)
    return ended, max(findings.planned + repeats, len(findings.rows))
