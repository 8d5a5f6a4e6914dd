"""What happens to a run: each fault strikes it once, and puts the world right again where the world was at fault.

A fault is a function of the run and of a random number in [0, 1) that chooses victims; it returns in words what it did. Faults of the
machine's world (storage, tracking server) last seconds; those that end the command are followed by --resume.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.chaos.runs import Run, wait_for
from tests.pipelines.services import Tracking

AWAY_SECONDS = 8.0
RANKS, TRIALS, SCORERS = "RayTrainWorker", "ImplicitFunc", "ray::work"
STORE_THREAD = "pt_tcpstore_uv"
Fault = Callable[[Run, float], str]


class NotStruckError(RuntimeError):
    """The run was over, or its victim was not there, before the fault could strike."""


def victim(run: Run, words: str, chance: float, seconds: float = 60.0) -> psutil.Process:
    """One of the run's processes whose command line holds `words`; ranks that are being replaced are waited for."""
    found = wait_for(lambda: run.processes(words) or not run.alive, seconds)
    if not isinstance(found, list):
        raise NotStruckError(f"no process {words} to strike")
    return found[int(chance * len(found))]


def hit(process: psutil.Process, number: int) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        raise NotStruckError("the process had ended") from None


def rank_killed(wanted: int) -> Fault:
    def strike(run: Run, chance: float) -> str:
        ranks = wait_for(lambda: ranks_of(run) or not run.alive, 60.0)
        if not isinstance(ranks, dict):
            raise NotStruckError("no two ranks at work to strike one of")
        hit(ranks[wanted], signal.SIGKILL)
        return f"kill -9 of rank {wanted}, process {ranks[wanted].pid}"

    return strike


def ranks_of(run: Run) -> dict[int, psutil.Process]:
    """The two ranks' processes by number: rank 0 has PyTorch's store for all. Empty while they gather."""
    found = {int(STORE_THREAD not in threads(process)): process for process in run.processes(RANKS)}
    return found if len(found) == 2 else {}


def threads(process: psutil.Process) -> set[str]:
    """The names of a process's threads; none where it has ended."""
    with suppress(OSError):
        return {path.read_text().strip() for path in Path(f"/proc/{process.pid}/task").glob("*/comm")}
    return set()


def rank_stopped(run: Run, chance: float) -> str:
    """The other ranks wait in a collective for one that does not come."""
    process = victim(run, RANKS, chance)
    hit(process, signal.SIGSTOP)
    return f"SIGSTOP of a rank, process {process.pid}"


def scorer_killed(run: Run, chance: float) -> str:
    process = victim(run, SCORERS, chance)
    hit(process, signal.SIGKILL)
    return f"kill -9 of the scoring task, process {process.pid}"


def trial_killed(run: Run, chance: float) -> str:
    process = victim(run, TRIALS, chance)
    hit(process, signal.SIGKILL)
    return f"kill -9 of a trial, process {process.pid}"


def driver_killed(run: Run, chance: float) -> str:
    kill_driver(run)
    run.resume()
    return "kill -9 of the driver, then --resume"


def kill_driver(run: Run) -> None:
    """What it started ends by itself, but for Ray's agents, which take minutes for it."""
    run.process.kill()
    run.process.wait()
    left = run.leaves_nothing()
    assert not left, f"what a killed driver started is at work: {left}"
    for process in run.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()


def driver_terminated(run: Run, chance: float) -> str:
    """As `ray job stop` and a preempted machine do it."""
    run.process.send_signal(signal.SIGTERM)
    status = run.finish(90.0)
    assert status == 143, f"the exit status after SIGTERM is {status}, not 143"
    run.resume()
    return "SIGTERM of the driver, which ended with 143; then --resume"


def newest_checkpoint(run: Run) -> Path:
    """The folder of the newest complete checkpoint of the run that is ahead; scheduled or interim."""
    found = [path.parent for path in run.storage.glob("*/*_0*/checkpoint.json") if path.parent.name.startswith(("checkpoint_", "interim_"))]
    return max(found, key=lambda path: path.name[-12:])


def damaged(run: Run, damage: Callable[[Path, float], str], chance: float) -> str:
    """A checkpoint is damaged while the driver is down; the one before it is taken, and that is said."""
    kill_driver(run)
    done = damage(newest_checkpoint(run), chance)
    run.resume()
    return f"kill -9 of the driver, {done}; then --resume"


def checkpoint_truncated(run: Run, chance: float) -> str:
    def cut(folder: Path, chance: float) -> str:
        size = (folder / "state.pt").stat().st_size
        os.truncate(folder / "state.pt", int(chance * size))
        return f"{folder.name}/state.pt cut to {chance:.0%}"

    return damaged(run, cut, chance)


def checkpoint_flipped(run: Run, chance: float) -> str:
    def flip(folder: Path, chance: float) -> str:
        content = bytearray((folder / "state.pt").read_bytes())
        place = int(chance * len(content))
        content[place] ^= 1 << int(chance * 8)
        (folder / "state.pt").write_bytes(content)
        return f"a bit of byte {place} of {folder.name}/state.pt flipped"

    return damaged(run, flip, chance)


def checkpoint_incomplete(run: Run, chance: float) -> str:
    def remove(folder: Path, chance: float) -> str:
        files = sorted(path for path in folder.iterdir() if path.name in ("state.pt", "checkpoint.json", "undelivered.json"))
        lost = files[int(chance * len(files))]
        lost.unlink()
        return f"{folder.name}/{lost.name} deleted"

    return damaged(run, remove, chance)


def storage_full(run: Run, chance: float) -> str:
    """The disk takes nothing for a while."""
    ballast = run.storage.parent / "ballast"
    for size in (1 << 20, 1 << 12, 1):
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(size))
    time.sleep(AWAY_SECONDS)
    ballast.unlink()
    return f"the storage full for {AWAY_SECONDS:g} s"


def storage_gone(run: Run, chance: float) -> str:
    """Something empty and read-only is mounted where it was."""
    place = run.storage.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=4k", "none", str(place)], check=True)
    time.sleep(AWAY_SECONDS)
    subprocess.run(["umount", str(place)], check=True)
    return f"the storage gone for {AWAY_SECONDS:g} s"


@contextmanager
def disk(folder: Path, megabytes: int):
    """A file system of its own, mounted there."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        while subprocess.run(["mountpoint", "-q", str(folder)]).returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def tracking_gone(server: Tracking) -> Fault:
    """The tracking server is killed, and comes back."""

    def strike(run: Run, chance: float) -> str:
        server.end()
        time.sleep(AWAY_SECONDS)
        server.start()
        return f"the tracking server gone for {AWAY_SECONDS:g} s and its start"

    return strike


TRAINING: dict[str, Fault] = {
    "rank 0 killed": rank_killed(0),
    "rank 1 killed": rank_killed(1),
    "hung collective": rank_stopped,
    "driver killed": driver_killed,
    "driver terminated": driver_terminated,
    "checkpoint truncated": checkpoint_truncated,
    "checkpoint bit-flipped": checkpoint_flipped,
    "checkpoint file missing": checkpoint_incomplete,
    "storage full": storage_full,
    "storage gone": storage_gone,
}
SCORED_BESIDE: dict[str, Fault] = {"evaluation task killed": scorer_killed}
SWEEP: dict[str, Fault] = {
    "trial killed": trial_killed,
    "driver killed": driver_killed,
    "driver terminated": driver_terminated,
    "storage full": storage_full,
    "storage gone": storage_gone,
}
