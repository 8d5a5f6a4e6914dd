"""Hosts on one machine: network namespaces on a bridge, each with an address, a file system and processes of its own.

    with Network() as network:
        head, other = network.host(), network.host()
        head.start_ray(cpus=1); other.start_ray(cpus=1)
        other.link(up=False)

Needs root and the `ip` command. Whatever happens, the block takes everything down that it put up.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from tests.pipelines.test_ray_run import wait_for

INTERFACE = "rayeth"
GCS_PORT = 6379
STARTS, TOO_SLOW = 3, "timed out during startup"  # Ray gives a node 30 s, whatever else the machine has to do
NODE_PORTS = ("--min-worker-port=20000", "--max-worker-port=29999")


def missing():
    """Why this machine cannot have hosts, as a sentence; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "network namespaces need iproute2 and util-linux"
    name = f"rgp{os.getpid()}"
    for words in (["netns", "add", name], ["netns", "del", name], ["link", "add", name, "type", "bridge"], ["link", "del", name]):
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            return f"this machine does not allow `ip {' '.join(words)}`: {done.stderr.strip()}"
    return ""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def free_subnet():
    """The first three numbers of a /24 that no interface has."""
    taken = subprocess.run(["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True).stdout
    start = os.getpid() % 200
    return next(net for number in range(256) if f" {(net := f'10.{77 + number // 200}.{(start + number) % 200}')}." not in taken)


class Network(AbstractContextManager):
    """A bridge, and the hosts on it. This process has an address on it too, so it can reach servers on the hosts."""

    def __init__(self):
        self.bridge, self.hosts = f"rgb{os.getpid()}", []
        self.subnet = free_subnet()
        self.folder = Path(mkdtemp(prefix="r", dir="/tmp"))  # short: Ray makes sockets below it

    def __enter__(self):
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("address", "add", f"{self.subnet}.254/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error):
        for host in self.hosts:
            host.end()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def nodes(self):
        """The address of each Ray node that is thought to live, by its id."""
        command = [sys.executable, "-c", NODES, self.ray_address]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
        return dict(line.split() for line in done.stdout.splitlines())

    @property
    def ray_address(self):
        return f"{self.hosts[0].address}:{GCS_PORT}"

    def host(self):
        """One host more."""
        made = Host(self, len(self.hosts) + 1)
        self.hosts.append(made)
        made.begin()
        return made


class Host:
    """A network namespace. Its processes see this machine's files, but for those that `hides` replaces."""

    def __init__(self, network, number):
        self.network, self.number = network, number
        self.name, self.outside = f"rg{os.getpid()}n{number}", f"rgv{os.getpid() % 100000}x{number}"
        self.address = f"{network.subnet}.{number}"
        self.ray = self.node_id = None
        self.started = []

    def begin(self):
        ip("netns", "add", self.name)
        ip("link", "add", self.outside, "type", "veth", "peer", "name", INTERFACE, "netns", self.name)
        ip("link", "set", self.outside, "master", self.network.bridge)
        ip("link", "set", self.outside, "up")
        for words in (
            ["address", "add", f"{self.address}/24", "dev", INTERFACE],
            ["link", "set", INTERFACE, "up"],
            ["link", "set", "lo", "up"],
        ):
            ip("-n", self.name, *words)

    def link(self, *, up):
        """Plug the host's cable in, or pull it."""
        ip("link", "set", self.outside, "up" if up else "down")

    def pids(self):
        """Of every process on the host."""
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    def start(self, command, *, hides=(), environment=None, **options):
        """A process on the host. `hides` are pairs (folder, what is seen there instead); None is an empty folder."""
        mounts = [f"mount -t tmpfs none {place}" if instead is None else f"mount --bind {instead} {place}" for place, instead in hides]
        script = " && ".join([*mounts, 'exec "$@"'])
        words = ["ip", "netns", "exec", self.name, "unshare", "-m", "bash", "-c", script, "host", *command]
        values = {**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE, "RAY_AUTH_MODE": "disabled", **(environment or {})}
        values.pop("MLFLOW_TRACKING_URI", None)
        self.started.append(subprocess.Popen(words, env=values, **options))
        return self.started[-1]

    def start_ray(self, *, cpus, hides=(), environment=None):
        """A Ray node: the first host's is the head, and the others join it. Returns when it is there."""
        head = self.network.hosts[0]
        place = [f"--address={self.network.ray_address}"]
        if self is head:
            place = ["--head", f"--port={GCS_PORT}", f"--temp-dir={self.network.folder}", "--include-dashboard=false"]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", f"--num-cpus={cpus}"]
        command += [f"--node-ip-address={self.address}", *NODE_PORTS, *place]
        own = [("/dev/shm", None)] if self is head else [(str(self.network.folder), None), ("/dev/shm", None)]
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
        said = self.network.folder / f"node{self.number}.log"

        def joined(before):
            mine = [node for node, address in self.network.nodes().items() if address == self.address and node not in before]
            return mine or self.ray.poll() is not None

        for _ in range(STARTS):
            before = [] if self is head else list(self.network.nodes())
            with said.open("w") as log:
                self.ray = self.start(command, hides=[*own, *hides], environment={**path, **(environment or {})}, stdout=log, stderr=log)
            found = wait_for(partial(joined, before))
            if self.ray.poll() is None or TOO_SLOW not in said.read_text():
                break
            self.kill()
        assert self.ray is not None and self.ray.poll() is None, f"the Ray node on {self.address} ended: {said.read_text()[-3000:]}"
        (self.node_id,) = found

    def kill(self):
        """As when the power goes: every process of the host, at once."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.ray is not None:
            self.ray.wait(timeout=60)
            self.ray = None
        wait_for(lambda: not self.pids(), 30)

    def end(self):
        """No process and no interface of the host is left."""
        deadline = time.monotonic() + 30
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        for process in self.started:
            process.wait(timeout=30)
        subprocess.run(["ip", "link", "del", self.outside], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


NODES = """
import sys
from ray._raylet import GcsClient
for node in GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5).values():
    if node.state == 0:
        print(node.node_id.hex(), node.node_manager_address)
"""
