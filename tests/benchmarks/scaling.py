"""How step time depends on the number of ranks: measured on this machine's cores, fitted, and predicted for GPUs.

    python -m tests.benchmarks.scaling [--turns 6] [--networks mlp dcgan-32 sngan-32] [--batches 4 8 16]
    python -m tests.benchmarks.scaling --predict [--tflops 989] [--utilisation 0.25] [--between-gb 45] [--per-node 8] ...

The first part (3 minutes) measures rounds alone, of 2 ranks that train apart, and of 2 that train together by gloo, one thread each
(rank_steps.py); fits scaling_model.py to them; and shows residuals, and weak and strong scaling as measured. `--predict` leaves it out. The
prediction for 8 to 512 GPUs follows from its assumptions, all of which are options, and from nothing that was measured on a GPU:

* a network's FLOPs are counted in one forward pass of each player. A round is 4 of the generator's and 8 of the discriminator's: D's step
  is G, and on reals and on fakes D forward and D backward, which is twice a forward; G's step is both forward, G backward, and the gradient
  through D alone. Penalties are not in it. Time is FLOPs over `--tflops` times `--utilisation`, and `--fixed-ms` for each round;
* gradients are float32, in buckets of gan_core.distributed; of what a backward could hide, the share `--hidden` is hidden;
* links inside and between nodes have a latency and a bandwidth for each GPU; the default is an NVLink node of 8 with a 400 Gb/s card for
  each GPU. For 100 Gb/s Ethernet that a whole node shares: `--between-gb 1.4 --between-us 30`;
* every rank draws the latents of the whole batch on its CPU (`--draw-ns` for a number, measured here where it is not given), ahead of the
  device: a round takes at least as long. Statistics of batch norm, reports and the loading of data are not in it.
"""

import argparse
import statistics
import time
from importlib import import_module
from itertools import product

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gan_core import distributed, sampling
from pipelines import environment
from tests.benchmarks import rank_steps
from tests.benchmarks.scaling_model import Cluster, Costs, Link, Player, Timing, buckets, fit, predict

RANKS = (1, 8, 16, 32, 64, 128, 256, 512)
# As in the papers: resolution, z_dim, options, images for each GPU (weak scaling), images in all (strong scaling).
PREDICTED = {
    "dcgan": (64, 100, {"width": 128}, {"width": 64}, 128, 1024),
    "sngan": (32, 128, {"width": 256}, {"width": 128}, 64, 1024),
    "r3gan": (64, 64, {}, {}, 32, 512),
    "stylegan2": (256, 512, {}, {}, 8, 512),
}


def measured(names, batches, turns, seconds):
    """The timings that are fitted, and rows of medians: network, batch, alone, apart, after, during."""
    cases = [{"network": name, "batch_per_rank": batch} for name, batch in product(names, batches)]
    found, probes = rank_steps.measure(cases, count=turns, seconds=seconds)
    timings, rows = [Timing(None, 2, 0, took, size, 1) for size, took in probes], []
    for case, each in zip(cases, found, strict=True):
        base = each["times"]["apart"]
        # Other ways by their ratios within turns: what slows the machine for some of them slows all ways of a turn.
        alone, apart, after, during = (
            statistics.median(base) * statistics.median(a / b for a, b in zip(each["times"][way], base, strict=True))
            for way in rank_steps.WAYS
        )
        size, count = sum(each["bytes"]), sum(each["buckets"])
        name, batch = case["network"], case["batch_per_rank"]
        timings += [Timing(name, 1, batch, apart, size, count), Timing(name, 2, batch, after, size, count)]
        rows.append((name, batch, alone, apart, after, during))
    return timings, rows


def tell_measured(timings, rows):
    """The fit and its residuals, and what scaling was."""
    found = fit(timings)
    print("\n## The fit: 1 and 2 gloo ranks\n")
    print("| network | fixed, ms | per image, ms |\n|---|---|---|")
    for name, (fixed, per_image) in found.compute.items():
        print(f"| {name} | {1e3 * fixed:.2f} | {1e3 * per_image:.3f} |")
    print(f"\nlink: {1e3 * found.link.alpha:.3f} ms for each step of a collective, {found.link.bytes_per_second / 1e9:.2f} GB/s\n")
    print("| network | batch per rank | ranks | MB | measured, ms | residual |\n|---|---|---|---|---|---|")
    for each, residual in zip(timings, found.residuals, strict=True):
        what = f"| {each.network or 'all-reduce alone'} | {each.batch or '-'} | {each.ranks} | {each.bytes / 1e6:.2f} "
        print(f"{what}| {1e3 * each.seconds:.2f} | {100 * residual:+.1f} % |")
    print("\n## Measured scaling, 1 to 2 ranks on this machine\n")
    print("Weak: a rank's batch stays. `apart` is two trainings at once that share nothing but the machine: what memory and clocks cost.\n")
    print(
        "| network | batch per rank | alone, ms | apart | together, after backward | during | weak efficiency |\n|---|"
        "---|---|---|---|---|---|"
    )
    for name, batch, *times in rows:
        cells = " | ".join(f"{1e3 * seconds:.2f}" for seconds in times)
        print(f"| {name} | {batch} | {cells} | {times[0] / min(times[2:]):.2f} |")
    print("\nStrong: the whole batch stays, and each of two ranks takes half.\n")
    print("| network | whole batch | 1 rank, ms | 2 ranks, ms | speed-up |\n|---|---|---|---|---|")
    alone = {(name, batch): times[0] for name, batch, *times in rows}
    for name, batch, *times in rows:
        if (name, 2 * batch) in alone:
            one, two = alone[name, 2 * batch], min(times[2:])
            print(f"| {name} | {2 * batch} | {1e3 * one:.2f} | {1e3 * two:.2f} | {one / two:.2f} |")


