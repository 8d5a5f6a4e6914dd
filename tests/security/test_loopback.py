"""Nobody outside this machine reaches a cluster that raygan started: every server of every process listens on loopback."""

import ipaddress
import re
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.pipelines.command import finish, start, write_config
from tests.support import noise_images, write_parquet

ROOT = Path(__file__).parents[2]
STORE = "torch.distributed's store"


def listeners(process):
    """(address, port, what) of every server that the process and its descendants have open now."""
    found = set()
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for member in family:
        try:
            name = " ".join(member.cmdline())
            for one in member.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN or (one.type == socket.SOCK_DGRAM and not one.raddr):
                    found.add((one.laddr.ip, one.laddr.port, name))
        except psutil.Error:  # it has ended
            continue
    return found


def is_loopback(address):
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def watched(process, timeout=240):
    """Everything that listened while the command ran, and how it ended."""
    seen, end = set(), time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < end:
        seen |= listeners(process)
        time.sleep(0.2)
    return seen, finish(process, 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["train", "sweep", "prepare"])
def test_all_that_a_command_starts_listens_on_loopback(tmp_path, what):
    config = write_config(tmp_path, workers=2)
    write_parquet(tmp_path / "noise.parquet", noise_images(100, size=12)[0], [n % 3 for n in range(100)])
    budget = ["total_kimg=0.32", "schedule.evaluate_kimg=0.16", "schedule.checkpoint_kimg=0.16", "sweep.confirm=0"]
    words = {
        "train": [config],
        # Trials of two workers are the one case with Ray's dashboard.
        "sweep": [config, "smoke", "sweep.workers_per_trial=2", "sweep.search=random", "sweep.trials=1", *budget],
        "prepare": [str(tmp_path / "noise.parquet"), str(tmp_path / "set"), "--resolution", "12", "--ray", "always"],
    }[what]
    seen, (status, _, err) = watched(start(tmp_path, *words, command=what))
    assert status == 0, err
    names = {name.split("::")[-1].split(" ")[0] for _, _, name in seen}
    assert any("gcs_server" in name for _, _, name in seen), names  # the cluster was seen
    # PyTorch's TCPStore of rank 0 binds to all interfaces and cannot be told not to (CONTRIBUTING, Decisions): one port, while a run of
    # several workers lasts.
    beyond = {(address, port, name) for address, port, name in seen if not is_loopback(address)}
    assert len({port for _, port, name in beyond if "RayTrainWorker" in name or "execute" in name}) <= 1
    assert [name for _, _, name in beyond if not ("RayTrainWorker" in name or "execute" in name)] == []


def test_every_server_that_the_documents_start_is_told_to_listen_on_loopback():
    """`make ui`, README, infra/README and what `raygan train` prints: mlflow's servers and Ray's dashboard."""
    texts = {path: path.read_text() for path in [ROOT / "Makefile", *ROOT.glob("*.md"), *(ROOT / "infra").rglob("*.md")]}
    texts[ROOT / "pipelines/tracking.py"] = (ROOT / "pipelines/tracking.py").read_text()
    commands = 0
    for path, text in texts.items():
        for found in re.finditer(r"mlflow (?:server|ui|models serve)\b[^`\n]*(?:\\\n[^`\n]*)*", text.replace("\\\n", " ")):
            if " -" in found[0]:  # a command, not a word about one
                commands += 1
                assert re.search(r"--host 127\.0\.0\.1|-h 127\.0\.0\.1", found[0]) or "models serve" in found[0], (path, found[0])
                assert not re.search(r"0\.0\.0\.0", found[0].split("It listens")[0]), (path, found[0])
    assert commands >= 3
