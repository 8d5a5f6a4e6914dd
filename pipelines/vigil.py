"""The driver's eye on the ranks: who stands still, who waits for whom, and whom to end, from the beats alone."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.board import Heard
from pipelines.pulse import DONE

SILENT_SECONDS = 15.0  # a rank beats every second; a machine that is busy with other things misses some


class Stall(NamedTuple):
    """Ranks that stand still: for how long, which ones the others wait for, and all of it in words."""

    seconds: float
    culprits: list[Heard]
    sentence: str


def stall(heard: Sequence[Heard], now: float | None = None) -> Stall | None:
    """How the ranks of a worker group stand still, None where one of them moves and none is silent. `now` is a Unix time.

    One rank that moves is enough: the others wait for it, as they may where it decodes data.
    """
    if all(each.beat.doing == DONE for each in heard):
        return None
    silent = [each for each in heard if each.age_seconds > SILENT_SECONDS and each.beat.doing != DONE]
    seconds = max(each.age_seconds for each in silent) if silent else min(_still(each) for each in heard)
    culprits = silent or _holding(heard)
    now = time.time() if now is None else now
    told = [_fault(each, now, silent=bool(silent)) for each in culprits]
    waiting = [each for each in heard if each not in culprits]
    if waiting:
        whom, verb = "it" if len(culprits) == 1 else "them", "waits" if len(waiting) == 1 else "wait"
        told.append(f"{', '.join(f'{_name(each)} in {each.beat.place or each.beat.doing}' for each in waiting)} {verb} for {whom}")
    return Stall(seconds, culprits, "; ".join(told))


def _still(heard: Heard) -> float:
    return heard.beat.still_seconds + heard.age_seconds


def _holding(heard: Sequence[Heard]) -> list[Heard]:
    """Those that the others wait for: who does not wait, else who is behind, else all, for then nobody can tell."""
    for group in ([each for each in heard if not each.beat.waits], _behind(heard)):
        if group:
            return group
    return list(heard)


def _behind(heard: Sequence[Heard]) -> list[Heard]:
    least = min(each.beat.images_seen for each in heard)
    behind = [each for each in heard if each.beat.images_seen == least]
    return behind if len(behind) < len(heard) else []


def _fault(heard: Heard, now: float, *, silent: bool) -> str:
    beat = heard.beat
    at = f"{beat.doing} at {beat.images_seen / 1000:.1f} kimg" + (f", in {beat.place}" if beat.place else "")
    if silent:
        return f"{_name(heard)} is silent since {_clock(now - heard.age_seconds)}; it was {at}"
    return f"{_name(heard)} stands still since {_clock(now - _still(heard))}: {at}"


def _name(heard: Heard) -> str:
    return f"rank {heard.beat.rank} (node {heard.beat.node}, process {heard.beat.pid})"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
