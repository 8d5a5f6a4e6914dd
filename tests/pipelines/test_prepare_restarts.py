"""`raygan prepare` again: after a kill, a damage, a change of settings; and two at once."""

import json
import os
import signal
import time

import numpy as np
import pytest
from filelock import FileLock

from pipelines import prepare
from pipelines.preparing import shard, state
from tests.pipelines.command import finish, start
from tests.pipelines.prepared import loaded, run
from tests.support import noise_images, write_parquet


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
