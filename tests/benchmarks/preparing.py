"""Encoded images to Parquet files of raw pixels: `raygan prepare` against a plain PIL loop and Hugging Face `datasets`.

    python -m tests.benchmarks.preparing --mnist MNIST.parquet --cifar CIFAR10.parquet --datasets-python VENV/bin/python [--repeats 3]

Times are of whole processes, from the command to its end, which is what a user waits for; files are in the page cache. All make the same
pixels, which is checked. Without --datasets-python that comparison is left out.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipelines.environment import describe_hardware

PLAIN = """
import io, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from PIL import Image
source, out, size, mode, resize = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5] == "lanczos"
table = pq.read_table(source)
pixels = []
for cell in table.column("image").to_pylist():
    image = Image.open(io.BytesIO(cell["bytes"])).convert(mode)
    if resize:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    pixels.append((array[None] if mode == "L" else array.transpose(2, 0, 1)).tobytes())
pq.write_table(pa.table({"image": pixels, "label": table.column("label")}), out, compression="zstd", compression_level=1)
"""
HUGGING_FACE = """
import sys
import numpy as np
from datasets import Features, Image, Value, load_dataset
from PIL import Image as Pillow
source, out, size, mode, resize = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5] == "lanczos"
def convert(row):
    image = row["image"].convert(mode)
    if resize:
        image = image.resize((size, size), Pillow.Resampling.LANCZOS)
    array = np.asarray(image)
    return {"image": (array[None] if mode == "L" else array.transpose(2, 0, 1)).tobytes(), "label": row["label"]}
if __name__ == "__main__":
    data = load_dataset("parquet", data_files=source, split="train", cache_dir=sys.argv[6]).cast_column("image", Image())
    features = Features({"image": Value("binary"), "label": Value("int64")})
    data.map(convert, num_proc=2, features=features).to_parquet(out)
"""
CASES = {  # resolution, mode, filter
    "MNIST, 60,000 PNG, 28 unchanged": ("mnist", 28, "L", "never"),
    "MNIST, 60,000 PNG, to 32 by lanczos": ("mnist", 32, "L", "lanczos"),
    "CIFAR-10, 50,000 JPEG, 32 unchanged": ("cifar", 32, "RGB", "never"),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mnist", required=True)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--datasets-python")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for title, (source, *case) in CASES.items():
        ways = commands(options, getattr(options, source), *case)
        seconds, found = {name: [] for name in ways}, {}
        for _ in range(options.repeats):
            for name, make in ways.items():  # in turns: what else the machine does falls on all
                with tempfile.TemporaryDirectory() as folder:
                    seconds[name].append(timed(make(folder)))
                    found[name] = pixels(Path(folder) / "out")
        first = next(iter(found.values()))
        assert all(np.array_equal(first, other) for other in found.values())
        rows.append((title, len(first), {name: np.median(values, 0).tolist() for name, values in seconds.items()}))
        print(rows[-1], flush=True)
    text = report(rows, options)
    print(text)
    if options.out:
        options.out.write_text(text)


def commands(options, source, size, mode, resize):
    """By name, a function of a folder that gives the command that writes there."""

    def raygan(*words):
        extra = ["--resize", "lanczos", "--upscale"] if resize == "lanczos" else []
        prepare = [sys.executable, "-m", "pipelines.prepare", source]
        return lambda folder: [*prepare, f"{folder}/out", "--resolution", str(size), *extra, *words]

    def other(python, program):
        return lambda folder: [python, script(folder, program), source, f"{folder}/out", str(size), mode, resize, f"{folder}/cache"]

    ways = {
        "raygan prepare": raygan(),
        "raygan prepare --ray always": raygan("--ray", "always"),
        "raygan prepare --workers 1": raygan("--workers", "1"),
        "PIL loop": other(sys.executable, PLAIN),
    }
    if options.datasets_python:
        ways["datasets, 2 processes"] = other(options.datasets_python, HUGGING_FACE)
    return ways


def script(folder, program):
    path = Path(folder) / "program.py"
    path.write_text(program)
    return str(path)


def timed(command):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"}
    before, began = os.times(), time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds, after = time.monotonic() - began, os.times()
    if result.returncode:
        raise RuntimeError(result.stderr)
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def pixels(out):
    """All images, flat, whoever wrote them."""
    cells = pq.read_table(out if out.is_file() else sorted(out.glob("*.parquet")), columns=["image"]).column("image")
    return np.frombuffer(b"".join(cells.to_pylist()), np.uint8).reshape(len(cells), -1)


def report(rows, options):
    names = list(rows[0][2])
    other = "" if not options.datasets_python else f", datasets {datasets_version(options.datasets_python)}"
    lines = [
        "# Preparing images",
        "",
        f"`python -m tests.benchmarks.preparing`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {describe_hardware()['summary']}; pillow "
        f"{version('pillow')}, pyarrow {version('pyarrow')}, ray {version('ray')}{other}. Seconds from the command to its end, medians of "
        f"{options.repeats}, in turns; the same pixels, checked. `--ray always` has Ray's start and end in it, and `raygan prepare` alone "
        f"needs no Ray for so few images. CPU: of the command and the processes that it waits for; Ray's are not among them.",
        "",
        "| source | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for title, _, seconds in rows:
        ours = seconds["raygan prepare"][0]
        cells = [f"{wall:.2f} s ({wall / ours:.2f} x; {cpu:.1f} s of CPU)" for wall, cpu in seconds.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def datasets_version(python):
    return subprocess.run([python, "-c", "import datasets; print(datasets.__version__)"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
