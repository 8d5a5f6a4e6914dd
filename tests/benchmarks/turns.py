"""Two sides that take turns: processes of tests.benchmarks.side, one training while the other waits, and what to make of their times.

On a shared machine the same loop is half as fast a minute later, so sides are compared turn by turn; and the same program is some percent
faster in one process than in another (where its memory lies), so a comparison starts its processes several times, and its interval is that
of the starts.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Process:
    """A process that takes orders and answers each, a line of JSON both ways; `log` takes what else it says."""

    def __init__(self, name, command, log, *, root=ROOT, threads=1):
        self.name, self.log = name, Path(log)
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=root,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(root)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def order(self, **order):
        """The answer to an order; raises as `answer` does."""
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            self.process.wait()  # `answer` finds its end
        return self.answer()

    def answer(self):
        """The next line that the process writes.

        Raises:
            RuntimeError: it ended, with its last words.
        """
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}: ...{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def end(self):
        """End the process."""
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


class Side(Process):
    """One side of a comparison of two; `root` is the folder whose gan_core it is to import, `ways` the floor's by case."""

    def __init__(self, kind, folder, *, root=ROOT, threads=1, device="cpu", words=(), ways=None):
        given = {"kind": kind, "folder": str(folder), "threads": threads, "device": device, "words": list(words), "ways": ways or {}}
        command = [sys.executable, "-m", "tests.benchmarks.side", json.dumps(given)]
        super().__init__("a side", command, Path(folder, f"{kind}-{id(self)}.txt"), root=root, threads=threads)

    def turn(self, case, seconds):
        """What the process tells of a turn of about so long; raises as `answer` does."""
        return self.order(case=case, seconds=seconds)


@contextmanager
def started(*makers):
    """The sides, which are ended whatever happens."""
    with ExitStack() as stack:
        sides = []
        for make in makers:
            sides.append(make())
            stack.callback(sides[-1].end)
        yield sides


FEWEST_TURNS = 4


def interleaved(sides, case, *, seconds, turn):
    """For each turn a tuple of what each side told, until that took each side `seconds`; a `turn` has as many seconds or one round.

    Who begins changes from turn to turn. A first turn that warms up is left out.
    """
    for side in sides:
        side.turn(case, turn)
    found, began = [], time.monotonic()
    while len(found) < FEWEST_TURNS or time.monotonic() < began + seconds * len(sides):
        order = list(range(len(sides)))[:: 1 if len(found) % 2 == 0 else -1]
        told = {place: sides[place].turn(case, turn) for place in order}
        found.append(tuple(told[place] for place in range(len(sides))))
    return found


def ratio(pairs, key="round"):
    """The median over turns of the second side's median seconds over the first's."""
    return statistics.median(statistics.median(b[key]) / statistics.median(a[key]) for a, b in pairs)


class Interval(NamedTuple):
    """A ratio of times, the ends of its confidence interval, and the one-sided lower bound that an alarm is about."""

    ratio: float
    low: float
    high: float
    bound: float


def interval(ratios, *, confidence=0.95, alarm=0.01):
    """Student's interval on logarithms of the `ratios`, one for each start of the processes; `alarm` is the bound's chance of being above a
    true ratio.

    Raises:
        ValueError: fewer than two ratios, or one that is not positive.
    """
    from scipy import stats

    if len(ratios) < 2 or min(ratios) <= 0.0:
        raise ValueError(f"an interval needs two positive ratios or more, given {ratios}")
    logs = [math.log(value) for value in ratios]
    centre, error, freedom = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs)), len(logs) - 1
    half = stats.t.ppf(0.5 + confidence / 2, freedom) * error
    bound = centre - stats.t.ppf(1.0 - alarm, freedom) * error
    return Interval(*(math.exp(value) for value in (centre, centre - half, centre + half, bound)))


def spread(values, scale=1e3, form="{:.2f}"):
    """`median (first quartile..third quartile)`, times `scale`."""
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    low, middle, high = (form.format(scale * value) for value in quartiles)
    return f"{middle} ({low}..{high})"
