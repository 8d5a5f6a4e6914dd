"""A sweep from the driver's chair: screening, confirmation with fresh seeds, and what is kept of it."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from ray.tune.schedulers import FIFOScheduler
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gan_core.overrides import merge
from pipelines import cluster, environment, launch, results, storage, tracking
from pipelines.completion import say
from pipelines.results import CONFIRM, SCREEN, Row
from pipelines.signals import status_of, terminable
from pipelines.statuses import FAILED, USAGE
from pipelines.sweeps import ledger, outcome, tuning
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.plan import SweepPlan
from pipelines.sweeps.schedulers import CLOCK, GOODNESS, WORST, Past, build
from pipelines.sweeps.trial import Told, clock_of, folder_of, goodness_of, job_of
from pipelines.sweeps.tuning import Batch, Slots, Suggestions
from pipelines.tracking import Tracker


class Ride(NamedTuple):
    """One sweep and where it is tracked; `begun` holds the rows of trials that an earlier session began or ended,
    and `was_finished` says that it had come to the end.
    """

    plan: SweepPlan
    told: Told
    tracker: Tracker
    run_id: str
    slots: Slots
    begun: list[Row]
    was_finished: bool


def run(plan: SweepPlan, words: str, resumed: str | None) -> int:
    """Run the sweep as planned, or go on with it; returns the exit status."""
    with ExitStack() as stack:
        try:
            stack.enter_context(terminable())
            ride = _start(plan, words, resumed, stack)
        except KeyboardInterrupt as interruption:
            print(f"\ninterrupted before the sweep began; again: {words}", file=sys.stderr)
            return status_of(interruption)
        except (ValueError, ConnectionError, OSError, MlflowException) as error:
            print(f"raygan sweep: {error}", file=sys.stderr)
            return USAGE
        return _conduct(ride)


def _start(plan: SweepPlan, words: str, resumed: str | None, stack: ExitStack) -> Ride:
    config, name = plan.config, plan.config.sweep.name
    assert name is not None, "the command has found one"
    tracker = tracking.connect(config.mlflow.tracking_uri, f"{config.mlflow.experiment}-{name}")
    stack.enter_context(_only_driver(name, config.ray.storage_path))
    os.environ.update(tuning.environment())
    # Without the dashboard Ray Train does not give back what the workers of a killed trial held.
    stack.enter_context(cluster.connected(dashboard=config.sweep.workers_per_trial > 1, environment=tuning.environment()))
    stack.enter_context(_only_driver_of_the_cluster(name))
    slots = tuning.slots(config, ray.cluster_resources())
    launch.require_reachable_from_all_nodes(tracker.uri)
    storage.make_folder(config.ray.storage_path, folder_of(name))
    credentials = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_TRACKING_")}
    told: Told = {
        **plan.told(),
        "words": words,
        "tracking_uri": tracker.uri,
        "experiment_id": tracker.experiment_id,
        "credentials": credentials,
        "facts": environment.describe(),
        "on_gpu": slots.on_gpu,
    }
    told["tree"] = merge(told["tree"], {"ray.use_gpu": slots.on_gpu})
    was_finished = False
    if resumed is None:
        run_id = ledger.create(tracker, name, plan.stored(), f"[All trials, to compare]({outcome.charts(tracker, plan.aim)})")
    else:
        run_id = resumed
        registered = ledger.read_plan(tracker, run_id)["sweep"]["register_as"]
        was_finished = tracker.client.get_run(run_id).info.status == "FINISHED" and registered == config.sweep.register_as
        ledger.reopen(tracker, run_id, told["facts"])
    packs_ = f" packs of at most {config.trials.packed}" if config.trials.packed > 1 else ""
    say(f"sweep {name}, run {run_id}: {plan.planned} trials of {config.total_kimg:g} kimg, {slots.at_once}{packs_} at once")
    say(f"compare them while they run: {outcome.charts(tracker, plan.aim)}{tracker.hint}")
    begun = [ledger.row(trial) for trial in ledger.trials(tracker, name)]
    return Ride(plan, told, tracker, run_id, slots, begun, was_finished)


def _conduct(ride: Ride) -> int:
    name, tracker = ride.told["name"], ride.tracker
    uri = ride.plan.config.mlflow.tracking_uri
    words = f"sweep --resume {name}" + (f" mlflow.tracking_uri={uri}" if uri else "")
    remedy = f"go on with: raygan {words}{environment.from_afar(words)}"
    try:
        anything_new = _screen(ride) | _confirm(ride) | (not ride.was_finished)
        print(outcome.finish(ride.plan, tracker, ride.run_id, anything_new=anything_new), flush=True)
    except KeyboardInterrupt as interruption:
        outcome.close(tracker, ride.run_id, name, "KILLED")
        print(f"\ninterrupted; {remedy}", file=sys.stderr)
        return status_of(interruption)
    except Exception as error:  # whatever it was, MLflow must say that it failed, and the user what to do
        outcome.close(tracker, ride.run_id, name, "FAILED", str(error))
        print(f"\nraygan sweep: {name} failed: {error}\n{remedy}", file=sys.stderr)
        return FAILED
    return 0


def _screen(ride: Ride) -> bool:
    """All trials of the search that have not ended yet; returns whether there were any."""
    plan, begun = ride.plan, {row.number: row for row in ride.begun if row.phase == SCREEN}
    for number, reason in plan.refused.items():
        ledger.record_refused(ride.tracker, ride.told["name"], plan.identity(number), f"refused: {reason}")
        say(f"trial {number:03d} {plan.points[number]} does not fit: {reason.splitlines()[0]}")
    ended = {number for number, row in begun.items() if _has_ended(row)}
    if plan.points:
        left = [plan.identity(number) for number in range(plan.planned) if number not in ended | plan.refused.keys()]
        left = [identity._replace(point=begun[identity.number].point) if identity.number in begun else identity for identity in left]
        left = _shuffled(left, plan.config.sweep.seed)
        searcher = None
        count = len(left)
    else:
        left, count = [], plan.planned - len(ended)
        searcher = _searcher(ride, begun)
    if count > 0:
        _run(ride, left, count, build(plan.config, plan.space, _past(ride, begun)), searcher)
    return count > 0


def _shuffled(identities: list[Identity], seed: int) -> list[Identity]:
    """In a random order, the same each time: early stopping is kindest to those that come first, which should not be one loss."""
    order = np.random.RandomState(seed).permutation(len(identities))
    return [identities[index] for index in order]


def _searcher(ride: Ride, begun: dict[int, Row]) -> Suggestions:
    plan, sweep = ride.plan, ride.plan.config.sweep
    unfinished = [_identity(row)._asdict() for row in begun.values() if not _has_ended(row)]
    searcher = Suggestions(plan.space, first=max(begun, default=-1) + 1, seed=sweep.seed, begun=unfinished)
    for row in begun.values():
        if _has_ended(row):
            good = row.complete or row.reason.startswith("stopped by ")
            searcher.add_evaluated_point(row.point, goodness_of(ride.told, row.scores) if good else WORST)
    return searcher


def _past(ride: Ride, begun: dict[int, Row]) -> Past:
    """What earlier sessions' trials reported, for the scheduler's memory."""
    aim, told = ride.plan.aim, {}
    for row in begun.values():
        if aim.objective not in row.scores:
            continue
        drawn = tuple(dict.fromkeys(score for score in (aim.objective, aim.distance) if score in row.scores))
        curve = ledger.curve(ride.tracker, row.run_id, drawn)
        scores = [dict(zip(drawn, values, strict=True)) for values in zip(*(curve.scores[score] for score in drawn), strict=True)]
        told[row.number] = [
            {CLOCK: clock, GOODNESS: goodness_of(ride.told, found)}
            for clock, found in zip(_clocks(ride, row, curve), scores, strict=True)
            if clock > 0.0
        ]
    ended = {row.number: row.point for row in begun.values() if _has_ended(row)}
    return Past(told, ended, [number for number in range(ride.plan.planned) if number not in ended] if begun else [])


def _clocks(ride: Ride, row: Row, curve: results.Curve) -> list[float]:
    """The sweep's clock at a trial's evaluations."""
    config = job_of(ride.told, _identity(row))
    return [clock_of(ride.told, config, seen, seconds) for seen, seconds in zip(curve.images_seen, curve.device_seconds, strict=True)]


def _confirm(ride: Ride) -> bool:
    """The best configurations again, each with the same fresh seeds, so that they can be compared in pairs; returns whether any was due."""
    plan, sweep = ride.plan, ride.plan.config.sweep
    rows = [ledger.row(trial) for trial in ledger.trials(ride.tracker, ride.told["name"])]
    ranked = results.rank([row for row in rows if row.phase == SCREEN], plan.aim.objective, higher=plan.aim.higher)
    different = {json.dumps(row.point, sort_keys=True): row for row in reversed(ranked)}  # tpe may draw a point twice
    chosen = [row for row in ranked if row in different.values()][: sweep.repeated]
    if not chosen:
        return False
    there = {(row.configuration, row.seed): row for row in rows if row.phase == CONFIRM}
    seeds = [plan.config.seed + 1 + index for index in range(sweep.seeds)]
    wanted = [(row, seed) for seed in seeds for row in chosen]
    new = iter(range(1 + max(row.number for row in rows), 1 + max(row.number for row in rows) + len(wanted)))
    left: list[Identity] = []
    for row, seed in wanted:
        known = there.get((row.number, seed))
        if known is None:
            left.append(Identity(next(new), row.number, CONFIRM, seed, row.point))
        elif not _has_ended(known):
            left.append(_identity(known))
    if left:
        say(f"repeating the best {len(chosen)} with {sweep.seeds} fresh seeds each")
        _run(ride, left, len(left), FIFOScheduler(), None)
    return bool(left)


def _run(ride: Ride, identities: list[Identity], count: int, scheduler: Any, searcher: Suggestions | None) -> None:
    config = ride.plan.config
    batch = Batch(identities, searcher, count, scheduler, config.ray.max_failures)
    if config.trials.packed > 1:
        from pipelines.sweeps import packing, packs

        plan = packing.plan(identities, ride.told, packed=config.trials.packed, at_once=ride.slots.at_once)
        say(f"packs: {packing.words(plan)}")
        for reason in packing.reasons(plan):
            say(f"not batched: {reason}")
        packs.run(batch, ride.told, ride.slots, plan, tracker=ride.tracker, show=say)
        return
    tuning.run(batch, ride.told, ride.slots, storage_path=config.ray.storage_path, tracker=ride.tracker, show=say)


def _has_ended(row: Row) -> bool:
    """Whether a trial is not to be started again; one that crashed, or could not reach the tracking store, gets another chance."""
    return bool(row.reason) and not row.reason.startswith(tuning.CRASHED)


def _identity(row: Row) -> Identity:
    return Identity(row.number, row.configuration, row.phase, row.seed, row.point)


@contextmanager
def _only_driver(name: str, storage_path: str) -> Iterator[None]:
    """A lock beside the checkpoints, where they are files: two drivers of one sweep would write each other's runs.

    Raises:
        ValueError: another one is at work.
    """
    if "://" in storage_path:
        yield
        return
    folder = Path(storage_path) / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{name}.lock", blocking=False):
            yield
    except Timeout:
        raise ValueError(f"sweep.name: the sweep {name} is running; wait for it, or give another name") from None


@contextmanager
def _only_driver_of_the_cluster(name: str) -> Iterator[None]:
    """A named actor that lives as long as this driver, for drivers on other machines.

    Raises:
        ValueError: another one is at work in this cluster.
    """
    beside_the_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": f"raygan-sweep-{name}", "namespace": "raygan", "scheduling_strategy": beside_the_driver}
    try:
        guard = ray.remote(num_cpus=0)(_Guard).options(**options).remote()
    except ValueError:
        raise ValueError(f"sweep.name: the sweep {name} is running in this cluster; wait for it, or give another name") from None
    try:
        yield
    finally:
        ray.kill(guard)


class _Guard:
    """Holds a name."""
