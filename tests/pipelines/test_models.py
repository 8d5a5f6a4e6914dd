"""The model of a run: what raygan reads of it, what it refuses, and how MLflow serves it."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gan_core import portable, sampling
from gan_core.config import GanConfig
from gan_core.truncation import truncatable
from pipelines import cli, export, generators, tracking
from tests.gan_core.mapped import Mapped
from tests.gan_core.ranks import free_port
from tests.pipelines.command import train, write_config
from tests.pipelines.test_ray_run import wait_for


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two runs of a class-conditional generator, whose models are versions of one registered model; the last run."""
    where = tmp_path_factory.mktemp("models")
    config = write_config(where, network__conditional=True, mlflow__registered_model="maker")
    train(where, config, "--local", "total_kimg=0.8")
    run, _, _ = train(where, config, "--local", "total_kimg=0.8", "seed=1")
    return where, run


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{made[0]}/mlflow.db")
    return made[1]


def test_each_run_is_a_version_and_the_newest_is_the_latest(here):
    versions = here.client.search_model_versions("name='maker'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    newest = max(versions, key=lambda version: int(version.version))
    assert (newest.run_id, newest.tags["raygan.run"]) == (here.run_id, here.run_id)
    score = here.run.data.metrics["quality/kid_pixels"]
    assert newest.tags["raygan.score"] == f"kid_pixels {score:.6g}"
    tracker = tracking.reach(None)
    assert generators.find("models:/maker/latest", tracker, best=False).run_id == here.run_id
    assert generators.find("models:/maker/1", tracker, best=False).run_id != here.run_id
    here.client.set_registered_model_alias("maker", "champion", "1")
    assert generators.find("models:/maker@champion", tracker, best=False).run_id == versions[0 if versions[0].version == "1" else 1].run_id


def test_a_registry_that_is_not_there_is_told_at_the_start(here, tmp_path, capsys, monkeypatch):
    def refuse(*words, **settings):
        raise NotImplementedError("no registry in this store")

    monkeypatch.setattr("mlflow.MlflowClient.search_registered_models", refuse)
    before = len(here.client.search_runs([here.run.info.experiment_id]))
    assert cli.main(["train", str(here.folder / "tiny.yaml"), "--local"]) == 2
    assert "mlflow.registered_model: the model registry of sqlite:///" in capsys.readouterr().err
    assert len(here.client.search_runs([here.run.info.experiment_id])) == before


def test_an_answer_that_is_lost_makes_no_second_version(here, monkeypatch):
    (output,) = here.run.outputs.model_outputs
    tracker, uri = tracking.reach(None), f"models:/{output.model_id}"
    create = mlflow.MlflowClient.create_model_version

    def lost(*words, **settings):
        create(*words, **settings)
        raise ConnectionError("the answer is lost")

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", lost)
    with pytest.raises(ConnectionError):
        export.register(tracker, "once", uri, here.run_id, tags={})
    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", create)
    assert export.register(tracker, "once", uri, here.run_id, tags={}) == "models:/once/1"
    assert len(here.client.search_model_versions("name='once'")) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_run_whose_model_cannot_be_registered_is_finished_and_says_so(here, tmp_path, monkeypatch, capsys):
    def refuse(*words, **settings):
        raise PermissionError("the registry is read-only")

    config = write_config(tmp_path, mlflow__registered_model="refused", mlflow__delivery_timeout_seconds=0.1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", refuse)
    monkeypatch.setattr("pipelines.patience.RETRY_SECONDS", 0.1)
    assert cli.main(["train", config, "--local", "total_kimg=0.32", "schedule.checkpoint_kimg=0.16", "schedule.evaluate_kimg=0.16"]) == 1
    printed = capsys.readouterr()
    assert "is finished, but its model could not be registered as refused: the registry is read-only" in printed.err
    assert "mlflow.register_model('models:/m-" in printed.err
    run_id = printed.out.split("run ", 1)[1].split(":")[0]
    assert mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize("name", ["a/b", "a:b", "..", ""])
def test_a_name_that_no_registry_takes_is_refused_at_the_start(here, capsys, name):
    assert cli.main(["train", "digits", "--local", f"mlflow.registered_model='{name}'"]) == 2
    assert "mlflow.registered_model: string should match pattern" in capsys.readouterr().err


def test_a_sweep_says_that_it_registers_its_winner_otherwise(here, capsys):
    assert cli.main(["sweep", "digits", "smoke", "mlflow.registered_model=x", "--dry-run"]) == 2
    assert "set that" in capsys.readouterr().err


@pytest.fixture
def copied(here, tmp_path):
    """A model of the same store whose files lie in a folder that a test may spoil: its address and the folder."""
    config = GanConfig.model_validate(portable.read(model_folder(here)).description.gan)
    experiment = here.run.info.experiment_id
    model = here.client.create_logged_model(experiment, name="spoiled", source_run_id=here.run_id, params={"network": config.network.name})
    here.client.log_model_artifacts(model.model_id, str(model_folder(here)))
    folder = Path(here.client.get_logged_model(model.model_id).artifact_location.removeprefix("file://"))
    assert (folder / portable.WEIGHTS).is_file()
    return f"models:/{model.model_id}", folder


def model_folder(run):
    (output,) = run.run.outputs.model_outputs
    return Path(run.client.get_logged_model(output.model_id).artifact_location.removeprefix("file://"))


HARM = """
from pathlib import Path
Path({mark!r}).touch()
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
class Model(PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input
set_model(Model())
"""


@pytest.mark.filterwarnings("ignore")
def test_code_and_pickles_in_a_model_are_not_run_by_sample_nor_by_evaluate(here, copied, tmp_path, capsys):
    uri, folder = copied
    mark = tmp_path / "mark"
    (folder / "generator_model.py").write_text(HARM.format(mark=str(mark)))
    (folder / "python_model.pkl").write_bytes(b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    assert cli.main(["sample", uri, "--num", "3", "--out", str(tmp_path / "a.parquet")]) == 0
    assert cli.main(["evaluate", uri, "fake_count=50", "extractor.name=pixels", "metrics=[kernel_distance]", "name=harmless"]) == 0
    assert not mark.exists()
    capsys.readouterr()
    mlflow.pyfunc.load_model(uri)
    assert mark.exists()  # MLflow's own way would have run it


def test_of_a_model_elsewhere_only_the_plain_files_are_fetched(here, copied, capsys, monkeypatch, tmp_path):
    uri, folder = copied
    fetched = []
    fetch = mlflow.artifacts.download_artifacts

    def watched(*, artifact_uri, dst_path, tracking_uri):
        fetched.append(artifact_uri.rpartition("/")[2])
        return fetch(artifact_uri=artifact_uri, dst_path=dst_path, tracking_uri=tracking_uri)

    monkeypatch.setattr(generators, "_local", lambda location: None)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", watched)
    assert cli.main(["sample", uri, "--num", "3", "--out", str(tmp_path / "a.parquet")]) == 0
    assert fetched == list(portable.FILES)
    spoil_weights(folder)
    assert cli.main(["sample", uri, "--num", "3", "--out", str(tmp_path / "b.parquet")]) == 2
    assert "is damaged" in capsys.readouterr().err
    spoil_by_absence(folder)
    assert cli.main(["sample", uri, "--num", "3", "--out", str(tmp_path / "b.parquet")]) == 2
    assert "config.yaml could not be fetched" in capsys.readouterr().err


def spoil_weights(folder):
    content = bytearray((folder / portable.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / portable.WEIGHTS).write_bytes(content)


def spoil_network(folder):
    text = (folder / portable.CONFIG).read_text().replace("name: mlp", "name: subprocess").encode()
    (folder / portable.CONFIG).write_bytes(text)
    sums = json.loads((folder / portable.SUMS).read_text())
    (folder / portable.SUMS).write_text(json.dumps({**sums, portable.CONFIG: sha256(text).hexdigest()}))


def spoil_by_link(folder):
    (folder / portable.WEIGHTS).rename(folder.parent / "outside")
    (folder / portable.WEIGHTS).symlink_to(folder.parent / "outside")


def spoil_by_absence(folder):
    for name in portable.FILES:
        (folder / name).unlink()
    (folder / "model.pkl").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_weights, "is damaged: generator.safetensors does not have the checksum"),
        (spoil_network, "unknown network name 'subprocess'"),
        (spoil_by_link, "generator.safetensors is a link"),
        (spoil_by_absence, "is not one of raygan's generators: it has no config.yaml"),
    ],
)
@pytest.mark.parametrize("command", [["sample", "--grid", "g.png"], ["evaluate", "data.name=digits"]])
def test_a_spoiled_model_is_refused(here, copied, capsys, spoil, reason, command):
    uri, folder = copied
    spoil(folder)
    assert cli.main([command[0], uri, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert f"the model {uri} cannot be loaded" in error
    assert reason in error


@pytest.mark.filterwarnings("ignore")
def test_the_model_truncates_and_writes_png_by_params(here):
    model = mlflow.pyfunc.load_model("models:/maker/latest")
    table = pd.DataFrame({"seed": range(100), "label": [3] * 100})
    whole, narrow = model.predict(table), model.predict(table, params={"truncation": 0.3})
    assert whole.dtype == narrow.dtype == np.uint8
    ratio = narrow.astype(float).var(0).mean() / whole.astype(float).var(0).mean()
    assert 0.0 < ratio < 0.2
    pictures = model.predict(table, params={"format": "png"})
    for index in (0, 99):
        with Image.open(io.BytesIO(base64.b64decode(pictures[index]))) as picture:
            assert (np.asarray(picture) == whole[index, :, :, 0]).all()
    with pytest.raises(ValueError, match="truncation must be above 0, given 0"):
        model.predict(table, params={"truncation": 0.0})
    with pytest.raises(ValueError, match="format must be one of pixels, png, given 'jpeg'"):
        model.predict(table, params={"format": "jpeg"})


@pytest.mark.parametrize("num_classes", [0, 3])
def test_an_exported_program_truncates_in_w_about_the_centre_of_each_class(tmp_path, num_classes):
    shape = portable.Shape(resolution=4, channels=1, num_classes=num_classes, points=False)
    model = truncatable(Mapped(num_classes=num_classes).eval().requires_grad_(False), z_dim=4, num_classes=num_classes)
    export.save_program(tmp_path / "program.pt2", model, 4, shape)
    program = torch.export.load(tmp_path / "program.pt2").module()
    z = sampling.latents_of_seeds(0, 7, z_dim=4)
    labels = torch.arange(7) % 3 if num_classes else None
    for factor in (1.0, 0.5, 0.0):
        found = program(z, labels, torch.tensor(factor))
        assert torch.allclose(found, model(z, labels, torch.tensor(factor)), atol=1e-6)
    assert float((found[0] - found[3])[:, 1:].abs().max()) < 1e-6  # nothing but the centre of class 0, and noise, is left
    assert not torch.allclose(program(z, labels, torch.tensor(1.0)), found, atol=0.1)


class Served:
    """`mlflow models serve` of one model, on loopback."""

    def __init__(self, folder, uri):
        self.port = free_port()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self.process = subprocess.Popen(command + place, cwd=folder, env=environment, **quiet)

    def answers(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2).status == 200
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def ask(self, **body):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/invocations", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        return json.loads(urllib.request.urlopen(request, timeout=30).read())["predictions"]

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def test_a_served_model_gives_the_pictures_that_sample_writes(here, tmp_path):
    assert cli.main(["sample", "models:/maker/latest", "--num", "20", "--out", str(tmp_path / "a.parquet")]) == 0
    written = pq.read_table(tmp_path / "a.parquet").to_pylist()
    served = Served(here.folder, "models:/maker/latest")
    try:
        wait_for(served.answers)
        rows = [{"seed": row["seed"], "label": row["label"]} for row in written]
        pictures = served.ask(dataframe_records=rows, params={"format": "png"})
        alone = served.ask(dataframe_records=rows[:1], params={"format": "png"})
        pixels = served.ask(dataframe_records=rows[:2])
        with pytest.raises(urllib.error.HTTPError) as refused:
            served.ask(dataframe_records=rows[:1], params={"truncation": "much"})
    finally:
        served.end()
    refused.value.close()
    assert refused.value.code == 400
    ours = np.stack([decoded(row["image"]["bytes"]) for row in written]).astype(int)
    theirs = np.stack([decoded(base64.b64decode(picture)) for picture in pictures]).astype(int)
    assert theirs.std() > 1.0
    assert np.abs(ours - theirs).max() <= 1  # another batch size may round otherwise
    assert np.abs(decoded(base64.b64decode(alone[0])).astype(int) - theirs[0]).max() <= 1
    assert np.abs(np.array(pixels)[:, :, :, 0] - theirs[:2]).max() <= 1


def decoded(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)
