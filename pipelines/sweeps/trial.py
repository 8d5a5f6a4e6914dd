"""One trial: its run in MLflow, its place in the storage, and what who compares trials hears of it. The loop is that of `raygan train`.

With one worker it runs in its host, a process of Ray Tune's or a thread of a pack; with more, Ray Train runs them and Tune's process only
listens. Either way the workers wait for an answer at each evaluation, with everything delivered before.
"""

import math
import os
import threading
from collections.abc import Mapping
from typing import Any, TypedDict

from gan_core import evaluation
from gan_core.building import load_dataset
from gan_core.overrides import Tree, flatten, merge, parse, validate
from pipelines import storage, tracking, worker
from pipelines.config import JobConfig
from pipelines.patience import patiently
from pipelines.results import SPENT
from pipelines.session import Job, Orders, Outcome
from pipelines.shelf import Shelf
from pipelines.signals import Asked
from pipelines.sweeps import ledger
from pipelines.sweeps import space as spaces
from pipelines.sweeps.hosts import DONOR, NUMBER, RUN_ID, Answers, Host, TrialSession, TuneProcess
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.schedulers import CLOCK, GOODNESS, OBJECTIVE, WORST
from pipelines.tracking import Tracker

ENDED = "ended"
SELF_EXPLAINED = ("alarm: ", "evaluation.")
TIE = 1e-6  # of the objective: less than one image of a thousand makes
ONE_AT_A_TIME = threading.Lock()  # trials of a process open their runs so: MLflow refuses a data set that it is told twice at once
CAP = 1000.0  # times total_kimg: where budgets are device seconds, images end no trial


class Told(TypedDict):
    """What every trial of a sweep is told. `tree` with the keys `fixed` is the config before a point is set; `sweep` the section."""

    name: str
    tree: Tree
    fixed: dict[str, Any]
    sweep: dict[str, Any]
    words: str
    tracking_uri: str
    experiment_id: str
    credentials: dict[str, str]
    facts: dict[str, Any]
    objective: str
    higher: bool
    distance: str
    total_kimg: float
    choices: dict[str, list[Any]]
    perturbed: list[str]
    on_gpu: bool


def folder_of(sweep: str) -> str:
    """A sweep's folder in the storage, which its driver makes: trials, which make those of their runs, wait until they see it."""
    return f"sweeps/{sweep}"


def job_of(told: Told, identity: Identity) -> JobConfig:
    """The trial's config: the base with its point and seed, its budget in the sweep's unit.

    Raises:
        ValueError: these settings do not go together.
    """
    seed = {} if "seed" in identity.point else {"seed": identity.seed}
    tree = merge(told["tree"], {**told["fixed"], **spaces.overrides_of(identity.point, told["tree"]), **seed})
    config = validate(tree, JobConfig)
    factor = scale(told, config)
    if told["sweep"]["equal"] == "device_seconds":  # ends at an evaluation, with a checkpoint
        changes = {"total_kimg": config.total_kimg * CAP, "schedule.checkpoint_kimg": config.schedule.evaluate_kimg}
        return validate(merge(tree, changes), JobConfig)
    if factor == 1.0:
        return config
    lengths = {f"schedule.{key}": value * factor for key, value in config.schedule if key.endswith("_kimg")}
    return validate(merge(tree, {"total_kimg": config.total_kimg * factor, **lengths}), JobConfig)


def scale(told: Told, config: JobConfig) -> float:
    """How many images this trial sees for one of the sweep's clock: d/g where budgets are generator steps."""
    factor = float(config.ratio.d) / float(config.ratio.g)
    return factor if told["sweep"]["equal"] == "g_steps" else 1.0


