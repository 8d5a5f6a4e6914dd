"""raygan beside other trainers: images/s on the same networks, batch, loss, step ratio and threads, in turns.

    make bench-peers
    python -m tests.benchmarks.peers [WORKLOAD ...] [--against SIDE ...] [--threads 1] [--device cuda] [--data mnist/train.parquet]

prints two tables in Markdown: rates and ratios, and what a round of each side does. README.md says what each side is, and how to read
them.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from gan_core.building import load_dataset
from pipelines import environment
from tests.benchmarks import cases
from tests.benchmarks.peers import workloads
from tests.benchmarks.peers.workloads import IF_ASKED, WORKLOADS
from tests.benchmarks.turns import ROOT, Process

PEERS = ROOT / ".venv-peers/bin/python"
IN_THEIR_OWN = ("mimicry", "torchgan", "lightning", "lucidrains")
OWN_NETWORKS_ONLY = ("lucidrains",)
REUSING = ("handwritten", "handwritten_plain")
ASKED = {"floor": 0.95, "handwritten": 1.0, "handwritten_plain": 1.0}
ASKED |= dict.fromkeys([*IN_THEIR_OWN, *(f"{name}_{kind}" for name in IN_THEIR_OWN for kind in ("plain", "own"))], 1.3)
MADE_IMAGES, MOST_IMAGES = 4096, 16384


class Side(Process):
    """A process of tests.benchmarks.peers.side; the libraries' live in the environment of the peers."""

    def __init__(self, name, given, threads):
        python = PEERS if name.partition("_")[0] in IN_THEIR_OWN else sys.executable
        command = [python, "-m", "tests.benchmarks.peers.side", name, json.dumps(given)]
        super().__init__(name, command, Path(given["cache"], f"{name}.txt"), threads=threads)


def run(names, given, asked):
    """One start of all sides: for each its images/s in each turn, and what a round of it does. A side that fails is left out, and told."""
    with contextlib.ExitStack() as stack:
        sides = []
        for name in names:
            sides.append(Side(name, given, asked.threads))
            stack.callback(sides[-1].end)
        ready = []
        for side in sides:  # they start beside each other, which takes a third of the time
            try:
                side.answer()
                ready.append(side)
            except RuntimeError as error:
                if side.name == "raygan":
                    raise
                print(f"\n{error}\n", file=sys.stderr)
        rates = {side.name: [] for side in ready}
        for side in ready:
            side.order(seconds=asked.seconds / 3)  # to warm up, alone
        for number in range(asked.turns):
            for side in ready[:: 1 if number % 2 == 0 else -1]:
                told = side.order(seconds=asked.seconds)
                rates[side.name].append(told["rounds"] * WORKLOADS[given["workload"]].images / told[asked.clock])
        counts = {side.name: counted(side, given, asked.threads) for side in ready} if asked.counts else {}
    return rates, counts


def counted(side, given, threads):
    """What a period of rounds of a side does. Recorded or compiled steps hide it, so raygan's are counted as they are written."""
    period = WORKLOADS[given["workload"]].period
    as_written = [word for word in given["words"] if not word.startswith("speed.")]
    if not side.name.startswith("raygan") or as_written == given["words"]:
        return side.order(count=period)
    written = Side(side.name, {**given, "words": as_written}, threads)
    try:
        written.answer()
        return written.order(count=period)
    finally:
        written.end()


def measure(workload, asked, folder):
    """Runs of a workload: rates[side][run][turn] and what a round does, of those sides that started."""
    work = WORKLOADS[workload]
    against = [name for name in (*work.against, *IF_ASKED) if name in (asked.against or work.against)]
    names = ["raygan", *(["raygan_reuse"] if set(against) & set(REUSING) else []), *against]
    path = asked.data or cases.make_images(folder, work.channels, work.resolution, MADE_IMAGES)
    dataset = load_dataset(workloads.config(work, path, folder))
    images = folder / "images.pt"
    torch.save(dataset.images[:MOST_IMAGES].clone(), images)
    given = {"workload": workload, "device": asked.device, "threads": asked.threads, "words": asked.word}
    given |= {"path": str(path), "cache": str(folder), "images": str(images)}
    found, counts = [], {}
    for number in range(asked.runs):
        asked.counts = number == 0
        rates, found_counts = run(names, given, asked)
        counts |= found_counts
        found.append(rates)
    started = [name for name in names if all(name in rates for rates in found)]
    return {name: [rates[name] for rates in found] for name in started}, {name: counts[name] for name in started}


