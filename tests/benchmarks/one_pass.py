"""All metrics from one pass over the images, beside a pass for each metric.

    python -m tests.benchmarks.one_pass mnist/train.parquet --count 10000

Held-out images are judged as if a generator had made them. Each judgement is timed with the features of the real images to be computed, and
with them in the cache, as they are from a run's second evaluation on.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from gan_core import sampling
from gan_core.data import parquet
from gan_core.judge import Judge, build_extractor
from gan_core.sections import ExtractorConfig
from tests.benchmarks.ladder import METRICS

CPU = torch.device("cpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a Parquet file of labelled images")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--extractor", default="lenet")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = parquet.load(path=str(given.path))
    train, held_out = sampling.held_out_split(len(dataset), 0.4)
    real, fakes_from, fresh = train[: given.count], held_out[: given.count], held_out[given.count : given.count + 1000]
    extractor = build_extractor(ExtractorConfig(name=given.extractor), dataset, CPU)
    fakes = dataset.batch(fakes_from, CPU, torch.float32, labelled=False).inputs

    def seconds(metrics):
        """With the features of the real images to be computed, and with them known."""
        with tempfile.TemporaryDirectory() as cache:
            os.environ["RAYGAN_CACHE"] = cache
            found = []
            for _ in range(2):
                judge = Judge(dataset, extractor, metrics, real=real, held_out=fresh, split="train", seed=0)
                started = time.perf_counter()
                assert not judge.score([fakes], len(fakes)).failures
                found.append(time.perf_counter() - started)
        return found

    print(f"| metrics, {given.count:,} images of each kind, {extractor.name} | seconds | real features known |\n|---|---|---|")
    total = [0.0, 0.0]
    for metric in METRICS:
        found = seconds((metric,))
        total = [whole + part for whole, part in zip(total, found, strict=True)]
        print(f"| {metric} | {found[0]:.2f} | {found[1]:.2f} |", flush=True)
    together = seconds(METRICS)
    print(f"| the sum of these | {total[0]:.2f} | {total[1]:.2f} |")
    print(f"| all in one pass | {together[0]:.2f} | {together[1]:.2f} |")


if __name__ == "__main__":
    main()
