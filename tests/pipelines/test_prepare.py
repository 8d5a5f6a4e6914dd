import gzip
import io
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from gan_core.data import _tables, parquet
from pipelines import prepare
from pipelines.preparing import shard, state
from tests.pipelines.command import finish, start
from tests.support import noise_images, png, write_parquet


def run(source, destination, *words, workers=1):
    """The command in this process; returns its status and, where there is one, the description that it wrote."""
    status = prepare.main([str(source), str(destination), "--workers", str(workers), *map(str, words)])
    for name in ("dataset.json", "report.json"):
        if (Path(destination) / name).is_file():
            return status, json.loads((Path(destination) / name).read_text())
    return status, None


def loaded(destination):
    return parquet.load(path=str(destination))


def write(root, images):
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.fixture
def parquet_file(tmp_path):
    """Noise in row groups of 16, 100 images of 3 classes."""
    encoded, pixels = noise_images(100, size=12, channels=3)
    table = pq.read_table(write_parquet(tmp_path / "noise.parquet", encoded, [n % 3 for n in range(100)], nested=True))
    pq.write_table(table, tmp_path / "noise.parquet", row_group_size=16)
    return tmp_path / "noise.parquet", pixels


def test_pixels_labels_order_and_statistics_come_through(parquet_file, tmp_path):
    source, pixels = parquet_file
    status, about = run(source, tmp_path / "out", "--resolution", 12)
    assert status == 0
    dataset = loaded(tmp_path / "out")
    np.testing.assert_array_equal(dataset.images.numpy(), pixels)
    assert dataset.labels.tolist() == [n % 3 for n in range(100)]
    assert (about["count"], about["found"], about["dropped"], about["class_counts"]) == (100, 100, [], [34, 33, 33])
    assert about["mean"] == pytest.approx((pixels / 255).mean((0, 2, 3)).tolist(), rel=1e-12)
    assert about["standard_deviation"] == pytest.approx((pixels / 255).std((0, 2, 3)).tolist(), rel=1e-12)
    with Image.open(tmp_path / "out" / "preview.png") as preview:
        assert preview.size == (8 * 48, 3 * 48)  # 8 examples of each class, 4 times as large
    sources = pq.read_table(tmp_path / "out" / "part-00000.parquet").column("source").to_pylist()
    assert sources[:2] == ["noise.parquet row 0", "noise.parquet row 1"]


@pytest.mark.parametrize("megabytes", [0.004, 0.009, 1.0])
def test_any_number_of_workers_makes_the_same_bytes(parquet_file, tmp_path, megabytes):
    source, _ = parquet_file
    words = ("--resolution", 12, "--shard-megabytes", megabytes)
    one, two = run(source, tmp_path / "1", *words), run(source, tmp_path / "2", *words, workers=2)
    assert one == two
    assert len(one[1]["shards"]) == {0.004: 13, 0.009: 6, 1.0: 1}[megabytes]  # row groups of 16 are cut, kept or joined
    for left in sorted((tmp_path / "1").iterdir()):
        assert left.read_bytes() == (tmp_path / "2" / left.name).read_bytes(), left.name
    assert loaded(tmp_path / "1").content_hash == one[1]["content_hash"]


def test_ray_data_makes_the_same_bytes(parquet_file, tmp_path):
    source, _ = parquet_file
    words = ["--resolution", "12", "--shard-megabytes", "0.009"]
    _, expected = run(source, tmp_path / "here", *words)
    status, _, err = finish(start(tmp_path, str(source), str(tmp_path / "ray"), *words, "--ray", "always", command="prepare"))
    assert status == 0, err
    assert json.loads((tmp_path / "ray" / "dataset.json").read_text()) == expected


SLOWLY = """
import sys, time
from pipelines import prepare
from pipelines.preparing import shard, work
made, make = [], shard.make
def slowly(block, job):
    made.append(block["number"])
    time.sleep(0.5)
    return make(block, job)
work.WORTH_SECONDS, work.LOOK_SECONDS, shard.make = 0.0, 0.0, slowly
status = prepare.main(sys.argv[1:])
print("made here", *made)
sys.exit(status)
"""


