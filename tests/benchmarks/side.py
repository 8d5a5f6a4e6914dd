"""One side of a comparison: a process that trains when it is told to, and tells how long it took.

`python -m tests.benchmarks.side JSON` reads one order a line, {"case": name, "seconds": s}, trains rounds for about that long, and answers
with a line of JSON: {"round": [seconds of each round], "d": [seconds of each D step], "g": [of each G step], "cpu": [processor seconds of
each round]}. Between orders it waits, and the machine is the other side's. What `gan_core` is, is a matter of the folder it is started in.
"""

import json
import os
import sys
import time

import torch

from gan_core import Trainer
from pipelines import pages
from tests.benchmarks import cases


class Product:
    """raygan's own loop: rounds of steps, the average of the generator, statistics. Not in it: reports, scores, checkpoints."""

    def __init__(self, config, device):
        self.trainer = Trainer(config, device=device, evaluates=False)
        self.way = {}

    def round(self):
        self.trainer._round()

    def settle(self):
        """What a report would do with the statistics."""
        self.trainer.state.history.read(None)


class Clock:
    """Seconds of calls, by name. On a GPU they are those between two moments of its stream, and nobody waits until they are read."""

    def __init__(self, device):
        self.cuda, self.marks = device.type == "cuda", {}

    def moment(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def timed(self, name, function):
        """`function`, timed at each call."""

        def call(*args, **kwargs):
            began = self.moment()
            out = function(*args, **kwargs)
            self.marks.setdefault(name, []).append((began, self.moment()))
            return out

        return call

    def read(self):
        """The seconds of all calls since the last reading."""
        if self.cuda:
            torch.cuda.synchronize()
        seconds = {name: [a.elapsed_time(b) / 1e3 if self.cuda else b - a for a, b in marks] for name, marks in self.marks.items()}
        self.marks.clear()
        return seconds


def build(given, case):
    """The loop of this side for a case, its clock, and what else was tried."""
    config = cases.config(case, given["folder"], given["words"])
    device = torch.device(given["device"])
    tried = {}
    if given["kind"] == "product":
        loop = Product(config, device)
    else:
        from tests.benchmarks import floor  # reads more of gan_core than every commit has in the same place

        if case in given["ways"]:
            loop = floor.Floor(config, device, **given["ways"][case])
        else:
            loop, tried = floor.fastest(config, device)
    clock, steps = Clock(device), getattr(loop, "trainer", loop)
    steps.step_discriminator = clock.timed("d", steps.step_discriminator)
    steps.step_generator = clock.timed("g", steps.step_generator)
    return loop, clock, tried


def turn(loop, clock, seconds):
    """Rounds for about so long, one at least."""
    until, last, cpu = time.perf_counter() + seconds, False, []

    def round_():
        loop.round()
        if last and isinstance(loop, Product):
            loop.settle()

    timed = clock.timed("round", round_)
    while not last:
        last, began = time.perf_counter() >= until, time.process_time()
        timed()
        cpu.append(time.process_time() - began)
    return clock.read() | {"cpu": cpu}


def main():
    given = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    torch.set_num_threads(given["threads"])
    pages.keep()  # as `raygan train` does: both loops have it
    loops = {}
    for line in sys.stdin:
        order = json.loads(line)
        case = order["case"]
        if case not in loops:
            loops = {case: build(given, case)}  # one at a time, for the memory
        loop, clock, tried = loops[case]
        answer = turn(loop, clock, order["seconds"]) | {"way": loop.way, "tried": tried}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
