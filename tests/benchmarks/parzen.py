"""The 2014 paper's MNIST score (1406.2661, table 1: GAN 225 +/- 2 nats): Parzen-window log-likelihood of the test images under samples.

    python -m tests.benchmarks.parzen train.parquet test.parquet --preset paper --kimg 400
    python -m tests.benchmarks.parzen train.parquet test.parquet --preset found --kimg 300
    python -m tests.benchmarks.parzen train.parquet test.parquet --reference

Trains on the first 50,000 rows of the training images; sigma is the best of logspace(-1, 0, 10) for the 1,000 rows after them; 10,000
samples; the 10,000 test images in [0, 1]. Both the generator and its moving average are scored, at the end of the budget and not at a
chosen moment.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from torchvision.utils import make_grid

from gan_core import Trainer, sampling
from gan_core.config import GanConfig
from gan_core.data import parquet
from gan_core.metrics import parzen_window
from gan_core.overrides import merge, parse, validate

TRAINED_ON, VALIDATION, SAMPLES = 50_000, 1_000, 10_000
LLOYD_STEPS = 2

# The paper's layers: rectifiers 1200-1200 against maxout 240x5 twice, dropout. Ours: Adam, tanh, initial weights, no dropout of pixels.
PAPER = {
    "network": {
        "name": "mlp",
        "z_dim": 100,
        "generator": {"hidden_width": 1200, "hidden_layers": 2},
        "discriminator": {"hidden_width": 240, "hidden_layers": 2, "maxout_pieces": 5, "dropout": 0.5},
    },
    "batch_size": 100,
}
# Ours: what a few short pilots ended with; parzen_mnist_cpu_202611.md in results has them.
FOUND = {
    "network": {
        "name": "mlp",
        "z_dim": 100,
        "generator": {"hidden_width": 500, "hidden_layers": 2, "norm": "batch"},
        "discriminator": {"hidden_width": 300, "hidden_layers": 2},
    },
    "variant": "r1",
    "regularizers": {"r1_gamma": 0.1},
    "optimizer": {player: {"lr": 1e-3} for player in ("generator", "discriminator")},
    "ema_halflife_kimg": 30.0,
    "batch_size": 64,
}
PRESETS = {"paper": PAPER, "found": FOUND}


def config(preset, kimg, seed, subset, cache, looks, extra):
    tree = {**PRESETS[preset], "data": {"name": "parquet", "path": str(subset), "cache_dir": str(cache)}}
    tree |= {"total_kimg": kimg, "seed": seed, "diagnostics": {"enabled": False, "held_out": 0.0}}
    tree["schedule"] = {"report_kimg": kimg / looks} | {f"{what}_kimg": kimg for what in ("evaluate", "sample", "checkpoint")}
    return validate(merge(tree, extra), GanConfig)


def pixels(images):
    """uint8 to [0, 1]."""
    return images.float() / 255.0


def load(train, test, folder):
    """The Parquet file to train on, and in [0, 1] the training, validation and test images."""
    subset = folder / "mnist_first_50000.parquet"
    if not subset.exists():
        pq.write_table(pq.read_table(train).slice(0, TRAINED_ON), subset)
    images = parquet.load(path=str(train), cache_dir=str(folder)).images
    if len(images) < TRAINED_ON + VALIDATION:
        raise ValueError(f"{train} holds {len(images)} images; the protocol needs the 60,000 of MNIST")
    tested = parquet.load(path=str(test), cache_dir=str(folder)).images
    return subset, pixels(images[:TRAINED_ON]), pixels(images[TRAINED_ON : TRAINED_ON + VALIDATION]), pixels(tested)


@torch.no_grad()
def draw(generator, config, stream, count=SAMPLES):
    """Samples in [0, 1]; the generator's own range is [-1, 1]."""
    z = sampling.latents(config.seed, stream, 0, batch_size=count, z_dim=config.network.z_dim)
    was_training = generator.training
    generator.eval()
    images = torch.cat([generator(part) for part in z.split(500)])
    generator.train(was_training)
    return images.add_(1.0).div_(2.0)


