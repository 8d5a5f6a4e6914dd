"""The benchmark suite, `make bench`: `python -m tests.benchmarks.suite [PIECE ...] [--out FILE.md]`, under 10 minutes on 2 cores in all.

Pieces are programs of their own, at sizes that let all of them fit; alone they take more repeats and other cases:

    steps        training step of each network over the bare floor and the arithmetic floor
    memory       peak of each player's step, and what it is made of
    data         encoded images to prepared ones to batches
    evaluation   extractors and metrics for 1000 images
    ray          `raygan train` with 1 and 2 workers over loops without Ray
    sweep        what a sweep costs beside its training
    start_up     commands to their first line, `raygan train` to its first step
    scaling      1 and 2 ranks, measured

The status is 1 if a piece failed; the others run all the same.
"""

import argparse
import datetime
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pipelines import environment
from tests.benchmarks.turns import ROOT

PACKAGES = ("torch", "ray", "mlflow", "numpy", "pyarrow")


class Piece(NamedTuple):
    """A module of tests.benchmarks, its words, and seconds after which it is ended: many times what it takes."""

    module: str
    words: tuple[str, ...] = ()
    limit: float = 600.0


PIECES = {
    "steps": Piece("steps", ("--starts", "2", "--seconds", "3")),
    "memory": Piece("memory", ("mlp", "dcgan-32", "stylegan2-32")),
    "data": Piece("data_path", ("--repeats", "3", "--seconds", "1")),
    "evaluation": Piece("evaluating"),
    "ray": Piece("overhead", ("digits", "--starts", "1", "--rounds", "4", "--seconds", "3", "--against", "core")),
    "sweep": Piece("sweep_cost", ("overhead",)),
    "start_up": Piece("start_up", ("help", "train=2")),
    "scaling": Piece("scaling", ("--networks", "mlp", "dcgan-32", "--batches", "8", "16", "--turns", "3")),
}


class Outcome(NamedTuple):
    """What a piece printed, how long it took, and its status."""

    text: str
    seconds: float
    status: int


def run(piece):
    """The piece in a process of its own, to its end or to its limit."""
    began = time.monotonic()
    command = [sys.executable, "-m", f"tests.benchmarks.{piece.module}", *piece.words]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=piece.limit)
        text, status = done.stdout if done.returncode == 0 else done.stdout + done.stderr[-3000:], done.returncode
    except subprocess.TimeoutExpired as error:
        text, status = f"{(error.stdout or b'').decode()}\nended after {piece.limit:g} s", 124
    return Outcome(text.strip(), time.monotonic() - began, status)


def head():
    """When, on what, of which commit."""
    found = environment.describe()
    packages = ", ".join(f"{name} {found['packages'][name]}" for name in PACKAGES)
    commit = (found["git"]["commit"] or "no commit")[:12] + (" with changes" if found["git"]["uncommitted_changes"] else "")
    return (
        f"# Benchmarks\n\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {commit}; {found['hardware']['summary']}; "
        f"Python {found['python']}, {packages}."
    )


def section(name, piece, outcome):
    """A piece's part of the report."""
    failed = f" **failed with {outcome.status}**" if outcome.status else ""
    command = " ".join(["python -m", f"tests.benchmarks.{piece.module}", *piece.words])
    return f"\n## {name}\n\n`{command}`, {outcome.seconds:.0f} s{failed}\n\n{outcome.text}"


def main(words=None):
    """Run the pieces and print the report as it grows; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of {', '.join(PIECES)}; all unless given")
    parser.add_argument("--out", type=Path, help="a Markdown file for the report")
    options = parser.parse_args(words)
    names = options.pieces or list(PIECES)
    for name in names:
        if name not in PIECES:
            parser.error(f"unknown piece {name!r}; there are {', '.join(PIECES)}")
    parts, failed, began = [head()], [], time.monotonic()
    print(parts[0], flush=True)
    for name in names:
        outcome = run(PIECES[name])
        parts.append(section(name, PIECES[name], outcome))
        failed += [name] if outcome.status else []
        print(parts[-1], flush=True)
    parts.append(f"\nIn all {(time.monotonic() - began) / 60:.1f} minutes; failed: {', '.join(failed) or 'none'}.")
    print(parts[-1])
    if options.out:
        options.out.write_text("\n".join(parts) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
