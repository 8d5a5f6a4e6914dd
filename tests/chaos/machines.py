"""Faults of machines: hosts in network namespaces that die, are announced to go, or lose their cable."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.faults import RANKS
from tests.chaos.judge import PROCESS, Finding
from tests.chaos.runs import Run, words_of_pid, write_config
from tests.pipelines.hosts import Host, Network
from tests.pipelines.services import Tracking

if TYPE_CHECKING:
    from tests.chaos.campaign import Campaign, Scenario, Struck

NOTICE_SECONDS, CUT_SECONDS = 10, 20.0


class Pair:
    """Two hosts with a Ray node and a CPU each, and a tracking server that both reach."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.head, self.other = network.host(), network.host()
        folder.mkdir()
        self.server = Tracking(folder, address=self.head.address, begin=beginning(self.head))
        self.head.start_ray(cpus=1)
        self.other.start_ray(cpus=1)
        self.server.start()


def beginning(host: Host, **more: str) -> Callable[..., Any]:
    """As `subprocess.Popen`, but on a host."""
    return lambda command, *, env, **options: host.start(command, environment={**env, **more}, **options)


def host_killed(pair: Pair) -> str:
    """And another takes its place."""
    pair.other.kill()
    pair.other.start_ray(cpus=1)
    return f"every process of the host {pair.other.address} killed; a new node there"


def host_drained(pair: Pair) -> str:
    """Its end is announced, as of a machine that is sold to somebody else; then it dies, and another takes its place."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "drain-node", "--address", pair.head.network.ray_address, "--node-id", pair.other.node_id]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "sold", "--deadline-remaining-seconds", str(NOTICE_SECONDS)]
    subprocess.run([*command, *why], check=True, capture_output=True)
    time.sleep(NOTICE_SECONDS)
    pair.other.kill()
    pair.other.start_ray(cpus=1)
    return f"ray drain-node of {pair.other.address} with {NOTICE_SECONDS} s of notice, then its end; a new node there"


def link_cut(pair: Pair) -> str:
    """For longer than the collectives wait."""
    pair.other.link(up=False)
    time.sleep(CUT_SECONDS)
    pair.other.link(up=True)
    return f"the link to {pair.other.address} cut for {CUT_SECONDS:g} s"


FAULTS: dict[str, Callable[[Pair], str]] = {"node lost": host_killed, "node preempted": host_drained, "link cut": link_cut}


def conduct(campaign: "Campaign", scenario: "Scenario") -> "tuple[list[Struck], list[Finding], float]":
    """A training over two hosts; what is wanted is what one machine leaves."""
    wanted = campaign.wanted("training")
    with ExitStack() as stack:
        pair = campaign.pair()
        folder = campaign.folder / f"scenario-{scenario.number:02d}"
        folder.mkdir()
        run = Run(folder, pair.server.uri, begin=beginning(pair.head, RAY_ADDRESS=pair.head.network.ray_address))
        stack.callback(run.end)
        began = time.monotonic()
        run.start("train", write_config(folder, pair.server.uri, str(run.storage), workers=2))
        known = {kind: strike_of(fault, pair) for kind, fault in FAULTS.items()}
        struck, findings, seconds = campaign.judged(run, list(campaign.strike(run, scenario, known)), wanted, began)
        left = [pid for host in (pair.head, pair.other) for pid in host.pids() if RANKS in " ".join(words_of_pid(pid))]
        return struck, [*findings, *(Finding(PROCESS, f"a rank is still there: {pid}") for pid in left)], seconds


def strike_of(fault: Callable[[Pair], str], pair: Pair) -> Callable[[Run, float], str]:
    """A fault of machines as a fault of a run."""
    return lambda run, chance: fault(pair)
