"""Frechet and kernel distance by the number of samples, on two Gaussians whose distances are known: bias, spread, and the errors reported.

    python -m tests.benchmarks.bias --out tests/benchmarks/results/bias_cpu_202611

Writes a Markdown table and a picture. Both have mean 0, in 64 dimensions, with independent coordinates of deviations s and t. Then the
squared 2-Wasserstein distance is sum (s - t)^2, and under the kernel (x . y / d + 1)^3, whose odd terms vanish, MMD^2 is
3 sum (s^2 - t^2)^2 / d^2.
"""

import argparse
import statistics
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gan_core.metrics import frechet_distance, kernel_distance

DIMENSIONS = 64
COUNTS = {100: 200, 200: 200, 500: 200, 1000: 100, 2000: 100, 5000: 60, 10_000: 60, 20_000: 60, 50_000: 60}  # of each kind: repeats
REAL = torch.logspace(0.0, -1.0, DIMENSIONS, dtype=torch.float64)
FAKE = REAL * torch.linspace(1.1, 0.9, DIMENSIONS, dtype=torch.float64)
METRICS = {
    "fd": (frechet_distance.evaluate, float((REAL - FAKE).square().sum())),
    "kid": (kernel_distance.evaluate, float(3.0 * (REAL.square() - FAKE.square()).square().sum() / DIMENSIONS**2)),
}


def measure(counts):
    """For each metric and count: mean, its standard error, the spread of one value, and the root mean square of the errors reported."""
    source = torch.Generator().manual_seed(0)
    rows = []
    for count, repeats in counts.items():
        values = {name: ([], []) for name in METRICS}
        for _ in range(repeats):
            real, fake = (torch.randn(count, DIMENSIONS, generator=source, dtype=torch.float64) * scale for scale in (REAL, FAKE))
            for name, (evaluate, _) in METRICS.items():
                found = evaluate(real, fake, extractor="x")
                values[name][0].append(found[f"{name}_x"])
                values[name][1].append(found[f"{name}_x_error"])
        for name, (found, errors) in values.items():
            spread = statistics.stdev(found)
            reported = statistics.mean(error**2 for error in errors) ** 0.5
            rows.append((name, count, repeats, statistics.mean(found), spread / repeats**0.5, spread, reported))
    return rows


def table(rows):
    lines = [
        "| metric | samples of each kind | repeats | true | mean +/- error | bias in errors | spread | error reported |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, count, repeats, mean, error, spread, reported in rows:
        true = METRICS[name][1]
        cells = (f"{count:,}", repeats, f"{true:.6g}", f"{mean:.6g} +/- {error:.2g}", f"{(mean - true) / error:+.1f}", f"{spread:.2g}")
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {reported:.2g} |")
    return "\n".join(lines) + "\n"


def draw(rows, path):
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    for axes, (name, (_, true)) in zip(figure.subplots(1, 2), METRICS.items(), strict=True):
        mine = [row[1:] for row in rows if row[0] == name]
        counts, means = [row[0] for row in mine], [row[2] for row in mine]
        axes.axhline(true, color="#b2182b", linestyle="--", label="the Gaussians' own distance")
        axes.errorbar(
            counts, means, yerr=[row[4] for row in mine], color="#2166ac", marker="o", capsize=4, label="mean, and spread of one value"
        )
        axes.set(xscale="log", xlabel="samples of each kind", ylabel=name)
        axes.set_title({"fd": "Frechet distance: biased upwards, as 1/n", "kid": "Kernel distance: unbiased at any n"}[name])
        axes.legend(frameon=False)
    figure.axes[0].set_yscale("log")
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the files' name, without its end")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = measure(COUNTS)
    text = table(rows)
    parts = [
        "# Frechet and kernel distance by the number of samples",
        "`python -m tests.benchmarks.bias`: two Gaussians in 64 dimensions whose distances are known. Above 1,000 samples the "
        "kernel distance is the mean over groups of 1,000.",
        text,
        f"![Both distances by the number of samples]({given.out.name}.png)",
    ]
    given.out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    draw(rows, given.out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
