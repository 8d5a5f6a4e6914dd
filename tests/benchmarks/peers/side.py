"""One side: a process that trains by some library's own loop, in turns.

`python -m tests.benchmarks.peers.side NAME JSON` builds the side, trains a round and answers with a line of JSON; then it reads an order a
line. {"seconds": s} has it train whole rounds for about that long, and {"count": n} count what n rounds do. Between orders the loop waits
inside the hook that the side calls after each round, wherever in a library that is.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import flop_registry

from tests.benchmarks.peers import plain
from tests.benchmarks.peers.workloads import WORKLOADS, networks


class Operations(TorchDispatchMode):
    """Counts operations, those by which the host reads a number from the device, and the floating-point operations of products.

    As torch.utils.flop_counter does, whose own mode follows modules too and fails on gradients of gradients.
    """

    def __init__(self):
        super().__init__()
        self.operations = self.reads = self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self.operations += 1
        self.reads += function.overloadpacket is torch.ops.aten._local_scalar_dense
        if function.overloadpacket in flop_registry:
            self.flops += flop_registry[function.overloadpacket](*args, **kwargs, out_val=result)
        return result


class Turns:
    """`tick` is to be called after each round; it answers and takes orders. Turns are of whole multiples of `period` rounds.

    The first round is run on one thread, because all sides start at once.
    """

    def __init__(self, answers, device, period, threads):
        self.answers, self.device, self.period, self.threads = answers, device, period, threads
        torch.set_num_threads(1)
        self.done, self.rounds, self.until, self.counted = 0, 1, None, None  # the first round is an order of its own
        self.started = time.perf_counter(), time.process_time()

    def tick(self, *_):
        self.done += 1
        if self.done < self.rounds if self.until is None else self.done % self.period or time.perf_counter() < self.until:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        answer = {"rounds": self.done, "wall": time.perf_counter() - self.started[0], "cpu": time.process_time() - self.started[1]}
        if self.counted is not None:
            self.counted.__exit__(None, None, None)
            answer |= {key: getattr(self.counted, key) for key in ("flops", "operations", "reads")}
            self.counted = None
        print(json.dumps(answer), file=self.answers, flush=True)
        self.take()

    def take(self):
        """Wait for an order and begin it; the process ends with the orders."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        torch.set_num_threads(self.threads)
        order = json.loads(line)
        self.done, self.rounds, self.until = 0, order.get("count"), None
        if self.rounds is not None:
            self.counted = Operations()
            self.counted.__enter__()
        self.started = time.perf_counter(), time.process_time()
        if self.rounds is None:
            self.until = self.started[0] + order["seconds"]


def setting(given):
    """What a side is built from: the workload, device, images [count, C, H, W] in [-1, 1], a folder, and `tick`."""
    work, device = WORKLOADS[given["workload"]], torch.device(given["device"])
    torch.manual_seed(0)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    turns = Turns(answers, device, work.period, given["threads"])
    places = {key: given[key] for key in ("images", "path", "cache", "words")}
    return SimpleNamespace(work=work, device=device, tick=turns.tick, **places)


def pixels(given):
    """The images, uint8 [count, C, H, W]."""
    return torch.load(given.images, weights_only=True)


def loader(given):
    """Float images in [-1, 1] and labels, from memory: what a user of the libraries writes, without the cost of files and decoding."""
    images = pixels(given).float().div_(127.5).sub_(1.0)
    return batches(TensorDataset(images, torch.zeros(len(images), dtype=torch.int64)), given)


def batches(dataset, given):
    """Whole batches in a new random order in each epoch."""
    return DataLoader(dataset, batch_size=given.work.batch, shuffle=True, drop_last=True, pin_memory=given.device.type == "cuda")


def own_networks(given):
    """gan_core's pair on the device."""
    return networks(given.work, given.device)


def main():
    name, given = sys.argv[1], setting(json.loads(sys.argv[2]))
    module, _, variant = name.partition("_")
    folder = Path(given.cache, name)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    if variant == "plain":
        plain.write_out()
    import_module(f"tests.benchmarks.peers.{module}_side").train(given, variant)


if __name__ == "__main__":
    main()
