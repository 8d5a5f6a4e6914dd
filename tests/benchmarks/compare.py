"""Has training become slower? Two commits' training steps in one run: `python -m tests.benchmarks.compare A [B]`.

Both are checked out (B is the working tree if left out), and processes of each take turns, one training while the other waits, over several
starts. For each case and clock: B's seconds a round over A's, with Student's interval over the starts. Processor time does not count
what neighbours take, wall time counts what waits. The status is 1 if one is slower by more than the margin for certain: if its lower bound
is above 1 + MARGIN, at a level at which all of them together raise a false alarm in one run of a hundred at most, even where B is slower by
just the margin. The harness (tests/benchmarks) is this one's on both sides; `gan_core` is the commit's.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from pipelines import environment
from tests.benchmarks import cases
from tests.benchmarks.turns import ROOT, Side, interleaved, interval, ratio, started

MARGIN, ALARM, STARTS, SECONDS, TURN = 0.03, 0.01, 8, 2.0, 0.25
CLOCKS = {"round": "wall", "cpu": "processor"}


@contextmanager
def checked_out(commit, folder):
    """A folder whose gan_core is that of `commit`, or of the working tree where that is None, and whose tests are this one's.

    Raises:
        ValueError: git knows no such commit.
    """
    folder.mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    if commit is None:
        (folder / "gan_core").symlink_to(ROOT / "gan_core")
        yield folder
        return
    tree = folder / "tree"
    done = subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{commit} cannot be checked out: {done.stderr.strip()}")
    try:
        (folder / "gan_core").symlink_to(tree / "gan_core")
        yield folder
    finally:
        shutil.rmtree(tree)
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)


def measure(roots, names, folder, options):
    """For each case and clock the ratio of each start, B over A."""
    ratios = {(name, clock): [] for name in names for clock in CLOCKS}
    for number in range(options.starts):
        order = (0, 1) if number % 2 == 0 else (1, 0)  # so that none is always the first to be started
        with started(
            *(lambda place=place: Side("product", folder, root=roots[place], threads=options.threads) for place in order)
        ) as sides:
            a, b = (sides[order.index(place)] for place in (0, 1))
            for name in names:
                pairs = interleaved((a, b), name, seconds=options.seconds, turn=TURN)
                for clock in CLOCKS:
                    ratios[name, clock].append(ratio(pairs, clock))
    return ratios


def judge(ratios, *, margin=MARGIN, alarm=ALARM):
    """For each key its interval; and the keys that are slower by more than the margin. `alarm` is the chance of any false one."""
    found = {key: interval(values, alarm=alarm / len(ratios)) for key, values in ratios.items()}
    return found, [key for key, each in found.items() if each.bound > 1.0 + margin]


def main(words=None):
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", help="a commit")
    parser.add_argument("b", metavar="B", nargs="?", help="another; the working tree unless given")
    parser.add_argument("--cases", nargs="+", choices=cases.CASES, default=cases.ON_CPU)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each side in each start, for a case")
    parser.add_argument("--margin", type=float, default=MARGIN)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="raygan-compare-") as name:
        folder = Path(name)
        with checked_out(options.a, folder / "a") as a, checked_out(options.b, folder / "b") as b:
            ratios = measure((a, b), options.cases, folder, options)
    found, slower = judge(ratios, margin=options.margin)
    print(f"{options.b or 'the working tree'} over {options.a}, seconds a round; {environment.describe()['hardware']['summary']}, ", end="")
    print(f"{options.threads} thread(s), {options.starts} starts, {options.seconds:g} s of each side\n")
    print("| case | clock | ratio | 95 % interval | lower bound of the alarm |\n|---|---|---|---|---|")
    for (name, clock), each in found.items():
        print(f"| {name} | {CLOCKS[clock]} | {each.ratio:.3f} | {each.low:.3f}..{each.high:.3f} | {each.bound:.3f} |")
    print(f"\nSlower by more than {options.margin:.0%}: {', '.join(f'{name} ({CLOCKS[clock]})' for name, clock in slower) or 'none'}.")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