def test_what_is_worth_it_is_handed_over_to_ray_data_and_nothing_is_made_twice(parquet_file, tmp_path):
    source, pixels = parquet_file
    words = [str(source), str(tmp_path / "out"), "--resolution", "12", "--shard-megabytes", "0.0008", "--workers", "1"]
    result = subprocess.run([sys.executable, "-c", SLOWLY, *words], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    made = [int(number) for number in result.stdout.split("made here")[1].split()]
    shards = json.loads((tmp_path / "out" / "dataset.json").read_text())["shards"]
    assert made == list(range(len(made)))
    assert 0 < len(made) < len(shards) == 100
    np.testing.assert_array_equal(loaded(tmp_path / "out").images.numpy(), pixels)


def test_a_folder_has_its_sub_folders_as_classes_also_in_an_archive(tmp_path):
    encoded, pixels = noise_images(4, size=8)
    names = ["dog/1.png", "cat/2.png", "dog/deep/3.png", "ant/4.png"]
    write(tmp_path / "pets", dict(zip(names, encoded)))
    (tmp_path / "pets" / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name, content in zip(names, encoded):
            archive.writestr(f"pets/{name}", content)
        archive.writestr("__MACOSX/pets/._1.png", b"resource fork")
        archive.writestr("pets/notes.txt", "no image")
    for source in (tmp_path / "pets", tmp_path / "pets.zip"):
        status, about = run(source, tmp_path / f"{source.name}-out", "--resolution", 8)
        assert status == 0
        assert (about["classes"], about["class_counts"], about["other_files"]) == (["ant", "cat", "dog"], [1, 1, 2], 1)
        dataset = loaded(tmp_path / f"{source.name}-out")
        np.testing.assert_array_equal(dataset.images.numpy(), pixels[[3, 1, 0, 2]])
        assert dataset.labels.tolist() == [0, 1, 2, 2]


def test_shards_of_hugging_face_bring_the_names_of_their_classes(tmp_path):
    encoded, pixels = noise_images(10, size=8)
    (tmp_path / "hf").mkdir()
    features = {"image": {"_type": "Image"}, "digit": {"names": ["zero", "one", "two"], "_type": "ClassLabel"}}
    for part in range(2):
        path = tmp_path / "hf" / f"train-0000{part}-of-00002.parquet"
        write_parquet(path, encoded[part::2], [0, 1, 2, 0, 1], nested=True, label="digit")
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    status, about = run(tmp_path / "hf", tmp_path / "out", "--resolution", 8, "--label-column", "digit")
    assert status == 0
    assert (about["classes"], about["class_counts"]) == (["zero", "one", "two"], [4, 4, 2])
    np.testing.assert_array_equal(loaded(tmp_path / "out").images.numpy(), np.concatenate([pixels[0::2], pixels[1::2]]))


def idx(array):
    """MNIST's own file layout."""
    return gzip.compress(struct.pack(">I", 0x800 + array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def test_mnist_comes_through_torchvisions_own_reader(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(7, dtype=np.uint8))):
            content = idx(array)
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(gzip.decompress(content))
    status, about = run("torchvision:MNIST:test", tmp_path / "out", "--resolution", 28, "--root", tmp_path / "root")
    assert status == 0
    assert (about["classes"][3], about["class_counts"], about["channels"]) == ("3 - three", [1] * 7 + [0] * 3, 1)
    assert loaded(tmp_path / "out").labels.tolist() == list(range(7))
    np.testing.assert_array_equal(loaded(tmp_path / "out").images[:, 0].numpy(), pixels)


def test_cifar10_comes_through_torchvisions_own_reader(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batch = pickle.dumps({"data": pixels.reshape(5, -1), "labels": [4, 3, 2, 1, 0]})
    meta = pickle.dumps({"label_names": [f"class {n}" for n in range(10)]})
    (folder / "test_batch").write_bytes(batch)
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(batch).hexdigest()]])
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(meta).hexdigest()})
    status, about = run("torchvision:CIFAR10:test", tmp_path / "out", "--resolution", 32, "--root", tmp_path / "root")
    assert (status, about["classes"][4], about["channels"]) == (0, "class 4", 3)
    np.testing.assert_array_equal(loaded(tmp_path / "out").images.numpy(), pixels)
    assert loaded(tmp_path / "out").labels.tolist() == [4, 3, 2, 1, 0]


