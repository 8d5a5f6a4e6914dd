"""Checkpoint folders: kept, thinned out, taken over from another run, found where some are damaged, and waited for."""

import json
import re

import pyarrow.fs
import pytest

from gan_core import checkpoint
from gan_core.checkpoint import DamagedError
from pipelines import storage
from tests.pipelines.checkpoints import Flaky, damage, names, newest_text, saved, shelf, text_of, write


@pytest.fixture(params=["folder", "object store"])
def kept(request, tmp_path):
    """A run's folder, and the shelf on it."""
    store = pyarrow.fs.PyFileSystem(Flaky(tmp_path))
    found = shelf(tmp_path / "run") if request.param == "folder" else shelf("run", filesystem=store)
    found.prepare()
    return tmp_path / "run", found


def test_checkpoints_are_thinned_out_and_the_best_is_kept(kept):
    folder, shelf = kept
    for step in (100, 200, 300):
        saved(shelf, step, best_at=step if step < 300 else None)
    assert names(folder) == ["best_000000000200", "checkpoint_000000000200", "checkpoint_000000000300"]
    assert newest_text(shelf) == "300"
    assert text_of(folder / "best_000000000200") == "200"


def test_an_interim_checkpoint_is_kept_while_it_is_the_newest_and_pushes_no_scheduled_one_out(kept):
    folder, shelf = kept
    for step in (100, 200):
        saved(shelf, step)
    for step in (210, 220, 230):
        saved(shelf, step, prefix=storage.INTERIM)
    assert names(folder) == ["checkpoint_000000000100", "checkpoint_000000000200", "interim_000000000230"]
    assert newest_text(shelf) == "230"
    saved(shelf, 300)
    assert names(folder) == ["checkpoint_000000000200", "checkpoint_000000000300"]


