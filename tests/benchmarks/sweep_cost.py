"""What a sweep costs beside its training: `python -m tests.benchmarks.sweep_cost overhead`, and `... utilisation SWEEP [TRACKING_URI]`.

`overhead` runs 8 trials of a second of training or less, and gives the wall time of the command, of its batch, and for each trial.
`utilisation` reads a finished sweep: training seconds inside trials over the wall time of its cores, from the sweep's run being made to
its end. Scores, pictures and checkpoints are not training, so they count as loss, and so do start-up and the tail with fewer trials.
"""

import sys
import tempfile
import time

from pipelines import tracking
from pipelines.sweeps import ledger
from tests.pipelines.command import finish, start, write_config
from tests.pipelines.sweeps.runs import Sweep

TRIVIAL = ("loss_x_ratio", "step_ratio=1:1", "total_kimg=0.16", "sweep.scheduler=fifo", "sweep.confirm=0")
LOSSES = "loss.name=[hinge,minimax,non_saturating,least_squares,wasserstein,relativistic,f_kl,f_gan]"


def overhead():
    """Seconds of 8 trivial trials."""
    with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
        config = write_config(folder)
        words = [f"schedule.{key}_kimg=0.16" for key in ("report", "sample", "evaluate", "checkpoint")]
        started = time.perf_counter()
        status, _, err = finish(start(folder, config, *TRIVIAL, LOSSES, *words, command="sweep"))
        whole = time.perf_counter() - started
        assert status == 0, err
        found = Sweep(folder)
        runs = [found.client.get_run(row.run_id).info for row in found.rows]
        batch = (max(run.end_time for run in runs) - found.run.info.start_time) / 1000
        span = (max(run.end_time for run in runs) - min(run.start_time for run in runs)) / 1000
        training = sum(row.device_seconds for row in found.rows)
    print("| 8 trials | seconds | for each |\n|---|---|---|")
    print(f"| the whole command | {whole:.1f} | {whole / 8:.2f} |")
    print(f"| from the sweep's run being made to the last trial's end | {batch:.1f} | {batch / 8:.2f} |")
    print(f"| from the first trial's start to the last one's end | {span:.1f} | {span / 8:.2f} |")
    print(f"| training inside them | {training:.2f} | {training / 8:.2f} |")


def utilisation(name, uri=None):
    """Training seconds over the cores' wall time."""
    tracker = tracking.reach(uri)
    run = ledger.find(tracker, name)
    rows = [ledger.row(trial) for trial in ledger.trials(tracker, name)]
    cores = int(run.data.tags["raygan.hardware"].split()[0])
    wall = (run.info.end_time - run.info.start_time) / 1000
    training = sum(row.device_seconds for row in rows)
    print("| trials | wall seconds | cores | training seconds | utilisation |\n|---|---|---|---|---|")
    print(f"| {len(rows)} | {wall:.0f} | {cores} | {training:.0f} | {training / wall / cores:.1%} |")


if __name__ == "__main__":
    {"overhead": overhead, "utilisation": utilisation}[sys.argv[1]](*sys.argv[2:])
