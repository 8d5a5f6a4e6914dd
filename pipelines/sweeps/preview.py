"""What `--dry-run` prints: the trials of a sweep, and what they would cost on this machine, from a few steps of each game."""

import json
import os
from typing import Any

from gan_core import cost
from pipelines.results import SCREEN
from pipelines.sweeps import plan as plans
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.plan import SweepPlan
from pipelines.sweeps.space import Point, sample
from pipelines.sweeps.trial import job_of

MOST_GAMES = 32  # measured; each takes about a second
RATIO = "step_ratio"


def text(plan: SweepPlan) -> str:
    """The trials, those that do not fit, and the estimate."""
    lines = [_line(number, point, plan.refused.get(number, "")) for number, point in enumerate(plan.points)]
    if not plan.points:
        lines = [f"  {plan.planned} trials, which Optuna's TPE chooses as results come in, from:"]
        lines += [f"    {key}: {domain.domain_str}" for key, domain in plan.space.items()]
    fit = plan.planned - len(plan.refused)
    head = f"{plan.words} on {plan.base}: {fit} trials" + (f", and {len(plan.refused)} that do not fit" if plan.refused else "")
    return "\n".join([head, *lines, "", *_estimate(plan, fit), *_packs(plan)])


def _packs(plan: SweepPlan) -> list[str]:
    """Which trials train together, and why others do not."""
    packed = plan.config.trials.packed
    if packed == 1:
        return []
    from pipelines.sweeps import packing

    identities = [plan.identity(number) for number in range(len(plan.points)) if number not in plan.refused]
    found = packing.plan(identities, plan.told(), packed=packed, at_once=_slots(plan))
    head = f"packs           {packing.words(found)}; what is saved by that is not counted above"
    return [head, *(f"not batched     {reason}" for reason in packing.reasons(found))]


def _slots(plan: SweepPlan) -> int:
    """How many trials, or packs, would run at once on this machine."""
    sweep = plan.config.sweep
    slots = max(1, int((os.cpu_count() or 1) // (sweep.workers_per_trial * plan.config.ray.cpus_per_worker)))
    return min(slots, sweep.max_concurrent or slots)


def _line(number: int, point: Point, refusal: str) -> str:
    values = "  ".join(f"{key}={value}" for key, value in point.items())
    return f"  {number:4d}  {values}" + (f"   does not fit: {refusal.splitlines()[0]}" if refusal else "")


def _estimate(plan: SweepPlan, fit: int) -> list[str]:
    """What all trials would take to their ends, and with early stopping, one after another and side by side."""
    sweep = plan.config.sweep
    seconds = _seconds(plan)
    whole = fit * seconds
    repeated = min(sweep.repeated, fit)
    again = repeated * sweep.seeds * seconds
    slots = _slots(plan)
    share, words = _kept_share(plan)
    return [
        f"each trial      {plan.budget} (equal in {sweep.equal.replace('_', ' ')}), {_time(seconds)} of training on average",
        f"to their ends   {_time(whole)} of device time",
        f"with {sweep.scheduler:10} {_time(whole * share)}{words}",
        f"repeats         {repeated} configurations x {sweep.seeds} seeds: {_time(again)}",
        f"together        about {_time((whole * share + again) / slots)} with {slots} trials at once on {os.cpu_count()} cores, scores and "
        "start-up (a few seconds a trial) not counted",
        f"compared by     {plan.aim.objective}, {'more' if plan.aim.higher else 'less'} is better",
    ]


def _kept_share(plan: SweepPlan) -> tuple[float, str]:
    """The share of the whole cost that successive halving leaves: at each rung 1/eta of the trials go on."""
    config, sweep = plan.config, plan.config.sweep
    if sweep.scheduler != "asha":
        return 1.0, " (not predictable)" if sweep.scheduler == "median" else ""
    spent, alive, rung, before = 0.0, 1.0, config.grace_kimg, 0.0
    while rung < config.total_kimg:
        spent += alive * (rung - before)
        alive, before, rung = alive / sweep.reduction_factor, rung, rung * sweep.reduction_factor
    return (spent + alive * (config.total_kimg - before)) / config.total_kimg, " if each rung keeps its share; the first trials keep more"


def _seconds(plan: SweepPlan) -> float:
    """Training seconds of a trial, the mean over a sample of the trials; games are measured once for all their ratios."""
    if plan.config.sweep.device_seconds is not None:
        return plan.config.sweep.device_seconds
    points = [point for number, point in enumerate(plan.points) if number not in plan.refused]
    points = points or [point for point in sample(plan.space, MOST_GAMES, plan.config.sweep.seed) if not plans.refusal(plan, point)]
    if not points:
        raise ValueError(f"space {plan.words}: none of {MOST_GAMES} random points of it fits this config")
    games: dict[str, list[Point]] = {}
    for point in points:
        games.setdefault(json.dumps({key: value for key, value in point.items() if key != RATIO}), []).append(point)
    chosen = list(games.values())[:: -(-len(games) // MOST_GAMES)]
    totals: list[float] = []
    for group in chosen:
        step = cost.measure(_config(plan, group[0]))
        totals += [step.of(config.total_kimg, config) for config in (_config(plan, point) for point in group)]
    return sum(totals) / len(totals)


def _config(plan: SweepPlan, point: Point) -> Any:
    return job_of(plan.told(), Identity(0, 0, SCREEN, plan.config.seed, point)).gan()


def _time(seconds: float) -> str:
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400.0 else f"{seconds / 3600:.1f} h"