def rows(workload, rates, counts):
    """A line of the first table for each side: its rate, raygan's over it in images/s and in FLOP/s, and what was asked.

    Asked is a ratio of images/s where the networks are the same, and of FLOP/s where they cannot be. A side whose G takes D's last fakes
    has a line beside raygan as it is by default, and one beside raygan with `reuse_fakes=true`, which plays the same algorithm.
    """
    for name in rates:
        for ours in ("raygan", "raygan_reuse") if name in REUSING else ("raygan",):
            if name.startswith("raygan") or ours not in rates:
                continue
            pairs = zip(rates[ours], rates[name], strict=True)
            images = [statistics.median(mine / its for mine, its in zip(*turns, strict=True)) for turns in pairs]
            flops = [counts[ours]["flops"] / counts[name]["flops"] * ratio for ratio in images]
            asked, decisive = ASKED.get(name), statistics.median(flops if name in OWN_NETWORKS_ONLY else images)
            yield [
                workload,
                name,
                ours,
                *(f"{statistics.median(map(statistics.median, rates[side])):,.0f}" for side in (name, ours)),
                spread(images),
                spread(flops),
                f"{asked}: {'met' if decisive >= asked else 'not met'}" if asked else "",
            ]


def spread(ratios):
    """Median, smallest and largest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def work_rows(workload, counts):
    """A line of the second table for each side."""
    for name, done in counts.items():
        rounds = done["rounds"]
        yield [
            workload,
            name,
            f"{done['flops'] / rounds / 1e9:.2f}",
            f"{done['flops'] / counts['raygan']['flops']:.3f}",
            f"{done['operations'] / rounds:,.0f}",
            f"{done['reads'] / rounds:g}",
        ]


def table(header, lines):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *lines])


def versions():
    """Of what lives in the environment of the peers.

    Raises:
        SystemExit: there is none, or it has another PyTorch.
    """
    if not PEERS.is_file():
        raise SystemExit("there is no .venv-peers: run make bench-peers")
    names = ("torch", "torch-mimicry", "torchgan", "lightning", "stylegan2-pytorch")
    program = f"from importlib.metadata import version as v; print(', '.join(f'{{n}} {{v(n)}}' for n in {names}))"
    found = subprocess.run([str(PEERS), "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    if not found.startswith(f"torch {version('torch')},"):
        raise SystemExit(
            f"raygan has torch {version('torch')}, and .venv-peers {found}: pin the same in requirements.txt and constraints.txt"
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", nargs="*", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--against", nargs="+", help="these sides only")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", help="a Parquet file of images; otherwise they are made")
    parser.add_argument("--runs", type=int, default=5, help="starts of all sides")
    parser.add_argument("--turns", type=int, default=2, help="of each side in a run")
    parser.add_argument("--seconds", type=float, default=0.8, help="of a turn")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu, with --threads 1, where others use the machine")
    parser.add_argument("--word", action="append", default=[], help="key=value for raygan's config")
    asked = parser.parse_args()
    chosen = asked.workload or workloads.DEFAULT[asked.device.partition(":")[0]]
    sides = {*IF_ASKED, *(name for workload in WORKLOADS.values() for name in workload.against)}
    for given, known in ((set(chosen), set(WORKLOADS)), (set(asked.against or ()), sides)):
        if given - known:
            parser.error(f"not known: {', '.join(sorted(given - known))}; there are {', '.join(sorted(known))}")
    print(f"{environment.describe()['hardware']['summary']}; {asked.threads} threads, {asked.device}; raygan in torch {torch.__version__}")
    print(f"peers: {versions()}; {asked.runs} runs of {asked.turns} turns of {asked.seconds:g} s\n", flush=True)
    rates, counts, started = [], [], time.time()
    with tempfile.TemporaryDirectory(prefix="raygan-peers-") as folder:
        for workload in chosen:
            place = Path(folder, workload)
            place.mkdir()
            found = measure(workload, asked, place)
            rates += rows(workload, *found)
            counts += work_rows(workload, found[1])
            print(f"{workload}: {time.time() - started:.0f} s", file=sys.stderr)
    print(table(["workload", "against", "raygan as", "its images/s", "raygan's", "raygan / it, images/s", "FLOP/s", "asked"], rates))
    print("\nA round:\n")
    print(table(["workload", "side", "GFLOP", "over raygan's", "operations", "reads by the host"], counts))


if __name__ == "__main__":
    main()
