"""What packing saves a whole sweep, from the command to its end: `python -m tests.benchmarks.packed_sweep [--trials 16] [--repeats 3]`.

MLPs on the digits, of losses and ratios, to their ends (fifo), without repeats: by themselves, as many at once as there are cores, and
packed. Both sides are run in turn, and each of their commands in a fresh folder. Printed are medians of the wall seconds, of the seconds
between the first trial's run being made and the last one's end, and of their device seconds, which scores are no part of.
"""

import argparse
import statistics
import tempfile
import time
from typing import NamedTuple

import psutil

from tests.pipelines.command import finish, start, write_config
from tests.pipelines.sweeps.runs import Sweep

LOSSES = ("hinge", "minimax", "non_saturating", "least_squares", "wasserstein", "relativistic", "f_kl", "f_gan")
RATIOS = ("1:1", "2:1", "1:2", "3:1", "5:1", "8:1")
MOST_SECONDS = 600


class Measured(NamedTuple):
    """Seconds of one command."""

    command: float
    trials: float
    device: float


def measure(trials, kimg, *words):
    """Run a sweep of so many trials in a folder of its own."""
    ratios = RATIOS[: trials // len(LOSSES)]
    searched = [f"loss.name=[{','.join(LOSSES)}]", f"step_ratio=[{','.join(ratios)}]"]
    budget = [f"total_kimg={kimg}", *(f"schedule.{key}_kimg={kimg / 2}" for key in ("report", "sample", "evaluate", "checkpoint"))]
    rest = ["sweep.scheduler=fifo", "sweep.confirm=0", "sweep.stop_on_alarms=[]"]
    with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
        config = write_config(folder)
        began = time.perf_counter()
        status, _, err = finish(start(folder, config, "loss_x_ratio", *searched, *budget, *rest, *words, command="sweep"), MOST_SECONDS)
        seconds = time.perf_counter() - began
        assert status == 0, err
        found = Sweep(folder)
        runs = [found.client.get_run(row.run_id).info for row in found.rows]
        assert len(runs) == trials
        assert {row.reason for row in found.rows if not row.reason.startswith("diverged")} == {"budget spent"}
        span = (max(run.end_time for run in runs) - min(run.start_time for run in runs)) / 1000
        return Measured(seconds, span, sum(row.device_seconds for row in found.rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16, choices=[len(LOSSES) * count for count in range(1, len(RATIOS) + 1)])
    parser.add_argument("--kimg", type=float, default=6.4, help="of each trial")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sides = {"by themselves": (), f"trials.packed={options.trials}": (f"trials.packed={options.trials}",)}
    found = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, words in sides.items():
            found[name].append(measure(options.trials, options.kimg, *words))
    print(f"{options.trials} MLPs on digits, {options.kimg:g} kimg each, {psutil.cpu_count()} cores, {options.repeats} repeats: medians\n")
    print("| trials | the whole command, s | first trial's start to last one's end, s | device seconds |\n|---|---|---|---|")
    for name, measured in found.items():
        print(f"| {name} | " + " | ".join(f"{statistics.median(values):.1f}" for values in zip(*measured, strict=True)) + " |")
    ratios = [apart.command / packed.command for apart, packed in zip(*found.values(), strict=True)]
    print(f"\nby themselves over packed, the whole command: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
