"""What a sweep found, as plain data read from MLflow: a row for each trial, its curves, and the comparison over fresh seeds."""

from typing import Any, NamedTuple

import numpy as np

SCREEN, CONFIRM = "screen", "confirm"
SPENT = "budget spent"
CONFIDENCE, ROUNDING = 0.95, 1e-12


class Row(NamedTuple):
    """One trial. `number` names it within the sweep; `configuration` is the number of the screening trial whose settings it has.

    `point` holds the dotted keys that were searched; `variant` and `step_ratio` are those of the resolved config, with the loss's name
    where no variant is set, and empty where the config was refused. `status` is MLflow's; `reason` says why the trial ended, and is
    empty while it runs. `scores` are the last ones, such as `score` or `kid_lenet`, without the prefix `quality/`.
    """

    number: int
    configuration: int
    phase: str
    run_id: str
    point: dict[str, Any]
    variant: str
    step_ratio: str
    seed: int
    status: str
    reason: str
    scores: dict[str, float]
    kimg: float
    d_steps: int
    g_steps: int
    device_seconds: float

    @property
    def complete(self) -> bool:
        """Whether the whole budget was spent: only then can the last score be compared with others'."""
        return self.reason == SPENT


class Curve(NamedTuple):
    """A trial's scores at its evaluations, and what it had spent by then; all of one length."""

    images_seen: list[int]
    g_steps: list[int]
    device_seconds: list[float]
    scores: dict[str, list[float]]


class Estimate(NamedTuple):
    """The mean of the objective over `seeds` fresh seeds with its confidence interval, NaN where one seed gives none."""

    configuration: int
    mean: float
    low: float
    high: float
    seeds: int


class Comparison(NamedTuple):
    """The best configuration against the runner-up over the seeds that both were trained with: the paired t-test.

    `difference` is winner minus runner-up, with its confidence interval; `p` is two-sided. `difference` is signed as the objective is.
    """

    winner: int
    runner_up: int
    difference: float
    low: float
    high: float
    p: float
    seeds: int


class Findings(NamedTuple):
    """A sweep as far as it has come: `planned` trials of the screening, and what is repeated beside them.

    `higher` says whether more of `objective` is better; `distance` names a score of which less is better, or is empty. `estimates`
    are of the repeated configurations, best first; `best` is the configuration to take, if any. `equal` is what the trials' budgets
    are equal in, and `budget` its amount in words.
    """

    name: str
    objective: str
    higher: bool
    distance: str
    equal: str
    budget: str
    planned: int
    rows: list[Row]
    estimates: list[Estimate]
    comparison: Comparison | None
    best: int | None

    def better(self, left: float, right: float) -> bool:
        """Whether `left` is better than `right` by the objective."""
        return left > right if self.higher else left < right

    def row(self, number: int) -> Row:
        """The trial of this number."""
        return next(row for row in self.rows if row.number == number)


def rank(rows: list[Row], objective: str, *, higher: bool) -> list[Row]:
    """Complete trials with a finite objective, the best first; equal ones by number."""
    able = [row for row in rows if row.complete and np.isfinite(row.scores.get(objective, np.nan))]
    return sorted(able, key=lambda row: (-row.scores[objective] if higher else row.scores[objective], row.number))


def estimates(rows: list[Row], objective: str, *, higher: bool) -> list[Estimate]:
    """For each configuration that was repeated its mean over fresh seeds: those with most seeds first, among these the best.

    Screening results are left out: a configuration was chosen because its own was good, so it would flatter it.
    """
    groups: dict[int, list[float]] = {}
    for row in rank([row for row in rows if row.phase == CONFIRM], objective, higher=higher):
        groups.setdefault(row.configuration, []).append(row.scores[objective])
    found = [Estimate(configuration, *_mean_and_interval(values), len(values)) for configuration, values in groups.items()]
    return sorted(found, key=lambda estimate: (-estimate.seeds, -estimate.mean if higher else estimate.mean))


def compare(rows: list[Row], objective: str, winner: int, runner_up: int) -> Comparison | None:
    """The paired comparison of two configurations, None where they share fewer than two seeds."""
    by_seed: dict[int, dict[int, float]] = {winner: {}, runner_up: {}}
    for row in rows:
        if row.phase == CONFIRM and row.configuration in by_seed and row.complete and np.isfinite(row.scores.get(objective, np.nan)):
            by_seed[row.configuration][row.seed] = row.scores[objective]
    seeds = sorted(by_seed[winner].keys() & by_seed[runner_up].keys())
    if len(seeds) < 2:
        return None
    differences = [by_seed[winner][seed] - by_seed[runner_up][seed] for seed in seeds]
    mean, low, high = _mean_and_interval(differences)
    return Comparison(winner, runner_up, mean, low, high, _p_value(differences), len(seeds))


def _p_value(differences: list[float]) -> float:
    """Two-sided, of Student's test that their mean is 0; where all are equal, to rounding, its statistic is 0/0, or infinite."""
    if np.ptp(differences) <= ROUNDING * np.max(np.abs(differences)):
        return 1.0 if differences[0] == 0.0 else 0.0
    from scipy import stats  # here, because every trial's process loads this module, and does without the second that it takes

    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and Student's interval at CONFIDENCE; NaN bounds for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    from scipy import stats

    half = float(stats.t.ppf((1.0 + CONFIDENCE) / 2.0, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half
