"""`raygan train` with one worker against the bare loop: seconds per step, in pairs of runs, one after the other.

`python -m tests.benchmarks.overhead [CONFIG] [key=value ...]` prints a table. Steps-only counts what is between reports; whole-loop also
counts reports, pictures, scores and checkpoints at the config's own cadence.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from mlflow import MlflowClient

from gan_core.overrides import merge, parse, validate
from pipelines import environment
from pipelines.config import JobConfig, load_named

PAIRS, SECONDS = 5, 30.0


def bare(config: str, steps: int, words: list[str]) -> float:
    """Seconds per step of the bare loop, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bare_loop", config, str(steps), *words]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def full(config: str, steps: int, batch_size: int, words: list[str]) -> tuple[float, float]:
    """Seconds per step of `raygan train` through Ray: steps only, and the whole loop."""
    with tempfile.TemporaryDirectory(prefix="raygan-bench-") as folder:
        kimg = f"total_kimg={steps * batch_size / 1000}"
        command = [sys.executable, "-m", "pipelines.train", config, *words, kimg, "ray.num_workers=1", f"ray.storage_path={folder}/runs"]
        environment_of_its_own = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment_of_its_own).stdout
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        metrics = client.get_run(out.split("run ", 1)[1].split(":")[0]).data.metrics
    return metrics["progress/device_seconds"] / steps, metrics["timing/loop_seconds"] / steps


def main() -> None:
    """Measure and print."""
    config = sys.argv[1] if len(sys.argv) > 1 else "digits"
    words = [*sys.argv[2:], "step_ratio=1:1"]
    tree = merge(load_named(config), dict(parse(word) for word in words))
    batch_size = validate(tree, JobConfig).batch_size
    steps = max(100, int(SECONDS / bare(config, 50, words)))
    print(f"{config}: {steps} steps of batch {batch_size}, {PAIRS} pairs, on {environment.describe()['hardware']['summary']}\n")
    print(
        "| pair | bare loop, ms/step | raygan, steps only | raygan, whole loop | ratio, steps | ratio, whole |\n|---|---|---|---|---|---|"
    )
    ratios: list[tuple[float, float]] = []
    for pair in range(PAIRS):
        floor, (inner, whole) = bare(config, steps, words), full(config, steps, batch_size, words)
        ratios.append((inner / floor, whole / floor))
        cells = [f"{1e3 * value:.2f}" for value in (floor, inner, whole)] + [f"{ratio:.3f}" for ratio in ratios[-1]]
        print(f"| {pair + 1} | " + " | ".join(cells) + " |", flush=True)
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(f"| median | | | | {medians[0]:.3f} | {medians[1]:.3f} |")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    main()
