"""That a run or a sweep has one driver: a second one would write its metrics and checkpoints a second time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCKS = ".locks"
WAIT_SECONDS, RETRY_SECONDS = 60.0, 1.0  # a driver that was killed leaves workers, which Ray ends within seconds


@contextmanager
def only_driver(key: str, storage_path: str, say: Callable[[str], None], *, in_cluster: bool = False) -> Iterator[None]:
    """Hold `key` while the block lasts: by a lock in the storage where that is a folder, and by an actor of that name in the connected
    cluster, for drivers on other machines. Both end with this process, however it ends. Waits a minute for a former holder to be gone.
    Drivers in different clusters that share nothing but an object store are not kept apart: those have no locks.

    Raises:
        ValueError: another driver is at work, or the storage has no locks.
    """
    give_up_at = time.monotonic() + WAIT_SECONDS
    with _file(key, storage_path, say, give_up_at):
        if not in_cluster:
            yield
            return
        guard = _actor(f"raygan-run-{key}", say, give_up_at)
        try:
            yield
        finally:
            _release(guard)


@contextmanager
def _file(key: str, storage_path: str, say: Callable[[str], None], give_up_at: float) -> Iterator[None]:
    if "://" in storage_path:
        yield
        return
    folder = Path(storage_path) / LOCKS
    lock = FileLock(folder / f"{key}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(_waiting(give_up_at))
            lock.acquire(timeout=max(0.0, give_up_at - time.monotonic()))
    except Timeout:
        raise ValueError(_busy(f"{folder / f'{key}.lock'} is locked")) from None
    except (OSError, NotImplementedError) as error:  # NFS without its lock service
        raise ValueError(
            f"ray.storage_path: no lock can be had in {folder} ({error}), and a run must have one driver; mount {storage_path} with locks, "
            f"or give another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _actor(name: str, say: Callable[[str], None], give_up_at: float) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Elsewhere it would end with a node that the driver does without.
    beside_the_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    told = False
    while True:
        try:
            holder = ray.remote(num_cpus=0)(_Holder)
            return holder.options(name=name, namespace="raygan", scheduling_strategy=beside_the_driver).remote()
        except ValueError:
            if time.monotonic() > give_up_at:
                raise ValueError(_busy(f"the cluster has an actor {name}")) from None
        if not told:
            told = True
            say(_waiting(give_up_at))
        time.sleep(RETRY_SECONDS)


def _release(guard: Any) -> None:
    import ray

    if ray.is_initialized():
        ray.kill(guard)


class _Holder:
    """Holds a name."""


def _waiting(give_up_at: float) -> str:
    return f"another driver of this run is at work, or was until now: waiting for it for {max(0.0, give_up_at - time.monotonic()):.0f} s"


def _busy(sign: str) -> str:
    return f"another driver of this run is at work ({sign}); stop it, or wait for its end"
