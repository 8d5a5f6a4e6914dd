"""Steps on a GPU, as written, compiled and recorded as CUDA graphs, against both floors, and device memory: one table in 8 minutes.

    python -m tests.benchmarks.gpu [--cases dcgan-64 ...] [--budget 450] [--device cuda] [--words key=value ...]

Needs gan_core and what it imports, and no Ray or MLflow. Each row is a process of its own, so that its memory is its own and a failure is
its own row's; the floors come first. Blocks of rounds are timed from one synchronisation to the next: medians and quartiles over blocks.
`over eager` is images/s. With `--device cpu` and small cases it runs anywhere, to see that it runs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch

from tests.benchmarks import cases, floor, roofline
from tests.benchmarks.side import Product
from tests.benchmarks.turns import ROOT, spread

CASES = ("dcgan-64", "sngan-32-paper", "stylegan2-256")
WAYS = {
    "eager": [],
    "graphs": ["speed.cuda_graphs=true"],
    "compiled": ["speed.compile=true"],
    "compiled, graphs": ["speed.compile=true", "speed.cuda_graphs=true"],
}
LIMITS, BLOCKS, BLOCK_SECONDS, WARM_UP_ROUNDS = "bare floor", 5, 0.4, 5  # a recording comes after three steps of each kind


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=cases.CASES, default=CASES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--budget", type=float, default=450.0, help="seconds; rows that do not fit are left out, and named")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--words", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.one:
        print(json.dumps(measure(options.cases[0], options.one, options.device, options.words)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here; --device cpu runs the same on the CPU")
    until = time.monotonic() + options.budget
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(f"{device}, torch {torch.__version__}, CUDA {torch.version.cuda}; {BLOCKS} blocks of about {BLOCK_SECONDS:g} s\n")
    print("| case | loop | D step, ms | G step, ms | round, ms | images/s | over eager | over bare floor | x arithmetic floor | peak, MB |")
    print("|---" * 10 + "|")
    notes = []
    bases = {case: {} for case in options.cases}
    for way in (LIMITS, *options.ways):  # what takes longest to make comes last
        for case, base in bases.items():
            found = in_own_process(case, way, options, until - time.monotonic())
            if "failure" in found:
                notes.append(f"* {case}, {way}: {found['failure']}")
                continue
            base[way] = found
            notes += [f"* {case}, {way}: {found['note']}"] if found["note"] else []
            print(f"| {case} | {way} | {' | '.join(cells(found, base))} |", flush=True)
    print("", *notes, sep="\n")


def in_own_process(case, way, options, seconds):
    """`measure` of a row, or its `failure`."""
    if seconds < 5.0:
        return {"failure": "left out, the time was spent"}
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.gpu",
        "--cases",
        case,
        "--one",
        way,
        "--device",
        options.device,
        "--words",
        *options.words,
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failure": "did not end in the time that was left"}
    if done.returncode:
        return {"failure": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def cells(found, base):
    rate = found["images"] / statistics.median(found["round"])
    over = [
        f"{rate / (base[name]['images'] / statistics.median(base[name]['round'])):.2f}" if name in base else "-"
        for name in ("eager", LIMITS)
    ]
    limit = base[LIMITS]["limit"] if LIMITS in base else None
    times = f"{statistics.median(found['round']) / limit:.2f}" if limit else "-"
    return [*(spread(found[unit]) for unit in ("d", "g", "round")), f"{rate:,.0f}", *over, times, f"{found['peak'] / 1e6:,.0f}"]


def measure(case, way, device, words):
    """Seconds of steps and rounds by block, images of a round, the peak of device memory in bytes, and what there is to say."""
    place = torch.device(device)
    with tempfile.TemporaryDirectory(prefix="raygan-gpu-") as folder:
        config = cases.config(case, folder, [*words, *WAYS.get(way, [])])
        note, limit = "", None
        if way == LIMITS:
            loop, tried = floor.fastest(config, place)
            limits, note = roofline.limit(loop)
            limit = limits["round"]
            note = f"{loop.name} of {', '.join(f'{name} {1e3 * seconds:.1f} ms' for name, seconds in tried.items())}. {note}"
            steps = loop
        else:
            loop = Product(config, place)
            steps = loop.trainer
        period = config.regularizers.r1_interval
        block(loop.round, place, WARM_UP_ROUNDS * period)
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = {}
        for unit, function, each in (
            ("round", loop.round, period),
            ("d", steps.step_discriminator, period),
            ("g", steps.step_generator, 1),
        ):
            calls = calls_for(function, place, each)
            found[unit] = [block(function, place, calls) for _ in range(BLOCKS)]
        peak = torch.cuda.max_memory_allocated() if place.type == "cuda" else 0
        if way != LIMITS:
            note = loop.trainer.taking.failure
        return found | {"images": config.batch_size * config.ratio.d, "peak": peak, "limit": limit, "note": note}


def block(function, device, calls):
    """Mean seconds of so many calls, from one synchronisation to the next."""
    roofline.wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        function()
    roofline.wait(device)
    return (time.perf_counter() - began) / calls


def calls_for(function, device, period):
    """How many calls take about BLOCK_SECONDS: a multiple of `period`, so that lazy penalties have their share."""
    return period * max(1, round(BLOCK_SECONDS / (period * block(function, device, period))))


if __name__ == "__main__":
    main()