def saved(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def hostile(root):
    """A folder of what people's folders hold; returns why each of the dropped ones should be, by name."""
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    palette = photo.quantize(16)
    turned = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned[f"turned {orientation}.jpg"] = saved(photo, "JPEG", exif=exif)
    good = {
        "plain.png": saved(photo),
        "UPPER.PNG": saved(photo),
        "rgba.png": saved(Image.new("RGBA", (40, 40), (1, 2, 3, 99))),
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG"),
        "deep.png": saved(Image.fromarray(random.integers(0, 65536, (40, 40)).astype(np.uint16))),
        "palette.gif": saved(palette, "GIF"),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "a JPEG.png": saved(photo, "JPEG"),
        "wide.png": saved(photo.resize((90, 40))),
        "żółw 亀 🐢.png": saved(photo),
        "new\nline.png": saved(photo),
        "x.png/inner.png": saved(photo),
        **turned,
    }
    bad = {
        "truncated.png": (saved(photo)[:1500], "damaged"),
        "truncated.jpg": (saved(photo, "JPEG")[:700], "damaged"),
        "nothing.png": (b"", "empty"),
        "text.png": (b"<html>404 Not Found</html>", "not an image"),
        "one pixel.png": (png((1, 1)), "too small"),
        "thin.png": (png((20_000, 1)), "too small"),
        "float.tiff": (saved(Image.new("F", (40, 40)), "TIFF"), "unbounded values"),
    }
    write(root, good | {name: content for name, (content, _) in bad.items()})
    (root / "loop").symlink_to(root)
    (root / "gone.png").symlink_to(root / "nowhere")
    (root / "itself.png").symlink_to(root / "itself.png")
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)
        listener.bind("socket.png")
    (root / os.fsdecode(b"latin \xe9.png")).write_bytes(saved(photo))
    (root / ".hidden.png").write_bytes(b"not looked at")
    links = {
        "loop": "broken link",
        "gone.png": "broken link",
        "itself.png": "broken link",
        "pipe.png": "unreadable",
        "socket.png": "unreadable",
    }
    return len(good) + 1, {name: reason for name, (_, reason) in bad.items()} | links


def test_a_hostile_folder_is_reported_to_the_last_file_and_nothing_crashes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept, reasons = hostile(tmp_path / "set")
    words = ("--resolution", 16, "--resize", "lanczos", "--channels", 3)
    status, about = run(tmp_path / "set", tmp_path / "out", *words)
    assert status == 1
    assert {item["source"]: item["reason"] for item in about["dropped"]} == reasons
    assert (about["count"], about["found"]) == (kept, kept + len(reasons))
    kinds = {"16 bits": 1, "colour space": 1, "grey to colour": 1, "palette": 2, "several frames": 1, "transparent": 1, "turned": 7}
    assert about["converted"] == kinds
    assert not (tmp_path / "out" / "dataset.json").exists()
    with pytest.raises(ValueError, match="is not finished"):
        loaded(tmp_path / "out")
    told = capsys.readouterr()
    assert f"{len(reasons)} of {kept + len(reasons)} images were dropped, more than --max-dropped 0" in told.err
    assert "--upscale" in told.err
    share = float(told.err.split("--max-dropped ")[2].split(";")[0].rstrip("."))

    monkeypatch.setattr(shard, "make", lambda *_: pytest.fail("a shard was made again"))
    status, about = run(tmp_path / "set", tmp_path / "out", *words, "--max-dropped", share)
    assert status == 0
    assert len(loaded(tmp_path / "out")) == kept
    assert not (tmp_path / "out" / "report.json").exists()


