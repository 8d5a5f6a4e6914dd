"""Every network in a small size on real images, each with the game it is known for: do distances fall, and what do samples look like?

    python -m tests.benchmarks.networks mnist/train.parquet
    python -m tests.benchmarks.networks mnist/train.parquet --conditional --network sngan stylegan2

Images are brought to 32x32. Writes a table and a picture for each network to tests/benchmarks/results.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from gan_core import Trainer, evaluation, sampling
from gan_core.config import GanConfig
from gan_core.overrides import merge, parse, validate

RESULTS = Path(__file__).parent / "results"
PLAYERS = ("generator", "discriminator")


def both(lr, **options):
    """Overrides that give the two players one learning rate and the same options."""
    return {f"optimizer.{player}.lr": lr for player in PLAYERS} | {f"network.{player}": dict(options) for player in PLAYERS}


# Sizes, rates and penalties from short trials on MNIST; see LOG.md. The number is the budget in kimg, for minutes on one core.
NETWORKS = {
    "mlp": ({"variant": "dcgan", **both(5e-4, hidden_width=256)}, 100.0),
    "dcgan": ({"variant": "dcgan", **both(5e-4, width=16)}, 40.0),
    "sngan": ({"variant": "sngan_hinge", **both(1e-3, width=8)}, 20.0),
    "stylegan2": (
        {
            "variant": "r3gan",  # with r1, in such small budgets, it goes from one kind of digit to another
            **both(2e-3, capacity=512, max_width=64),
            "network.generator.w_dim": 64,
            "network.generator.mapping_layers": 2,
            "network.generator.style_mixing": 0.0,
        },
        60.0,
    ),
    "r3gan": (
        {
            "variant": "r3gan",
            **both(1e-3, width=8, max_width=64, blocks=1),
            "regularizers.r1_gamma": 0.3,
            "regularizers.r2_gamma": 0.3,
            "batch_size": 32,
        },
        12.0,
    ),
}
SCORES = ("kid_pixels", "kid_random_conv", "fd_random_conv")


def config(name, given, kimg):
    """A training of `name`, evaluated at each third of the budget."""
    data = {"name": "digits"} if given.data == "digits" else {"name": "parquet", "path": given.data, "resolution": 32, "resize": "lanczos"}
    tree = {
        "data": data,
        "network": {"name": name, "z_dim": 64, "conditional": given.conditional},
        "batch_size": 64,
        "total_kimg": kimg,
        "seed": given.seed,
        "ema_halflife_kimg": 2.0,
        "schedule": dict.fromkeys(("report_kimg", "sample_kimg", "evaluate_kimg", "checkpoint_kimg"), kimg / 3) | {"sample_count": 80},
        "evaluation": {"extractor": {"name": "random_conv"}, "metrics": ["kernel_distance", "frechet_distance"], "fake_count": 2000},
    }
    return validate(merge(merge(tree, NETWORKS[name][0]), dict(map(parse, given.override))), GanConfig)


def run(name, given, folder):
    """The scores at the start and at each third, and what it cost; the last picture is written to `folder`."""
    settings = config(name, given, given.kimg or NETWORKS[name][1])
    trainer, rows, started = Trainer(settings, device="cpu"), [], time.process_time()
    in_pixels = merge(settings.model_dump(), {"evaluation.extractor": {"name": "pixels"}, "evaluation.metrics": ["kernel_distance"]})
    parts = trainer.parts
    judge = evaluation.build_judge(validate(in_pixels, GanConfig), parts.dataset, parts.train, parts.held_out, parts.device)

    def receive(report):
        if f"{evaluation.PREFIX}kid_random_conv" in report.metrics:
            found = {**report.metrics, **evaluation.score(judge, parts, settings).values}
            rows.append([found[f"{evaluation.PREFIX}{score}"] for score in SCORES])
            print(name, f"{trainer.images_seen / 1000:g} kimg", *(f"{value:.4g}" for value in rows[-1]), flush=True)

    trainer.run(receive)
    Image.fromarray(evaluation.picture(parts, settings)).save(folder / f"{given.title}_{name}.png", optimize=True)
    sizes = [sum(parameter.numel() for parameter in player.parameters) for player in (parts.g, parts.d)]
    agreement = label_agreement(trainer) if given.conditional else None
    return settings, rows, sizes, trainer.state.device_seconds, time.process_time() - started, agreement


@torch.no_grad()
def label_agreement(trainer, count=1000, known=4000):
    """The share of generated images whose nearest real image, by pixels, is of the class that was asked for."""
    parts, classes = trainer.parts, trainer.parts.dataset.num_classes
    real = parts.dataset.batch(torch.arange(min(known, len(parts.dataset))), parts.device, torch.float32, labelled=True)
    z, labels = sampling.latents_of_seeds(0, count, z_dim=trainer.config.network.z_dim), torch.arange(count) % classes
    fakes = torch.cat([parts.g_ema.network(*part) for part in zip(z.split(100), labels.split(100), strict=True)])
    nearest = torch.cdist(fakes.flatten(1), real.inputs.flatten(1)).argmin(1)
    return (real.labels[nearest] == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a Parquet file of images, or `digits`: 8x8, which sngan cannot make")
    parser.add_argument("override", nargs="*", help="key=value, for all networks")
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--kimg", type=float, help="for all networks; by default each has its own budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--conditional", action="store_true")
    parser.add_argument("--title", default="networks", help="beginning of the names of the files")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    given = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    columns = ["network", "variant", "ratio", "parameters G", "D", "kimg", "training, s", "CPU s in all"]
    columns += [f"{score} before, at each third" for score in SCORES] + ["falling"] + ["asked class"] * given.conditional
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name in given.network:
        settings, rows, sizes, seconds, in_all, agreement = run(name, given, given.folder)
        scores = [list(values) for values in zip(*rows, strict=True)]
        falling = all(later < before for values in scores for before, later in pairwise(values))
        below = all(values[-1] < 0.5 * values[0] for values in scores)
        cells = [
            name,
            settings.variant or settings.loss.name,
            settings.step_ratio,
            *(f"{size:,}" for size in sizes),
            f"{settings.total_kimg:g}",
        ]
        cells += [f"{seconds:.0f}", f"{in_all:.0f}", *(", ".join(f"{value:.4g}" for value in values) for values in scores)]
        cells += ["at each third" if falling else "in the end" if below else "NO", *([f"{agreement:.3f}"] if given.conditional else [])]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    (given.folder / f"{given.title}.md").write_text(table + "\n")
    print("\n" + table)


if __name__ == "__main__":
    main()
