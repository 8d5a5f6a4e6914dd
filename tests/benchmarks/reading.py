"""Images a second as a training loop gets them: prepared Parquet through ImageDataset, against torchvision and Hugging Face `datasets`.

    python -m tests.benchmarks.reading --mnist MNIST.parquet --cifar CIFAR10.parquet --datasets-python VENV/bin/python

Float tensors in [-1, 1] by shuffled batches of 128. torchvision reads PNG files of a folder (ImageFolder, ToTensor, Normalize), `datasets`
its own Arrow cache of them (with_format("torch")); both by a DataLoader with 2 workers. Then a made-up set of 2 GB of 256 pixels, read by
two processes at once, and what memory each of them had.
"""

import argparse
import datetime
import io
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.environment import describe_hardware

BATCH, SECONDS = 128, 10.0
MEASURE = """
import time
def measure(batches, seconds):
    '''Images a second over about so many seconds, and the seconds before the first batch.'''
    began = time.monotonic()
    batches = iter(batches)
    next(batches)
    first = time.monotonic()
    images = 0
    for batch in batches:
        images += len(batch)
        if time.monotonic() - first > seconds:
            break
    return {"speed": images / (time.monotonic() - first), "first": first - began}
"""
OURS = """
import json, resource, sys
import torch
from gan_core import sampling
from gan_core.data import parquet
torch.set_num_threads(1)
path, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
began = time.monotonic()
data = parquet.load(path=path)
opened = time.monotonic() - began
def batches():
    for step in range(10**9):
        chosen = sampling.batch_indices(0, "images", step, batch_size=batch, dataset_size=len(data))
        yield data.batch(chosen, torch.device("cpu"), torch.float32, labelled=data.labels is not None).inputs
found = measure(batches(), seconds)
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith(("VmHWM", "RssAnon", "RssFile")))
kilobytes = {key: int(value.split()[0]) for key, value in status.items()}
print(json.dumps(found | {"opened": opened, "peak": kilobytes["VmHWM"] * 1024, "anonymous": kilobytes["RssAnon"] * 1024}))
"""
TORCHVISION = """
import json, sys
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
torch.set_num_threads(1)
path, batch, seconds, channels = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
steps = [transforms.ToTensor(), transforms.Normalize([0.5] * channels, [0.5] * channels)]
if channels == 1:
    steps.insert(0, transforms.Grayscale())
def epochs():
    loader = DataLoader(ImageFolder(path, transforms.Compose(steps)), batch, shuffle=True, num_workers=2, persistent_workers=True)
    while True:
        for images, labels in loader:
            yield images
if __name__ == "__main__":
    print(json.dumps(measure(epochs(), seconds)))
"""
HUGGING_FACE = """
import json, sys
import torch
from datasets import Image, load_dataset
from torch.utils.data import DataLoader
torch.set_num_threads(1)
path, batch, seconds, cache = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[5]
def epochs():
    data = load_dataset("parquet", data_files=path, split="train", cache_dir=cache).cast_column("image", Image()).with_format("torch")
    loader = DataLoader(data, batch, shuffle=True, num_workers=2, persistent_workers=True)
    while True:
        for rows in loader:
            yield rows["image"].float().div_(127.5).sub_(1.0)
if __name__ == "__main__":
    print(json.dumps(measure(epochs(), seconds)))
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mnist", required=True)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--datasets-python")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", help="for temporary files, 5 GB; the system's unless given")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        speeds = [compare(Path(folder), name, source, options) for name, source in (("MNIST", options.mnist), ("CIFAR-10", options.cifar))]
        large = two_readers(Path(folder), options)
    text = report(speeds, large, options)
    print(text)
    if options.out:
        options.out.write_text(text)


def compare(folder, name, source, options):
    """Medians for one data set, the readers in turns."""
    files, prepared = folder / name, folder / f"{name}-prepared"
    channels = write_files(source, files)
    size = 28 if channels == 1 else 32
    subprocess.run(
        [sys.executable, "-m", "pipelines.prepare", source, prepared, "--resolution", str(size)], check=True, capture_output=True
    )
    readers = {"raygan": (sys.executable, OURS, prepared), "ImageFolder": (sys.executable, TORCHVISION, files)}
    if options.datasets_python:
        readers["datasets"] = (options.datasets_python, HUGGING_FACE, source)
    found = {reader: [] for reader in readers}
    opened = [run(folder, sys.executable, OURS, prepared, 0.0, channels)["opened"]]  # the first time unpacks
    for _ in range(options.repeats):
        for reader, (python, program, path) in readers.items():
            found[reader].append(run(folder, python, program, path, options.seconds, channels))
    speeds = {reader: median(result["speed"] for result in results) for reader, results in found.items()}
    opened.append(median(result["opened"] for result in found["raygan"]))
    print(name, speeds, opened, flush=True)
    return name, speeds, opened


def run(folder, python, program, path, seconds, channels):
    (folder / "program.py").write_text(MEASURE + program)
    command = [python, folder / "program.py", path, str(BATCH), str(seconds), str(channels), folder / "hf"]
    return finish(start(folder, command))


def start(folder, command):
    environment = {**os.environ, "RAYGAN_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err)
    return json.loads(out.splitlines()[-1])


def write_files(source, folder):
    """Each image as a PNG file in its class's folder; returns the channels."""
    table, channels = pq.read_table(source), 1
    for number, (cell, label) in enumerate(zip(table.column("image").to_pylist(), table.column("label").to_pylist())):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            channels = len(image.getbands())
            image.save(folder / str(label) / f"{number:05}.png")
    return channels


