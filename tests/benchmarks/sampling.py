"""What sampling costs: `python -m tests.benchmarks.sampling TARGET [COUNT]`, in the folder of the run or with MLFLOW_TRACKING_URI.

Draws COUNT images (100,000 unless given) of a trained generator to one Parquet file in this process, by 1 worker and by 2, and compares
the files byte by byte. `images/s` counts from the first task on, so it holds the start of Ray's workers; `command` is everything.
"""

import os
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import psutil

WAYS = (0, 1, 2)


def draw(target, count, out, workers):
    """Seconds of the command, its last words, and the largest resident memory of the driver, in bytes."""
    words = [sys.executable, "-m", "pipelines.sample", target, "--num", str(count), "--out", str(out), "--workers", str(workers)]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, driver.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
        said = process.stdout.read()
    assert process.returncode == 0, said
    return time.perf_counter() - started, said, peak


def main(target, count=100_000):
    """A table of the ways to draw, and whether their files are equal."""
    print(f"{os.cpu_count()} cores\n\n| workers | command, s | images/s | driver, MB | sha256 |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
        for workers in WAYS:
            out = Path(folder) / f"{workers}.parquet"
            seconds, said, peak = draw(target, int(count), out, workers)
            rate = said.split("s, ", 1)[1].split(" images/s")[0]
            print(f"| {workers} | {seconds:.1f} | {rate} | {peak / 1e6:.0f} | {sha256(out.read_bytes()).hexdigest()[:16]} |", flush=True)
        print(f"\nfile: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
