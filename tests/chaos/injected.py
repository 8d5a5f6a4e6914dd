"""Faults from within the computation, put there by tests/pipelines/faulty: too little memory, numbers that are none, a rank that sleeps."""

import json
import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.chaos.judge import HANG, OF_THE_START, PROCESS, STATUS, Finding, Left, compare_points
from tests.chaos.runs import BATCH, REPORT, ROOT, SECONDS_AT_MOST, TOTAL, Run, words

if TYPE_CHECKING:
    from tests.chaos.campaign import Campaign, Scenario, Strike, Struck

FAULTY = str(ROOT / "tests" / "pipelines" / "faulty")
OUT_OF_MEMORY, ONCE, ALWAYS, ASLEEP = "out of memory", "NaN once", "NaN again and again", "stuck rank"
FAULTS = (OUT_OF_MEMORY, ONCE, ALWAYS, ASLEEP)
PATIENCE = ("ray.collective_timeout_seconds=300", "ray.stall_timeout_seconds=12")  # so that it is not PyTorch who ends the wait


def conduct(campaign: "Campaign", scenario: "Scenario") -> "tuple[list[Struck], list[Finding], float]":
    """A training whose processes carry the fault from their start."""
    from tests.chaos.campaign import Struck

    (strike,) = scenario.strikes
    stage = "training float64" if strike.kind == OUT_OF_MEMORY else "training"
    wanted = campaign.wanted(stage)
    with ExitStack() as stack:
        run = campaign.new(f"scenario-{scenario.number:02d}", stack)
        step = int(strike.at * TOTAL / BATCH)
        fault = fault_of(strike, step, str(run.folder / "struck"))
        run.environment = {"PYTHONPATH": f"{FAULTY}:{ROOT}", "RAYGAN_TEST_FAULTS": json.dumps(fault)}
        began = time.monotonic()
        run.start(*words(stage, run, campaign.server.uri), *(PATIENCE if strike.kind == ASLEEP else ()))
        struck = [Struck(strike, f"{strike.kind} from step {step}: {json.dumps(fault)}", struck=True)]
        if strike.kind != ALWAYS:
            return campaign.judged(run, struck, wanted, began, exact=strike.kind != OUT_OF_MEMORY)
        return struck, [*require_failure(run, step), *compare_beginning(run.left(), wanted, step)], time.monotonic() - began


def fault_of(strike: "Strike", step: int, marker: str) -> dict[str, Any]:
    """What RAYGAN_TEST_FAULTS says; a fault that strikes once does so on one of the two ranks."""
    rank = int(2 * strike.chance)
    once = [{"d_step": step, "times": 1, "marker": marker, "rank": rank}]
    return {
        OUT_OF_MEMORY: {
            "out_of_memory": {"above": BATCH // 4, "after": 2 * step, "rank": int(2 * strike.chance)}
        },  # a rank has half a batch
        ONCE: {"nan_at": once},
        ALWAYS: {"nan_at": [{"d_step": step}]},
        ASLEEP: {"sleep_at": once},
    }[strike.kind]


def require_failure(run: Run, step: int) -> list[Finding]:
    """It ends by itself, with a diagnosis that names a loss and the step."""
    status, findings = run.finish(SECONDS_AT_MOST), []
    if status is None:
        findings.append(Finding(HANG, "it had not ended"))
    if status != 1:
        findings.append(Finding(STATUS, f"the exit status is {status}, not 1: {run.said[-1500:]}"))
    if "Traceback" in run.said or not re.search(r"[dg]/\S+ is (nan|-?inf)", run.said):
        findings.append(Finding(STATUS, f"no diagnosis, but: {run.said[-1500:]}"))
    return [*findings, *(Finding(PROCESS, f"still there: {words}") for words in run.leaves_nothing())]


def compare_beginning(left: list[Left], wanted: list[Left], step: int) -> list[Finding]:
    """Every point before the step at which the numbers end, once, as an undisturbed run has it; and the status FAILED."""
    seen = step * BATCH // REPORT * REPORT

    def until(points: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
        return {key: [point for point in points[key] if point[0] <= seen] for key in points if not OF_THE_START.match(key)}

    (mine,), (theirs,) = left, wanted
    found, should = until(mine.points), until(theirs.points)
    findings = [finding for key in should for finding in compare_points(key, found.get(key, []), should[key], exact=True)]
    return findings if mine.status == "FAILED" else [*findings, Finding(STATUS, f"the status is {mine.status}, not FAILED")]