def test_files_that_may_not_be_read_are_dropped(tmp_path, monkeypatch):
    """Root may read everything: refused here."""
    write(tmp_path / "set", {"a.png": png(), "b.png": png()})
    opened = Path.open

    def refuse(path, *args, **options):
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    status, about = run(tmp_path / "set", tmp_path / "out", "--resolution", 28, "--max-dropped", 0.5)
    assert status == 0
    assert about["dropped"] == [{"source": "b.png", "reason": "unreadable", "detail": "cannot be read (Permission denied)"}]
    monkeypatch.setattr(Path, "open", opened)
    status, about = run(tmp_path / "set", tmp_path / "out", "--resolution", 28)
    assert (status, about["count"], about["dropped"]) == (0, 2, [])  # a disk that was away for a moment costs nothing
    assert len(loaded(tmp_path / "out")) == 2


def test_members_of_an_archive_that_cannot_be_unpacked_are_dropped(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("good.png", "changed.png", "../../evil.png"):
            archive.writestr(name, png())
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    content = (tmp_path / "a.zip").read_bytes()
    first = content.index(png(), content.index(b"changed.png"))
    (tmp_path / "a.zip").write_bytes(content[: first + 40] + b"\xff" + content[first + 41 :])
    status, about = run(tmp_path / "a.zip", tmp_path / "out", "--resolution", 28, "--max-dropped", 0.9)
    assert status == 0
    assert {item["source"]: item["reason"] for item in about["dropped"]} == {"changed.png": "unreadable", "link.png": "unreadable"}
    assert about["count"] == 1  # a path that leads upwards is passed over
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_of_two_members_of_an_archive_with_one_name_the_later_one_is_taken_and_the_other_reported(tmp_path):
    encoded, pixels = noise_images(3, size=8)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name, content in zip(("a.png", "b.png", "a.png"), encoded):
            archive.writestr(name, content)
    status, about = run(tmp_path / "a.zip", tmp_path / "out", "--resolution", 8, "--max-dropped", 0.5)
    assert (status, about["found"]) == (0, 3)
    assert about["dropped"] == [{"source": "a.png", "reason": "replaced", "detail": "a later member of the archive has its name"}]
    np.testing.assert_array_equal(loaded(tmp_path / "out").images.numpy(), pixels[[2, 1]])


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("label", [40_000_000, 2**63 + 1])
def test_a_label_that_would_make_millions_of_classes_is_refused_by_its_row(tmp_path, capsys, label, statistics):
    encoded, _ = noise_images(4, size=8)
    labels = pa.array([0, 1, label, 2], pa.uint64())
    pq.write_table(pa.table({"image": encoded, "label": labels}), tmp_path / "a.parquet", write_statistics=statistics, row_group_size=2)
    status, about = run(tmp_path / "a.parquet", tmp_path / "out", "--resolution", 8)
    assert (status, about) == (2 if statistics else 1, None)
    told = f"a.parquet row 2: label {label}, and labels are numbers of classes, from 0 to at most 999999"
    assert told in capsys.readouterr().err
    with pytest.raises(ValueError, match=told):
        parquet.load(path=str(tmp_path / "a.parquet"))


def test_files_without_rows_are_passed_over(tmp_path):
    encoded, pixels = noise_images(4, size=8)
    (tmp_path / "set").mkdir()
    table = pa.table({"image": encoded, "label": [0, 1, 2, 3]})
    for name, rows in (("a", 0), ("b", 4), ("c", 0)):
        pq.write_table(table[:rows], tmp_path / "set" / f"{name}.parquet")
    assert run(tmp_path / "set", tmp_path / "out", "--resolution", 8)[0] == 0
    np.testing.assert_array_equal(loaded(tmp_path / "out").images.numpy(), pixels)


def test_a_row_group_is_read_once_however_many_shards_it_is_cut_into(tmp_path, monkeypatch):
    encoded, pixels = noise_images(100, size=8)
    source = write_parquet(tmp_path / "a.parquet", encoded)
    batches, iterate = [], pq.ParquetFile.iter_batches

    def counted(file, *args, **options):
        for batch in iterate(file, *args, **options):
            batches.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(_tables, "ROWS_AT_ONCE", 8)
    status, about = run(source, tmp_path / "out", "--resolution", 8, "--shard-megabytes", 0.0002)
    assert (status, len(about["shards"])) == (0, 34)
    assert sum(batches) == 100
    np.testing.assert_array_equal(loaded(tmp_path / "out").images.numpy(), pixels)


def test_what_a_damaged_source_raises_is_told_without_a_traceback(parquet_file, tmp_path, capsys, monkeypatch):
    source, _ = parquet_file

    def fails(*_):
        raise pa.ArrowInvalid("a page is damaged")

    monkeypatch.setattr(shard, "make", fails)
    assert run(source, tmp_path / "out", "--resolution", 12) == (1, None)
    assert "raygan prepare: a page is damaged\n0 of 1 shards are complete; go on with" in capsys.readouterr().err


def test_sizes_that_resize_does_not_allow_are_dropped_and_the_remedy_is_told(tmp_path, capsys):
    write(tmp_path / "set", {"a.png": png((8, 8)), "b.png": png((9, 8)), "c.png": png((4, 4))})
    assert run(tmp_path / "set", tmp_path / "1", "--resolution", 8)[1]["dropped_by_reason"] == {"other size": 2}
    assert "--resize lanczos" in capsys.readouterr().err
    assert run(tmp_path / "set", tmp_path / "2", "--resolution", 8, "--resize", "box")[1]["dropped_by_reason"] == {"too small": 1}
    status, about = run(tmp_path / "set", tmp_path / "3", "--resolution", 8, "--resize", "box", "--upscale")
    assert (status, about["dropped"], about["converted"]) == (0, [], {"enlarged": 1})


def test_nothing_is_done_twice_and_other_settings_or_sources_are_refused(parquet_file, tmp_path, capsys, monkeypatch):
    source, _ = parquet_file
    words = (source, tmp_path / "out", "--resolution", 12, "--shard-megabytes", 0.009)
    first = run(*words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(shard, "make", lambda *_: pytest.fail("made again"))
        assert run(*words) == first
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
        assert run(source, tmp_path / "out", "--resolution", 6, "--resize", "box", "--shard-megabytes", 0.009)[0] == 2
        assert "resolution 12, now 6; resize never, now box; --overwrite replaces it" in capsys.readouterr().err
        os.utime(source, ns=(1, 1))
        assert run(*words)[0] == 2
        assert "holds another preparation: the source has changed; --overwrite" in capsys.readouterr().err
    status, about = run(*words, "--overwrite")
    assert (status, about["content_hash"]) == (0, first[1]["content_hash"])


def test_a_shard_that_is_lost_is_made_again(parquet_file, tmp_path):
    source, _ = parquet_file
    words = (source, tmp_path / "out", "--resolution", 12, "--shard-megabytes", 0.009)
    first = run(*words)
    (tmp_path / "out" / "part-00002.parquet").unlink()
    (tmp_path / "out" / "part-00004.parquet").write_bytes(b"cut")
    (tmp_path / "out" / "part-00005.json").write_text("{")
    assert run(*words) == first
    assert len(loaded(tmp_path / "out")) == 100


def test_a_damaged_shard_is_repaired_by_the_remedy_that_training_tells(parquet_file, tmp_path):
    source, pixels = parquet_file
    words = (source, tmp_path / "out", "--resolution", 12)
    run(*words)
    content = bytearray((tmp_path / "out" / "part-00000.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "out" / "part-00000.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"call its `raygan prepare` again with --overwrite"):
        loaded(tmp_path / "out")
    assert run(*words, "--overwrite")[0] == 0
    np.testing.assert_array_equal(loaded(tmp_path / "out").images.numpy(), pixels)


def test_a_second_call_into_the_same_folder_is_refused_while_the_first_one_is_at_work(parquet_file, tmp_path, capsys):
    source, _ = parquet_file
    assert run(source, tmp_path / "out", "--resolution", 12)[0] == 0
    written = tmp_path / "out" / f"part-00007.parquet.{'a' * 32}.new"
    written.write_bytes(b"being written")
    with FileLock(tmp_path / "out" / state.LOCK):
        assert run(source, tmp_path / "out", "--resolution", 12, "--overwrite")[0] == 2
    assert "another `raygan prepare` is at work in" in capsys.readouterr().err
    assert written.exists()
    assert run(source, tmp_path / "out", "--resolution", 12)[0] == 0
    assert not written.exists()


@pytest.mark.parametrize("changes", ["owner", "shard"])
def test_a_call_that_another_one_has_replaced_writes_no_dataset_json(parquet_file, tmp_path, capsys, monkeypatch, changes):
    source, _ = parquet_file
    preview = prepare.finish.preview

    def meanwhile(*args):
        if changes == "owner":
            (tmp_path / "out" / "preparing.json").write_text('{"settings": {}, "owner": "b"}')
        else:
            (tmp_path / "out" / "part-00000.parquet").write_bytes(b"of another resolution")
        return preview(*args) if changes == "owner" else b""

    monkeypatch.setattr(prepare.finish, "preview", meanwhile)
    assert run(source, tmp_path / "out", "--resolution", 12) == (1, None)
    told = capsys.readouterr().err
    assert {"owner": "has begun in", "shard": "is not as it was written"}[changes] in told


@pytest.mark.parametrize("name", ["dataset.json", "part-00000.parquet"])
def test_a_call_that_ends_while_it_clears_the_folder_leaves_none_that_training_takes(parquet_file, tmp_path, monkeypatch, name):
    source, _ = parquet_file
    assert run(source, tmp_path / "out", "--resolution", 12)[0] == 0
    delete = prepare.places.delete

    def ends(place, names):
        delete(place, names[: names.index(name) + 1])
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.places, "delete", ends)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", "--resolution", 12, "--overwrite")
    with pytest.raises(ValueError, match="is not finished"):
        loaded(tmp_path / "out")


def test_a_killed_preparation_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    encoded, _ = noise_images(40, size=64, channels=3)
    source = write_parquet(tmp_path / "noise.parquet", encoded * 60, [0] * 2400)
    words = [str(source), str(tmp_path / "out"), "--resolution", "48", "--resize", "lanczos", "--shard-megabytes", "0.4", "--workers", "2"]
    process = start(tmp_path, *words, command="prepare")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("part-*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # its processes end too, or this would wait for ever
    there = len(list((tmp_path / "out").glob("part-*.json")))
    assert 5 <= there < 42
    assert not (tmp_path / "out" / "dataset.json").exists()
    status, out, err = finish(start(tmp_path, *words, command="prepare"))
    assert status == 0, err
    shards = json.loads((tmp_path / "out" / "dataset.json").read_text())["shards"]
    assert f"in {len(shards)} shards ({len(shards) - there} made now)" in out
    words[1] = str(tmp_path / "undisturbed")
    assert finish(start(tmp_path, *words, command="prepare"))[0] == 0
    assert (tmp_path / "out" / "dataset.json").read_bytes() == (tmp_path / "undisturbed" / "dataset.json").read_bytes()
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "undisturbed"))


def test_ctrl_c_ends_it_and_says_how_it_goes_on(tmp_path):
    encoded, _ = noise_images(40, size=64, channels=3)
    source = write_parquet(tmp_path / "noise.parquet", encoded * 50)
    process = start(
        tmp_path, str(source), "out", "--resolution", "48", "--resize", "lanczos", "--shard-megabytes", "0.5", command="prepare"
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/part-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert "go on with: raygan prepare" in err
    assert "Traceback" not in err


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, capsys):
    def told(*words):
        assert prepare.main([str(word) for word in words]) == 2
        return capsys.readouterr().err

    write(tmp_path / "set", {"a.png": png()})
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear")
    (tmp_path / "a.tar").write_bytes(b"tar")
    (tmp_path / "a.parquet").write_bytes(b"none")
    out = tmp_path / "out"
    assert "nothing at" in told(tmp_path / "nowhere", out, "--resolution", 8)
    assert "holds no image files" in told(tmp_path / "empty", out, "--resolution", 8)
    assert "is no folder, zip archive or Parquet file" in told(tmp_path / "a.tar", out, "--resolution", 8)
    assert "is not a readable Parquet file" in told(tmp_path / "a.parquet", out, "--resolution", 8)
    assert "holds thesis.tex, which `raygan prepare` did not write" in told(
        tmp_path / "set", tmp_path / "mine", "--resolution", 28, "--overwrite"
    )
    assert "lie in each other" in told(tmp_path / "set", tmp_path / "set" / "out", "--resolution", 8)
    assert "unknown data set torchvision:MNISt" in told("torchvision:MNISt", out, "--resolution", 8, "--root", tmp_path)
    assert "has no split 'valid'; its splits: train, test" in told("torchvision:MNIST:valid", out, "--resolution", 8, "--root", tmp_path)
    assert "--root" in told("torchvision:MNIST", out, "--resolution", 8)
    assert "--download fetches them" in told("torchvision:MNIST", out, "--resolution", 8, "--root", tmp_path)
    image = tmp_path / "set"
    assert "--upscale has no effect under --resize never" in told(image, out, "--resolution", 28, "--upscale")
    for words in (("--image-column", "x"), ("--label-column", "x"), ("--root", tmp_path), ("--download",)):
        assert f"{words[0]} is for " in told(image, out, "--resolution", 28, *words)
    for megabytes in ("0", "-5", "inf", "nan"):
        with pytest.raises(SystemExit):
            told(image, out, "--resolution", 28, f"--shard-megabytes={megabytes}")
        assert "is no size; give a number of megabytes above 0" in capsys.readouterr().err
    colon = tmp_path / "a:b"
    write(colon, {"a.png": png()})
    assert "lie in each other" in told(colon, colon / "out", "--resolution", 28)
    assert "lie in each other" in told(image, f"file://{image}/out", "--resolution", 28)
    for pair in ((image, "s3://KEY:SECRET@bucket/x"), ("s3://KEY:SEC/RET@bucket/x", out)):
        words = told(*pair, "--resolution", 28)
        assert "AWS_SECRET_ACCESS_KEY" in words
        assert "SEC" not in words.replace("AWS_SECRET", "")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "dear"
    assert not out.exists()


def test_an_address_is_written_and_read_as_a_folder_is(parquet_file, tmp_path):
    source, pixels = parquet_file
    assert run(source, f"file://{tmp_path}/out", "--resolution", 12)[0] == 0
    np.testing.assert_array_equal(parquet.load(path=f"file://{tmp_path}/out").images.numpy(), pixels)


@pytest.mark.slow
def test_an_object_store_is_written_and_read(parquet_file, tmp_path, monkeypatch):
    server = shutil.which("moto_server", path=os.environ.get("RAYGAN_TEST_MOTO", "") + os.pathsep + str(Path(sys.executable).parent))
    if server is None:
        pytest.skip("needs moto[server], beside Python or in the folder $RAYGAN_TEST_MOTO")
    source, pixels = parquet_file
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for key, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    process = subprocess.Popen([server, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"s3://bucket/sets/noise?endpoint_override=127.0.0.1:{port}&scheme=http&allow_bucket_creation=true"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        words = ["--resolution", "12", "--shard-megabytes", "0.009", "--workers", "2"]
        assert prepare.main([str(source), address, *words]) == 0
        dataset = parquet.load(path=address)
        np.testing.assert_array_equal(dataset.images.numpy(), pixels)
        assert prepare.main([str(source), address, *words]) == 0
    finally:
        process.kill()
        process.wait()


def test_a_data_set_is_prepared_and_trained_on(parquet_file, tmp_path):
    source, _ = parquet_file
    assert run(source, tmp_path / "out", "--resolution", 12)[0] == 0
    from tests.support import tiny_trainer

    reports = []
    tiny_trainer(data__name="parquet", data__path=str(tmp_path / "out")).run(reports.append)
    assert reports[-1].images_seen == 160
