"""Peak memory of the loop, and what it is made of: `python -m tests.benchmarks.memory [CASE ...] [--device cuda] [--words key=value ...]`.

For the D step, the G step and what is between them: the allocator's peak, and what lay there at that moment. `over the sum` is the peak
over the sum of parameters, buffers, moments, averaged generator, all gradients, the batch and the most that the phase saves for backward
passes. `transient` are other tensors, gradients of activations mostly, and the largest are told by the operator that made them; `workspace`
is what the operator that ran at the peak took and gave back itself (not measured on a GPU), as far as tensors leave room for it: they may
be most a moment earlier or later; `unexplained` is the rest of what the allocator had given out.
Every case runs in a process of its own. Lazy penalties act at every second step here, so that their step is among the few.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext

import psutil
import torch
from torch.utils._pytree import tree_iter

from gan_core import Trainer
from gan_core.supply import Supply
from tests.benchmarks import cases, live
from tests.benchmarks.turns import ROOT

ROUNDS = 3
PHASES = {"step_discriminator": "D step", "step_generator": "G step"}
BETWEEN = "between"
KEPT = ("parameters", "buffers", "moments", "average", "batch")
KINDS = (*KEPT, live.GRADIENTS, live.SAVED, "transient")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(cases.CASES)}; those that suit a CPU unless given")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--words", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    names = options.cases or cases.ON_CPU
    if options.one:
        with tempfile.TemporaryDirectory(prefix="raygan-memory-") as folder:
            print(json.dumps(measure(names[0], folder, options.device, options.words)))
        return
    print(f"torch {torch.__version__}, {options.device}; MB of 10^6 bytes\n")
    print(f"| case | phase | peak | {' | '.join(KINDS)} | workspace | unexplained | over the sum |")
    print("|---" * (len(KINDS) + 6) + "|")
    notes = []
    for name in names:
        found = in_own_process(name, options.device, options.words)
        for phase, row in found["phases"].items():
            print(f"| {name} | {phase} | {' | '.join(cells(row))} |", flush=True)
        notes.append(
            f"* {name}: resident memory grew by {found['resident'] / 1e6:.0f} MB from before the build to the most in {ROUNDS} rounds, "
            f"pages of libraries included. "
            f"Transient at the peaks: {'; '.join(f'{phase}: {transient(row)}' for phase, row in found['phases'].items())}."
        )
    print("", *notes, sep="\n")


def in_own_process(name, device, words):
    """`measure` of a case.

    Raises:
        RuntimeError: the process failed, with its last words.
    """
    command = [sys.executable, "-m", "tests.benchmarks.memory", name, "--one", "--device", device, "--words", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def cells(row):
    """Peak, kinds, what is unexplained, and the peak over the sum."""
    kinds = row["kinds"]
    parts = [*(kinds.get(kind, 0) for kind in KINDS), row["workspace"]]
    unexplained = row["peak"] - sum(parts)
    whole = sum(kinds.get(kind, 0) for kind in KEPT) + kinds["parameters"] + row["saved"]  # as many gradients as parameters
    return [*(f"{size / 1e6:.2f}" for size in (row["peak"], *parts)), f"{unexplained / row['peak']:.1%}", f"{row['peak'] / whole:.2f}"]


def transient(row):
    largest = sorted(row["operators"].items(), key=lambda item: -item[1])[:3]
    words = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in largest) or "nothing"
    return f"{words} (workspace of {row['within']})" if row["within"] else words


def measure(name, folder, device, words):
    """By phase: the allocator's peak, its kinds, and the operators of what is transient; and how much resident memory grew."""
    lazy = ["regularizers.r1_interval=2"] if "r1_interval" in str(cases.CASES[name]) else []
    config = cases.config(name, folder, [*lazy, *words])
    before = psutil.Process().memory_info().rss
    train(Trainer(config, device=device, evaluates=False), nullcontext)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    true = (peaks_on_cpu if device == "cpu" else peaks_on_cuda)(config)
    followed = follow(config, device)
    phases = {
        phase: {
            "peak": true[phase].total,
            "workspace": max(0, min(true[phase].workspace, true[phase].total - peak.total)),
            "within": true[phase].operator,
            "kinds": peak.kinds,
            "operators": peak.operators,
            "saved": followed.most_saved[phase],
        }
        for phase, peak in followed.peaks.items()
        if phase in true
    }
    return {"phases": phases, "resident": resident}


def train(trainer, phase):
    """ROUNDS rounds, each step within `phase(name)` and all else within that of BETWEEN."""

    def within(name, step):
        def call(*args, **kwargs):
            with phase(name):
                return step(*args, **kwargs)

        return call

    for method, name in PHASES.items():
        setattr(trainer, method, within(name, getattr(trainer, method)))
    for _ in range(ROUNDS):
        with phase(BETWEEN):
            trainer._round()


def peaks_on_cpu(config):
    """The allocator's peak of each phase."""
    peaks = {}
    with live.allocated(peaks):
        train(Trainer(config, device="cpu", evaluates=False), lambda name: torch.profiler.record_function(f"phase {name}"))
    return {name.removeprefix("phase "): peak for name, peak in peaks.items()}


def peaks_on_cuda(config):
    """The same on a GPU, beside what lay there before."""
    peaks = {}
    trainer = Trainer(config, device="cuda", evaluates=False)
    stack = []

    @contextmanager
    def phase(name):
        note()
        stack.append(name)
        yield
        note()
        stack.pop()

    def note():
        torch.cuda.synchronize()
        if stack:
            peaks[stack[-1]] = max(peaks.get(stack[-1], 0), torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()

    train(trainer, phase)
    return {name: live.Held(peak, 0, "") for name, peak in peaks.items()}


def follow(config, device):
    """What tensors hold, followed through as much training."""
    trainer = Trainer(config, device=device, evaluates=False)
    parts = trainer.parts
    players = {"generator": parts.g, "discriminator": parts.d}
    following = live.Live([parameter for player in players.values() for parameter in player.parameters], device)
    for player in players.values():
        following.name(player.network.parameters(), "parameters")
        following.name(player.network.buffers(), "buffers")
    following.name(parts.g_ema.network.state_dict(keep_vars=True).values(), "average")

    @contextmanager
    def phase(name):
        for player in players.values():
            following.name(tensors_of(player.optimizer.state), "moments")
        with following.phase(name):
            yield

    with named(following, Supply, ("real", "z")), following, following.saving():
        train(trainer, phase)
    return following


@contextmanager
def named(following, owner, methods):
    """Meanwhile what these methods return is named a batch."""
    before = {name: getattr(owner, name) for name in methods}

    def naming(method):
        def call(*args, **kwargs):
            out = method(*args, **kwargs)
            following.name(tensors_of(out), "batch")
            return out

        return call

    for name, method in before.items():
        setattr(owner, name, naming(method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(owner, name, method)


def tensors_of(tree):
    """All tensors in nested tuples and dicts."""
    return [leaf for leaf in tree_iter(tree if not isinstance(tree, Mapping) else dict(tree)) if isinstance(leaf, torch.Tensor)]


if __name__ == "__main__":
    main()
