"""A training step of raygan against two limits: the bare floor and the arithmetic floor (tests/benchmarks/floor.py, roofline.py).

    python -m tests.benchmarks.steps [CASE ...] [--threads 1] [--starts 3] [--words key=value ...]

Floor and product are processes that take turns. `images/s over the floor's` is the median over turns, then over starts of both
processes, with the least and the most of the starts. In the product's time: its batches and latents, statistics and their reading, the
average of the generator. Not in it: reports, scores and checkpoints, which `overhead` measures.
"""

import argparse
import statistics
import tempfile

import torch

from pipelines import environment
from tests.benchmarks import cases, floor, roofline
from tests.benchmarks.turns import Side, interleaved, ratio, spread, started

STARTS, SECONDS, TURN = 3, 4.0, 0.5
UNITS = {"d": "D step", "g": "G step", "round": "round", "cpu": "round, processor time"}


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(cases.CASES)}; those that suit a CPU unless given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each side in each start, for a case")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--words", nargs="*", default=[], metavar="key=value", help="for the configs of both sides")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    names = options.cases or cases.ON_CPU
    for name in names:
        if name not in cases.CASES:
            parser.error(f"unknown case {name!r}; there are {', '.join(cases.CASES)}")
    print(report(names, options), flush=True)


def report(names, options):
    """Markdown."""
    lines = [
        f"{environment.describe()['hardware']['summary']}; torch {torch.__version__}, {options.threads} thread(s), {options.device}; "
        f"{options.starts} starts of both processes, {options.seconds:g} s each in turns of {TURN:g} s; median (quartiles) over turns.",
        "",
        "| case | of | bare floor, ms | raygan, ms | images/s over the floor's (least..most) | arithmetic floor, ms | raygan over it |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    with tempfile.TemporaryDirectory(prefix="raygan-bench-") as folder:
        starts, ways = [], {}
        for _ in range(options.starts):
            starts.append(measure(names, folder, options, ways))
            ways = {name: pairs[0][0]["way"] for name, pairs in starts[0].items()}
        for name in names:
            mine = [found[name] for found in starts]
            config, device = cases.config(name, folder, options.words), torch.device(options.device)
            limits, note = roofline.limit(floor.Floor(config, device, **ways[name]))
            lines += [row(name, unit, mine, limits["round" if unit == "cpu" else unit]) for unit in UNITS]
            seconds = statistics.median(statistics.median(b["round"]) for pairs in mine for _, b in pairs)
            speed = config.batch_size * config.ratio.d / seconds
            tried = ", ".join(f"{way} {1e3 * shortest:.1f} ms" for way, shortest in mine[0][0][0]["tried"].items())
            notes.append(
                f"* {name}: batch {config.batch_size}, {config.step_ratio}; raygan {speed:,.0f} images/s. "
                f"Floor, a round of each way at first: {tried}. {note}"
            )
    return "\n".join([*lines, "", *notes])


def measure(names, folder, options, ways):
    """The turns of one start of both, by case."""
    sides = [
        lambda kind=kind: Side(kind, folder, threads=options.threads, device=options.device, words=options.words, ways=ways)
        for kind in ("floor", "product")
    ]
    with started(*sides) as both:
        return {name: interleaved(both, name, seconds=options.seconds, turn=TURN) for name in names}


def row(name, unit, starts, least):
    bare, whole = ([statistics.median(pair[side][unit]) for pairs in starts for pair in pairs] for side in (0, 1))
    speeds = [1.0 / ratio(pairs, unit) for pairs in starts]
    over = f"{statistics.median(speeds):.3f} ({min(speeds):.3f}..{max(speeds):.3f})"
    limit = f"{1e3 * least:.2f} | {statistics.median(whole) / least:.2f}"
    return f"| {name} | {UNITS[unit]} | {spread(bare)} | {spread(whole)} | {over} | {limit} |"


if __name__ == "__main__":
    main()
