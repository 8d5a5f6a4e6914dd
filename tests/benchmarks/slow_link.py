"""Two network namespaces of this machine with a link of a given rate between them: messages take time and not CPU. Linux, as root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

BURST, LONGEST_WAIT = "256kb", "50ms"


class End(NamedTuple):
    """A side: what a command is to begin with to run there, and its network interface and address."""

    words: list[str]
    interface: str
    address: str


@contextmanager
def ends(mbit: float) -> Iterator[list[End]]:
    """Both, for as long as the block lasts. Each sends at most `mbit` Mbit/s (tc's token bucket filter)."""
    name = f"rgl{os.getpid()}"
    sides = [(f"{name}{side}", f"{name}{side}", f"10.231.{os.getpid() % 250}.{number}") for side, number in (("a", 1), ("b", 2))]

    def run(*words):
        subprocess.run(words, check=True)

    try:
        for space, *_ in sides:
            run("ip", "netns", "add", space)
        (one, first, _), (other, second, _) = sides
        run("ip", "link", "add", first, "netns", one, "type", "veth", "peer", "name", second, "netns", other)
        for space, interface, address in sides:
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", interface)
            for device in ("lo", interface):
                run("ip", "-n", space, "link", "set", device, "up")
            limits = ("rate", f"{mbit:g}mbit", "burst", BURST, "latency", LONGEST_WAIT)
            run("tc", "-n", space, "qdisc", "add", "dev", interface, "root", "tbf", *limits)
        yield [End(["ip", "netns", "exec", space], interface, address) for space, interface, address in sides]
    finally:
        for space, *_ in sides:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
