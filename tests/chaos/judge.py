"""Compares what a disturbed run left with what an undisturbed one did: every point once and alike, the same weights, the right end."""

import math
import re
from collections import Counter
from typing import NamedTuple

# Metrics that measure time or machines: their steps must be the same, their values are not.
CLOCKED = re.compile(r"^(system/|progress/(images_per_second|device_seconds|diagnostics_share)|budget/device_seconds)")
# Written once, by the command that began the run.
OF_THE_START = re.compile(r"^(startup/|timing/)")
# Of machines that the undisturbed run, on one machine, does not have; which of their points are due nobody can say.
OF_OTHER_MACHINES = re.compile(r"^system/node[1-9]")
WEIGHTS = ("generator", "discriminator", "g_ema", "generator_optimizer", "discriminator_optimizer")
LOST, DOUBLED, VALUE, WEIGHT, STATUS, HANG, PROCESS = "lost", "doubled", "value", "weights", "status", "hang", "process"
KINDS = (LOST, DOUBLED, VALUE, WEIGHT, STATUS, HANG, PROCESS)
ROUNDING = 1e-9  # float64, after some thousand steps of another order of summation


class Finding(NamedTuple):
    """Something that is not as it should be; `kind` is one of KINDS."""

    kind: str
    said: str


class Left(NamedTuple):
    """What a run left: the points (step, value) of each metric, how many pictures at each step, the last state, and the status."""

    points: dict[str, list[tuple[int, float]]]
    pictures: dict[int, int]
    state: dict
    status: str


def compare(left: Left, wanted: Left, *, exact: bool) -> list[Finding]:
    """What differs from an undisturbed run; with `exact` to the bit, else to rounding."""
    findings = []
    for key in sorted(wanted.points.keys() | left.points.keys()):
        if OF_OTHER_MACHINES.match(key):
            findings += doubled(key, Counter(step for step, _ in left.points[key]))
        elif not OF_THE_START.match(key):
            findings += compare_points(key, left.points.get(key, []), wanted.points.get(key, []), exact=exact)
    findings += [Finding(LOST, f"no picture at {step}") for step in wanted.pictures if not left.pictures.get(step)]
    findings += [
        Finding(DOUBLED, f"{count} pictures at {step}") for step, count in left.pictures.items() if count != wanted.pictures.get(step)
    ]
    findings += [
        Finding(WEIGHT, f"{key} differs: {text}") for key in WEIGHTS if (text := difference(left.state[key], wanted.state[key], exact))
    ]
    if left.status != wanted.status:
        findings.append(Finding(STATUS, f"the status is {left.status}, not {wanted.status}"))
    return findings


def compare_points(key: str, found: list, wanted: list, *, exact: bool) -> list[Finding]:
    """Of one metric."""
    steps, expected = Counter(step for step, _ in found), {step for step, _ in wanted}
    findings = [Finding(LOST, f"{key} has no point at {step}") for step in sorted(expected - steps.keys())]
    findings += [Finding(DOUBLED, f"{key} has a point at {step} that is not due") for step in sorted(steps.keys() - expected)]
    findings += doubled(key, steps)
    if not findings and not CLOCKED.match(key):
        pairs = zip(sorted(found), sorted(wanted), strict=True)
        findings += [
            Finding(VALUE, f"{key} is {value!r} at {step}, not {should!r}")
            for (step, value), (_, should) in pairs
            if not same_number(value, should, exact)
        ]
    return findings


def doubled(key: str, steps: Counter) -> list[Finding]:
    """Steps with more points than one."""
    return [Finding(DOUBLED, f"{key} has {count} points at {step}") for step, count in sorted(steps.items()) if count > 1]


def same_number(left: float, right: float, exact: bool) -> bool:
    """NaN is as NaN."""
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return left == right if exact else math.isclose(left, right, rel_tol=ROUNDING, abs_tol=ROUNDING)


def difference(left, right, exact: bool) -> str:
    """Where two trees of tensors and plain values differ first, in words; empty where they do not."""
    import torch

    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return f"keys {sorted(map(str, left.keys() ^ right.keys()))}"
        return next((f"{key}: {text}" for key in left if (text := difference(left[key], right[key], exact))), "")
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return f"{len(left)} entries, not {len(right)}"
        pairs = enumerate(zip(left, right, strict=True))
        return next((f"{index}: {text}" for index, (mine, other) in pairs if (text := difference(mine, other, exact))), "")
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if left.shape != right.shape or left.dtype != right.dtype:
            return f"{left.dtype} {tuple(left.shape)}, not {right.dtype} {tuple(right.shape)}"
        alike = torch.equal(left, right) if exact else torch.allclose(left, right, rtol=ROUNDING, atol=ROUNDING)
        return "" if alike else f"largest difference {(left.double() - right.double()).abs().max():.3g}"
    if isinstance(left, float) and isinstance(right, float):
        return "" if same_number(left, right, exact) else f"{left!r}, not {right!r}"
    return "" if left == right else f"{left!r}, not {right!r}"
