"""What augmentation does for a few hundred images: the same game on the first images of a Parquet file, with and without, judged against
images that nobody trained on.

    python -m tests.benchmarks.small_data mnist/train.parquet mnist/test.parquet --images 300 --kimg 150 > small_data.md

Prints a Markdown table by the clock, and saves a sample grid of each at the end beside `--grids`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image

from gan_core import Trainer, sampling
from gan_core.config import GanConfig
from gan_core.data import parquet
from gan_core.judge import Judge, build_extractor
from gan_core.overrides import merge, validate
from gan_core.sections import ExtractorConfig

ARMS = {
    "none": {},
    "diffaugment": {"augment.name": "diffaugment"},
    "ada": {"augment.name": "ada", "augment.pixel": False, "augment.full_kimg": 100},
}
METRICS = ("kernel_distance", "frechet_distance", "precision_recall", "score")
COUNT = 2000
CPU = torch.device("cpu")


def tree(path, kimg, looks):
    """DCGAN with R1, which is stable: what is left to go wrong is that the discriminator knows its images."""
    return {
        "data": {"name": "parquet", "path": str(path), "resolution": 28, "channels": 1},
        "network": {"name": "dcgan", "generator": {"width": 32}, "discriminator": {"width": 32, "norm": "none"}},
        "variant": "r1",
        "regularizers": {"r1_gamma": 1.0},
        "optimizer": {"generator": {"lr": 5e-4}, "discriminator": {"lr": 5e-4}},
        "batch_size": 64,
        "total_kimg": kimg,
        "schedule": dict.fromkeys(("report_kimg", "sample_kimg", "evaluate_kimg", "checkpoint_kimg"), kimg / looks),
        "evaluation": {"real_count": 100, "fake_count": 100},
    }


def judge_of(train, test):
    """Test images by a classifier that was trained on all of the training images; not on the few of this trial."""
    extractor = build_extractor(ExtractorConfig(name="lenet"), parquet.load(path=train, resolution=28, channels=1), CPU)
    dataset = parquet.load(path=test, resolution=28, channels=1)
    return Judge(dataset, extractor, METRICS, real=torch.arange(COUNT), held_out=None, split="all", seed=0)


@torch.no_grad()
def scores(trainer, judge):
    z = sampling.latents_of_seeds(0, COUNT, z_dim=trainer.config.network.z_dim)
    return judge.score((trainer.parts.g_ema.network(part) for part in z.split(250)), COUNT).values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--kimg", type=float, default=150.0)
    parser.add_argument("--looks", type=int, default=5)
    parser.add_argument("--grids", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    judge = judge_of(given.train, given.test)
    print(f"{given.images} training images, {COUNT} test images, {COUNT} fakes, torch {torch.__version__}\n")
    print("| augmentation | kimg | kid_lenet | fd_lenet | precision | recall | score | D right on training | on held-out reals | p | s |")
    print("|---" * 11 + "|")
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.parquet"
        pq.write_table(pq.read_table(given.train).slice(0, given.images), few)
        for name, overrides in ARMS.items():
            trainer = Trainer(validate(merge(tree(few, given.kimg, given.looks), overrides), GanConfig), device="cpu")
            started = time.perf_counter()

            def show(report, name=name, trainer=trainer, started=started):
                found, said = scores(trainer, judge), report.metrics
                cells = [found["kid_lenet"], found["fd_lenet"], found["precision_lenet"], found["recall_lenet"], found["score"]]
                cells += [said.get("d/accuracy_train", 0.0), said.get("d/accuracy_held_out", 0.0), said.get("augment/probability", 0.0)]
                text = " | ".join(f"{cell:.3f}" for cell in cells)
                print(f"| {name} | {report.images_seen / 1000:.0f} | {text} | {time.perf_counter() - started:.0f} |", flush=True)
                if report.done and given.grids:
                    Image.fromarray(report.picture).save(given.grids / f"small_data_{name}.png")

            trainer.run(show)
    print(f"\nsettings: `{json.dumps(tree('TRAIN', given.kimg, given.looks))}`; arms: `{json.dumps(ARMS)}`")


if __name__ == "__main__":
    main()
