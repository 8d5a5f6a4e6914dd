"""A storage that fails: waited for, with whole checkpoints or none, and never taken for another one."""

import errno
import os
import subprocess
import threading
import time

import pyarrow.fs
import pytest
import torch

from gan_core import checkpoint
from pipelines import shelf as shelves
from pipelines import storage, worker
from pipelines.session import NO_ORDERS
from pipelines.shelf import Shelf, StorageError
from tests.pipelines.checkpoints import Flaky, made, names, newest_text, saved, shelf, text_of, write


@pytest.mark.parametrize("failures", [1, 3, 5])
def test_a_store_that_fails_for_a_while_is_waited_for_and_has_a_whole_checkpoint_then(tmp_path, failures, monkeypatch):
    monkeypatch.setattr("pipelines.shelf.FIRST_WAIT_SECONDS", 0.01)
    handler, said = Flaky(tmp_path), []
    found = shelf("run", filesystem=pyarrow.fs.PyFileSystem(handler), timeout_seconds=60, said=said)
    found.prepare()
    saved(found, 100)
    handler.failures = failures
    saved(found, 200, best_at=200)
    assert handler.failures == 0
    assert newest_text(found) == "200"
    assert text_of(tmp_path / "run" / "best_000000000200") == "200"
    assert len(said) == 2
    assert "does not take the checkpoint checkpoint_000000000200 ([Errno 5] 503 SlowDown); waiting for it, at most 60 s" in said[0]
    assert "takes the checkpoint checkpoint_000000000200 now, after " in said[1]


