"""A sweep in MLflow: an experiment of its own, with a run for the sweep and one for each trial side by side, because the UI hides nested
runs from its charts. The trials' runs are the ledger that resuming and reporting read; nothing else is needed.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from mlflow.entities import Metric, Param, Run, RunTag

from gan_core.datatypes import ImageDataset
from gan_core.overrides import Tree, dumps, loads
from pipelines import environment, past, tracking
from pipelines.config import JobConfig
from pipelines.results import CONFIRM, SCREEN, SPENT, Curve, Row
from pipelines.tracking import Tracker

SWEEP, KIND, TRIAL, PHASE, CONFIGURATION = "raygan.sweep", "raygan.kind", "raygan.trial", "raygan.phase", "raygan.configuration"
POINT, SEED, REASON, SPENT_TAG, EXPLOITS = "raygan.point", "raygan.seed", "raygan.stop_reason", "raygan.budget_spent", "raygan.exploits"
SIZE_TAG, ALONE_TAG = OF_PLACES = "raygan.packed", "raygan.packed.alone"  # of the pack that a trial trains in, as pack.py says
PLAN_FILE, BEST_FILE, RESULTS_FILE, REPORT_FOLDER = "sweep.yaml", "best.yaml", "results.parquet", "report"
SWEEP_KIND, TRIAL_KIND = "sweep", "trial"
SCORES, MOST_RUNS = "quality/", 5000


class Identity(NamedTuple):
    """Which trial of its sweep this is; `point` holds the searched keys, `configuration` the screening trial whose point it is.

    `donor` is the checkpoint that it last went on from instead of its own, `<run id>/<name>`, or empty.
    """

    number: int
    configuration: int
    phase: str
    seed: int
    point: dict[str, Any]
    donor: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Identity":
        """The one in a Ray Tune config."""
        return cls(**{field: config["trial"][field] for field in cls._fields})

    @property
    def name(self) -> str:
        """The run's name in the UI: number and values."""
        values = " ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in self.point.values())
        repeat = f" seed {self.seed}" if self.phase == CONFIRM else ""
        return f"{self.number:03d} {values}{repeat}"[:200]

    def tags(self) -> dict[str, str]:
        """What finds the run again."""
        return {
            KIND: TRIAL_KIND,
            TRIAL: str(self.number),
            PHASE: self.phase,
            CONFIGURATION: str(self.configuration),
            SEED: str(self.seed),
            POINT: json.dumps(self.point),
        }


def names(tracker: Tracker) -> list[str]:
    """All sweeps in the store."""
    return sorted({run.data.tags[SWEEP] for run in search(tracker, None, f"tags.`{KIND}` = '{SWEEP_KIND}'")})


def find(tracker: Tracker, word: str) -> Run | None:
    """The run of the sweep with this name, or with this run id."""
    found = search(tracker, None, f"tags.`{KIND}` = '{SWEEP_KIND}' and tags.`{SWEEP}` = '{word}'") if "'" not in word else []
    if found:
        return found[0]
    if past.knows(tracker, word):
        run = tracker.client.get_run(word)
        return run if run.data.tags.get(KIND) == SWEEP_KIND else None
    return None


def create(tracker: Tracker, name: str, plan: Tree, note: str) -> str:
    """The sweep's own run, RUNNING, with its plan; returns its id."""
    facts = environment.describe()
    words = f"raygan {shlex.join(sys.argv[1:])}"
    tags = {**tracking.source_tags("sweep", words, facts), SWEEP: name, KIND: SWEEP_KIND, "mlflow.note.content": f"`{words}`\n\n{note}"}
    run_id: str = tracker.client.create_run(tracker.experiment_id, run_name=f"sweep {name}", tags=tags).info.run_id
    tracker.client.log_text(run_id, dumps(plan), PLAN_FILE)
    tracking.log_json(tracker, run_id, facts, tracking.ENVIRONMENT_FILE)
    return run_id


def read_plan(tracker: Tracker, run_id: str) -> Tree:
    """What `create` has stored."""
    return loads(past.read_text(tracker, run_id, PLAN_FILE), f"plan of the sweep {run_id}")