def two_readers(folder, options):
    """A set of 256 pixels, made up of shifted noise, read by two processes at once: the first opening, then speed and memory of each."""
    count = int(options.gigabytes * 1e9 / (3 * 256 * 256))
    noise = np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), dtype=np.uint8) // 8
    encoded = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.roll(noise[number % 64], number // 64, 1)).save(buffer, "BMP")
        encoded.append(buffer.getvalue())
        if len(encoded) == 500 or number == count - 1:
            pq.write_table(pa.table({"image": pa.array(encoded, pa.binary())}), folder / f"large-{number:06}.parquet")
            encoded = []
    (folder / "large").mkdir()
    for file in folder.glob("large-*.parquet"):
        file.rename(folder / "large" / file.name)
    prepare = [sys.executable, "-m", "pipelines.prepare", folder / "large", folder / "large-prepared", "--resolution", "256"]
    subprocess.run(prepare, check=True, capture_output=True)
    opened = run(folder, sys.executable, OURS, folder / "large-prepared", 0.0, 3)["opened"]
    (folder / "program.py").write_text(MEASURE + OURS)
    command = [sys.executable, folder / "program.py", folder / "large-prepared", str(BATCH // 2), str(3 * options.seconds)]
    both = [start(folder, command) for _ in range(2)]
    found = [finish(process) for process in both]
    print(count, opened, found, flush=True)
    return count, opened, found


def report(speeds, large, options):
    count, opened, readers = large
    lines = [
        "# Reading images",
        "",
        f"`python -m tests.benchmarks.reading`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {describe_hardware()['summary']}; "
        f"torch {version('torch')}, torchvision {version('torchvision')}. Images a second as float32 in [-1, 1], shuffled batches "
        f"of {BATCH}, over {options.seconds:g} s after the first batch, medians of {options.repeats}, in turns. One process and one thread "
        f"for raygan, and two workers beside the main process for the others.",
        "",
        "| data | raygan | ImageFolder + DataLoader | datasets + DataLoader | over the faster one | first opening (unpacks), later |",
        "|---|---|---|---|---|---|",
    ]
    for name, found, (first, later) in speeds:
        others = [found[reader] for reader in ("ImageFolder", "datasets") if reader in found]
        cells = [f"{found[reader]:,.0f}" if reader in found else "-" for reader in ("raygan", "ImageFolder", "datasets")]
        ratio = f"{found['raygan'] / max(others):.1f} x"
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} | {first:.2f} s, {later:.3f} s |")
    lines += [
        "",
        f"{count} images of 3x256x256, {count * 3 * 256**2 / 1e9:.2f} GB of pixels, in batches of {BATCH // 2} by each of two processes "
        f"for {3 * options.seconds:g} s; first opening {opened:.1f} s. Peak: VmHWM of /proc/PID/status, the most that was resident at a "
        f"time, pages of the file and of libraries included, which the processes share.",
        "",
        "| process | images/s | peak resident | of it not backed by files, at the end |",
        "|---|---|---|---|",
    ]
    for number, found in enumerate(readers):
        lines.append(f"| {number} | {found['speed']:,.0f} | {found['peak'] / 1e6:.0f} MB | {found['anonymous'] / 1e6:.0f} MB |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
