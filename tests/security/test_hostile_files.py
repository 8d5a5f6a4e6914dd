"""Files from strangers, tried against every command that reads them: refused with a sentence, and nothing of what they bring is run."""

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gan_core import checkpoint
from pipelines import cli, storage
from pipelines.sweeps import adoption
from tests.pipelines.command import write_config
from tests.support import noise_images

# What MLflow and pandas warn of is not the subject here.
pytestmark = pytest.mark.filterwarnings("ignore")


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def command(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(list(words))
        except SystemExit as left:
            status = left.code
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one tiny run, made without Ray: its id, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        status, out, err = command("train", write_config(folder), "--local", "total_kimg=0.8")
        assert status == 0, err
    finally:
        os.chdir(before)
    run_id = out.split("run ", 1)[1].split(":")[0]
    return folder, run_id


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """The run, in the folder where it was made, because its storage is named from the root; put back afterwards."""
    folder, run_id = trained
    parts = ("runs", "mlartifacts")  # not the database, which this process has open
    for part in parts:
        shutil.copytree(folder / part, tmp_path / "kept" / part)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    newest = storage.newest_first(storage.place_of(str(folder / "runs"), run_id))[0]
    yield folder, run_id, folder / "runs" / run_id / newest
    for part in parts:
        shutil.rmtree(folder / part)
        shutil.copytree(tmp_path / "kept" / part, folder / part)


def put(place, content, canary=None):
    """A state of somebody else's, with the checksums that belong to it."""
    if isinstance(content, bytes):
        (place / checkpoint.STATE).write_bytes(content)
    else:
        torch.save(content, place / checkpoint.STATE)
    digest = sha256((place / checkpoint.STATE).read_bytes()).hexdigest()
    note = json.loads((place / checkpoint.SUMS).read_text())
    note["sha256"] = digest
    if "files" in note:
        note["files"][checkpoint.STATE] = digest
    (place / checkpoint.SUMS).write_text(json.dumps(note))


def reading(run_id, place):
    """Every command that reads a checkpoint."""
    return {
        "evaluate": ["evaluate", str(place), "fake_count=32"],
        "evaluate run": ["evaluate", run_id, "fake_count=32"],
        "sample": ["sample", str(place), "--grid", "grid.png"],
        "export": ["sample", run_id, "--export", "exported"],
        "resume": ["train", "--resume", run_id, "--local", "total_kimg=1.6"],
    }


def states(place, canary):
    """States that are none, by what is wrong with them."""
    good = torch.load(place / checkpoint.STATE, weights_only=True)
    tagged = {**good["config"], "network.name": f"!!python/object/apply:os.mkdir ['{canary}']"}
    return {
        "code": {**good, "g_ema": Code(canary)},
        "a plain pickle of code": pickle.dumps(Code(canary)),
        "code behind an old header": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Code(canary)),
        "yaml that makes objects": {**good, "config": tagged},
        "another network than its weights": {**good, "config": {**good["config"], "network.generator.hidden_width": "1000000000"}},
        "a list": [1, 2],
        "no weights": {key: value for key, value in good.items() if key != "g_ema"},
        "numbers for weights": {**good, "g_ema": dict.fromkeys(good["g_ema"], 1.0)},
        "no config": {key: value for key, value in good.items() if key != "config"},
        "nothing": b"",
        "cut": (place / checkpoint.STATE).read_bytes()[:1000],
    }


