"""Nodes that are taken away with notice, that come and go, or that are not alike; and where workers are placed."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.faults import RANKS
from tests.chaos.judge import ROUNDING, compare
from tests.chaos.machines import beginning
from tests.chaos.runs import ROOT, Run, wait_for, words_of_pid, write_config
from tests.pipelines import hosts
from tests.pipelines.command import TrackedRun
from tests.pipelines.services import Tracking
from tests.support import noise_images, write_parquet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
needs_hosts = pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing())

FAULTY = ROOT / "tests" / "pipelines" / "faulty"
EXACT = "precision=float64"  # so that another number of workers differs by rounding alone
NOTICE_SECONDS = 12


def slowly(folder):
    """An environment of workers that take their time, on any machine, until the file `done` is in the folder."""
    faults = {"slow": {"seconds": 0.1, "until": f"{folder}/done"}}
    return {"PYTHONPATH": f"{FAULTY}:{ROOT}", "RAYGAN_TEST_FAULTS": json.dumps(faults)}


def begin(run, *words):
    run.start("train", write_config(run.folder, run.uri, str(run.storage), workers=2), EXACT, *words)


def left_by(run):
    """What the run left, without the metrics of machines: they come and go with these."""
    (left,) = run.left()
    return left._replace(points={key: points for key, points in left.points.items() if not key.startswith("system/")})


@pytest.fixture
def here(tmp_path):
    """A run on a cluster of its own on this machine."""
    run = Run(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    yield run
    run.end()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What two workers leave whom nobody disturbs."""
    folder = tmp_path_factory.mktemp("quiet")
    run = Run(folder, f"sqlite:///{folder}/mlflow.db")
    try:
        begin(run)
        assert run.finish(400) == 0, run.said
        return left_by(run)
    finally:
        run.end()


class Hosts:
    """Hosts with Ray nodes, of which the first has the driver and the tracking server."""

    def __init__(self, network, folder, cpus):
        self.network, self.folder = network, folder
        self.head = self.add(cpus)
        self.server = Tracking(folder, address=self.head.address, begin=beginning(self.head))
        self.server.start()

    def add(self, cpus, *, hides=(), environment=None):
        """One more."""
        host = self.network.host()
        host.start_ray(cpus=cpus, hides=hides, environment={**slowly(self.folder), **(environment or {})})
        return host

    def run(self):
        """A run that is driven from the first host."""
        return Run(self.folder, self.server.uri, begin=beginning(self.head, RAY_ADDRESS=self.network.ray_address))

    def ranks(self):
        """How many workers each host has."""
        return [sum(RANKS in " ".join(words_of_pid(pid)) for pid in host.pids()) for host in self.network.hosts]

    def drain(self, host):
        """Announce its end, as a spot machine's is."""
        command = [
            str(Path(sys.executable).with_name("ray")),
            "drain-node",
            "--address",
            self.network.ray_address,
            "--node-id",
            host.node_id,
        ]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "sold"]
        subprocess.run([*command, *why, "--deadline-remaining-seconds", str(NOTICE_SECONDS)], check=True, capture_output=True)


@pytest.fixture
def network():
    with hosts.Network() as network:
        yield network


def interim(run):
    """The images seen at the checkpoints that no schedule asked for."""
    return sorted(int(path.parent.name[-12:]) for path in run.storage.glob("*/interim_0*/checkpoint.json"))


def test_sigterm_makes_a_checkpoint_within_the_grace_period_and_the_run_can_go_on(here, wanted):
    here.environment = slowly(here.folder)
    begin(here)
    assert here.reach(4000), here.said
    here.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert here.finish(90) == 143, here.said
    assert time.monotonic() - began < 60.0  # what a job is given
    assert here.leaves_nothing() == []
    (run_id,), (saved,) = here.run_ids, interim(here)
    run = TrackedRun(here.folder, run_id, here.uri).run
    assert run.info.status == "KILLED"
    assert run.data.tags["raygan.stopped"] == f"by SIGTERM, checkpoint at {saved / 1000:.1f} kimg"
    assert 4000 <= saved < 12000
    (here.folder / "done").touch()
    here.resume()
    assert here.finish(400) == 0, here.said
    assert f"continuing from the checkpoint at {saved / 1000:.1f} kimg" in here.said
    assert compare(left_by(here), wanted, exact=True) == []