def clock_of(told: Told, config: JobConfig, images_seen: int, device_seconds: float) -> float:
    """The share of the budget that is spent, in kimg of `total_kimg`: what was due at the last evaluation, so the same in every trial."""
    if told["sweep"]["equal"] == "device_seconds":
        share: float = device_seconds / told["sweep"]["device_seconds"]
        return told["total_kimg"] * min(1.0, share)
    when = config.schedule
    due = max(images_seen // (every * 1000) * every for every in (when.evaluate_kimg, when.checkpoint_kimg))  # as the trainer counts
    if images_seen >= config.total_kimg * 1000:
        due = config.total_kimg
    return float(f"{due / scale(told, config):.9g}")


def goodness_of(told: Told, scores: Mapping[str, float]) -> float:
    """The objective, of which more is better, with ties broken by the distance; `scores` without the prefix `quality/`.

    Early on most trials have a `score` of exactly 0, and of equal ones none is stopped: on MNIST whole budgets went that way.
    """
    value = scores.get(told["objective"], math.nan)
    if not math.isfinite(value):
        return WORST
    distance = max(0.0, scores.get(told["distance"], math.inf))
    share = distance / (1.0 + distance) if math.isfinite(distance) else 1.0
    return (value if told["higher"] else -value) - TIE * share


def run(config: dict[str, Any], told: Told) -> None:
    """Train one trial, from its last checkpoint if it has one; called by Ray Tune."""
    os.environ.update(told["credentials"])  # for MLflow; not in the runtime environment, which the dashboard shows
    train(Identity.of(config), told, TuneProcess())


def train(identity: Identity, told: Told, host: Host) -> None:
    """Train one trial, from its last checkpoint if it has one, and tell `host` of its evaluations and its end.

    Raises:
        RuntimeError: the tracking store or the storage was away for too long; training it again goes on where it was.
    """
    place, patience = told["tree"]["ray"]["storage_path"], told["tree"]["mlflow"]["delivery_timeout_seconds"]
    there, asked = storage.place_of(place, folder_of(told["name"])), told["tree"]["ray"]
    with host.waiting():
        Shelf(there, keep=None, timeout_seconds=asked["storage_timeout_seconds"], say=print).prepare()
        tracker = patiently(lambda: _reach(told), patience, print)
        run_id = patiently(lambda: ledger.run_of(tracker, told["name"], identity.number), patience, print)
    if run_id:
        identity = host.take_over(place, run_id, identity)
    try:
        job_config = job_of(told, identity)
        dataset = load_dataset(job_config.gan())
    except ValueError as error:
        host.report({GOODNESS: WORST, CLOCK: 0.0, ENDED: f"refused: {error}", RUN_ID: "", "done": True})
        return
    tags = {"mlflow.note.content": f"`{told['words']}`"}
    with host.waiting(), ONE_AT_A_TIME:
        run_id = patiently(
            lambda: ledger.open_trial(tracker, told["name"], identity, job_config, dataset, facts=told["facts"], tags=tags), patience, print
        )
        patiently(lambda: ledger.mark_place(tracker, run_id, host.tags), patience, print)
    referee = Referee(told, job_config, identity, run_id, host)
    outcome = _train(told, identity, job_config, run_id, referee, content_hash=dataset.content_hash)
    if outcome["undelivered"]:
        raise RuntimeError(outcome["undelivered"])
    if told["sweep"]["equal"] == "device_seconds" and not outcome["failure"]:  # for those who train it again
        spent = validate(merge(job_config.model_dump(), {"total_kimg": outcome["images_seen"] / 1000}), JobConfig)
        tracking.write_config(tracker, run_id, spent)
    if not referee.stopped:
        referee.end(outcome)


def _reach(told: Told) -> Tracker:
    try:
        return tracking.reach(told["tracking_uri"])._replace(experiment_id=told["experiment_id"])
    except ValueError as error:  # the driver has reached it: it is away for a while
        raise ConnectionError(str(error)) from None


def _train(told: Told, identity: Identity, config: JobConfig, run_id: str, referee: "Referee", *, content_hash: str) -> Outcome:
    orders = Orders(
        perturbed=_hyperparameters(told, config),
        fatal_alarms=list(told["sweep"]["stop_on_alarms"]),
        device_seconds=told["sweep"]["device_seconds"],
    )
    named = {"mlflow.run_name": identity.name, "mlflow.experiment": f"{config.mlflow.experiment}-{told['name']}"}  # as in MLflow
    tree = merge(config.model_dump(), named)
    job = Job(config=tree, tracking_uri=told["tracking_uri"], run_id=run_id, content_hash=content_hash, orders=orders)
    if config.ray.num_workers == 1:
        session = TrialSession(job, config, referee.host, Answers(referee.ask, referee.say), on_gpu=told["on_gpu"])
        return worker.run(job, session)
    from pipelines import launch

    return launch.launch(job, config, referee, Asked(), ask=referee.ask)


def _hyperparameters(told: Told, config: JobConfig) -> dict[str, float]:
    """Those that the schedule changes, as numbers for `hp/*`."""
    values = dict(parse(f"{key}={text}") for key, text in flatten(config).items() if key in told["perturbed"])
    numbers = {key: spaces.number_of(key, value) for key, value in values.items()}
    return {key: number for key, number in numbers.items() if number is not None}


class Referee:
    """Between a trial's workers and its host: turns their evaluations into reports, whose answers let the workers go on."""

    def __init__(self, told: Told, config: JobConfig, identity: Identity, run_id: str, host: Host) -> None:
        self._told, self._config, self._number, self._run_id, self.host = told, config, identity.number, run_id, host
        self.stopped = False

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """MLflow has it; nobody watches a single trial."""

    def say(self, sentence: str) -> None:
        """Alarms and failures become tags and the trial's reason."""

    def ask(self, images_seen: int, metrics: dict[str, float], done: bool) -> bool:
        """Report an evaluation, and return when more of this trial is wanted, or, unless its process ends there, that it is not."""
        if images_seen == 0 or done:  # nothing to compare yet, or nothing left to decide
            return True
        clock = clock_of(self._told, self._config, images_seen, metrics["progress/device_seconds"])
        values = {**self._judged(metrics), CLOCK: clock, ENDED: "", RUN_ID: self._run_id}
        name, pointer = storage.checkpoint_name(images_seen), None
        if storage.has(self._config.ray.storage_path, self._run_id, name):
            pointer = {RUN_ID: self._run_id, DONOR: f"{self._run_id}/{name}", NUMBER: self._number, CLOCK: clock}
        self.stopped = not self.host.report(values, pointer)
        return not self.stopped

    def end(self, outcome: Outcome) -> None:
        """The last report: why the trial ended by itself."""
        failure = outcome["failure"]
        reason = SPENT if not failure else failure if failure.startswith(SELF_EXPLAINED) else f"diverged: {failure}"
        judged = {GOODNESS: WORST} if failure else self._judged(outcome["last_scores"])
        clock = clock_of(self._told, self._config, outcome["images_seen"], outcome["device_seconds"])
        self.host.report({**judged, CLOCK: clock, ENDED: reason, RUN_ID: self._run_id, "done": True})

    def _judged(self, metrics: dict[str, float]) -> dict[str, float]:
        """What schedulers compare trials by, and what a person does."""
        scores = {key.removeprefix(evaluation.PREFIX): value for key, value in metrics.items()}
        return {GOODNESS: goodness_of(self._told, scores), OBJECTIVE: scores.get(self._told["objective"], math.nan)}