def trials(tracker: Tracker, name: str) -> list[Run]:
    """The runs of all its trials, in the order of their numbers."""
    found = search(tracker, None, f"tags.`{SWEEP}` = '{name}' and tags.`{KIND}` = '{TRIAL_KIND}'")
    return sorted(found, key=number_of)


def run_of(tracker: Tracker, sweep: str, number: int) -> str:
    """The id of a trial's run, empty where it has none."""
    found = search(tracker, [tracker.experiment_id], f"tags.`{SWEEP}` = '{sweep}' and tags.`{TRIAL}` = '{number}'")
    run_id: str = found[0].info.run_id if found else ""
    return run_id


def open_trial(
    tracker: Tracker,
    sweep: str,
    identity: Identity,
    config: JobConfig,
    dataset: ImageDataset,
    *,
    facts: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """The RUNNING run of a trial: the one it has, with the settings it has now, or a new one; returns its id."""
    run_id = run_of(tracker, sweep, identity.number)
    if not run_id:
        return tracking.create_run(tracker, config, dataset, identity.name, tags={SWEEP: sweep, **identity.tags(), **tags}, facts=facts)
    reopen(tracker, run_id, facts)
    if not past.is_described(tracker, run_id):  # its making was cut off
        tracking.describe_run(tracker, run_id, config, dataset, facts)
    if identity.donor:
        _note_exploit(tracker, run_id, identity)
        tracking.write_config(tracker, run_id, config)
    return run_id


def reopen(tracker: Tracker, run_id: str, facts: Mapping[str, Any]) -> None:
    """Set a run of the sweep RUNNING again; it belongs to the Ray job that goes on with it."""
    tracker.client.update_run(run_id, status="RUNNING")
    mark(tracker, run_id, tracking.job_tags(facts))


def mark(tracker: Tracker, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    if tags:
        tracker.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)


def mark_place(tracker: Tracker, run_id: str, tags: Mapping[str, str]) -> None:
    """Set `tags` of the place where a trial trains from here on, and take away those of the place before."""
    for key in tracker.client.get_run(run_id).data.tags.keys() & set(OF_PLACES) - tags.keys():
        tracker.client.delete_tag(run_id, key)
    mark(tracker, run_id, tags)


def _note_exploit(tracker: Tracker, run_id: str, identity: Identity) -> None:
    """That the trial goes on from another's weights, once."""
    donor_id, _, checkpoint = identity.donor.partition("/")
    number = tracker.client.get_run(donor_id).data.tags[TRIAL]
    news = f"at {int(checkpoint.rpartition('_')[2]) / 1000:g} kimg from trial {number}"
    before = tracker.client.get_run(run_id).data.tags.get(EXPLOITS, "")
    tags = [RunTag(POINT, json.dumps(identity.point))]
    if not before.endswith(news):
        tags.append(RunTag(EXPLOITS, "; ".join(filter(None, (before, news)))))
    tracker.client.log_batch(run_id, tags=tags, synchronous=True)


def record_refused(tracker: Tracker, sweep: str, identity: Identity, reason: str) -> None:
    """A run for a trial that never had one, so that the sweep's list of trials is whole."""
    if before := run_of(tracker, sweep, identity.number):
        if tracker.client.get_run(before).info.status == "RUNNING":  # its making was cut off
            tracker.client.set_terminated(before, "FAILED")
        return
    tags = {SWEEP: sweep, **identity.tags(), REASON: reason}
    run_id = tracker.client.create_run(tracker.experiment_id, run_name=identity.name, tags=tags).info.run_id
    params = [Param(key, str(value)) for key, value in {**identity.point, "seed": identity.seed}.items()]
    tracker.client.log_batch(run_id, params=params, synchronous=True)
    tracker.client.set_terminated(run_id, "FAILED")


class Ending(NamedTuple):
    """How a trial ended. `axes` are the searched values as numbers, for plots that take nothing else."""

    identity: Identity
    status: str
    reason: str
    axes: dict[str, float]
    error: str = ""


def end_trial(tracker: Tracker, sweep: str, ending: Ending) -> None:
    """Set why a trial ended, what it had spent, and its final status; calling it again changes nothing.

    A trial that spent its budget also gets its last scores under their bare names (MLflow's section "Model metrics"): plots by them compare
    like with like.
    """
    run_id = run_of(tracker, sweep, ending.identity.number)
    if not run_id:
        record_refused(tracker, sweep, ending.identity, ending.reason)
        return
    run = tracker.client.get_run(run_id)
    now = run.data.metrics
    spent = {
        "budget/kimg": now.get("progress/images_seen", 0.0) / 1000.0,
        **{f"budget/{key}": now.get(f"progress/{key}", 0.0) for key in ("d_steps", "g_steps", "device_seconds")},
    }
    finals = {key.removeprefix(SCORES): value for key, value in now.items() if key.startswith(SCORES) and not key.endswith("_error")}
    values = spent | {f"axis/{key}": value for key, value in ending.axes.items()} | (finals if ending.reason == SPENT else {})
    words = ", ".join(f"{value:.6g} {key.removeprefix('budget/')}" for key, value in spent.items())
    points = [Metric(key, value, run.info.start_time, 0) for key, value in values.items()]  # the same point when repeated
    tags = [RunTag(REASON, ending.reason), RunTag(SPENT_TAG, words)]
    tracker.client.log_batch(run_id, metrics=points, tags=tags, synchronous=True)
    if ending.error:
        tracker.client.log_text(run_id, ending.error, tracking.ERROR_FILE)
    tracker.client.set_terminated(run_id, ending.status)


def number_of(run: Run) -> int:
    """A trial's number."""
    return int(run.data.tags[TRIAL])


def row(run: Run) -> Row:
    """A trial's run as a row of results."""
    tags, metrics = run.data.tags, run.data.metrics
    point = json.loads(tags[POINT])
    params = {**run.data.params, **{key: str(value) for key, value in point.items()}}  # pbt changes what params keep
    variant = params.get("variant", "null")
    return Row(
        number=number_of(run),
        configuration=int(tags[CONFIGURATION]),
        phase=tags.get(PHASE, SCREEN),
        run_id=run.info.run_id,
        point=point,
        variant=params.get("loss.name", "") if variant == "null" else variant,
        step_ratio=params.get("step_ratio", ""),
        seed=int(tags[SEED]),
        status=run.info.status,
        reason=tags.get(REASON, "") if run.info.status != "RUNNING" else "",
        scores={key.removeprefix(SCORES): value for key, value in metrics.items() if key.startswith(SCORES)},
        kimg=metrics.get("progress/images_seen", 0.0) / 1000.0,
        d_steps=int(metrics.get("progress/d_steps", 0.0)),
        g_steps=int(metrics.get("progress/g_steps", 0.0)),
        device_seconds=metrics.get("progress/device_seconds", 0.0),
    )


def curve(tracker: Tracker, run_id: str, scores: tuple[str, ...]) -> Curve:
    """Scores of a trial at its evaluations, with what it had spent by then."""
    history = {
        key: {point.step: point.value for point in tracker.client.get_metric_history(run_id, key)}
        for key in ("progress/g_steps", "progress/device_seconds", *(f"{SCORES}{score}" for score in scores))
    }
    common = set.intersection(*(set(points) for points in history.values()))
    steps = sorted(common)
    return Curve(
        images_seen=steps,
        g_steps=[int(history["progress/g_steps"][step]) for step in steps],
        device_seconds=[history["progress/device_seconds"][step] for step in steps],
        scores={score: [history[f"{SCORES}{score}"][step] for step in steps] for score in scores},
    )


def search(tracker: Tracker, experiments: list[str] | None, condition: str) -> list[Run]:
    """All active runs that match, also more than one page of them."""
    if experiments is None:
        experiments = [experiment.experiment_id for experiment in tracker.client.search_experiments(max_results=MOST_RUNS)]
    found: list[Run] = []
    token: str | None = None
    while True:
        page = tracker.client.search_runs(experiments, condition, max_results=1000, page_token=token)
        found += [run for run in page if tracking.require_run_id(run.info.run_id)]
        token = page.token
        if not token:
            return found