NAMES = ["code", "a plain pickle of code", "code behind an old header", "yaml that makes objects", "another network than its weights"]
NAMES += ["a list", "no weights", "numbers for weights", "no config", "nothing", "cut"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_checkpoint_is_refused_by_every_command_that_reads_one(here, tmp_path, name):
    _, run_id, place = here
    canary = tmp_path / "canary"
    for newest in place.parent.glob("*_*"):
        if newest.is_dir():
            put(newest, states(newest, canary)[name])
    for what, words in reading(run_id, place).items():
        status, out, err = command(*words)
        assert not canary.exists(), (what, err)
        assert status in (1, 2), (what, status, out, err)
        assert "Traceback" not in err, (what, err)
        assert f"raygan {words[0]}: " in err, (what, err)
        assert not Path("grid.png").exists()
        assert not Path("exported").exists()


@pytest.mark.slow
@pytest.mark.parametrize("note", ["", "[]", '"x"', "null", "[" * 100_000, '{"sha256": 1}', '{"sha256": "../../x"}'])
def test_a_note_of_checksums_that_is_none_is_refused(here, note):
    _, _, place = here
    (place / checkpoint.SUMS).write_text(note)
    status, out, err = command("sample", str(place), "--grid", "grid.png")
    assert (status, out) in ((1, ""), (2, ""))
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "donor", ["../../elsewhere/checkpoint_000000000001", "/etc/x", "x/../y/checkpoint_1", "a/b", 3, None, "a" * 100_000]
)
def test_a_note_of_an_adopted_checkpoint_cannot_lead_elsewhere(tmp_path, donor):
    for place in ("runs/mine/checkpoint_000000000001", "elsewhere/checkpoint_000000000001"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / checkpoint.SUMS).write_text("{}")
    (tmp_path / "runs/mine" / adoption.ADOPTED).write_text(json.dumps({"donor": donor, "point": {}, "complete": False}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="is damaged: it names no checkpoint"):
        adoption.finish_adoption(str(tmp_path / "runs"), "mine")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_config_of_a_past_run_that_makes_objects_is_refused(here, tmp_path):
    folder, run_id, _ = here
    (stored,) = folder.rglob(f"{run_id}/artifacts/config.yaml")
    canary = tmp_path / "canary"
    for text in (f"a: !!python/object/apply:os.mkdir ['{canary}']", "a: &a [*a]", "[" * 100_000, "\x00", "data: 1\n"):
        stored.write_text(text)
        for words in (["--from-run", run_id], ["--resume", run_id]):
            status, out, err = command("train", *words, "--local", "ray.num_workers=1")
            assert (status, out) == (2, ""), err
            assert err.startswith("raygan train: ")
            assert not canary.exists()


def metadata(kind, canary):
    code = pickle.dumps(Code(canary))
    return {
        "pandas": {b"pandas": b"[" * 100_000},
        "pandas of code": {b"pandas": code},
        "hugging face": {b"huggingface": b"[" * 100_000},
        "hugging face of lists": {b"huggingface": b'{"info": [1]}'},
        "arrow schema": {b"ARROW:schema": b"/////" + b"A" * 10_000},
    }.get(kind, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["pandas", "pandas of code", "hugging face", "hugging face of lists", "arrow schema", "python type", "sizes"]
)
def test_hostile_parquet_metadata_run_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    canary, path = tmp_path / "canary", tmp_path / "noise.parquet"
    field = {}
    if kind == "python type":  # what pyarrow's PyExtensionType once unpickled when a file was opened
        field = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Code(canary))}
    schema = pa.schema([pa.field("image", pa.binary(), metadata=field), pa.field("label", pa.int64(), metadata=field)])
    table = pa.table({"image": noise_images(64, size=8)[0], "label": [n % 2 for n in range(64)]}, schema)
    pq.write_table(table.replace_schema_metadata(metadata(kind, canary)), path)
    if kind == "sizes":  # the footer's length says more than there is
        content = path.read_bytes()
        path.write_bytes(content[:-8] + struct.pack("<I", 2**31 - 1) + content[-4:])
    config = write_config(tmp_path, data__name="parquet", data__path=str(path))
    preparing = ["prepare", str(path), "set", "--resolution", "8", "--ray", "never"]
    for words in (["train", config, "--local", "total_kimg=0.1"], preparing):
        status, _, err = command(*words)
        assert status == (2 if kind in ("sizes", "arrow schema") else 0), err
        assert "Traceback" not in err
        assert not canary.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"count": -1, "shape": [1], "labelled": true}', '{"count": "x"}'])
def test_a_cache_whose_manifest_is_none_is_made_anew(tmp_path, monkeypatch, content):
    from gan_core.data import parquet

    path = tmp_path / "noise.parquet"
    pq.write_table(pa.table({"image": noise_images(8, size=8)[0]}), path)
    whole = parquet.load(path=str(path), cache_dir=str(tmp_path / "cache")).images.clone()
    (manifest,) = (tmp_path / "cache").glob("*/manifest.json")
    manifest.write_text(content)
    assert torch.equal(parquet.load(path=str(path), cache_dir=str(tmp_path / "cache")).images, whole)
