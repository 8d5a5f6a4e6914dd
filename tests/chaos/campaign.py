"""Which faults strike which runs and when, as a function of the seed; and the conduct of each such scenario."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos import faults, injected, judge, machines
from tests.chaos.faults import Fault, NotStruckError
from tests.chaos.judge import HANG, PROCESS, STATUS, Finding, Left
from tests.chaos.runs import SECONDS_AT_MOST, TOTAL, Run, words
from tests.pipelines.hosts import Network
from tests.pipelines.services import Tracking

TRACKING = "tracking server gone"
EARLIEST, LATEST = 0.1, 0.75  # share of the budget at which a fault strikes
STRIKES_AT_MOST = {"training": 3, "scored beside": 1, "sweep": 2, "machines": 2, "injected": 1}


class Strike(NamedTuple):
    """One fault: at which share of the budget, how many seconds after that, and a random number that chooses its victim."""

    kind: str
    at: float
    delay: float
    chance: float


class Scenario(NamedTuple):
    """One run and what happens to it; `stage` is a key of STRIKES_AT_MOST."""

    number: int
    stage: str
    strikes: tuple[Strike, ...]


def kinds(*, with_machines: bool) -> dict[str, list[str]]:
    """The kinds of fault that are known, by the stage on which they appear."""
    return {
        "training": [*faults.TRAINING, TRACKING],
        "scored beside": [*faults.SCORED_BESIDE],
        "sweep": [*faults.SWEEP, TRACKING],
        "injected": [*injected.FAULTS],
        **({"machines": [*machines.FAULTS]} if with_machines else {}),
    }


def plan(seed: int, count: int, *, with_machines: bool) -> list[Scenario]:
    """At least `count` faults, among them every kind on every stage; the same for the same arguments."""
    draw, known = random.Random(seed), kinds(with_machines=with_machines)
    wanted = [(stage, kind) for stage, names in known.items() for kind in names]
    while len(wanted) < count:
        stage = draw.choice([stage for stage in known for _ in known[stage]])
        wanted.append((stage, draw.choice(known[stage])))
    scenarios: list[Scenario] = []
    for stage, most in STRIKES_AT_MOST.items():
        mine = [kind for where, kind in wanted if where == stage]
        draw.shuffle(mine)
        for first in range(0, len(mine), most):
            together = mine[first : first + most]
            width = (LATEST - EARLIEST) / len(together)
            moments = [EARLIEST + width * (index + draw.random()) for index in range(len(together))]
            strikes = tuple(Strike(kind, at, draw.uniform(0.0, 1.5), draw.random()) for kind, at in zip(together, moments, strict=True))
            scenarios.append(Scenario(len(scenarios), stage, strikes))
    return scenarios


class Struck(NamedTuple):
    """What became of one strike: the words of its fault, or why it did not strike; `wrong` where the run took it badly at once."""

    strike: Strike
    done: str
    struck: bool
    wrong: bool = False


class Campaign:
    """The place of a campaign: its folder, its tracking server, and what undisturbed runs left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tracking").mkdir(parents=True)
        self.server = Tracking(folder / "tracking")
        self._wanted: dict[str, list[Left]] = {}
        self._pair: machines.Pair | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Campaign":
        self.server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self.server.end()

    def pair(self) -> machines.Pair:
        """Two hosts, for all scenarios that need them."""
        if self._pair is None:
            self._pair = machines.Pair(self._stack.enter_context(Network()), self.folder / "tracking-on-a-host")
        return self._pair

    def wanted(self, stage: str) -> list[Left]:
        """What an undisturbed run leaves; made once."""
        if stage not in self._wanted:
            with ExitStack() as stack:
                run = self.new(f"quiet-{stage.replace(' ', '-')}", stack)
                run.start(*words(stage, run, self.server.uri))
                status = run.finish(SECONDS_AT_MOST)
                assert status == 0, f"an undisturbed run ended with {status}: {run.said[-3000:]}"
                self._wanted[stage] = run.left()
        return self._wanted[stage]

    def new(self, name: str, stack: ExitStack) -> Run:
        """A run in a folder and on a disk of its own, of which nothing is left when the stack is closed but the folder."""
        folder = self.folder / name
        folder.mkdir()
        place = stack.enter_context(faults.disk(folder / "disk", megabytes=64))
        run = Run(folder, self.server.uri, storage=str(place / "runs"))
        stack.callback(run.end)
        return run

    def conduct(self, scenario: Scenario) -> tuple[list[Struck], list[Finding], float]:
        """Run it, strike it, judge it; with how long that took."""
        if scenario.stage == "machines":
            return machines.conduct(self, scenario)
        if scenario.stage == "injected":
            return injected.conduct(self, scenario)
        wanted = self.wanted(scenario.stage)
        with ExitStack() as stack:
            run = self.new(f"scenario-{scenario.number:02d}", stack)
            began = time.monotonic()
            run.start(*words(scenario.stage, run, self.server.uri))
            return self.judged(run, list(self.strike(run, scenario, self.known(scenario.stage))), wanted, began)

    def known(self, stage: str) -> dict[str, Fault]:
        """The faults of a stage by their names."""
        known = {"training": faults.TRAINING, "scored beside": faults.SCORED_BESIDE, "sweep": faults.SWEEP}[stage]
        return {**known, TRACKING: faults.tracking_gone(self.server)}

    def strike(self, run: Run, scenario: Scenario, known: dict[str, Fault]) -> Iterator[Struck]:
        """Each of the scenario's strikes at its moment."""
        for strike in scenario.strikes:
            try:
                if not run.reach(strike.at * TOTAL):
                    raise NotStruckError(f"the run was over, or did not come to {strike.at:.0%}")
                time.sleep(strike.delay)
                done = known[strike.kind](run, strike.chance)
            except NotStruckError as reason:
                yield Struck(strike, str(reason), struck=False)
            except AssertionError as reason:
                yield Struck(strike, str(reason), struck=True, wrong=True)
            else:
                yield Struck(strike, done, struck=True)

    def judged(
        self, run: Run, struck: list[Struck], wanted: list[Left], began: float, *, exact: bool = True
    ) -> tuple[list[Struck], list[Finding], float]:
        """Wait for the end of a run that was struck, and compare what it left."""
        findings = [Finding(STATUS, each.done) for each in struck if each.wrong]
        status = run.finish(max(60.0, SECONDS_AT_MOST - (time.monotonic() - began)))
        if status is None:
            return struck, [*findings, Finding(HANG, f"it had not ended after {time.monotonic() - began:.0f} s")], time.monotonic() - began
        if status != 0:
            findings.append(Finding(STATUS, f"the exit status is {status}: {run.said[-1500:]}"))
        findings += [Finding(PROCESS, f"still there: {words}") for words in run.leaves_nothing()]
        left = run.left()
        if len(left) != len(wanted):
            findings.append(Finding(judge.LOST, f"{len(left)} runs in MLflow, not {len(wanted)}"))
        for mine, theirs in zip(left, wanted, strict=False):
            findings += judge.compare(mine, theirs, exact=exact)
        return struck, findings, time.monotonic() - began


def lines(scenario: Scenario, struck: list[Struck], findings: list[Finding], seconds: float) -> Iterator[dict[str, Any]]:
    """What the log keeps: one line for each fault."""
    for number, each in enumerate(struck):
        yield {
            "scenario": scenario.number,
            "strike": number,
            "stage": scenario.stage,
            "kind": each.strike.kind,
            "at_kimg": round(each.strike.at * TOTAL / 1000, 2),
            "delay_seconds": round(each.strike.delay, 2),
            "struck": each.struck,
            "done": each.done,
            "seconds": round(seconds, 1),
            "findings": [finding._asdict() for finding in findings],
        }


def read(path: Path, seed: int) -> list[dict[str, Any]]:
    """The lines of an earlier, aborted session of the same campaign.

    Raises:
        ValueError: it was another campaign.
    """
    if not path.is_file():
        return []
    head, *rest = [json.loads(line) for line in path.read_text().splitlines()]
    if head["seed"] != seed:
        raise ValueError(f"{path} is of a campaign with seed {head['seed']}, not {seed}; give that seed, or another file")
    return rest
