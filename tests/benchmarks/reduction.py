"""What sending gradients during backward is worth against sending them after it, on gloo ranks of this machine, by the size of buckets.

    python -m tests.benchmarks.reduction [--network dcgan-32 "dcgan-32 wide"] [--buckets 1 8 32] [--ranks 2] [--turns 12]
    python -m tests.benchmarks.reduction --link-mbit 500     # as root: two network namespaces

`communication` is the time of a round beyond one of ranks that train apart. A gain is the median of the paired ratios of turns, with the
quartiles. Over the loopback device messages are copied by the same cores that compute, so that there is little to hide them behind; over a
link of a given rate, as between machines, they take time in which cores are free.
"""

import argparse
import statistics

from pipelines import environment
from tests.benchmarks.rank_steps import NETWORKS, measure

WAYS = ("apart", "after", "during")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["dcgan-32", "dcgan-32 wide"], choices=NETWORKS)
    parser.add_argument("--buckets", nargs="+", type=float, default=[1.0, 8.0, 32.0], help="in MiB")
    parser.add_argument("--batch", type=int, default=32, help="for each rank")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn")
    parser.add_argument("--link-mbit", type=float, help="Mbit/s between two ranks; default: the loopback device")
    given = parser.parse_args()
    cases = [
        {"network": network, "batch_per_rank": given.batch, "bucket_bytes": int(size * 2**20)}
        for network in given.network
        for size in given.buckets
    ]
    link = "the loopback device" if given.link_mbit is None else f"a link of {given.link_mbit:g} Mbit/s"
    print(f"{given.ranks} gloo ranks over {link}, one thread each, batch {given.batch} per rank, {given.turns} turns")
    print(f"on {environment.describe_hardware()['summary']}\n")
    print("| network | MB of D, G | buckets of MiB | number D, G | round after, ms | communication | during / after (quartiles) |")
    print("|---|---|---|---|---|---|---|")
    measured, _ = measure(cases, ranks=given.ranks, ways=WAYS, count=given.turns, seconds=given.seconds, link_mbit=given.link_mbit)
    for case, found in zip(cases, measured, strict=True):
        times = found["times"]
        low, median, high = statistics.quantiles([d / a for d, a in zip(times["during"], times["after"], strict=True)], n=4)
        share = statistics.median(a / b - 1 for a, b in zip(times["after"], times["apart"], strict=True))
        sizes = ", ".join(f"{size / 1e6:.1f}" for size in found["bytes"])
        buckets = ", ".join(map(str, found["buckets"]))
        print(
            f"| {case['network']} | {sizes} | {case['bucket_bytes'] / 2**20:g} | {buckets} | {1e3 * statistics.median(times['after']):.1f} "
            f"| {100 * share:+.1f} % | {median:.3f} ({low:.3f} to {high:.3f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
