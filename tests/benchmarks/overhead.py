"""`raygan train` through Ray, with MLflow and progress, against loops without them: seconds per step, in short turns.

    python -m tests.benchmarks.overhead [CONFIG] [key=value ...] [--workers 1 2] [--against core plain] [--rounds 6] [--starts 4]

`core` is gan_core's own loop with the same schedule of reports, `plain` the shortest PyTorch loop (bare_loop.py); two workers are
compared with two torchrun workers, gloo on the loopback device, one thread each. Of the default, 1 worker against both and 2 against
`core`, in half an hour. `--steps-per-report 39` is what digits has of its own; 20 asks for twice as much. Scores, pictures and checkpoints,
which one side has and the other not, are put off.

On a shared machine the same loop is half as fast a minute later, so the sides live at the same time and take turns of seconds, in another
order each round: while one runs, every process of the others is stopped. A process that goes on finds all its timers due at once, and Ray
has many processes with many timers: two seconds of each turn of either side pass before anything counts. A side's time per step in a round
is the mean over the intervals from report to report (`plain`: over steps) that lie whole within its turn. The ratio is the median of the
rounds' ratios. The same program is some percent faster in one process than in another, by where its memory lies, so that rounds of one
start are not the whole truth: sides start several times, and the interval of 95 % is that of the starts' ratios (of one start, a bootstrap
over its rounds).
Below the limit as a whole it is kept, above it as a whole it is not, else the measurement was too noisy or too short.

The second table says where the CPU time of raygan's turns goes, in percent of a core: by process, and by the threads of the workers. It
depends less on what else the machine does, and is what to look at where the ratio is noise.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import psutil
from mlflow import MlflowClient

from gan_core.overrides import merge, parse, validate
from pipelines import environment
from pipelines.config import JobConfig, load_named
from pipelines.run_writer import CLOCK
from tests.benchmarks.turns import interval

LIMIT = 1.02
STEPS_PER_REPORT = 20
READY_SECONDS = 180.0
RESAMPLES = 10_000


class Side:
    """A command and everything it started, which can be stopped and continued as one. `steps` lie between two of its times."""

    def __init__(self, name, folder, command, *, steps, accounts=False):
        self.name, self.steps, self.accounts = name, steps, accounts
        self.turns, self.spent, self.names = [], defaultdict(float), {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        self.output = Path(folder, f"{name}.txt")
        with self.output.open("w") as output:
            self.process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=output, stderr=output)

    def wait_until(self, ready):
        """Wait for it to train."""
        give_up_at = time.monotonic() + READY_SECONDS
        while not ready():
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{self.name} does not train:\n{self.output.read_text()[-2000:]}")
            time.sleep(0.5)

    def members(self):
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def signal(self, number):
        """Send a signal to every process, parents first."""
        for member in self.members():
            try:
                member.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def take_turn(self, seconds, settling):
        """Run for a turn, alone; what counts begins after `settling` seconds."""
        self.signal(signal.SIGCONT)
        time.sleep(settling)
        before = self.cpu_seconds() if self.accounts else {}
        started = time.time()
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        self.turns.append((started, time.time()))
        if self.accounts:
            for thread, used in self.cpu_seconds().items():
                self.spent[thread] += used - before.get(thread, 0.0)

    def cpu_seconds(self):
        """Of each thread of each process so far: (process, thread, its name) to seconds. Linux."""
        found = {}
        for member in self.members():
            try:
                self.names.setdefault(member.pid, _title(member))
                for task in Path(f"/proc/{member.pid}/task").iterdir():
                    used = int((task / "schedstat").read_text().split()[0])
                    found[member.pid, int(task.name), (task / "comm").read_text().strip()] = used / 1e9
            except (OSError, psutil.NoSuchProcess):
                continue
        return found

    def end(self):
        """End every process."""
        self.signal(signal.SIGKILL)
        self.process.wait()


def _title(process):
    """What a process is called in a table."""
    words = [word for word in process.cmdline() if word and not word.startswith("-")]
    if not words:
        return process.name()
    if words[0].startswith("ray::"):
        return words[0].split()[0]
    script = next((word for word in words[1:] if word.endswith(".py")), words[1] if "python" in words[0] and len(words) > 1 else words[0])
    return Path(script).name


def seconds_per_step(times, turns, steps):
    """For each turn the mean over the intervals between `times`, of `steps` steps each, that lie whole within it; None where none does."""
    found = []
    for start, end in turns:
        inside = [later - earlier for earlier, later in pairwise(times) if start <= earlier and later <= end]
        found.append(statistics.mean(inside) / steps if inside else None)
    return found


def median_ratio(above, below, seed=0):
    """The median of the paired ratios, and the 2.5 % and 97.5 % quantiles of that of resampled pairs."""
    ratios = [a / b for a, b in zip(above, below, strict=True) if a is not None and b is not None]
    if not ratios:
        raise RuntimeError("no turn held a whole interval between two reports; take longer ones (--seconds)")
    source = random.Random(seed)
    medians = sorted(statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return statistics.median(ratios), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def over_starts(pairs):
    """The ratio over starts, ends of its interval, and the ratio of each start: of a pair of seconds by round, raygan's and the other."""
    each = [median_ratio(*pair) for pair in pairs]
    if len(each) == 1:
        return *each[0], [each[0][0]]
    ratios = [ratio for ratio, _, _ in each]
    found = interval(ratios)
    return found.ratio, found.low, found.high, ratios


def verdict(low, high, limit=LIMIT):
    """What an interval says of the limit."""
    return "kept" if high <= limit else "not kept" if low > limit else "undecided"


