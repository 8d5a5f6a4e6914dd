"""Populations beside the same runs one after another, and beside two processes of them side by side.

    python -m tests.benchmarks.population [--device cuda] [--only "64 mlp"] [--repeats 5] [--seconds 3]

Each side moves the same members by the same number of images, again and again, all sides in turn. Printed are medians of the images/s of
all members together, and of the ratio, within a repeat, to the better of the two sides without a population, with the smallest and the
largest. On a CPU the processes side by side have one thread each, a single process has two. Reports are left out: they are the same code
on all sides.

`alike` members differ in seed and learning rates; `varied` ones in loss, penalty, step ratio, seed and learning rates.
"""

import argparse
import multiprocessing
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from gan_core import Trainer
from gan_core.config import GanConfig
from gan_core.overrides import validate
from gan_core.population.engine import Engine
from pipelines import pages
from tests.support import noise_images, write_parquet

MLP = {
    "data": {"name": "digits"},
    "network": {"name": "mlp", "z_dim": 64, "generator": {"hidden_width": 128}, "discriminator": {"hidden_width": 128}},
    "batch_size": 64,
}
DCGAN = {
    "data": {"name": "parquet", "resolution": 32, "channels": 1},
    "network": {"name": "dcgan", "z_dim": 64, "generator": {"width": 32}, "discriminator": {"width": 32}},
    "batch_size": 64,
}
VARIANTS = [
    {},
    {"loss": {"name": "hinge"}, "step_ratio": "2:1"},
    {"variant": "wgan_gp", "step_ratio": "3:1"},
    {"loss": {"name": "f_kl"}},
]
CASES = {
    "16 mlp alike": (16, MLP, False),
    "16 mlp varied": (16, MLP, True),
    "64 mlp alike": (64, MLP, False),
    "64 mlp varied": (64, MLP, True),
    "16 dcgan-32": (16, DCGAN, False),
}
# Processes, and whether each is a population.
SIDES = {"one after another": (1, False), "2 processes": (2, False), "population": (1, True), "2 populations": (2, True)}


def members(case, mnist):
    """The configs of a case."""
    count, tree, varied = CASES[case]
    if tree is DCGAN:
        tree = {**tree, "data": {**tree["data"], "path": mnist}}
    rates = ({"generator": {"lr": 1e-4 * (1 + number)}, "discriminator": {"lr": 2e-4}} for number in range(count))
    variants = (VARIANTS[number % len(VARIANTS)] if varied else {} for number in range(count))
    return [
        {**tree, **variant, "seed": number, "optimizer": rate} for number, (variant, rate) in enumerate(zip(variants, rates, strict=True))
    ]


def work(pipe, trees, device, threads, together):
    """A process: for each number of images received, move every member by so many, and answer with the images moved."""
    torch.set_num_threads(threads)
    pages.keep()
    trainers = [Trainer(validate(tree, GanConfig), device=device, evaluates=False) for tree in trees]
    engine = Engine()
    for trainer in trainers:
        engine.add(trainer)
    pipe.send("ready")
    while images := pipe.recv():
        before = sum(trainer.images_seen for trainer in trainers)
        goal = min(trainer.images_seen for trainer in trainers) + images
        if together:
            while min(trainer.images_seen for trainer in trainers) < goal:
                list(engine.tick(lambda _: True))
        else:
            for trainer in trainers:
                while trainer.images_seen < goal:
                    trainer._round()
        engine.wait_for_device()
        pipe.send(sum(trainer.images_seen for trainer in trainers) - before)
        for trainer in trainers:
            trainer.state.history.read(None)


class Side:
    """The processes of one side, waiting for work."""

    def __init__(self, trees, device, *, processes, together, threads):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for part in range(processes):
            ours, theirs = context.Pipe()
            share = trees[part * len(trees) // processes : (part + 1) * len(trees) // processes]
            process = context.Process(target=work, args=(theirs, share, device, threads, together), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def images_per_second(self, images):
        started = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(images)
        moved = sum(pipe.recv() for pipe in self.pipes)
        return moved / (time.perf_counter() - started)

    def close(self):
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(0)
            process.join()


def measure(case, given, mnist):
    """Images/s of each side in each repeat."""
    trees = members(case, mnist)
    threads = 1 if given.device == "cuda" else given.threads
    sides = {
        name: Side(trees, given.device, processes=processes, together=together, threads=max(1, threads // processes))
        for name, (processes, together) in SIDES.items()
    }
    batch = trees[0]["batch_size"]
    slowest = min(side.images_per_second(2 * batch) for side in sides.values())  # and a warm-up
    images = max(batch, int(slowest * given.seconds / len(trees)) // batch * batch)
    rates = {name: [] for name in sides}
    for _ in range(given.repeats):
        for name, side in sides.items():
            rates[name].append(side.images_per_second(images))
    for side in sides.values():
        side.close()
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="cases whose name has this in it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each side in each repeat, about")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU, for all processes of a side together")
    given = parser.parse_args()
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else f"{platform.processor() or platform.machine()}, {given.threads} threads"
    )
    print(f"PyTorch {torch.__version__}, {where}; {given.repeats} repeats of about {given.seconds} s a side\n")
    print(f"| members | {', images/s | '.join(SIDES)}, images/s | population / better apart | 2 populations / better apart |")
    print("|---|" + "---:|" * (len(SIDES) + 2))
    with tempfile.TemporaryDirectory() as folder:
        mnist = str(write_parquet(Path(folder) / "noise.parquet", noise_images(2000, size=32)[0]))
        for case in CASES:
            if given.only is None or given.only in case:
                print(row(case, measure(case, given, mnist)), flush=True)


def row(case, rates):
    medians = " | ".join(f"{statistics.median(found):,.0f}" for found in rates.values())
    ratios = " | ".join(ratio(rates, name) for name in ("population", "2 populations"))
    return f"| {case} | {medians} | {ratios} |"


def ratio(rates, name):
    """The median over the repeats, and the smallest and the largest."""
    apart = zip(rates["one after another"], rates["2 processes"], strict=True)
    found = sorted(ours / max(theirs) for ours, theirs in zip(rates[name], apart, strict=True))
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


if __name__ == "__main__":
    main()