@needs_hosts
def test_a_node_that_is_announced_to_go_costs_seconds_of_work_and_no_failure(network, wanted, tmp_path):
    """With ray.placement=spread each host has a worker; after the notice there is a checkpoint, and both go on where there is room."""
    cluster = Hosts(network, tmp_path, cpus=2)
    other = cluster.add(cpus=2)
    run = cluster.run()
    begin(run, "ray.placement=spread", "ray.max_failures=0")
    assert run.reach(4000), run.said
    assert cluster.ranks() == [1, 1]
    cluster.drain(other)
    began = time.monotonic()
    saved = wait_for(lambda: interim(run), NOTICE_SECONDS)
    assert saved, run.said
    assert time.monotonic() - began < NOTICE_SECONDS
    time.sleep(max(0.0, NOTICE_SECONDS - (time.monotonic() - began)))
    other.kill()
    assert wait_for(lambda: cluster.ranks() == [2, 0], 120), run.said
    (tmp_path / "done").touch()
    assert run.finish(400) == 0, run.said
    ((continued,),) = [re.findall(r"continuing from the checkpoint at ([\d.]+) kimg", run.said)]
    assert float(continued) * 1000 >= saved[0] - 50
    assert compare(left_by(run), wanted, exact=True) == []


@needs_hosts
def test_an_elastic_run_takes_the_nodes_that_there_are(network, wanted, tmp_path):
    """One node; then a second one comes, and goes. What is left differs by rounding from what two workers leave."""
    cluster = Hosts(network, tmp_path, cpus=1)
    run = cluster.run()
    begin(run, "ray.min_workers=1", "ray.num_workers=2")
    assert run.reach(4000), run.said
    assert cluster.ranks() == [1]
    other = cluster.add(cpus=1)
    assert wait_for(lambda: cluster.ranks() == [1, 1], 180), run.said
    assert run.reach(run.seen() + 4000), run.said
    assert cluster.ranks() == [1, 1]
    other.kill()
    assert wait_for(lambda: "a new group of 1 worker instead of 2" in run.said, 180), run.said
    assert cluster.ranks() == [1, 0]
    (tmp_path / "done").touch()
    assert run.finish(400) == 0, run.said
    assert run.said.count("a new group of 2 workers instead of 1") == run.said.count("a new group of 1 worker instead of 2") == 1
    assert compare(left_by(run), wanted, exact=False) == [], f"beyond {ROUNDING}"


def odd_sources(folder):
    """raygan's pipelines, with a line more in one file."""
    shutil.copytree(ROOT / "pipelines", folder / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "pipelines" / "statuses.py").open("a") as file:
        file.write("# another version\n")
    return [(str(ROOT / "pipelines"), str(folder / "pipelines"))]


def odd_torch(folder):
    """What an installed torch of another version says of itself."""
    (folder / "torch-9.9.9.dist-info").mkdir(parents=True)
    (folder / "torch-9.9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def require_named(host, key, value, said):
    """The host is named as one that differs, with its value and the driver's."""
    node = re.escape(f"node {host.address} ({host.node_id[:8]}) has {key} ")
    found = re.search(rf"{node}({value}), the driver has ({value})", said)
    assert found, said
    assert found[1] != found[2]


@needs_hosts
def test_nodes_that_are_not_alike_are_refused_by_name(network, tmp_path, monkeypatch):
    """Other sources, another torch: before anything starts. Other data, when they are read: before anything is trained."""
    cluster = Hosts(network, tmp_path, cpus=1)
    other = cluster.add(cpus=1, hides=odd_sources(tmp_path / "odd"))
    third = cluster.add(cpus=1, environment=odd_torch(tmp_path / "site"))
    run = cluster.run()
    begin(run)
    assert run.finish(240) == 2, run.said
    require_named(other, "raygan", r"0\.\S+ with the source hash \w{12}", run.said)
    require_named(third, "torch", r"\d+\.\d+\.\d+", run.said)
    assert f"node {cluster.head.address}" not in run.said
    assert run.run_ids == []

    other.kill()
    third.kill()
    assert wait_for(lambda: list(network.nodes().values()) == [cluster.head.address], 60)
    data = [tmp_path / "data", tmp_path / "other-data"]
    for seed, folder in enumerate(data):
        folder.mkdir()
        encoded, _ = noise_images(64, size=8, seed=seed)
        write_parquet(folder / "noise.parquet", encoded, [0] * 64)
    fourth = cluster.add(cpus=1, hides=[(str(data[0]), str(data[1]))], environment={"RAYGAN_CACHE": str(tmp_path / "cache-there")})
    run.environment = {"RAYGAN_CACHE": str(tmp_path / "cache-here")}
    begin(run, "data.name=parquet", f"data.path={data[0]}/noise.parquet", "evaluation.extractor.name=pixels")
    assert run.finish(400) == 1, run.said
    require_named(fourth, "data", r"\w{32,}", run.said)
    (run_id,) = run.run_ids
    left = TrackedRun(tmp_path, run_id, run.uri)
    assert left.run.info.status == "FAILED"
    assert left.steps("d/loss") == []
    assert cluster.ranks() == [0, 0, 0, 0]
