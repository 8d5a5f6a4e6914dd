import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gan_core.data import _shards, digits, parquet
from tests.gan_core.test_trainer import same
from tests.support import prepared_digits, tiny_trainer


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return prepared_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def prepared(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "prepared"))


def bad(path, **options):
    with pytest.raises(ValueError) as caught:
        parquet.load(path=str(path), **options)
    folder = Path(os.environ["RAYGAN_CACHE"])
    assert [name.name for name in folder.iterdir() if name.suffix != ".lock"] == []
    return str(caught.value)


def change_manifest(prepared, **changes):
    about = json.loads((prepared / "dataset.json").read_text())
    (prepared / "dataset.json").write_text(json.dumps(about | changes))


def change_shard(prepared, number, change):
    """Rewrite a shard after `change(table)`, with its new size in the manifest, so that only its content betrays it."""
    file = prepared / _shards.shard_name(number)
    pq.write_table(change(pq.read_table(file)), file, compression="zstd")
    shards = json.loads((prepared / "dataset.json").read_text())["shards"]
    shards[number]["bytes"] = file.stat().st_size
    change_manifest(prepared, shards=shards)


def test_a_prepared_data_set_is_the_data_set(prepared):
    dataset, expected = parquet.load(path=str(prepared)), digits.load()
    assert torch.equal(dataset.images, expected.images)
    assert torch.equal(dataset.labels, expected.labels)
    manifest = json.loads((prepared / "dataset.json").read_text())
    assert dataset.content_hash == manifest["content_hash"]
    assert (dataset.num_classes, dataset.name, len(manifest["shards"])) == (10, "prepared", 3)


def test_an_address_reads_as_a_path_does(prepared):
    by_address = parquet.load(path=f"file://{prepared}")
    assert torch.equal(by_address.images, digits.load().images)
    assert by_address.source == f"file://{prepared}"


def test_an_address_of_encoded_images_reads_as_a_path_does(original):
    file = Path(original).parent / "digits.parquet"
    one, other = parquet.load(path=f"file://{file}"), parquet.load(path=str(file))
    assert one.content_hash == other.content_hash
    assert one.name == other.name == f"{file.parent.name}/digits"


def test_an_address_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="nowhere://x is no address that pyarrow can reach"):
        parquet.load(path="nowhere://x")


@pytest.mark.parametrize("ratio", ["1:1", "3:1"])
def test_training_from_shards_is_training_from_the_images_bit_for_bit(prepared, ratio):
    states = []
    for options in ({}, {"data__name": "parquet", "data__path": str(prepared)}):
        trainer = tiny_trainer(step_ratio=ratio, **options)
        trainer.run(lambda report: None)
        states.append({key: value for key, value in trainer.state_dict().items() if key not in ("content_hash", "config", "provenance")})
    assert same(*states)


def test_a_run_resumes_exactly_on_another_copy_of_the_shards(prepared, tmp_path, monkeypatch):
    options = {"data__name": "parquet", "total_kimg": 0.96, "schedule__checkpoint_kimg": 0.48}
    whole, middle = tiny_trainer(data__path=str(prepared), **options), []
    whole.run(lambda report: middle.append(pickle.dumps(report.state())) if report.state and not middle else None)
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path / "other node"))
    moved = prepared.rename(tmp_path / "elsewhere")
    again = tiny_trainer(data__path=str(moved), **options)
    state = pickle.loads(middle[0])
    assert 0 < state["images_seen"] < 960
    again.load_state_dict(state)
    again.run(lambda report: None)
    assert same(*({key: value for key, value in trainer.state_dict().items() if key != "config"} for trainer in (whole, again)))


def test_the_second_opening_reads_no_shard(prepared, monkeypatch):
    first = parquet.load(path=str(prepared))
    monkeypatch.setattr(_shards, "read_shard", lambda *_: pytest.fail("read again"))
    assert parquet.load(path=str(prepared)).content_hash == first.content_hash


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_anywhere_in_a_shard_is_found(prepared, share):
    file = prepared / "part-00001.parquet"
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 4
    file.write_bytes(content)
    assert "part-00001.parquet of" in bad(prepared)


@pytest.mark.parametrize("column", ["image", "label"])
def test_changed_content_is_found_where_the_file_is_whole(prepared, column):
    def change(table):
        cells = table.column(column).to_pylist()
        cells[0] = (cells[0] + 1) % 10 if column == "label" else bytes(64)
        return table.set_column(
            table.schema.get_field_index(column), table.schema.field(column), pa.array(cells, table.schema.field(column).type)
        )

    change_shard(prepared, 0, change)
    assert "part-00000.parquet of" in (message := bad(prepared))
    assert "its pixels or labels are not those that were written" in message