def score(name, samples, validation, test):
    started = time.process_time()
    found = parzen_window.evaluate(test, samples, validation)
    seconds = round(time.process_time() - started, 1)
    nats, error, sigma = (found[key] for key in ("parzen_pixels", "parzen_pixels_error", "parzen_sigma"))
    print(f"{name}: {nats:.1f} +/- {error:.1f} nats, sigma {sigma:.4f} ({seconds} CPU seconds)", flush=True)


def references(training, validation, test, seed):
    """What data itself and things that are no model at all would score."""
    order = torch.randperm(TRAINED_ON, generator=sampling.random_source(seed, "references"))
    chosen = training[order[:SAMPLES]]
    score("10,000 training images", chosen, validation, test)
    score(f"10,000 centres, {LLOYD_STEPS} steps of k-means from those", lloyd(training, chosen), validation, test)
    score("the mean training image", training.mean(0, keepdim=True), validation, test)
    columns = chosen.flatten(1)
    shuffled = torch.stack([columns[torch.randperm(SAMPLES, generator=sampling.random_source(seed, "pixel", i)), i] for i in range(784)], 1)
    score("training images with each pixel shuffled by itself", shuffled.view_as(chosen), validation, test)


def lloyd(images, centres):
    """Centres after a few steps of k-means; one without images stays."""
    rows, means = images.flatten(1), centres.flatten(1).clone()
    for _ in range(LLOYD_STEPS):
        halves = means.square().sum(1) / 2.0
        nearest = torch.cat([(part @ means.T - halves).argmax(1) for part in rows.split(1000)])
        counts = torch.bincount(nearest, minlength=len(means))[:, None]
        sums = torch.zeros_like(means).index_add_(0, nearest, rows)
        means = torch.where(counts > 0, sums / counts.clamp(min=1), means)
    return means.view_as(centres)


def run(config, validation, test, picture):
    """Train and score; on the way, print what the validation images say (never the test images)."""
    trainer, started, watching = Trainer(config, device="cpu"), time.process_time(), 0.0
    players = {"generator": trainer.parts.g.network, "average": trainer.parts.g_ema.network}

    def look(report):
        nonlocal watching
        if report.images_seen == 0:
            return
        began = time.process_time()
        line = {"kimg": report.images_seen / 1000, "cpu_seconds": round(began - started - watching, 1)}
        for name, network in players.items():
            choice = parzen_window.choose_sigma(validation, draw(network, config, "parzen/validation"))
            line[name] = [round(choice.nats, 1), round(choice.sigma, 3)]
        line |= {k: round(report.metrics[k], 3) for k in ("d/loss", "g/loss", "d/accuracy_real", "d/accuracy_fake") if k in report.metrics}
        watching += time.process_time() - began
        print(json.dumps(line), flush=True)

    trainer.run(look)
    seconds = time.process_time() - started - watching
    print(f"trained {config.total_kimg:g} kimg, {trainer.state.g_steps} generator steps, in {seconds:.0f} CPU seconds", flush=True)
    for name, network in players.items():
        samples = draw(network, config, "parzen")
        score(name, samples, validation, test)
        if picture:
            grid = make_grid(samples[:100], nrow=10, padding=2, pad_value=0.5).mul(255).byte().permute(1, 2, 0)
            Image.fromarray(grid.numpy()).save(picture.with_name(f"{picture.stem}_{name}.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="Parquet file of the 60,000 training images; the last 10,000 rows are not trained on")
    parser.add_argument("test", type=Path, help="Parquet file of the 10,000 test images")
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--kimg", type=float, default=1000.0, help="budget, thousands of real images")
    parser.add_argument("--looks", type=int, default=10, help="how often to score the validation images on the way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", action="store_true", help="score data and trivial baselines instead of a GAN")
    parser.add_argument("--picture", type=Path, help="a PNG file for 100 samples; _generator and _average are added to its name")
    parser.add_argument("--folder", type=Path, help="where to keep decoded images between runs; default: a temporary folder")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the config, key=value, for example variant=r3gan")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        subset, training, validation, test = load(given.train, given.test, folder)
        if given.reference:
            references(training, validation, test, given.seed)
            return
        extra = dict(parse(item) for item in given.set)
        run(config(given.preset, given.kimg, given.seed, subset, folder, given.looks, extra), validation, test, given.picture)


if __name__ == "__main__":
    main()