@pytest.mark.parametrize("how", ["state", "records", "note", "cut", "file missing", "note missing"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(kept, how):
    folder, shelf = kept
    saved(shelf, 100)
    saved(shelf, 200)
    damage(folder / "checkpoint_000000000200", how)
    with shelf.newest() as found:
        assert (found.name, text_of(found.folder)) == ("checkpoint_000000000100", "100")
        assert list(found.damaged) == ["checkpoint_000000000200"]
        (sentence,) = storage.told(found)
        begun, reason, kept_as = re.split(": |; ", sentence)
        assert begun == "checkpoint_000000000200 is damaged, so checkpoint_000000000100 is used"
        assert re.search("does not have the checksum|is missing|is no list of files|is not complete", reason)
        assert str(folder) not in reason
        assert kept_as == "it was set aside as damaged_checkpoint_000000000200"
    assert names(folder) == ["checkpoint_000000000100", "damaged_checkpoint_000000000200"]
    saved(shelf, 200)
    damage(folder / "checkpoint_000000000200", how)
    with shelf.newest() as found:
        assert found.damaged["checkpoint_000000000200"].endswith("; it was set aside as damaged_checkpoint_000000000200.2")
    assert names(folder)[1:] == ["damaged_checkpoint_000000000200", "damaged_checkpoint_000000000200.2"]


def test_readers_pass_over_a_damaged_checkpoint_say_so_and_leave_it(tmp_path):
    found, said = shelf(tmp_path / "run"), []
    found.prepare()
    saved(found, 100)
    saved(found, 200)
    damage(tmp_path / "run" / "checkpoint_000000000200", "state")
    with storage.latest(str(tmp_path), "run", say=said.append) as folder:
        assert text_of(folder) == "100"
    assert [sentence.split(" noted in ")[0] for sentence in said] == [
        "checkpoint_000000000200 is damaged, so checkpoint_000000000100 is used: state.pt does not have the checksum"
    ]
    assert "set aside" not in said[0]
    assert names(tmp_path / "run") == ["checkpoint_000000000100", "checkpoint_000000000200"]


def test_where_all_are_damaged_nothing_is_touched_and_the_way_out_is_told(kept):
    folder, shelf = kept
    saved(shelf, 100)
    saved(shelf, 200)
    for name in names(folder):
        damage(folder / name, "state")
    with pytest.raises(DamagedError, match="(?s)none of the checkpoints in .*start anew with: raygan train --from-run run"), shelf.newest():
        pass
    assert names(folder) == ["checkpoint_000000000100", "checkpoint_000000000200"]


@pytest.mark.parametrize(
    "note",
    [
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"sha256": 3, "images_seen": 1}',
        b'{"images_seen": 1, "files": ["state.pt"]}',
        b'{"images_seen": "many", "files": {"state.pt": "%s"}}' % (b"0" * 64),
        b'{"images_seen": 1, "files": {"state.pt": "%s", "../../secret": "%s"}}' % (b"0" * 64, b"0" * 64),
        b'{"images_seen": 1, "sha256": "%s"' % (b"0" * (1 << 20)),
    ],
)
def test_a_list_of_checksums_that_is_none_is_refused(tmp_path, note):
    write(tmp_path, "x")
    (tmp_path / checkpoint.SUMS).write_bytes(note)
    with pytest.raises(DamagedError, match="no list of files in that folder with their checksums"):
        checkpoint.verify(tmp_path)


def test_facts_come_back_and_what_is_none_is_refused(kept):
    folder, shelf = kept
    assert shelf.recall() == {}
    shelf.remember({"micro_batch": 8})
    shelf.remember({"micro_batch": 4})
    assert shelf.recall() == {"micro_batch": 4}
    for content in ("[1]", "{", "[" * 100_000):
        (folder / "facts.json").write_text(content)
        with pytest.raises(ValueError, match="holds no facts about the run; delete it"):
            shelf.recall()


def test_a_list_of_ray_train_goes_where_it_is_not_needed_or_names_what_is_gone(tmp_path):
    place, path = storage.Place(pyarrow.fs.LocalFileSystem(), str(tmp_path)), tmp_path / storage.RAY_TRAIN_LIST
    write(tmp_path / "checkpoint_000000000100", "x")

    def settled(content, needed):
        path.write_text(content)
        storage.settle_ray_list(place, needed=needed)
        return path.exists()

    def listing(*steps):
        return json.dumps({"checkpoint_results": [{"checkpoint_dir_name": storage.checkpoint_name(step)} for step in steps]})

    assert settled(listing(100), needed=True)
    assert storage.ray_list(place) == {"checkpoint_000000000100"}
    assert not settled(listing(100, 200), needed=True)
    assert not settled(listing(100), needed=False)
    assert not settled("{", needed=True)
    storage.settle_ray_list(place, needed=True)
    assert storage.ray_list(place) == set()


def test_of_one_moment_the_scheduled_checkpoint_comes_first(kept):
    folder, shelf = kept
    for step, prefix in ((100, storage.PREFIX), (200, storage.INTERIM), (200, storage.PREFIX)):
        write(folder / storage.checkpoint_name(step, prefix), f"{prefix}{step}", step)
    wanted = ["checkpoint_000000000200", "interim_000000000200", "checkpoint_000000000100"]
    assert storage.newest_first(shelf.place) == wanted
    assert newest_text(shelf) == "checkpoint_200"


@pytest.mark.parametrize("error", [DamagedError("half of it is there"), FileNotFoundError(2, "No such file or directory")])
@pytest.mark.parametrize("best", [True, False])
def test_a_reader_of_a_run_that_lives_takes_the_checkpoint_that_replaced_the_one_it_looked_at(tmp_path, monkeypatch, best, error):
    found, said = shelf(tmp_path / "run", keep=1), []
    saved(found, 100, best_at=100)
    verify, replaced = checkpoint.verify, []

    def late(folder):
        if not replaced:
            replaced.append(folder.name)
            saved(found, 200, best_at=200)
            raise error
        return verify(folder)

    monkeypatch.setattr(checkpoint, "verify", late)
    with storage.latest(str(tmp_path), "run", best=best, say=said.append) as folder:
        assert (folder.name, text_of(folder)) == ("best_000000000200" if best else "checkpoint_000000000200", "200")
    assert replaced == ["best_000000000100" if best else "checkpoint_000000000100"]
    assert said == []


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(tmp_path):
    found, read = shelf(tmp_path / "run", keep=1), []
    saved(found, 100)

    def action(folder):
        if not read:
            saved(found, 200)
        read.append(folder.name)
        return text_of(folder)

    assert storage.read_latest(str(tmp_path), "run", action) == "200"
    assert read == ["checkpoint_000000000100", "checkpoint_000000000200"]


def test_what_a_reader_cannot_use_is_not_read_again(tmp_path):
    found, read = shelf(tmp_path / "run"), []
    saved(found, 100)

    def action(folder):
        read.append(folder.name)
        raise DamagedError("not what it should be")

    with pytest.raises(DamagedError, match="not what it should be"):
        storage.read_latest(str(tmp_path), "run", action)
    assert len(read) == 1
