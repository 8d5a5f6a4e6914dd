"""Time and memory of the metrics of features, beside torch-fidelity's on the same features.

    python -m tests.benchmarks.metrics_cost --counts 10000 50000 --dimensions 64 2048

Each row is a process of its own, with one thread unless told otherwise. Memory is the peak of the process less what it held when
the features were ready, so neither torch nor the features count. What is compared: `frechet_distance` also gives a standard
error; `kernel_distance` takes all pairs in float64 and gives a standard error, where torch-fidelity's default takes 100 random
subsets of 1,000 in float32 and gives their spread. `kid, one subset` is torch-fidelity on all pairs, in float32 and with whole matrices.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from gan_core.data import ring2d
from gan_core.metrics import (
    _neighbours,
    birthday_paradox,
    class_coverage,
    classifier_score,
    density_coverage,
    frechet_distance,
    kernel_distance,
    memorisation,
    mode_coverage,
    parzen_window,
    precision_recall,
    stacked_mnist,
)

ROOT = Path(__file__).parents[2]
WHOLE_MATRICES = 20_000  # above this torch-fidelity's one subset would need tens of GiB


def manifold_metrics(real, fake):
    found = _neighbours.manifold(real, fake)
    return precision_recall.evaluate(real, fake, found=found) | density_coverage.evaluate(real, fake, found=found)


def classes(_, fake):
    return class_coverage.evaluate(fake.argmax(1), num_classes=fake.shape[1], extractor="pixels")


def fidelity_fd(real, fake):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    return fid_statistics_to_metric(fid_features_to_statistics(real), fid_features_to_statistics(fake), verbose=False)


def fidelity_kid(real, fake, subsets=100, size=1000):
    from torch_fidelity.metric_kid import kid_features_to_metric

    return kid_features_to_metric(real, fake, kid_subsets=subsets, kid_subset_size=size, verbose=False, rng_seed=0)


def fidelity_prc(real, fake):
    from torch_fidelity.metric_prc import prc_features_to_metric

    return prc_features_to_metric(fake, real, prc_neighborhood=3, prc_batch_size=2048, save_cpu_ram=True, verbose=False)


OURS = {
    "frechet_distance": frechet_distance.evaluate,
    "kernel_distance": kernel_distance.evaluate,
    "precision_recall + density_coverage": manifold_metrics,
    "memorisation": lambda real, fake: memorisation.evaluate(real, real[::10] + 0.01, fake),
    "birthday_paradox": birthday_paradox.evaluate,
    "classifier_score": lambda _, fake: classifier_score.evaluate(fake.softmax(1), extractor="pixels"),
    "class_coverage": classes,
    "stacked_mnist": lambda real, fake: stacked_mnist.of_modes((fake[:, 0] * 1e6).long() % 1000),
    "mode_coverage": lambda real, fake: mode_coverage.evaluate(fake[:, :2].unflatten(1, (2, 1, 1)), ring2d.load(count=100).mixture),
    "parzen_window": lambda real, fake: parzen_window.evaluate(real[:1500].clamp(0, 1), fake.clamp(0, 1), real[1500:3000].clamp(0, 1)),
}
THEIRS = {
    "torch-fidelity fd": fidelity_fd,
    "torch-fidelity kid, 100 subsets of 1,000": fidelity_kid,
    "torch-fidelity kid, one subset": lambda real, fake: fidelity_kid(real, fake, 1, len(real)),
    "torch-fidelity precision and recall": fidelity_prc,
}
METRICS = OURS | THEIRS


def features(count, dimensions):
    """Rectified and correlated, as pooled features of networks are; fakes a little off."""
    source = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1.5, dimensions)
    real, fake = (torch.randn(count, dimensions, generator=source).add_(shift).relu_().mul_(scales) for shift in (0.0, 0.05))
    return real, fake


def measure(metric, count, dimensions, threads=1, block=None):
    """In this process: seconds, and MiB at the peak beyond what was there before."""
    torch.set_num_threads(threads)
    if block:
        _neighbours.BLOCK = kernel_distance.BLOCK = frechet_distance.BLOCK = block
    METRICS[metric](
        *features(64 if "subsets" not in metric and "parzen" not in metric else 3000, min(dimensions, 8))
    )  # imports and first calls
    real, fake = features(count, dimensions)
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    values = METRICS[metric](real, fake)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "mib": max(peak - before, 0) / 2**20, "values": values}


def cost(metric, count, dimensions, threads=1, block=None):
    """`measure` in a process of its own."""
    given = json.dumps({"metric": metric, "count": count, "dimensions": dimensions, "threads": threads, "block": block})
    command = [sys.executable, "-m", "tests.benchmarks.metrics_cost", "--one", given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{metric} of {count} x {dimensions} ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(counts, dimensions, metrics, threads):
    print("| metric | samples of each kind | dimensions | seconds | MiB |\n|---|---|---|---|---|", flush=True)
    for width in dimensions:
        for count in counts:
            seconds = {}
            for metric in metrics:
                if metric == "torch-fidelity kid, one subset" and count > WHOLE_MATRICES:
                    continue
                found = cost(metric, count, width, threads)
                seconds[metric] = found["seconds"]
                print(f"| {metric} | {count:,} | {width:,} | {found['seconds']:.2f} | {found['mib']:.0f} |", flush=True)
            compare(seconds, count, width)


def compare(seconds, count, width):
    """Ours over theirs, where both were measured."""
    for label, ours, theirs in (
        ("fd", ["frechet_distance"], ["torch-fidelity fd"]),
        (
            "fd + kid, their default",
            ["frechet_distance", "kernel_distance"],
            ["torch-fidelity fd", "torch-fidelity kid, 100 subsets of 1,000"],
        ),
        ("fd + kid, all pairs", ["frechet_distance", "kernel_distance"], ["torch-fidelity fd", "torch-fidelity kid, one subset"]),
    ):
        if {*ours, *theirs} <= seconds.keys():
            ratio = sum(seconds[name] for name in ours) / sum(seconds[name] for name in theirs)
            print(f"| ours / torch-fidelity: {label} | {count:,} | {width:,} | x {ratio:.2f} | |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 2048])
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(**json.loads(given.one))))
        return
    table(given.counts, given.dimensions, given.metrics, given.threads)


if __name__ == "__main__":
    main()
