"""Images from files to batches: `python -m tests.benchmarks.data_path [--images 4000] [--repeats 3] [--seconds 2]`.

Noise as PNG in a Parquet file, prepared by `raygan prepare`, and read as a training loop gets it, shuffled batches of 128 float tensors,
by a process of one thread (that of tests.benchmarks.reading). Prepared or not, the first opening makes the cache that is read from; both
openings are told. Against other readers: tests.benchmarks.reading and preparing, on MNIST and CIFAR-10.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.benchmarks import reading
from tests.benchmarks.turns import ROOT

SHAPES = ((3, 32), (3, 64))  # channels, resolution


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of reading, in each repeat")
    options = parser.parse_args(words)
    print(f"{options.images} images, medians (least..most) of {options.repeats}\n")
    print("| images | prepare, images/s | first opening, s: prepared | encoded | later, s | batches/s | images/s |")
    print("|---" * 7 + "|")
    with tempfile.TemporaryDirectory(prefix="raygan-data-") as folder:
        for channels, resolution in SHAPES:
            print(
                f"| {channels}x{resolution}x{resolution} | {' | '.join(measure(Path(folder), channels, resolution, options))} |", flush=True
            )


def measure(folder, channels, resolution, options):
    """The cells of a row."""
    source, prepared = folder / f"{channels}x{resolution}.parquet", folder / f"{channels}x{resolution}"
    pq.write_table(pa.table({"image": pa.array(encoded(channels, resolution, options.images), pa.binary())}), source)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipelines.prepare", source, prepared, "--resolution", str(resolution)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    preparing = options.images / (time.perf_counter() - began)
    first = [reading.run(folder, sys.executable, reading.OURS, path, 0.0, channels)["opened"] for path in (prepared, source)]
    found = [reading.run(folder, sys.executable, reading.OURS, prepared, options.seconds, channels) for _ in range(options.repeats)]
    speeds = sorted(each["speed"] for each in found)
    middle = speeds[len(speeds) // 2]
    batches = f"{middle / reading.BATCH:,.0f} ({speeds[0] / reading.BATCH:,.0f}..{speeds[-1] / reading.BATCH:,.0f})"
    later = sorted(each["opened"] for each in found)[len(found) // 2]
    return [f"{preparing:,.0f}", *(f"{seconds:.2f}" for seconds in first), f"{later:.3f}", batches, f"{middle:,.0f}"]


def encoded(channels, resolution, count):
    """PNG files of noise, all different."""
    noise = np.random.default_rng(0).integers(0, 256, (64, resolution, resolution, channels), dtype=np.uint8)
    for number in range(count):
        buffer = io.BytesIO()
        pixels = noise[number % 64].copy()
        pixels[0, 0, 0], pixels[0, 1, 0] = number % 256, number // 256 % 256
        Image.fromarray(pixels.squeeze()).save(buffer, "PNG", compress_level=1)
        yield buffer.getvalue()


if __name__ == "__main__":
    main()
