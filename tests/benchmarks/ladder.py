"""Which metric sees which fault: held-out real images, spoiled step by step, judged against training images.

    python -m tests.benchmarks.ladder mnist/train.parquet --count 5000 > ladder.md
    python -m tests.benchmarks.ladder --draw ladder.md

Prints a Markdown table for each fault: every score at every rung, and whether it gets worse from each rung to the next; `--draw` makes
a picture of such a file, beside it.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torchvision.transforms.functional import gaussian_blur

from gan_core import sampling
from gan_core.data import parquet
from gan_core.judge import Judge, build_extractor
from gan_core.measures import scores_of
from gan_core.sections import ExtractorConfig

METRICS = (
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "density_coverage",
    "score",
    "classifier_score",
    "class_coverage",
    "memorisation",
    "birthday_paradox",
)
CPU = torch.device("cpu")


def noisy(fakes, labels, training, amount):
    noise = torch.randn(fakes.shape, generator=torch.Generator().manual_seed(0))
    return (fakes + amount * noise).clamp(-1.0, 1.0)


def blurred(fakes, labels, training, amount):
    return gaussian_blur(fakes, 4 * int(amount + 1) + 1, amount) if amount else fakes


def classes_dropped(fakes, labels, training, amount):
    """As many images, of the first `10 - amount` classes alone: each kept one as often as needed."""
    kept = fakes[labels < 10 - amount]
    return kept[torch.arange(len(fakes)) % len(kept)]


def copied(fakes, labels, training, amount):
    """The share `amount` of the fakes are training images."""
    count = int(amount * len(fakes))
    return torch.cat([training[:count], fakes[count:]])


def repeated(fakes, labels, training, amount):
    """Every image `amount` times."""
    return fakes[: len(fakes) // amount].repeat_interleave(amount, 0)


FAULTS = {
    "gaussian noise, deviation": (noisy, (0.0, 0.1, 0.2, 0.4, 0.8)),
    "blur, deviation in pixels": (blurred, (0.0, 0.5, 1.0, 2.0, 4.0)),
    "classes dropped, of 10": (classes_dropped, (0, 1, 5, 9)),
    "training images, share": (copied, (0.0, 0.1, 0.5, 1.0)),
    "each image repeated": (repeated, (1, 2, 5, 20)),
}


COLOURS = {"worse at each rung": "#1a9850", "worse in the end": "#2166ac", "not seen": "#b2182b", "-": "0.5"}


def verdict(values, better):
    """Whether the score gets worse at every rung; a memorised copy is no worse to most metrics, and should not be."""
    if better is None:
        return "-"
    signs = [(after - before) * (1 if better == "lower" else -1) for before, after in pairwise(values)]
    return "worse at each rung" if min(signs) > 0 else "worse in the end" if sum(signs) > 0 else "not seen"


def draw(tables):
    """A picture of the tables in a file: a row for each score, a column for each fault, a small curve in each cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.read_text().splitlines() if line.startswith("|")]
    faults, scores = [], []
    for cells in lines:
        if cells[0] in FAULTS:
            faults.append((cells[0], cells[1:-1], {}))
        elif faults and not cells[0].startswith("---"):
            faults[-1][2][cells[0]] = ([float(cell) for cell in cells[1:-1]], cells[-1])
            scores += [cells[0]] if cells[0] not in scores else []
    figure = Figure(figsize=(3.0 * len(faults), 0.95 * len(scores) + 1.2), layout="constrained")
    for row, panels in enumerate(figure.subplots(len(scores), len(faults), squeeze=False)):
        for panel, (fault, rungs, found) in zip(panels, faults, strict=True):
            values, said = found[scores[row]]
            panel.plot(values, marker="o", markersize=4.0, linewidth=1.5, color=COLOURS[said])
            panel.margins(0.1, 0.3)
            panel.set_xticks(range(len(rungs)), rungs if row == len(scores) - 1 else [""] * len(rungs), fontsize=8)
            panel.tick_params(axis="y", labelsize=7)
            if row == 0:
                panel.set_title(fault, fontsize=10)
        panels[0].set_ylabel(scores[row].replace("_", "\n"), rotation=0, ha="right", va="center", fontsize=9)
    handles = [
        Line2D([], [], color=colour, marker="o", label={"-": "no better side", "not seen": "not seen, or better"}.get(said, said))
        for said, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(COLOURS), frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(tables.with_suffix(".png"), dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a Parquet file with labels 0 to 9, or with --draw the tables of an earlier run")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--count", type=int, default=5000, help="real and fake images")
    parser.add_argument("--extractor", default="lenet")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.draw:
        draw(given.path)
        return
    torch.set_num_threads(given.threads)
    dataset = parquet.load(path=str(given.path))
    train, held_out = sampling.held_out_split(len(dataset), 0.2)
    train, fakes_from, fresh = train[: given.count], held_out[: given.count], held_out[given.count : 2 * given.count]
    extractor = build_extractor(ExtractorConfig(name=given.extractor), dataset, CPU)
    metrics = METRICS if extractor.num_classes else tuple(name for name in METRICS if not name.startswith("class"))
    judge = Judge(dataset, extractor, metrics, real=train, held_out=fresh, split="train", seed=0)
    fakes = dataset.batch(fakes_from, CPU, torch.float32, labelled=True)
    training = dataset.batch(train, CPU, torch.float32, labelled=False).inputs
    accuracy = f", test accuracy {extractor.facts['test_accuracy']:.4f}" if extractor.num_classes else ""
    print(f"{dataset.name}, {given.count:,} images of each kind, extractor {extractor.name} {extractor.weights_hash[:12]}{accuracy}")
    for fault, (spoil, amounts) in FAULTS.items():
        rungs = [judge.score([spoil(fakes.inputs, fakes.labels, training, amount)], given.count).values for amount in amounts]
        print(f"\n| {fault} | {' | '.join(map(str, amounts))} | |\n|{'---|' * (len(amounts) + 2)}")
        for key, better in scores_of(metrics, extractor.name).items():
            values = [rung[key] for rung in rungs]
            print(f"| {key} | {' | '.join(f'{value:.4g}' for value in values)} | {verdict(values, better)} |", flush=True)


if __name__ == "__main__":
    main()
