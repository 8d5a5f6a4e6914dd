"""A Gaussian fitted to a mixture of two by the game of each f-divergence, against the exact minimisers (1606.00709, table 3).

    OMP_NUM_THREADS=1 python -m tests.benchmarks.mixture_fit

prints the result file and writes it to tests/benchmarks/results/mixture_fit_cpu_<yyyymm>.md: 4 minutes of a slow core.
"""

import argparse
import datetime
import platform
import statistics
import time
from pathlib import Path

import psutil
import torch

from gan_core.theory import mixture_fit
from gan_core.theory.mixture_fit import DATA, FITTED, START, adversarial_fit, divergence, minimiser, table

RESULTS = Path(__file__).parent / "results"
WARMUP_STEPS, G_STEPS, D_STEPS = 300, 200, 10


def processor():
    """What /proc/cpuinfo calls it, where there is one."""
    file = Path("/proc/cpuinfo")
    named = (
        [line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith("model name")] if file.exists() else []
    )
    return named[0] if named else platform.processor()


def rows_of_fits(fits, seconds):
    """One row for each divergence: where the best model is, where the first seed's game ended, and how far the worst seed's is off."""
    for name in FITTED:
        best, first = minimiser(name), fits[name][0]
        off_mu = max(abs(fit.model.mu - best.mu) for fit in fits[name])
        off_sigma = max(abs(fit.model.sigma - best.sigma) for fit in fits[name])
        cells = [divergence(name, best), divergence(name, first.model), first.bound, best.mu, first.model.mu, best.sigma, first.model.sigma]
        numbers = " | ".join(f"{value:.6f}" if place < 3 else f"{value:.4f}" for place, value in enumerate(cells))
        yield f"| {name} | {numbers} | {off_mu:.4f} | {off_sigma:.4f} | {statistics.median(seconds[name]):.1f} |"


def rows_of_table(values):
    """Trained by / evaluated by, with the least of each column in bold."""
    least = values.argmin(0)
    for row, name in enumerate(FITTED):
        cells = [f"**{value:.6f}**" if least[column] == row else f"{value:.6f}" for column, value in enumerate(values[row].tolist())]
        yield f"| {name} | {' | '.join(cells)} |"


def report(fits, seconds, seeds):
    """The result file."""
    values = table({name: fits[name][0].model for name in FITTED})
    own = values.argmin(0).tolist() == list(range(len(FITTED)))
    others = values + torch.diag(torch.full((len(FITTED),), torch.inf, dtype=values.dtype))
    margin = 100.0 * (others.min(0).values / values.diagonal() - 1.0).min().item()
    parts = " + ".join(f"{weight} N({mean}, {sigma}^2)" for weight, mean, sigma in zip(*DATA, strict=True))
    machine = f"{processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB, shared with other work"
    rates = f"Adam {mixture_fit.D_LR} and {mixture_fit.G_LR}, falling on a cosine to {mixture_fit.LAST_LR} of that"
    anchoring = "LeCam's penalty with anchors at 0 beside it, weight {} falling to {}".format(*mixture_fit.ANCHORED["total_variation"])
    heads = ["trained by", "D_f, best", "D_f, game", "its bound", "mu, best", "mu, game", "sigma, best", "sigma, game"]
    heads += ["off in mu", "off in sigma", "CPU seconds"]
    return "\n".join(
        [
            "# One Gaussian for a mixture of two, by each f-divergence",
            "",
            f"`python -m tests.benchmarks.mixture_fit`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, one thread of {machine};"
            f" torch {torch.__version__}, Python {platform.python_version()}.",
            f"Data: {parts}. Generator: mu + sigma z, from mu = {START.mu}, sigma = {START.sigma}. Discriminator: two tanh layers of"
            f" {mixture_fit.WIDTH}. Loss `f_<name>`, exact generator objective; {WARMUP_STEPS} discriminator steps, then {G_STEPS} rounds"
            f" of {D_STEPS}:1; {rates}; float64, expectations by quadrature. total_variation has {anchoring}.",
            "",
            f"## Where the game ends: seed 0, and the furthest of {seeds} seeds from the best model",
            "",
            f"| {' | '.join(heads)} |",
            f"|{'---|' * len(heads)}",
            *rows_of_fits(fits, seconds),
            "",
            "## Trained by (row), evaluated by (column): D_f of the game's model, seed 0",
            "",
            f"| trained by | {' | '.join(FITTED)} |",
            f"|---|{'---|' * len(FITTED)}",
            *rows_of_table(values),
            "",
            f"The least of each column is {'on' if own else 'NOT always on'} its own row; the next is at least {margin:.2f} % larger.",
            "",
        ]
    )


def main():
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / f"mixture_fit_cpu_{datetime.datetime.now(datetime.UTC):%Y%m}.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    fits, seconds = {name: [] for name in FITTED}, {name: [] for name in FITTED}
    for name in FITTED:
        for seed in range(given.seeds):
            started = time.process_time()
            fits[name].append(adversarial_fit(name, warmup_steps=WARMUP_STEPS, g_steps=G_STEPS, d_steps=D_STEPS, seed=seed))
            seconds[name].append(time.process_time() - started)
    text = report(fits, seconds, given.seeds)
    given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
