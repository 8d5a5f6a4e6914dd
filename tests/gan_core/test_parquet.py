import io
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.data import _encoded, parquet
from tests.support import noise_images, png, write_parquet


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_labels_and_order_come_through(tmp_path, nested, channels):
    encoded, pixels = noise_images(30, size=12, channels=channels)
    dataset = parquet.load(path=str(write_parquet(tmp_path / "some.parquet", encoded, list(range(30)), nested=nested)))
    np.testing.assert_array_equal(dataset.images.numpy(), pixels)
    assert dataset.labels.tolist() == list(range(30))
    assert (dataset.resolution, dataset.channels, dataset.num_classes, len(dataset)) == (12, channels, 30, 30)
    assert dataset.name == f"{tmp_path.name}/some"


def test_a_folder_of_files_is_one_data_set_in_name_order(tmp_path):
    encoded, pixels = noise_images(6)
    write_parquet(tmp_path / "b.parquet", encoded[3:], [3, 4, 5])
    write_parquet(tmp_path / "a.parquet", encoded[:3], [0, 1, 2])
    dataset = parquet.load(path=str(tmp_path))
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(dataset.images.numpy(), pixels)


def test_without_a_label_column_there_are_no_labels(tmp_path):
    dataset = parquet.load(path=str(write_parquet(tmp_path / "a.parquet", [png()] * 3)))
    assert dataset.labels is None
    assert dataset.num_classes == 0


def test_columns_may_have_other_names(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [png()] * 3, [1, 0, 1], image="picture", label="digit")
    dataset = parquet.load(path=str(path), image_column="picture", label_column="digit")
    assert dataset.labels.tolist() == [1, 0, 1]


def bad(tmp_path, **options):
    with pytest.raises(ValueError) as caught:
        parquet.load(path=str(tmp_path / "a.parquet"), **options)
    return str(caught.value)