def measure(config, words, workers, against, *, rounds, seconds, settling, steps):
    """The sides, having taken their turns, each with its time per step by round."""
    with tempfile.TemporaryDirectory(prefix="raygan-bench-") as folder, ExitStack() as stack:

        def start(name, command, **options):
            side = Side(name, folder, command, **options)
            stack.callback(side.end)
            return side

        run = ["total_kimg=1000000", f"ray.num_workers={workers}", f"ray.storage_path={folder}/runs"]
        full = start("raygan train", ["pipelines.train", config, *words, *run], steps=steps, accounts=True)
        full.wait_until(lambda: " images/s" in full.output.read_text())
        run_id = full.output.read_text().partition("run ")[2].partition(":")[0]
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        full.wait_until(lambda: client.get_metric_history(run_id, CLOCK))  # what writes there has started too
        full.signal(signal.SIGSTOP)
        sides = [full]
        for loop in against:
            times = Path(folder, f"{loop}.times")
            command = ["tests.benchmarks.bare_loop", loop, config, str(times), *words, "total_kimg=1000000"]
            if workers > 1:
                torchrun = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(workers)]
                command = [*torchrun, "-m", *command]
            side = start(loop, command, steps=steps if loop == "core" else 1)
            side.wait_until(lambda times=times: times.is_file() and len(times.read_text().splitlines()) > 3)
            side.signal(signal.SIGSTOP)
            side.times = times
            sides.append(side)
        for number in range(rounds):
            for side in random.Random(number).sample(sides, len(sides)):
                side.take_turn(seconds, settling)
        for side in sides[1:]:
            side.seconds = seconds_per_step([float(line) for line in side.times.read_text().splitlines()[:-1]], side.turns, side.steps)
        full.signal(signal.SIGCONT)
        end = full.turns[-1][1]
        while True:  # its writer is behind by some seconds
            points = client.get_metric_history(run_id, CLOCK)
            if any(point.timestamp / 1000 > end for point in points):
                break
            time.sleep(0.5)
        full.seconds = seconds_per_step([point.timestamp / 1000 for point in points], full.turns, full.steps)
    return sides


def tell_cpu(side):
    """Where the CPU time of a side's turns went, in percent of a core."""
    lasted = sum(end - start for start, end in side.turns)
    by_process, by_thread = defaultdict(float), []
    busiest = {}
    for (pid, thread, name), used in side.spent.items():
        by_process[pid] += 100 * used / lasted
        if used > busiest.get(pid, (0.0, 0))[0]:
            busiest[pid] = (used, thread)
        by_thread.append((100 * used / lasted, pid, thread, name))
    workers = {pid for pid in by_process if "TrainWorker" in side.names.get(pid, "")}
    print("\n| process, or thread of a worker | % of a core |\n|---|---|")
    for pid, share in sorted(by_process.items(), key=lambda item: -item[1]):
        if share >= 0.05:
            print(f"| {side.names.get(pid, pid)} | {share:.2f} |")
    for share, pid, thread, name in sorted(by_thread, reverse=True):
        if pid in workers and share >= 0.05:
            what = "trains" if busiest[pid][1] == thread else "beside it"
            print(f"| worker {pid}: {name}, {what} | {share:.2f} |")
    trains = sum(100 * busiest[pid][0] / lasted for pid in workers)
    print(f"| all but the training threads | {sum(by_process.values()) - trains:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="digits")
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--against", nargs="+", choices=("core", "plain"), help="default: both for one worker, core for more")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--steps-per-report", type=int, default=STEPS_PER_REPORT)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn")
    parser.add_argument("--settling", type=float, default=2.0, help="seconds before those, which do not count")
    given = parser.parse_intermixed_args()
    words = [*given.words, "step_ratio=1:1"]
    batch_size = validate(merge(load_named(given.config), dict(parse(word) for word in words)), JobConfig).batch_size
    steps = given.steps_per_report
    words.append(f"schedule.report_kimg={steps * batch_size / 1000}")
    words += [f"schedule.{what}_kimg=1000000" for what in ("sample", "evaluate", "checkpoint")]
    print(
        f"{given.config}: batch {batch_size}, a report every {steps} steps, {given.starts} starts, {given.rounds} rounds of "
        f"{given.seconds:g} s turns"
    )
    print(f"on {environment.describe_hardware()['summary']}")
    for workers in given.workers:
        against = given.against or (["core", "plain"] if workers == 1 else ["core"])
        how = {"rounds": given.rounds, "seconds": given.seconds, "settling": given.settling, "steps": steps}
        starts = [measure(given.config, words, workers, against, **how) for _ in range(given.starts)]
        print("\n| workers | against | it, ms/step | raygan train, ms/step | ratio | 95 % interval | at most 1.02 | of each start |")
        print("|---|---|---|---|---|---|---|---|")
        for number, loop in enumerate(against, start=1):
            pairs = [(sides[0].seconds, sides[number].seconds) for sides in starts]
            ratio, low, high, each = over_starts(pairs)
            times = [1e3 * statistics.median(x for pair in pairs for x in pair[place] if x is not None) for place in (1, 0)]
            said = verdict(low, high) if loop == "core" else "-"
            shown = f"{ratio:.3f} | {low:.3f} to {high:.3f} | {said} | {', '.join(f'{one:.3f}' for one in each)}"
            print(f"| {workers} | {loop} | {times[0]:.2f} | {times[1]:.2f} | {shown} |")
        tell_cpu(starts[-1][0])


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    main()
