"""What early stopping saves and loses: `python -m tests.benchmarks.early_stopping FIFO_SWEEP ASHA_SWEEP [FIFO_URI ASHA_URI]`.

Both sweeps have the same points, seed and budget; the first stopped nothing. Gives the device seconds of both, the winner of each, what
the early winner scores in full, and how well each score at each rung foretells the final one (Spearman's correlation). Then
the first sweep's curves are stopped as asynchronous halving would, one trial after another, in 200 random orders: what is lost on average.
"""

import sys

import numpy as np
from scipy import stats

from pipelines import tracking
from pipelines.results import SCREEN, rank
from pipelines.sweeps import findings, ledger

SCORES = ("score", "kid_lenet", "fd_lenet")


def read(name, uri):
    """The sweep's tracker, and what it found in its screening."""
    tracker = tracking.reach(uri)
    found = findings.summarise(tracker, ledger.find(tracker, name).info.run_id)
    return tracker, found, [row for row in found.rows if row.phase == SCREEN]


def compare(fifo, asha, fifo_uri=None, asha_uri=None):
    """Print both tables."""
    tracker, found, whole = read(fifo, fifo_uri)
    _, _, early = read(asha, asha_uri)
    seconds = [sum(row.device_seconds for row in rows) for rows in (whole, early)]
    kimg = [sum(row.kimg for row in rows) for rows in (whole, early)]
    best = [rank(rows, found.objective, higher=found.higher)[0] for rows in (whole, early)]
    in_full = {row.number: row.scores.get(found.objective, np.nan) for row in whole}
    order = [row.number for row in rank(whole, found.objective, higher=found.higher)]
    print(f"| screening | device seconds | kimg | complete | winner | its {found.objective} when nothing is stopped | its place there |")
    print("|---|---|---|---|---|---|---|")
    for name, rows, spent, images, winner in zip(("fifo", "asha"), (whole, early), seconds, kimg, best, strict=True):
        point = " ".join(str(value) for value in winner.point.values())
        complete = sum(row.complete for row in rows)
        place = f"{order.index(winner.number) + 1} of {len(order)}"
        print(f"| {name} | {spent:.0f} | {images:.0f} | {complete} | {point} | {in_full[winner.number]:.4f} | {place} |")
    print(f"\nsaved: {1 - seconds[1] / seconds[0]:.1%} of device seconds, {1 - kimg[1] / kimg[0]:.1%} of images")
    foretell(tracker, found, whole)
    replay(tracker, found, whole)


def replay(tracker, found, rows, eta=3.0, orders=200):
    """Stop the complete curves of a sweep by each score, in random orders."""
    rows = [row for row in rows if row.complete]
    curves = {row.number: ledger.curve(tracker, row.run_id, SCORES) for row in rows}
    total = max(row.kimg for row in rows)
    rungs = [total / eta**2, total / eta]
    order = [row.number for row in rank(rows, found.objective, higher=found.higher)]
    final = {row.number: row.scores[found.objective] for row in rows}
    seconds = {row.number: row.device_seconds for row in rows}

    def at(number, score, kimg):
        """Goodness and seconds spent at the first evaluation from there on."""
        curve = curves[number]
        place = next(place for place, seen in enumerate(curve.images_seen) if seen / 1000 >= kimg)
        return (1.0 if score == "score" else -1.0) * curve.scores[score][place], curve.device_seconds[place]

    print(f"\n| stopped by | the best is kept | one of the best 3 is | {found.objective} lost | share of device seconds | complete |")
    print("|---|---|---|---|---|---|")
    for score in SCORES:
        results = []
        for seed in range(orders):
            recorded, spent, complete = {rung: [] for rung in rungs}, 0.0, []
            for number in np.random.RandomState(seed).permutation(order):
                for rung in rungs:
                    value, so_far = at(number, score, rung)
                    cutoff = np.percentile(recorded[rung], (1 - 1 / eta) * 100) if recorded[rung] else -np.inf
                    recorded[rung].append(value)
                    if value < cutoff:
                        spent += so_far
                        break
                else:
                    spent, complete = spent + seconds[number], [*complete, number]
            place = min(order.index(number) for number in complete)
            results.append(
                (place == 0, place < 3, abs(final[order[place]] - final[order[0]]), spent / sum(seconds.values()), len(complete))
            )
        kept, near, loss, share, count = np.mean(results, axis=0)
        print(f"| {score} | {kept:.0%} | {near:.0%} | {loss:.3f} | {share:.2f} | {count:.1f} of {len(rows)} |")


def foretell(tracker, found, rows):
    """How scores on the way rank trials as the objective does at the end."""
    rows = [row for row in rows if row.complete]
    curves = {row.number: ledger.curve(tracker, row.run_id, SCORES) for row in rows}
    final = [row.scores[found.objective] for row in rows]
    print("\n| kimg | " + " | ".join(SCORES) + " |\n|---|" + "---|" * len(SCORES))
    longest = max(len(curve.images_seen) for curve in curves.values())
    for place in range(1, longest - 1, max(1, longest // 8)):
        signs = {"score": 1.0}
        values = [
            stats.spearmanr([signs.get(score, -1.0) * curves[row.number].scores[score][place] for row in rows], final).statistic
            for score in SCORES
        ]
        print(f"| {curves[rows[0].number].images_seen[place] / 1000:.0f} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    compare(*sys.argv[1:])