def test_a_shard_that_is_missing_or_extra_is_named(prepared):
    (prepared / "part-00002.parquet").rename(prepared / "part-00007.parquet")
    assert "part-00002.parquet is missing in" in bad(prepared)
    shutil.copy(prepared / "part-00007.parquet", prepared / "part-00002.parquet")
    assert "part-00007.parquet is not in dataset.json" in bad(prepared)
    (prepared / "part-00007.parquet").unlink()
    (prepared / "part-00002.parquet").write_bytes(b"short")
    assert "part-00002.parquet has another size" in bad(prepared)


def test_a_manifest_that_disagrees_is_refused(prepared):
    about = json.loads((prepared / "dataset.json").read_text())
    for changes, told in (
        ({"count": 5}, "its shards do not have as many images as it says"),
        ({"content_hash": "0" * 64}, "its content hash is not that of its shards"),
        ({"resolution": 9}, "its content hash is not that of its shards"),
        ({"shards": [about["shards"][0]] * 3, "count": about["shards"][0]["count"] * 3}, "it names a shard twice"),
        ({"classes": ["other", "names"]}, "its content hash is not that of its shards and classes"),
        ({"version": 1}, "damaged (version"),
        ({"channels": 2}, "damaged (channels"),
        ({"count": -1}, "damaged (count"),
    ):
        (prepared / "dataset.json").write_text(json.dumps(about | changes))
        assert told in bad(prepared), changes
    (prepared / "dataset.json").write_text("{")
    assert "damaged" in bad(prepared)


@pytest.mark.parametrize(
    "name",
    ["../part-00000.parquet", "/etc/passwd", "part-00000.parquet/../x", "part-1.parquet\n", "part-00000.parquet\0", "part-0000٣.parquet"],
)
def test_shard_names_never_lead_out_of_the_folder(prepared, name):
    shards = json.loads((prepared / "dataset.json").read_text())["shards"]
    shards[1]["file"] = name
    change_manifest(prepared, shards=shards)
    assert "damaged (shards.1.file" in bad(prepared)


def consistent(prepared, **shape):
    """A manifest of another shape whose own hash agrees with it."""
    about = json.loads((prepared / "dataset.json").read_text()) | shape
    kept = {key: about[key] for key in ("channels", "resolution", "labelled", "classes")}
    hashes = [shard["sha256"] for shard in about["shards"]]
    change_manifest(prepared, **shape, content_hash=_shards.content_hash(**kept, shard_hashes=hashes))


def test_shards_of_another_shape_than_the_manifest_are_refused(prepared):
    consistent(prepared, resolution=16)
    assert "column 'image' is fixed_size_binary[64], and dataset.json means fixed_size_binary[256]" in bad(prepared)
    consistent(prepared, resolution=8, classes=["only one"])
    assert "has labels beyond the 1 classes" in bad(prepared)


class Explosive:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("metadata", [pickle.dumps(Explosive()), b"[" * 100_000, b"\xff", b"3", b'{"version": {"a": 1}}'])
def test_hostile_schema_metadata_are_harmless(prepared, metadata, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change_shard(prepared, 0, lambda table: table.replace_schema_metadata({b"raygan": metadata, b"huggingface": metadata}))
    assert "is of another resolution, kind or version" in bad(prepared)
    assert not (tmp_path / "exploded").exists()


def test_settings_that_were_settled_when_it_was_prepared_are_refused(prepared):
    assert "data.resolution: " in (message := bad(prepared, resolution=16))
    assert "was prepared with resolution 8, given 16" in message
    assert "was prepared with channels 1, given 3" in bad(prepared, channels=3)
    assert "data.max_corrupt_fraction" in bad(prepared, max_corrupt_fraction=0.1)
    assert len(parquet.load(path=str(prepared), resolution=8, channels=1, resize="lanczos")) == 1797  # as presets for photos have it


def test_an_unfinished_preparation_and_a_lone_shard_are_refused(prepared):
    shard = prepared / "part-00000.parquet"
    assert "give the folder that holds its dataset.json" in bad(shard)
    (prepared / "dataset.json").rename(prepared / "preparing.json")
    assert "is not finished" in bad(prepared)


def test_the_hash_of_a_shard_is_of_its_shape_pixels_and_labels():
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    labels = np.array([1, 0])

    def hash_of(pixels, labels):
        return _shards.write_shard(pixels, labels, ["a", "b"], []).sha256

    assert hash_of(pixels, labels) == hash_of(pixels.copy(), labels.copy())
    assert hash_of(pixels, labels) != hash_of(pixels.reshape(6, 1, 4, 4)[:2], labels)
    assert len({hash_of(pixels, labels), hash_of(pixels, labels[::-1]), hash_of(pixels[::-1], labels), hash_of(pixels, None)}) == 4
