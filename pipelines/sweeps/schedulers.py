"""Ray Tune's schedulers as a sweep uses them: on one clock, within families first, and with the memory of an interrupted sweep.

Trials report GOODNESS, of which more is better, at CLOCK, their share of the budget in kimg.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from ray.tune.experiment.trial import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, PopulationBasedTraining, TrialScheduler

from pipelines.sweeps import space as spaces
from pipelines.sweeps.config import SweepJobConfig
from pipelines.sweeps.space import Point, Space

GOODNESS, CLOCK, OBJECTIVE = "goodness", "clock", "objective"
WORST = -1e9  # finite: Ray's quantiles of infinities are NaN
MEDIAN_NEEDS = 3
EARLIER = 1.0 - 1e-6  # of a length: Ray adds and multiplies them, and 3 * 0.8 is above 2.4
QUANTILE = 0.25

Result = dict[str, Any]
History = Mapping[int, list[Result]]


class Ghost:
    """A trial of an earlier session, as far as schedulers look at one."""

    def __init__(self, number: int, point: Point) -> None:
        self.trial_id = f"earlier-{number}"
        self.config = {"trial": {"number": number, "point": point}}


class Past(NamedTuple):
    """What trials reported before the sweep was interrupted, by number, the points of those that are not started again, and the numbers
    of the others.
    """

    results: History
    ended: Mapping[int, Point]
    left: Sequence[int] = ()


NO_PAST = Past({}, {})


def build(config: SweepJobConfig, space: Space, past: Past = NO_PAST) -> TrialScheduler:
    """The scheduler that `config.sweep` asks for."""
    sweep = config.sweep
    random.seed(sweep.seed)  # Ray's schedulers draw from the global generators
    np.random.seed(sweep.seed)
    common = {"time_attr": CLOCK, "metric": GOODNESS, "mode": "max"}
    if sweep.scheduler == "fifo":
        return FIFOScheduler()
    if sweep.scheduler == "pbt":
        return Population(
            **common,
            perturbation_interval=config.perturb_kimg * EARLIER,
            hyperparam_mutations={"trial": {"point": spaces.perturbable(space)}},
            quantile_fraction=QUANTILE,
            synch=True,
            log_config=False,
            custom_explore_fn=partial(_put_back, space=space),
            past=past,
        )
    if sweep.scheduler == "asha":
        rule: Callable[..., Any] = partial(
            AsyncHyperBandScheduler, **common, max_t=config.total_kimg, reduction_factor=sweep.reduction_factor, stop_last_trials=False
        )
    else:  # without pauses: a paused trial would give up what it did since its last checkpoint
        rule = partial(MedianStoppingRule, **common, min_samples_required=MEDIAN_NEEDS, min_time_slice=float("inf"))
    until = EARLIER**2 * (sweep.rank_within_kimg or config.total_kimg) if sweep.rank_within else 0.0
    graces = [config.grace_kimg * EARLIER]
    while graces[-1] < until:
        graces.append(graces[-1] * sweep.reduction_factor)
    shared = rule(grace_period=min(graces[-1], config.total_kimg))
    return Stopping(shared, partial(rule, grace_period=graces[0]), within=sweep.rank_within, until=until, past=past)


class Stopping(FIFOScheduler):
    """Early stopping by one of Ray's rules; until the clock is at `until`, by one rule for each family, the value of the key `within`.

    WGAN and penalised games start slowly and end well: against their own kind first they are not stopped for that.
    """

    def __init__(
        self, shared: Any, of_family: Callable[[], Any], *, within: str | None = None, until: float = 0.0, past: Past = NO_PAST
    ) -> None:
        super().__init__()
        self._shared, self._of_family, self._within, self._until, self._past = shared, of_family, within, until, past
        self._families: dict[str, Any] = {}
        self._known: dict[str, list[Any]] = {}
        self._doomed: set[str] = set()
        self._replayed = False

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The rules have them already."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Make the trial known to its rules, and tell them what it, and at first all that ended before, reported in earlier sessions."""
        if not self._replayed:
            self._replayed = True
            for number, point in self._past.ended.items():
                self._remember(tune_controller, Ghost(number, point))
        self._remember(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        """Stop it if its rule says so, or said so before an interruption."""
        if trial.trial_id in self._doomed:
            return str(TrialScheduler.STOP)
        return self._decide(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Result) -> None:
        """Nothing is left to decide; the last result was told when it came."""

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """What it reported stays known."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """What it reported stays known."""

    def debug_string(self) -> str:
        """For Ray's own output, which is off."""
        return f"Stopping within {self._within}, until {self._until:g}"

    def _remember(self, controller: Any, trial: Any) -> None:
        for rule in self._rules(trial):
            rule.on_trial_add(controller, trial)
        decision = ""
        for result in self._past.results.get(trial.config["trial"]["number"], []):
            decision = self._decide(controller, trial, result)
            for rule in self._rules(trial):  # that it reported again shows that it was let go on: the median rule must not hold it stopped
                getattr(rule, "_stopped_trials", set()).discard(trial)
        if decision == TrialScheduler.STOP:
            self._doomed.add(trial.trial_id)

    def _rules(self, trial: Any) -> list[Any]:
        """The family's rule, where there are families, and the one for all."""
        if trial.trial_id not in self._known:
            rules = [self._shared]
            if self._within:
                family = str(trial.config["trial"]["point"].get(self._within))
                rules.insert(0, self._families.setdefault(family, self._of_family()))
            self._known[trial.trial_id] = rules
        return self._known[trial.trial_id]

    def _decide(self, controller: Any, trial: Any, result: Result) -> str:
        rules = self._rules(trial)
        rule = rules[0] if result[CLOCK] < self._until else rules[-1]
        return str(rule.on_trial_result(controller, trial, result))


class Population(PopulationBasedTraining):
    """Ray's synchronous PBT that does not wait for a trial that failed or was stopped.

    Ray looks at the population when a result comes in. Where the last trial that the others wait for ends without one, nothing would ever
    come in again: the sweep would hang.
    """

    def __init__(self, *, past: Past = NO_PAST, **settings: Any) -> None:
        super().__init__(**settings)
        self._gone: set[Trial] = set()
        self._rounds = {number: self._last_round(past.results.get(number, [])) for number in past.left}
        if self._rounds:
            self._next_perturbation_sync = (min(self._rounds.values()) + self._perturbation_interval) * EARLIER

    def _last_round(self, results: list[Result]) -> float:
        """The end of the last round that a member has come to; what follows it is done again from the checkpoint there."""
        last: float = max((result[CLOCK] for result in results), default=0.0)
        reached: float = last // self._perturbation_interval * self._perturbation_interval
        return reached

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A new member, one of an interrupted sweep, or one that crashed and is tried again: it goes on in the round where it was."""
        before = self._trial_state.get(trial)
        super().on_trial_add(tune_controller, trial)
        self._gone.discard(trial)
        number, state = trial.config["trial"]["number"], self._trial_state[trial]
        if before is not None:
            state.last_perturbation_time, state.last_train_time = before.last_perturbation_time, before.last_perturbation_time
        elif number in self._rounds:
            state.last_perturbation_time = state.last_train_time = self._rounds[number]
            if state.last_train_time >= self._next_perturbation_sync:
                trial.status = Trial.PAUSED  # it has come further than others, and waits; Tune starts all that are pending

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        """Wait for the others of the population at the end of a round, where there is a checkpoint, or start the next round."""
        self._excuse()
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """It is no longer waited for."""
        super().on_trial_error(tune_controller, trial)
        self._go_on_without(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Result) -> None:
        """It is no longer waited for."""
        super().on_trial_complete(tune_controller, trial, result)
        self._go_on_without(tune_controller, trial)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        """The other's settings, perturbed, under the trial's own number."""
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return {"trial": {**trial.config["trial"], "point": config["trial"]["point"]}}, operations

    def _go_on_without(self, controller: Any, gone: Trial) -> None:
        """Where every other trial waits at this round's end, let the first of them report once more: that starts the next round."""
        self._gone.add(gone)
        self._excuse()
        others = [trial for trial in controller.get_live_trials() if trial not in self._gone]
        behind = [trial for trial in others if self._trial_state[trial].last_train_time < self._next_perturbation_sync]
        waiting = [trial for trial in others if trial.status == Trial.PAUSED and self._trial_state[trial].last_result]
        if waiting and not behind:
            self.on_trial_result(controller, waiting[0], dict(self._trial_state[waiting[0]].last_result))

    def _excuse(self) -> None:
        """Trials that are gone count as having come as far as the round goes, without a score: nobody waits for them or copies them."""
        for trial in self._gone:
            self._trial_state[trial].last_train_time, self._trial_state[trial].last_score = self._next_perturbation_sync, None


def _put_back(config: dict[str, Any], *, space: Space) -> dict[str, Any]:
    """Ray's perturbation leaves ranges."""
    return {"trial": {**config["trial"], "point": spaces.within(config["trial"]["point"], space)}}
