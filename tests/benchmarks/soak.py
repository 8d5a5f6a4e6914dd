"""A long training with everything that it does on the way, and what each of its processes holds: resident memory and open files.

`python -m tests.benchmarks.soak [--minutes 30] [--out FILE] [key=value ...]`: the digits on two Ray workers, with scores, pictures and
checkpoints every few seconds, all of it sent to MLflow. Every process of the run is looked at every SECONDS_BETWEEN seconds. After the
warm-up a straight line is fitted to its resident memory by least squares; a leak is a slope that its standard error does not explain.
Exit status 1 where a process grows by MOST_PER_MINUTE or more, or holds more open files at the end than at the beginning.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from pipelines import environment

SECONDS_BETWEEN = 2.0
WARM_UP = 0.2  # of the time: allocators and caches fill
MOST_PER_MINUTE = 1.0  # MB
CONFIG = ("digits", "total_kimg=1000000", "schedule.report_kimg=5", *(f"schedule.{what}_kimg=15" for what in ("sample", "evaluate")))
WORDS = (*CONFIG, "schedule.checkpoint_kimg=15", "ray.num_workers=2")


class Look(NamedTuple):
    """One process at one moment: minutes since the start, MB resident, open files."""

    minutes: float
    megabytes: float
    files: int


class Trend(NamedTuple):
    """What became of one process after the warm-up; megabytes and MB per minute."""

    role: str
    first: float
    last: float
    slope: float
    error: float
    files_before: float
    files_after: float

    @property
    def holds(self) -> bool:
        """Whether neither memory nor files grow."""
        return self.slope < MOST_PER_MINUTE and self.files_after <= self.files_before


def role_of(process: psutil.Process, driver: int) -> str:
    """What a process is to the run, from its command line."""
    words = " ".join(process.cmdline())
    if process.pid == driver:
        return "driver"
    if found := re.match(r"ray::(.*)", words):
        name = found[1].split(".")[0].split(":")[-1].strip("_<> ").split("<")[0]
        return {"RayTrainWorker": "worker", "TrainController": "controller", "Board": "board"}.get(name, name)
    for part, name in (
        ("gcs_server", "gcs_server"),
        ("raylet/raylet", "raylet"),
        ("log_monitor", "log monitor"),
        ("monitor.py", "monitor"),
    ):
        if part in words:
            return name
    return "agent" if "agent" in words else Path(process.cmdline()[0]).name if process.cmdline() else "?"


def look(driver: int, started: float, seen: dict[tuple[int, str], list[Look]]) -> None:
    """Add one look at every process of the run to `seen`."""
    root = psutil.Process(driver)
    for process in (root, *root.children(recursive=True)):
        try:
            with process.oneshot():
                found = Look((time.monotonic() - started) / 60, process.memory_info().rss / 1e6, process.num_fds())
                seen[process.pid, role_of(process, driver)].append(found)
        except psutil.Error:  # it ended meanwhile
            continue


def trend(role: str, looks: Sequence[Look]) -> Trend:
    """The straight line through a process's resident memory, and the middle number of open files of its first and last third."""
    minutes, megabytes = np.array([look.minutes for look in looks]), np.array([look.megabytes for look in looks])
    centred = minutes - minutes.mean()
    slope = float(centred @ megabytes / (centred @ centred))
    residual = megabytes - megabytes.mean() - slope * centred
    error = float(np.sqrt(residual @ residual / (len(looks) - 2) / (centred @ centred)))
    third = max(1, len(looks) // 3)
    files = [look.files for look in looks]
    return Trend(
        role, megabytes[0].item(), megabytes[-1].item(), slope, error, statistics.median(files[:third]), statistics.median(files[-third:])
    )


def trends(seen: dict[tuple[int, str], list[Look]], minutes: float) -> list[Trend]:
    """Of every process that was there from the end of the warm-up to the end, the largest first."""
    found = []
    for (_, role), looks in seen.items():
        late = [look for look in looks if look.minutes >= WARM_UP * minutes]
        if late and late[0].minutes < (WARM_UP + 0.1) * minutes and looks[-1].minutes > 0.95 * minutes and len(late) > 10:
            found.append(trend(role, late))
    return sorted(found, key=lambda trend: -trend.last)


def soak(minutes: float, words: Sequence[str], folder: str) -> tuple[list[Trend], str]:
    """Train for so long, then ask the run to stop; returns the trends, and the command's last words."""
    output = Path(folder, "output.txt")
    with output.open("w") as file:
        command = [sys.executable, "-m", "pipelines.train", *WORDS, f"ray.storage_path={folder}/runs", *words]
        database = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        process = subprocess.Popen(command, env={**os.environ, **database}, stdout=file, stderr=subprocess.STDOUT)
    seen: dict[tuple[int, str], list[Look]] = defaultdict(list)
    try:
        while not list(Path(folder, "runs").glob("*/checkpoint_0*/checkpoint.json")):
            assert process.poll() is None, output.read_text()
            time.sleep(0.5)
        started = time.monotonic()
        while time.monotonic() < started + 60 * minutes:
            assert process.poll() is None, output.read_text()
            look(process.pid, started, seen)
            time.sleep(SECONDS_BETWEEN)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=300)
    finally:
        process.kill()
    return trends(seen, minutes), output.read_text()[-1000:]


def table(found: Sequence[Trend]) -> str:
    """Markdown."""
    lines = [
        "| process | MB at first | MB at last | MB/min | standard error | open files, first third | last third |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        memory = f"{each.first:.0f} | {each.last:.0f} | {each.slope:+.3f} | {each.error:.3f}"
        lines.append(f"| {each.role} | {memory} | {each.files_before:g} | {each.files_after:g} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print and write the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", help="a Markdown file for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raygan-soak-") as folder:
        found, said = soak(options.minutes, options.words, folder)
    growing = [each for each in found if not each.holds]
    verdict = f"None grows by {MOST_PER_MINUTE:g} MB/min or more, and none holds more files."
    if growing:
        verdict = f"Growing: {', '.join(each.role for each in growing)}."
    text = (
        f"# Memory and open files of a {options.minutes:g}-minute training\n\n"
        f"`python -m tests.benchmarks.soak --minutes {options.minutes:g}` on {environment.describe()['hardware']['summary']}: "
        f"`raygan train {' '.join([*WORDS, *options.words])}`.\n"
        f"Looked at every {SECONDS_BETWEEN:g} s, after a warm-up of {WARM_UP * options.minutes:g} minutes; slopes by least squares.\n\n"
        f"{table(found)}\n\n"
        f"{verdict}\n"
    )
    print(said, text, sep="\n")
    if options.out:
        Path(options.out).write_text(text)
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
