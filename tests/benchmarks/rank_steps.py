"""Seconds of a training round on gloo ranks of this machine, one thread each, for several networks and ways, in short turns.

What reduction.py and scaling.py measure with. All ways of a case take turns of a fraction of a second in the same processes, in another
order each time, so that what a shared machine does to one it does to all; of paired values the median is to be taken.
"""

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist

from gan_core import Trainer, distributed
from gan_core.config import GanConfig
from gan_core.distributed import Reducer
from gan_core.overrides import merge, validate
from tests.benchmarks import slow_link
from tests.support import noise_images, write_parquet

# `alone`: one rank, while the others wait. `apart`: all ranks, each a training of its own. `after` and `during`: one training over the
# ranks, whose gradients travel after backward or during it.
WAYS = ("alone", "apart", "after", "during")
SIDE = 32
PROBES = [2**10, 2**14, 2**18, 2**20, 2**22, 2**24]
NETWORKS = {
    "mlp": {"name": "mlp", "z_dim": 64, "generator": {"hidden_width": 512}, "discriminator": {"hidden_width": 512}},
    "dcgan-32": {"name": "dcgan", "z_dim": 64, "generator": {"width": 32}, "discriminator": {"width": 32}},
    "dcgan-32 wide": {"name": "dcgan", "z_dim": 128, "generator": {"width": 128}, "discriminator": {"width": 128}},
    "sngan-32": {"name": "sngan", "z_dim": 128, "generator": {"width": 16}, "discriminator": {"width": 16}},
}


def config(network, batch_size, data):
    """A training of one of NETWORKS on noise; rounds are one step of each player."""
    tree = {
        "data": {"name": "parquet", "path": data, "resolution": SIDE},
        "network": NETWORKS[network],
        "batch_size": batch_size,
        "total_kimg": 1e6,
    }
    return validate(merge(tree, {"regularizers.spectral_norm": network.startswith("sngan")}), GanConfig)


class OneRank:
    """In its context this process believes that it trains by itself."""

    def __enter__(self):
        self.kept = distributed.world_size, distributed.rank
        distributed.world_size, distributed.rank = (lambda: 1), (lambda: 0)

    def __exit__(self, *_):
        distributed.world_size, distributed.rank = self.kept


def with_reducers(trainer, build):
    """The same training with other reducers; `build` makes one of parameters."""
    for name in ("g", "d"):
        player = getattr(trainer.parts, name)
        trainer.parts = trainer.parts._replace(**{name: player._replace(reducer=build(player.parameters))})


def timed(trainer, rounds):
    """Seconds of a round, the largest of the ranks that train."""
    started = time.perf_counter()
    for _ in range(rounds):
        trainer._round()
    return (time.perf_counter() - started) / rounds


def turns(case, data, ways, count, seconds):
    """For each way the seconds of a round in each of `count` turns, as this rank sees them."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    distributed.BUCKET_BYTES = case.get("bucket_bytes", distributed.BUCKET_BYTES)
    with OneRank():
        own = Trainer(config(case["network"], case["batch_per_rank"], data), device="cpu", evaluates=False)
    shared = Trainer(config(case["network"], case["batch_per_rank"] * ranks, data), device="cpu", evaluates=False)
    found = {way: [] for way in ways}

    def take(way, rounds):
        dist.barrier()
        if way in ("alone", "apart"):
            if way == "alone" and rank > 0:
                return float("nan")
            with OneRank():
                return timed(own, rounds)
        with_reducers(shared, Reducer if way == "during" else lambda _: None)
        return timed(shared, rounds)

    for way in ways:
        take(way, 2)
    rounds = max(1, int(seconds / distributed.largest([int(1e6 * take("after", 2))], torch.device("cpu"))[0] * 1e6))
    for turn in range(count):
        for way in random.Random(turn).sample(ways, len(ways)):
            found[way].append(take(way, rounds))
    sizes = [sum(parameter.nbytes for parameter in player.parameters) for player in (shared.parts.d, shared.parts.g)]
    buckets = [len(list(distributed._buckets(player.parameters))) for player in (shared.parts.d, shared.parts.g)]
    return {"times": found, "bytes": sizes, "buckets": buckets}


def all_reduces(count):
    """Bytes and the seconds, in the middle one of `count` turns, of an all-reduce with nothing beside it."""
    found = []
    for size in PROBES:
        message, spent = torch.zeros(size // 4), []
        for _ in range(count):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(message)
            spent.append(time.perf_counter() - started)
        found.append((size, statistics.median(spent)))
    return found


def measure(cases, *, ranks=2, ways=WAYS, count=8, seconds=0.4, link_mbit=None):
    """For each of `cases` ({network, batch_per_rank, bucket_bytes}): `times` by way, each the largest of the ranks', and of the gradients
    the `bytes` and `buckets` of the two players. Then (bytes, seconds) of all-reduces of PROBES bytes with nothing beside them.

    Starts `ranks` processes, and takes about `count` * `seconds` for each way of each case. With `link_mbit` two ranks talk over a link of
    that rate (slow_link.py), else over the loopback device.
    """
    with tempfile.TemporaryDirectory(prefix="raygan-ranks-") as folder, ExitStack() as stack:
        write_parquet(Path(folder, "noise.parquet"), noise_images(512, SIDE, 3)[0])
        places = [slow_link.End([], "lo", "127.0.0.1")] * ranks
        if link_mbit is not None:
            assert ranks == 2, "a link has two ends"
            places = stack.enter_context(slow_link.ends(link_mbit))
        told = json.dumps({"cases": cases, "ways": list(ways), "count": count, "seconds": seconds})
        command = [sys.executable, "-m", "tests.benchmarks.rank_steps"]
        meeting = f"{places[0].address}:{_free_port() if link_mbit is None else 29400}"  # namespaces have ports of their own
        processes = []
        try:
            for rank, (prefix, interface, _) in enumerate(places):
                mine = {"OMP_NUM_THREADS": "1", "RAYGAN_CACHE": f"{folder}/cache", "GLOO_SOCKET_IFNAME": interface}
                words = [*prefix, *command, str(rank), str(ranks), meeting, folder, told]
                processes.append(subprocess.Popen(words, env={**os.environ, **mine}))
            if any(process.wait() for process in processes):
                raise RuntimeError("a rank failed; see above")
        finally:
            for process in processes:
                process.kill()
        seen = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    cases = seen[0]["cases"]
    for index, case in enumerate(cases):
        for way in ways:
            each = [rank["cases"][index]["times"][way] for rank in seen if way != "alone"] or [case["times"][way]]
            case["times"][way] = [max(together) for together in zip(*each, strict=True)]
    return cases, seen[0]["all_reduces"]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    rank, ranks, meeting, folder, told = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], json.loads(sys.argv[5])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{meeting}", rank=rank, world_size=ranks)
    found = [turns(case, f"{folder}/noise.parquet", told["ways"], told["count"], told["seconds"]) for case in told["cases"]]
    Path(folder, f"{rank}.json").write_text(json.dumps({"cases": found, "all_reduces": all_reduces(2 * told["count"])}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