def test_a_store_that_does_not_come_back_keeps_what_it_had(tmp_path):
    handler = Flaky(tmp_path)
    found = shelf("run", filesystem=pyarrow.fs.PyFileSystem(handler), timeout_seconds=0.0)
    found.prepare()
    saved(found, 100)
    handler.failures = 1_000
    with pytest.raises(StorageError, match=r"ray.storage_timeout_seconds: the storage run did not take .* within 0 s \(.*503 SlowDown"):
        saved(found, 200)
    handler.failures = 0
    assert newest_text(found) == "100"
    assert names(tmp_path / "run") == ["checkpoint_000000000100"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root, and a kernel that lets it")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def fill_up(folder, left=4096):
    free = os.statvfs(folder)
    path = folder / "others"
    path.write_bytes(b"x" * (free.f_bavail * free.f_frsize - left))
    return path


def test_a_full_disk_is_waited_for_until_there_is_room(small_disk):
    said = []
    found = shelf(small_disk / "run", timeout_seconds=60, said=said)
    found.prepare()
    saved(found, 100)
    others = fill_up(small_disk)

    def make_room():
        while not said:
            time.sleep(0.01)
        others.unlink()

    threading.Thread(target=make_room).start()
    found.save("checkpoint_000000000200", lambda folder: write(folder, "x" * 50_000, 200) and None)
    assert newest_text(found) == "x" * 50_000
    assert "No space left on device" in said[0]
    assert names(small_disk / "run") == ["checkpoint_000000000100", "checkpoint_000000000200"]


def test_a_disk_that_stays_full_keeps_what_it_had_and_no_half_of_more(small_disk):
    found = shelf(small_disk / "run")
    found.prepare()
    saved(found, 100)
    fill_up(small_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        found.save("checkpoint_000000000200", lambda folder: write(folder, "x" * 50_000, 200) and None)
    assert names(small_disk / "run") == ["checkpoint_000000000100"]
    assert newest_text(found) == "100"


def test_a_mount_that_vanished_is_not_replaced_by_a_folder_of_the_disk_below(tmp_path):
    found = shelf(tmp_path / "run")
    found.prepare()
    saved(found, 100)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="No such file or directory"):
        saved(found, 200)
    assert not (tmp_path / "run").exists()


def test_a_writer_that_was_killed_leaves_nothing_that_counts(tmp_path):
    found = shelf(tmp_path / "run")
    found.prepare()
    saved(found, 100)
    write(tmp_path / "run" / ".writing-abc", "half")
    assert newest_text(found) == "100"
    found.prepare()
    assert names(tmp_path / "run") == ["checkpoint_000000000100"]


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(shelves, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(shelves, "LONGEST_WAIT_SECONDS", 0.02)


def bare_shelf(folder, *, timeout_seconds=0.0, said=None):
    """Of a worker, on a machine where nobody has made the folder."""
    place = storage.Place(pyarrow.fs.LocalFileSystem(), str(folder))
    return Shelf(place, keep=2, timeout_seconds=timeout_seconds, say=(said if said is not None else []).append)


@pytest.mark.parametrize("below", ["nothing", "an empty folder", "another disk's checkpoints"])
def test_a_worker_whose_machine_lacks_the_storage_makes_no_folder_and_does_not_begin_at_zero(tmp_path, below):
    folder = tmp_path / "runs" / "run"
    if below != "nothing":
        folder.mkdir(parents=True)
    if below == "another disk's checkpoints":
        write(folder / "checkpoint_000000000100", "old", 100)
    before = sorted(tmp_path.rglob("*"))
    found = bare_shelf(folder)
    for act in (found.prepare, found.recall, lambda: newest_text(found), lambda: found.opened("checkpoint_000000000100").__enter__()):
        with pytest.raises(StorageError, match="within 0 s .*this machine does not see the folder that the driver made"):
            act()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_worker_waits_for_the_folder_that_the_driver_made(tmp_path, hasty):
    said = []
    found = bare_shelf(tmp_path / "run", timeout_seconds=60, said=said)

    def mount():
        while not said:
            time.sleep(0.01)
        write(tmp_path / "elsewhere" / "checkpoint_000000000100", "100", 100)
        made(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").rename(tmp_path / "run")

    thread = threading.Thread(target=mount)
    thread.start()
    found.prepare()
    thread.join()
    assert newest_text(found) == "100"
    assert len(said) == 2
    assert "does not give the run's folder" in said[0]
    assert "is the storage mounted?" in said[0]
    assert "gives the run's folder now, after " in said[1]


def test_a_mount_that_vanishes_while_checkpoints_are_looked_for_is_not_a_run_without_any(tmp_path, monkeypatch):
    found = shelf(tmp_path / "run")
    saved(found, 100)
    newest_first = storage.newest_first

    def vanishes(place, prefixes=storage.TO_GO_ON_FROM):
        if (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "elsewhere")
        return newest_first(place, prefixes)

    monkeypatch.setattr(storage, "newest_first", vanishes)
    with pytest.raises(StorageError, match="this machine does not see the folder that the driver made"):
        newest_text(found)
    assert not (tmp_path / "run").exists()


def test_the_best_is_not_copied_to_the_disk_below_a_mount_that_vanished(tmp_path):
    source = write(tmp_path / "source", "100", 100)
    place = made(tmp_path / "run")
    (tmp_path / "run" / storage.MARK).unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(FileNotFoundError):
        shelves.keep_best(place, source, 100)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("away", [1, 2, 5])
def test_a_storage_that_is_away_when_a_run_begins_again_is_waited_for(tmp_path, hasty, away):
    handler, said = Flaky(tmp_path), []
    found = shelf("run", filesystem=pyarrow.fs.PyFileSystem(handler), timeout_seconds=60, said=said)
    saved(found, 100)
    found.remember({"micro_batch": 4})

    def opened():
        with found.opened("checkpoint_000000000100") as folder:
            return text_of(folder)

    for act, result, what in (
        (found.prepare, None, "the run's folder"),
        (lambda: newest_text(found), "100", "the newest checkpoint"),
        (found.recall, {"micro_batch": 4}, "facts.json"),
        (opened, "100", "checkpoint_000000000100"),
        (found.handed_over, set(), "Ray Train's list"),
    ):
        said.clear()
        handler.away = away
        assert act() == result
        assert handler.away == 0
        assert [sentence.partition(" (")[0].partition(" now")[0] for sentence in said] == [
            f"the storage run does not give {what}",
            f"the storage gives {what}",
        ]


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOTCONN, errno.EIO])
def test_of_errors_in_reading_only_those_of_the_disk_are_the_checkpoints_own(tmp_path, hasty, monkeypatch, code):
    found = shelf(tmp_path / "run", timeout_seconds=60)
    saved(found, 100)
    saved(found, 200)
    verify, calls = checkpoint.verify, []

    def fails_once(folder):
        calls.append(folder.name)
        if len(calls) == 1:
            raise OSError(code, os.strerror(code))
        return verify(folder)

    monkeypatch.setattr(checkpoint, "verify", fails_once)
    with found.newest() as newest:
        assert newest.name == ("checkpoint_000000000100" if code == errno.EIO else "checkpoint_000000000200")
        assert list(newest.damaged) == (["checkpoint_000000000200"] if code == errno.EIO else [])
    assert len(calls) == 2


def test_a_storage_that_stays_away_when_a_run_begins_ends_it_and_it_can_be_continued(tmp_path):
    handler = Flaky(tmp_path)
    found = shelf("run", filesystem=pyarrow.fs.PyFileSystem(handler))
    handler.away = 1_000

    class Session:
        device = torch.device("cpu")
        latest_checkpoint = found.newest

    resumed, ending = worker._resume(None, Session(), NO_ORDERS)
    assert (resumed.pending, resumed.damaged) == ([], {})
    assert (ending.resumable, ending.stopped) == (True, False)
    assert "ray.storage_timeout_seconds: the storage run did not give the newest checkpoint within 0 s" in ending.failure


def test_a_best_that_is_not_taken_leaves_the_checkpoint_that_was(tmp_path):
    handler = Flaky(tmp_path)
    found = shelf("run", filesystem=pyarrow.fs.PyFileSystem(handler), timeout_seconds=0.5)
    saved(found, 100, best_at=100)
    handler.until = "best_"
    with pytest.raises(StorageError, match="did not take a copy of checkpoint_000000000200 as the best"):
        saved(found, 200, best_at=200)
    handler.failures, handler.until = 0, None
    assert newest_text(found) == "200"
    assert text_of(tmp_path / "run" / "best_000000000100") == "100"
    saved(found, 300, best_at=300)
    assert names(tmp_path / "run") == ["best_000000000300", "checkpoint_000000000200", "checkpoint_000000000300"]


def test_what_an_object_store_has_is_not_sent_again(tmp_path):
    handler = Flaky(tmp_path)
    place, source = made("run", pyarrow.fs.PyFileSystem(handler)), write(tmp_path / "source", "100", 100)
    counts = []
    for _ in range(3):
        shelves.put(place, "best_000000000100", source)
        counts.append(len(handler.written) - 1)
        if len(counts) == 2:
            write(source, "other", 100)
    assert counts == [4, 4, 8]
    assert text_of(tmp_path / "run" / "best_000000000100") == "other"


@pytest.mark.parametrize("alone", [True, False])
def test_half_a_copy_of_one_that_was_killed_goes_unless_it_may_still_be_written(tmp_path, alone):
    found = shelf(tmp_path / "run")
    for name, age in ((".copying-new", 0), (".copying-old", 2 * shelves.STALE_SECONDS), (".writing-new", 0)):
        folder = write(tmp_path / "run" / name, "half")
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - age,) * 2)
    found.prepare(alone=alone)
    assert names(tmp_path / "run") == ([] if alone else [".copying-new"])
