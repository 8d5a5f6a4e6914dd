"""`raygan prepare`: what goes in comes out, whoever makes it."""

import gzip
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import time
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.data import parquet
from pipelines import prepare
from tests.pipelines.command import finish, start
from tests.pipelines.prepared import loaded, run, write
from tests.support import noise_images, png, write_parquet


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


def test_sizes_that_resize_does_not_allow_are_dropped_and_the_remedy_is_told(tmp_path, capsys):
    write(tmp_path / "set", {"a.png": png((8, 8)), "b.png": png((9, 8)), "c.png": png((4, 4))})
    assert run(tmp_path / "set", tmp_path / "1", "--resolution", 8)[1]["dropped_by_reason"] == {"other size": 2}
    assert "--resize lanczos" in capsys.readouterr().err
    assert run(tmp_path / "set", tmp_path / "2", "--resolution", 8, "--resize", "box")[1]["dropped_by_reason"] == {"too small": 1}
    status, about = run(tmp_path / "set", tmp_path / "3", "--resolution", 8, "--resize", "box", "--upscale")
    assert (status, about["dropped"], about["converted"]) == (0, [], {"enlarged": 1})


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
