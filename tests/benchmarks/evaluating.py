"""What scores cost: `python -m tests.benchmarks.evaluating [--images 1000] [--repeats 5]`; seconds for 1000 images, on one thread.

Features of the extractors that need no training and no weights, and each metric on them, of as many made-up real and fake images of
3x32x32. A metric that so few images or these features do not allow says so. Memory, larger counts and torch-fidelity's: metrics_cost.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from gan_core.building import load_dataset
from gan_core.judge import build_extractor
from gan_core.measures import MEASURES, Evidence
from gan_core.sections import ExtractorConfig
from tests.benchmarks import cases
from tests.benchmarks.turns import spread

EXTRACTORS = ("pixels", "random_conv")
METRICS = ("kernel_distance", "frechet_distance", "precision_recall", "density_coverage")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help=f"{cases.IMAGES} at most")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="raygan-evaluating-") as folder:
        dataset = load_dataset(cases.config("dcgan-32", Path(folder)))
    cpu = torch.device("cpu")
    real = dataset.batch(torch.arange(options.images), cpu, torch.float32, labelled=False).inputs
    fake = (0.8 * real).roll(1, 0)
    print(f"{options.images} real and as many fake images of 3x32x32; ms for 1000 fakes, median (quartiles) of {options.repeats}\n")
    print("| extractor | what | ms for 1000 |\n|---|---|---|")
    share = 1000 / options.images
    for name in EXTRACTORS:
        extractor = build_extractor(ExtractorConfig(name=name), dataset, cpu)
        found, seconds = timed(partial(extractor, fake), options.repeats)
        features = found.features
        print(f"| {name} | features, {features.shape[1]} | {spread([share * each for each in seconds], form='{:.1f}')} |")
        known = extractor(real).features
        for metric in METRICS:
            try:
                _, seconds = timed(partial(measured, metric, name, known, features), options.repeats)
                cell = spread([share * each for each in seconds], form="{:.1f}")
            except ValueError as error:
                cell = f"not measured: {error}"
            print(f"| {name} | {metric} | {cell} |", flush=True)


def measured(metric, extractor, real, fake):
    """The metric of features that no other metric has looked at."""
    return MEASURES[metric].run(Evidence(extractor, real, fake))


def timed(function, repeats):
    """What a call gives, and the seconds of so many after one that warms up."""
    found, seconds = function(), []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return found, seconds


if __name__ == "__main__":
    main()
