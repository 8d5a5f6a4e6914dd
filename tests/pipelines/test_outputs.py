"""Where images go: checked before anything is drawn, whole or not there, and no error of another kind is taken for one of writing."""

import os

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from pyarrow._fs import FileInfo  # noqa: F401

from gan_core.data._tables import Place
from pipelines.drawing import outputs

FORM = outputs.schema(labelled=False, class_names=None, facts={})


def images(first, count):
    image = pa.array([{"bytes": b"x", "path": f"{seed}.png"} for seed in range(first, first + count)], FORM.field("image").type)
    return pa.table({"image": image, "seed": pa.array(range(first, first + count), pa.int64())})


def test_a_row_group_is_whole_however_many_rows_come_at_once(tmp_path):
    with outputs.opened(str(tmp_path / "a.parquet"), FORM) as output:
        for part in range(5):
            output.write(images(part * 700, 700))
    groups = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [1024, 1024, 1024, 428]
    assert pq.read_table(tmp_path / "a.parquet").column("seed").to_pylist() == list(range(3500))


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    for out in ("a.parquet", "folder"):
        with (
            pytest.raises(RuntimeError, match="midway"),
            outputs.opened(str(tmp_path / out), FORM),
        ):
            raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, pa.ArrowInvalid])
def test_an_error_of_drawing_is_not_taken_for_one_of_writing(tmp_path, kind):
    for out in ("a.parquet", "folder"):
        with pytest.raises(kind, match="^drawn wrong$"), outputs.opened(str(tmp_path / out), FORM):
            raise kind("drawn wrong")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_writing_is_one(tmp_path, monkeypatch):
    def full(self, table):
        raise OSError("No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with (
        pytest.raises(ValueError, match="--out: .*a.parquet cannot be written .No space left"),
        outputs.opened(str(tmp_path / "a.parquet"), FORM) as output,
    ):
        output.write(images(0, 1024))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_named_at_the_end_is_kept_and_its_place_told(tmp_path):
    for out in ("a.parquet", "folder"):
        with pytest.raises(ValueError, match="everything is complete in .*writing-"), outputs.opened(str(tmp_path / out), FORM) as output:
            output.write(images(0, 5))
            (tmp_path / out).mkdir()  # somebody else was faster
            (tmp_path / out / "theirs").touch()
    (kept,) = tmp_path.glob("a.parquet.writing-*")
    assert pq.read_table(kept).column("seed").to_pylist() == list(range(5))
    (kept,) = tmp_path.glob("folder.writing-*")
    assert len(list(kept.iterdir())) == 5


def test_places_that_cannot_be_written_are_refused_before_drawing(tmp_path, monkeypatch):
    (tmp_path / "taken.parquet").touch()
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "locked").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "locked" and may(path, mode))
    for out, reason in (
        ("../taken.parquet", "is there already"),
        ("../folder.parquet", "is there already"),
        (f"file://{tmp_path}/taken.parquet", "is there already"),
        ("../taken.parquet/x.parquet", "is a file"),
        ("../locked/deep/x.parquet", "cannot be written"),
        ("../locked/deep/folder", "cannot be written"),
        (".", "is in use"),
        ("nowhere://x.parquet", "no address that pyarrow can reach"),
    ):
        with pytest.raises(ValueError, match=reason):
            outputs.require_free(out)
    outputs.require_free("../fine.parquet")
    outputs.require_free("fine")
    assert os.listdir() == []


def test_links_are_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "link.parquet").symlink_to("there.parquet")
    for out in ("link", "link.parquet"):
        outputs.require_free(str(tmp_path / out))
        with outputs.opened(str(tmp_path / out), FORM) as output:
            output.write(images(0, 3))
    assert len(list((tmp_path / "empty").iterdir())) == 3
    assert pq.read_table(tmp_path / "there.parquet").num_rows == 3
    assert (tmp_path / "link").is_symlink()
    outputs.write_whole(tmp_path / "link.parquet", b"new")
    assert (tmp_path / "there.parquet").read_bytes() == b"new"


def test_an_object_store_gets_the_file_under_its_name_and_nothing_after_an_error(tmp_path, monkeypatch):
    from pyarrow._fs import _MockFileSystem

    store = _MockFileSystem()
    store.create_dir("bucket")
    monkeypatch.setattr(outputs._tables, "locate", lambda address: Place(store, address.partition("://")[2], address))
    address = "mock://bucket/a.parquet"
    outputs.require_free(address)
    with pytest.raises(RuntimeError, match="midway"), outputs.opened(address, FORM) as output:
        output.write(images(0, 2000))
        assert names(store) == ["a.parquet"]  # no other name, so none to copy from; a real store shows it when it is closed
        raise RuntimeError("midway")
    assert names(store) == []
    with outputs.opened(address, FORM) as output:
        output.write(images(0, 2000))
    assert names(store) == ["a.parquet"]
    with store.open_input_file("bucket/a.parquet") as stream:
        assert pq.read_table(stream).num_rows == 2000
    with pytest.raises(ValueError, match="is there already"):
        outputs.require_free(address)


def names(store):
    return [entry.base_name for entry in store.get_file_info(pyarrow.fs.FileSelector("bucket"))]