def test_what_is_wrong_with_a_file_is_said_before_anything_is_decoded(tmp_path):
    assert "nothing at" in bad(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    assert "not a readable Parquet file" in bad(tmp_path)
    pq.write_table(pa.table({"x": [1], "y": [2]}), tmp_path / "a.parquet")
    assert "no column 'image'; its columns: x, y" in bad(tmp_path)
    pq.write_table(pa.table({"image": ["text"]}), tmp_path / "a.parquet")
    assert "must hold encoded bytes" in bad(tmp_path)
    write_parquet(tmp_path / "a.parquet", [])
    assert "holds no rows" in bad(tmp_path)
    write_parquet(tmp_path / "a.parquet", [png()])
    assert "no column 'digit'; its columns: image" in bad(tmp_path, label_column="digit")
    pq.write_table(pa.table({"image": [png()], "label": ["seven"]}), tmp_path / "a.parquet")
    assert "labels must be integers" in bad(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \*.parquet file"):
        parquet.load(path=str(tmp_path / "empty"))


def test_an_image_of_another_size_is_an_error_unless_a_filter_is_set(tmp_path):
    write_parquet(tmp_path / "a.parquet", [png((28, 28)), png((40, 30))])
    assert "a.parquet row 1 is 40x30 and not 28x28" in bad(tmp_path)
    assert "a.parquet row 0 is 28x28 and not 32x32; set data.resolution" in bad(tmp_path, resolution=32)
    assert parquet.load(path=str(tmp_path / "a.parquet"), resolution=32, resize="lanczos").images.shape == (2, 1, 32, 32)
    write_parquet(tmp_path / "a.parquet", [png((40, 30))])
    assert "set data.resolution and data.resize" in bad(tmp_path)


def test_the_short_side_is_resized_and_the_centre_cropped(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (255, 128, 0)
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    images = parquet.load(path=str(write_parquet(tmp_path / "a.parquet", [buffer.getvalue()])), resolution=10, resize="box").images
    assert images[0].flatten(1).unique(dim=1).squeeze().tolist() == [255, 128, 0]


def test_corrupt_rows_are_named_and_fail_the_run_above_the_threshold(tmp_path):
    encoded, pixels = noise_images(10)
    encoded[4] = b"not an image"
    encoded[7] = None
    write_parquet(tmp_path / "a.parquet", encoded, list(range(10)))
    message = bad(tmp_path, max_corrupt_fraction=0.1)
    assert "2 of 10 rows" in message
    assert "a.parquet row 4: cannot be decoded" in message
    assert "a.parquet row 7: no bytes" in message
    assert message.endswith("set it to 0.2")
    with pytest.warns(UserWarning, match="2 of 10 rows"):
        dataset = parquet.load(path=str(tmp_path / "a.parquet"), max_corrupt_fraction=0.2)
    kept = [0, 1, 2, 3, 5, 6, 8, 9]
    assert dataset.labels.tolist() == kept
    np.testing.assert_array_equal(dataset.images.numpy(), pixels[kept])


def test_truncated_deep_and_unlabelled_images_are_corrupt(tmp_path):
    encoded, _ = noise_images(4, size=28)
    buffer = io.BytesIO()
    Image.fromarray(np.full((28, 28), 0.5, np.float32)).save(buffer, "TIFF")
    encoded[1], encoded[2] = encoded[1][: len(encoded[1]) // 2], buffer.getvalue()
    write_parquet(tmp_path / "a.parquet", encoded, [0, 1, 2, None])
    message = bad(tmp_path)
    assert "row 1: cannot be decoded" in message
    assert "row 2: has values without a known range (mode F)" in message
    assert "row 3: label None" in message


def test_the_content_hash_names_content_and_not_its_packing(tmp_path):
    encoded, _ = noise_images(6)
    one = parquet.load(path=str(write_parquet(tmp_path / "a.parquet", encoded, [0] * 6)))
    nested = parquet.load(path=str(write_parquet(tmp_path / "b.parquet", encoded, [0] * 6, nested=True)))
    other_label = parquet.load(path=str(write_parquet(tmp_path / "c.parquet", encoded, [0] * 5 + [1])))
    other_pixels = parquet.load(path=str(write_parquet(tmp_path / "d.parquet", [*encoded[:5], png()], [0] * 6)))
    assert one.content_hash == nested.content_hash
    assert len({one.content_hash, other_label.content_hash, other_pixels.content_hash}) == 3


def test_images_are_decoded_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", [png(value=1)] * 3)
    first = parquet.load(path=str(path))
    monkeypatch.setattr(_encoded, "decode", lambda *_: pytest.fail("decoded again"))
    assert parquet.load(path=str(path)).content_hash == first.content_hash
    monkeypatch.undo()
    write_parquet(tmp_path / "a.parquet", [png(value=2)] * 3)
    os.utime(path, ns=(1, 1))
    assert parquet.load(path=str(path)).content_hash != first.content_hash


def hash_of(path):
    return parquet.load(path=path).content_hash


def test_processes_that_start_together_decode_once(tmp_path):
    encoded, _ = noise_images(200)
    path = str(write_parquet(tmp_path / "a.parquet", encoded))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        hashes = pool.map(hash_of, [path] * 4)
    assert len(set(hashes)) == 1
    folder = os.environ["RAYGAN_CACHE"]
    assert [name for name in os.listdir(folder) if name.startswith(".writing")] == []
    assert sum(os.path.isdir(os.path.join(folder, name)) for name in os.listdir(folder)) == 1


@pytest.mark.parametrize("name", ["images.bin", "labels.bin", "manifest.json"])
def test_a_cache_that_was_cut_is_made_again_and_what_a_killed_process_left_is_removed(tmp_path, name):
    encoded, pixels = noise_images(5)
    path = str(write_parquet(tmp_path / "a.parquet", encoded, [0, 1, 2, 3, 4]))
    parquet.load(path=path)
    (cached,) = (folder for folder in Path(os.environ["RAYGAN_CACHE"]).iterdir() if folder.is_dir())
    (cached / name).write_bytes((cached / name).read_bytes()[:10])
    left = cached.parent / f".writing-{cached.name}"
    left.mkdir()
    (left / "images.bin").write_bytes(b"of a process that was killed")
    again = parquet.load(path=path)
    np.testing.assert_array_equal(again.images.numpy(), pixels)
    assert again.labels.tolist() == [0, 1, 2, 3, 4]
    assert sorted(folder.name for folder in cached.parent.iterdir() if folder.is_dir()) == [cached.name]


def test_a_failed_decode_leaves_no_cache_behind(tmp_path):
    write_parquet(tmp_path / "a.parquet", [png((8, 8)), png((9, 9))])
    assert "row 1 is 9x9" in bad(tmp_path)
    assert [name for name in os.listdir(os.environ["RAYGAN_CACHE"]) if not name.endswith(".lock")] == []


def test_classes_have_the_names_that_hugging_face_wrote(tmp_path):
    encoded, _ = noise_images(4)
    path = write_parquet(tmp_path / "named.parquet", encoded, [0, 1, 1, 0], nested=True)
    assert parquet.load(path=str(path)).class_names == ()
    features = {"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    named = parquet.load(path=str(path))
    assert (named.class_names, named.num_classes) == (("cat", "dog", "owl"), 3)
    features["label"]["names"] = ["cat"]  # fewer than the labels: of no use
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    fewer = parquet.load(path=str(path))
    assert (fewer.class_names, fewer.num_classes) == ((), 2)
