"""A batch of trials through Ray Tune: how many at once, what Tune is told, and what the driver writes when one ends."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optuna
from mlflow.exceptions import MlflowException
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment.trial import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from pipelines.patience import patiently
from pipelines.results import SCREEN, SPENT
from pipelines.signals import in_thread
from pipelines.sweeps import ledger
from pipelines.sweeps import space as spaces
from pipelines.sweeps import trial as trials
from pipelines.sweeps.ledger import Ending, Identity
from pipelines.sweeps.schedulers import CLOCK, GOODNESS, OBJECTIVE
from pipelines.sweeps.space import Space
from pipelines.sweeps.trial import ENDED, Told
from pipelines.tracking import Tracker

HEAD = "node:__internal_head__"
THREAD_TIMEOUT_SECONDS = 90  # in which the workers of a stopped trial end, before its process takes another
MOST_DRIVERS = 20  # beyond which shares of the head would not leave Ray Train the 0.001 that it takes for each
CRASHED = "failed: "  # how such reasons begin
ROUNDING = 1e-6  # 1.0 // 0.2 is 4


class Slots(NamedTuple):
    """What a trial is given, and how many of them run at once."""

    resources: dict[str, float]
    at_once: int
    on_gpu: bool


def slots(config: Any, owned: Mapping[str, float]) -> Slots:
    """The resources of a trial, and how many such the cluster `owned` holds.

    The process of a trial that has workers of its own takes no CPU: it would hold what its workers wait for. A share of the head node's
    own resource limits how many there are, and keeps them there.

    Raises:
        ValueError: the cluster does not hold one.
    """
    workers, cpus = config.sweep.workers_per_trial, config.ray.cpus_per_worker
    there = {"CPU": owned.get("CPU", 0.0), "GPU": owned.get("GPU", 0.0)}
    gpus = config.sweep.gpus_per_trial
    if gpus is None:
        gpus = float(workers) if config.ray.use_gpu is not False and there["GPU"] >= workers else 0.0
    needed = {"CPU": workers * cpus, "GPU": gpus}
    for kind, amount in needed.items():
        if amount > there[kind]:
            key = "sweep.gpus_per_trial" if kind == "GPU" else "sweep.workers_per_trial" if workers > 1 else "ray.cpus_per_worker"
            raise ValueError(f"{key}: a trial needs {amount:g} {kind}, the cluster has {there[kind]:g}; lower it, or add machines")
    at_once = int(min((there[kind] + ROUNDING) // amount for kind, amount in needed.items() if amount))
    at_once = min(at_once, config.sweep.max_concurrent or at_once)
    if config.ray.use_gpu and not gpus:
        raise ValueError(f"ray.use_gpu: a trial needs {workers} GPU, the cluster has {there['GPU']:g}; set it to false, or add machines")
    if workers > 1:
        at_once = min(at_once, MOST_DRIVERS)
        share = int(5_000 / at_once + 5_000 / (at_once + 1)) / 10_000  # so many fit, and one more does not; Ray counts in ten-thousandths
        return Slots({"cpu": 0, HEAD: share}, at_once, gpus > 0)
    return Slots({"cpu": cpus, "gpu": gpus}, at_once, gpus > 0)


class Suggestions(OptunaSearch):
    """Optuna's TPE, which numbers its points and goes on after those of an earlier session."""

    def __init__(self, space: Space, *, first: int, seed: int, begun: list[dict[str, Any]]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(space=space, metric=GOODNESS, mode="max", seed=seed + first)  # not the points of the session before
        self._begun, self._next, self._trial_seed = list(begun), first, seed

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial: one that was begun before, or a new point."""
        if self._begun:
            begun = self._begun.pop(0)
            self._enqueue(begun["point"])
            super().suggest(trial_id)
            return {"trial": begun}
        point: dict[str, Any] | None = super().suggest(trial_id)
        if point is None or point == OptunaSearch.FINISHED:
            return point
        number, self._next = self._next, self._next + 1
        return {"trial": Identity(number, number, SCREEN, self._trial_seed, point)._asdict()}

    def _enqueue(self, point: dict[str, Any]) -> None:
        self._ot_study.enqueue_trial(point)


class Batch(NamedTuple):
    """Trials to run: listed ones, or what `searcher` suggests, `size` in all."""

    identities: list[Identity]
    searcher: OptunaSearch | None
    size: int
    scheduler: TrialScheduler
    retries: int


def run(batch: Batch, told: Told, slots_: Slots, *, storage_path: str, tracker: Tracker, show: Callable[[str], None]) -> None:
    """Run all trials to their ends; each one's end is in its MLflow run when this returns.

    Raises:
        RuntimeError: Tune itself failed.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(batch.size)  # a population is whole from the first round
    # Tune stores its callbacks beside the checkpoints, and parameters of the function only in memory.
    notary = Notary(tracker, {**told, "credentials": {}}, batch.size, show)
    function = tune.with_resources(tune.with_parameters(trials.run, told=told), slots_.resources)
    listed = {"trial": tune.grid_search([identity._asdict() for identity in batch.identities])}
    # Tune's list has AWS's keys on it, and makes them part of each trial's runtime environment, which Ray logs and its dashboard shows.
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
    tuner = tune.Tuner(
        function,
        param_space={} if batch.searcher else listed,
        tune_config=tune.TuneConfig(
            search_alg=batch.searcher,
            scheduler=batch.scheduler,
            num_samples=batch.size if batch.searcher else 1,
            max_concurrent_trials=_limit(batch, told, slots_),
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"{told['name']}-{time.time_ns()}",
            storage_path=f"{storage_path}/sweeps",
            failure_config=tune.FailureConfig(max_failures=batch.retries),
            callbacks=[notary],
            verbose=0,
        ),
    )
    in_thread(tuner.fit, "ray-tune").result()
    patiently(notary.deliver_all, told["tree"]["mlflow"]["delivery_timeout_seconds"], show)


def _limit(batch: Batch, told: Told, slots_: Slots) -> int | None:
    """How many trials Tune may have begun, where their resources do not say so. Paused ones count: a population must not be limited."""
    asked = told["sweep"]["max_concurrent"] is not None and HEAD not in slots_.resources
    return slots_.at_once if batch.searcher or asked else None


def _name(trial: Trial) -> str:
    """Also with Tune's own id: TPE's trials get their number only when they start."""
    return f"{trial.config.get('trial', {}).get('number', 0):03d}-{trial.trial_id}"


class Notary(tune.Callback):
    """Writes to MLflow how each trial ended, from the driver: a stopped trial's process has no time to do it.

    What the store does not take now is tried again at each step, and at the end.
    """

    def __init__(self, tracker: Tracker, told: Told, count: int, show: Callable[[str], None]) -> None:
        self._tracker, self._told, self._count, self._show = tracker, told, count, show
        self._waiting: list[Ending] = []
        self._ended = 0
        self._started = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It spent its budget, ended itself with a reason, or was stopped."""
        last = trial.last_result
        reason = last.get(ENDED) or f"stopped by {self._told['sweep']['scheduler']} at {self._spent(last.get(CLOCK, 0.0))}"
        good = last.get(ENDED, "") in ("", SPENT)
        self._note(trial, "FINISHED" if good else "FAILED", reason)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It crashed more often than it may."""
        error = trial.get_error()
        text = str(error) if error else "its process died"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        self._note(trial, "FAILED", f"{CRASHED}{lines[-1][:300] if lines else text}", text)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It crashed, and is tried again."""
        self._show(f"trial {trial.config['trial']['number']:03d} crashed; it goes on from its last checkpoint")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Try again what the store did not take."""
        self.deliver()

    def deliver(self) -> None:
        """Write what waits, as far as the store takes it."""
        try:
            self.deliver_all()
        except (MlflowException, OSError):
            return

    def deliver_all(self) -> None:
        """Write what waits.

        Raises:
            MlflowException, OSError: the store did not take it.
        """
        refused: MlflowException | OSError | None = None
        for ending in list(self._waiting):
            try:
                ledger.end_trial(self._tracker, self._told["name"], ending)
                self._waiting.remove(ending)
            except (MlflowException, OSError) as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _note(self, trial: Trial, status: str, reason: str, error: str = "") -> None:
        identity = Identity.of(trial.config)
        axes = spaces.coordinates(identity.point, self._told["choices"])
        self._waiting.append(Ending(identity, status, reason, axes, error))
        self.deliver()
        self._ended += 1
        self._show(self._line(identity, trial.last_result.get(OBJECTIVE), reason))

    def _spent(self, clock: float) -> str:
        """The clock in words: kimg where budgets are images, else the share of the budget."""
        if self._told["sweep"]["equal"] == "images":
            return f"{clock:g} kimg"
        return f"{clock / self._told['total_kimg']:.0%} of its budget"

    def _line(self, identity: Identity, objective: float | None, reason: str) -> str:
        value = "" if objective is None else f"{self._told['objective']} {objective:.4g}, "
        seconds = (time.monotonic() - self._started) / self._ended * (self._count - self._ended)
        left = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
        return f"{self._ended:4d}/{self._count} trials  {identity.name}: {value}{reason.splitlines()[0][:120]}  eta {left}"


def environment() -> dict[str, str]:
    """What trials' processes must find in their environment."""
    return {
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(THREAD_TIMEOUT_SECONDS),
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