def counted(name, resolution, z_dim, generator, discriminator):
    """Forward FLOPs for an image, and bytes of parameters: of the generator, of the discriminator."""
    module, found = import_module(f"gan_core.networks.{name}"), []
    with FakeTensorMode():  # shapes alone
        players = (
            (module.generator(resolution=resolution, channels=3, z_dim=z_dim, num_classes=0, **generator), torch.zeros(4, z_dim)),
            (
                module.discriminator(resolution=resolution, channels=3, num_classes=0, **discriminator),
                torch.zeros(4, 3, resolution, resolution),
            ),
        )
        for network, inputs in players:
            with FlopCounterMode(display=False) as counter:
                network(inputs)
            found.append((counter.get_total_flops() / len(inputs), sum(parameter.nbytes for parameter in network.parameters())))
    return found


def draw_seconds():
    """For one normal number on this machine's CPU."""
    count, spent = 2**20, []
    for step in range(5):
        started = time.perf_counter()
        sampling.latents(0, "d/z", step, batch_size=count // 128, z_dim=128)
        spent.append(time.perf_counter() - started)
    return min(spent) / count


def tell_predicted(given):
    """Weak and strong scaling by the model."""
    draw = given.draw_ns * 1e-9 if given.draw_ns is not None else draw_seconds()
    cluster = Cluster(
        given.per_node, Link(given.inside_us * 1e-6, given.inside_gb * 1e9), Link(given.between_us * 1e-6, given.between_gb * 1e9)
    )
    rate = given.tflops * 1e12 * given.utilisation
    print("\n## Prediction, of no measurement on a GPU\n")
    print(
        f"{given.tflops:g} TFLOP/s, of which {given.utilisation:g}; {given.fixed_ms:g} ms fixed; inside a node of {given.per_node} "
        f"{given.inside_gb:g} GB/s and {given.inside_us:g} us, between nodes {given.between_gb:g} GB/s and {given.between_us:g} us for "
        f"each GPU; {given.hidden:g} of what can be is hidden; {1e9 * draw:.1f} ns for each number drawn"
    )
    for name, (resolution, z_dim, generator, discriminator, per_gpu, whole) in PREDICTED.items():
        (g_flops, g_bytes), (d_flops, d_bytes) = counted(name, resolution, z_dim, generator, discriminator)
        players = (
            Player(buckets(d_bytes, distributed.BUCKET_BYTES), 4 * d_flops / rate),
            Player(buckets(g_bytes, distributed.BUCKET_BYTES), 2 * g_flops / rate),
        )
        costs = Costs(given.fixed_ms * 1e-3, (4 * g_flops + 8 * d_flops) / rate, 2 * z_dim * draw, players, given.hidden)
        print(
            f"\n{name}, {resolution} pixels: {g_flops / 1e9:.2f} and {d_flops / 1e9:.2f} GFLOP for an image forward, "
            f"{g_bytes / 1e6:.1f} and {d_bytes / 1e6:.1f} MB of gradients (G, D)\n"
        )
        print(f"| GPUs | weak, {per_gpu} each: round, ms | waits | draws | efficiency | strong, {whole} in all: round, ms | speed-up |")
        print("|---|---|---|---|---|---|---|")
        one, all_of_it = predict(costs, 1, per_gpu, cluster).seconds, predict(costs, 1, whole, cluster).seconds
        for ranks in RANKS:
            weak = predict(costs, ranks, per_gpu, cluster)
            cells = [f"{1e3 * x:.2f}" for x in (weak.seconds, weak.waits, weak.draws)] + [f"{one / weak.seconds:.2f}"]
            if whole % ranks == 0:
                strong = predict(costs, ranks, whole // ranks, cluster).seconds
                cells += [f"{1e3 * strong:.2f}", f"{all_of_it / strong:.1f}"]
            else:
                cells += ["-", "-"]
            print(f"| {ranks} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict", action="store_true", help="measure nothing")
    parser.add_argument("--networks", nargs="+", default=["mlp", "dcgan-32", "sngan-32"], choices=rank_steps.NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn")
    parser.add_argument("--tflops", type=float, default=989.0, help="of a GPU: an H100's for dense bfloat16")
    parser.add_argument("--utilisation", type=float, default=0.25)
    parser.add_argument("--fixed-ms", type=float, default=1.0)
    parser.add_argument("--hidden", type=float, default=0.8)
    parser.add_argument("--per-node", type=int, default=8)
    parser.add_argument("--inside-gb", type=float, default=360.0, help="GB/s for each GPU and direction")
    parser.add_argument("--inside-us", type=float, default=2.0)
    parser.add_argument("--between-gb", type=float, default=45.0)
    parser.add_argument("--between-us", type=float, default=8.0)
    parser.add_argument("--draw-ns", type=float)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"on {environment.describe_hardware()['summary']}, torch {torch.__version__}")
    if not given.predict:
        tell_measured(*measured(given.networks, given.batches, given.turns, given.seconds))
    tell_predicted(given)


if __name__ == "__main__":
    main()
