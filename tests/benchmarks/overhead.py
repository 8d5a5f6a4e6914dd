"""`raygan train` through Ray with one worker against the bare loop: seconds per step, in pairs that take turns.

`python -m tests.benchmarks.overhead [CONFIG] [key=value ...]` prints a table. On a shared machine the same loop is half as fast a minute
later, so the two sides of a pair run at the same time and take turns of seconds: while one runs, every process of the other is stopped.
A side's time per step is the mean over what lies whole within its turns: single steps of the bare loop; from report to report of raygan, so
that reports, pictures, scores and the MLflow writer count.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
from mlflow import MlflowClient

from gan_core.overrides import merge, parse, validate
from pipelines import environment
from pipelines.config import JobConfig, load_named

PAIRS, TURNS, TURN_SECONDS = 5, 6, 5.0
Turns = list[tuple[float, float]]


class Side:
    """A command and everything it started, which can be stopped and continued as one."""

    def __init__(self, folder: str, *command: str) -> None:
        database = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        self.output = Path(folder, f"{command[0]}.txt")
        with self.output.open("w") as output:
            self.process = subprocess.Popen([sys.executable, "-m", *command], env={**os.environ, **database}, stdout=output, stderr=output)
        self.turns: Turns = []

    def signal(self, number: int) -> None:
        """Send a signal to every process, parents first."""
        root = psutil.Process(self.process.pid)
        for member in [root, *root.children(recursive=True)]:
            try:
                member.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def take_turn(self) -> None:
        """Run for a turn, alone."""
        started = time.time()
        self.signal(signal.SIGCONT)
        time.sleep(TURN_SECONDS)
        self.signal(signal.SIGSTOP)
        self.turns.append((started, time.time()))

    def end(self) -> None:
        """End every process."""
        self.signal(signal.SIGKILL)
        self.process.wait()


def seconds_per_step(times: list[float], turns: Turns, steps: int) -> float:
    """The mean over intervals between `times`, each of `steps` steps, that lie whole within a turn."""
    inside = [later - earlier for earlier, later in pairwise(times) if any(start <= earlier and later <= end for start, end in turns)]
    return statistics.mean(inside) / steps


@contextmanager
def both(config: str, words: list[str], folder: str) -> Iterator[tuple[Side, Side, str]]:
    """The two sides, training, and raygan's run id."""
    run = ["total_kimg=1000000", "ray.num_workers=1", f"ray.storage_path={folder}/runs"]
    full = Side(folder, "pipelines.train", config, *words, *run)
    bare = None
    try:
        while not (run_id := full.output.read_text().partition("run ")[2].partition(":")[0]):
            time.sleep(1)
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")  # now that the run has made the database
        while "progress/images_per_second" not in client.get_run(run_id).data.metrics:
            time.sleep(1)
        full.signal(signal.SIGSTOP)
        bare = Side(folder, "tests.benchmarks.bare_loop", config, f"{folder}/times", *words)
        while not Path(folder, "times").is_file() or len(Path(folder, "times").read_text().splitlines()) < 10:
            time.sleep(0.5)
        bare.signal(signal.SIGSTOP)
        yield full, bare, run_id
    finally:
        for side in (full, bare):
            if side is not None:
                side.end()


def measure(config: str, words: list[str], steps_per_report: int) -> tuple[float, float]:
    """Seconds per step of the bare loop and of raygan."""
    with tempfile.TemporaryDirectory(prefix="raygan-bench-") as folder:
        with both(config, words, folder) as (full, bare, run_id):
            for _ in range(TURNS):
                bare.take_turn()
                full.take_turn()
        steps = [float(line) for line in Path(folder, "times").read_text().splitlines()[:-1]]
        history = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").get_metric_history(run_id, "progress/images_seen")
        reports = [point.timestamp / 1000 for point in history]
    return seconds_per_step(steps, bare.turns, 1), seconds_per_step(reports, full.turns, steps_per_report)


def main() -> None:
    """Measure and print."""
    config = sys.argv[1] if len(sys.argv) > 1 else "digits"
    steps_per_report = 20
    words = [*sys.argv[2:], "step_ratio=1:1"]
    batch_size = validate(merge(load_named(config), dict(parse(word) for word in words)), JobConfig).batch_size
    words.append(f"schedule.report_kimg={steps_per_report * batch_size / 1000}")
    hardware = environment.describe()["hardware"]["summary"]
    print(f"{config}: batch {batch_size}, a report every {steps_per_report} steps, {PAIRS} pairs of {TURNS} turns of {TURN_SECONDS:g} s")
    print(f"on {hardware}\n\n| pair | bare loop, ms/step | raygan train, ms/step | ratio |\n|---|---|---|---|")
    ratios = []
    for pair in range(PAIRS):
        floor, whole = measure(config, words, steps_per_report)
        ratios.append(whole / floor)
        print(f"| {pair + 1} | {1e3 * floor:.2f} | {1e3 * whole:.2f} | {ratios[-1]:.3f} |", flush=True)
    print(f"| median | | | {statistics.median(ratios):.3f} |")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    main()
