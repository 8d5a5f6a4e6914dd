"""Faults for tests, in every Python process that has this folder on PYTHONPATH: the driver, Ray's workers.

$RAYGAN_TEST_FAULTS is JSON, any of:
    {"out_of_memory": {"above": 8, "after": 20, "rank": 1}}   forward passes of more than 8 images fail, from the 20th one of the process on
    {"nan_at": [{"d_step": 30, "times": 1, "marker": "/a/file", "rank": 1}]}   the real images of discriminator step 30 are NaN, once
    {"sleep_at": [the same]}   the rank sleeps there, for longer than anybody waits
    {"slow": {"seconds": 0.1, "until": "/a/file"}}   each discriminator step takes so much longer, until the file is there
"rank" left out is every rank, "times" left out is always. A marker file counts over all processes; a fault waits until
the file "once" is there.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path


def is_meant(fault):
    """Whether this rank is."""
    import torch.distributed as dist

    rank = dist.get_rank() if dist.is_initialized() else 0
    return fault.get("rank") in (None, rank)


def short_of_memory(fakes, fault):
    """`gan_core.steps.fakes` on a device with little memory; diagnostics, which use it too, have enough."""
    import torch

    count = [0]

    def limited(generator, latents, game):
        in_step = sys._getframe(1).f_globals["__name__"] == "gan_core.steps"
        count[0] += in_step
        if in_step and len(latents.inputs) > fault["above"] and count[0] > fault.get("after", 0) and is_meant(fault):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore lines.")
        return fakes(generator, latents, game)

    return limited


def strikes(fault, step):
    """Whether the fault strikes this discriminator step of this process."""
    if step != fault["d_step"] or not is_meant(fault) or ("once" in fault and not Path(fault["once"]).exists()):
        return False
    if fault.get("times") is None:
        return True
    marker = Path(fault["marker"])
    if marker.exists() and marker.stat().st_size >= fault["times"]:
        return False
    with marker.open("a") as file:
        file.write("x")
    return True


def poisoned(discriminator_step, nans, sleeps=(), slow=None):
    """`gan_core.steps.discriminator_step` on hardware that fails, or is slow."""

    def step_of(d, g, real, latents, game, *, step, draws=None):
        if any(strikes(fault, step) for fault in nans):
            real = real._replace(inputs=real.inputs * float("nan"))
        if any(strikes(fault, step) for fault in sleeps):
            time.sleep(3600)
        if slow is not None and not Path(slow["until"]).exists():
            time.sleep(slow["seconds"])
        return discriminator_step(d, g, real, latents, game, step=step, draws=draws)

    return step_of


def install(steps, faults):
    """Put the faults into the module gan_core.steps."""
    if "out_of_memory" in faults:
        steps.fakes = short_of_memory(steps.fakes, faults["out_of_memory"])
    if faults.keys() & {"nan_at", "sleep_at", "slow"}:
        steps.discriminator_step = poisoned(
            steps.discriminator_step, faults.get("nan_at", []), faults.get("sleep_at", []), faults.get("slow")
        )


class Finder(importlib.abc.MetaPathFinder):
    """Installs the faults when gan_core.steps is imported."""

    def __init__(self, faults):
        self.faults = faults

    def find_spec(self, name, path=None, target=None):
        if name != "gan_core.steps":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            install(module, self.faults)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("RAYGAN_TEST_FAULTS"):
    sys.meta_path.insert(0, Finder(json.loads(os.environ["RAYGAN_TEST_FAULTS"])))
