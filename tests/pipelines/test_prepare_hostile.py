"""`raygan prepare` of files that are odd, damaged or meant to harm."""

import io
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.data import _tables, parquet
from pipelines.preparing import shard
from tests.pipelines.prepared import loaded, run, write
from tests.support import noise_images, png, write_parquet


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
