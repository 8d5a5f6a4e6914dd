"""One run without Ray, from the command to the model: what is in MLflow is what the design promises."""

import json
import subprocess
import sys
import textwrap

import mlflow
import numpy as np
import pandas as pd
import pytest

from gan_core.overrides import flatten, load, unflatten, validate
from pipelines import cli, storage
from pipelines.config import JobConfig
from tests.pipelines.command import TrackedRun, require_every_point_once, train, write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def finished(folder):
    config = write_config(folder, network__conditional=True)
    return train(folder, config, "--local", "step_ratio=2:1", "total_kimg=3.2")


@pytest.fixture
def run(finished):
    return finished[0]


def test_the_run_is_finished_and_every_point_is_there_once(run):
    assert run.run.info.status == "FINISHED"
    require_every_point_once(run)


def test_an_alarm_is_told_and_kept_as_a_tag(tmp_path):
    config = write_config(tmp_path, diagnostics__divergence=1e-6, diagnostics__patience=2)
    run, out, err = train(tmp_path, config, "--local", "total_kimg=1.6")
    said = "at 0.3 kimg: gradient norm"
    assert run.run.data.tags["alarm.divergence"].startswith(said)
    assert run.run.data.tags["alarm.divergence"].endswith("is above 1e-06 for 2 reports")
    assert "alarm.collapse" not in run.run.data.tags
    assert (out + err).count(f"alarm: divergence {said}") == 1
    assert run.run.data.metrics["alarm/divergence"] == 1.0
    assert run.run.data.tags["raygan.bound"] == "jensen_shannon_divergence"


def test_what_was_probably_not_meant_is_told_and_kept_as_a_tag(tmp_path):
    config = write_config(tmp_path, loss__name="wasserstein")
    run, _, err = train(tmp_path, config, "--local", "total_kimg=0.1")
    assert "raygan train: caution: loss.name: wasserstein is a distance only while something bounds" in err
    assert run.run.data.tags["raygan.cautions"].startswith("loss.name: wasserstein is a distance only")


def test_params_are_the_dotted_keys_of_the_command_line(run, folder):
    params = run.run.data.params
    assert params["step_ratio"] == "2:1"
    assert params["network.generator.hidden_width"] == "16"
    tree = load(folder / "tiny.yaml")
    tree["step_ratio"] = "2:1"
    tree["ray"]["storage_path"] = str(folder / "runs")
    assert params == flatten(validate(tree, JobConfig))
    assert flatten(validate(unflatten(params), JobConfig)) == params


def test_the_environment_the_data_and_the_config_are_recorded(run, folder):
    assert {artifact.path for artifact in run.client.list_artifacts(run.run_id)} >= {"config.yaml", "environment.json", "images"}
    facts = json.loads((folder / run.run.info.artifact_uri.removeprefix("file://") / "environment.json").read_text())
    assert facts["packages"]["torch"] != "not installed"
    assert facts["hardware"]["cores"] >= 1
    assert set(facts["git"]) == {"commit", "uncommitted_changes"}
    (data,) = run.run.inputs.dataset_inputs
    profile = json.loads(data.dataset.profile)
    assert (data.dataset.name, profile["images"], profile["classes"]) == ("digits", 1797, 10)
    assert profile["content_hash"].startswith(data.dataset.digest)


def test_system_metrics_are_on_the_same_clock(run):
    assert run.steps("system/cpu_utilization_percentage") == run.steps("progress/images_seen")
    assert run.values("system/worker_peak_memory_megabytes")[3200] > 50


def test_start_up_times_are_metrics(run):
    assert {key for key in run.run.data.metrics if key.startswith("startup/")} == {
        f"startup/{name}_seconds" for name in ("imports_config_data", "tracking", "ray", "mlflow_run", "workers", "build", "first_scores")
    }


def test_every_metric_of_a_run_is_explained(run):
    from tests.test_reference import names

    explained = set(names("Metrics"))
    assert {key for key in run.run.data.metrics if not key.startswith("system/")} <= explained


def test_checkpoints_are_thinned_out_and_the_best_is_kept(run, folder):
    names = sorted(path.name for path in (folder / "runs" / run.run_id).iterdir())
    best = int(run.final_state()["best"]["images_seen"])
    assert names == sorted([storage.MARK, f"best_{best:012d}", *(f"checkpoint_{step:012d}" for step in (1600, 2400, 3200))])


def test_the_terminal_says_where_everything_is(finished, folder):
    run, out, err = finished
    assert f"http://127.0.0.1:5000/#/experiments/{run.run.info.experiment_id}/runs/{run.run_id}" in out
    samples = next(line.split()[1] for line in out.splitlines() if line.startswith("samples"))
    assert (folder / samples).is_file()
    assert "kid_pixels" in out
    assert "_error" not in out
    assert "3.2/3.2 kimg" in err
    assert "Traceback" not in err
    assert "Warning" not in err


def test_the_model_loads_where_there_is_no_raygan_no_ray_and_no_data(run, tmp_path):
    (output,) = run.run.outputs.model_outputs
    program = textwrap.dedent(f"""
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("gan_core", "pipelines", "tune_spaces", "ray"):
                    raise ImportError(name + " is blocked")
        sys.meta_path.insert(0, Blocked())
        import mlflow, pandas as pd, numpy as np
        mlflow.set_tracking_uri("{run.client.tracking_uri}")
        model = mlflow.pyfunc.load_model("models:/{output.model_id}")
        images = model.predict(pd.DataFrame({{"seed": [7, 8, 7, 7], "label": [1, 1, 1, 2]}}))
        assert images.shape == (4, 8, 8, 1) and images.dtype == np.uint8, (images.shape, images.dtype)
        assert (images[0] == images[2]).all() and (images[0] != images[1]).any() and (images[0] != images[3]).any()
        print("fine")
    """)
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "fine", result.stderr[-2000:]


@pytest.mark.filterwarnings("ignore")
def test_the_model_makes_the_images_of_the_final_picture(run, monkeypatch):
    """Seed i gives image i, in the model as in the sample grid."""
    from PIL import Image

    mlflow.set_tracking_uri(run.client.tracking_uri)
    (output,) = run.run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    images = model.predict(pd.DataFrame({"seed": range(4), "label": range(4)}))
    grid = np.asarray(Image.open(run.folder / "runs" / run.run_id / "checkpoint_000000003200" / "samples.png"))
    for index in range(4):
        tile = grid[2:50, 2 + 50 * index : 50 + 50 * index, 0]
        assert np.abs(tile[::6, ::6].astype(int) - images[index, :, :, 0]).max() <= 1


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_label_is_refused_by_the_model(run):
    mlflow.set_tracking_uri(run.client.tracking_uri)
    (output,) = run.run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    with pytest.raises(ValueError, match="label must be 0 to 9"):
        model.predict(pd.DataFrame({"seed": [0], "label": [10]}))


def test_a_run_can_be_started_from_the_config_of_another(run, folder):
    again, _, _ = train(folder, "--from-run", run.run_id, "--local", "total_kimg=0.32")
    ours, theirs = again.run.data.params, run.run.data.params
    assert {key for key in ours if ours[key] != theirs[key]} == {"total_kimg"}
    assert again.run_id != run.run_id


def test_a_resume_with_another_game_is_refused(run, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["train", "--resume", run.run_id, "--local", "step_ratio=1:1", "batch_size=8"]) == 2
    message = capsys.readouterr().err
    assert "differing keys:\n  batch_size: 16 -> 8\n  step_ratio: 2:1 -> 1:1\nUse --from-run for a new run" in message


@pytest.mark.parametrize(
    ("word", "sentence"),
    [("data.name=ring2d", "data.name: digits -> ring2d"), ("ray.storage_path=elsewhere", "no checkpoint of run")],
)
def test_a_resume_that_would_start_from_nothing_is_refused(run, folder, capsys, monkeypatch, word, sentence):
    monkeypatch.chdir(folder)
    assert cli.main(["train", "--resume", run.run_id, "--local", word]) == 2
    assert sentence in capsys.readouterr().err
    assert TrackedRun(folder, run.run_id).run.info.status == "FINISHED"


def test_resuming_with_a_larger_budget_continues_in_the_same_run(folder):
    config = write_config(folder)
    half, _, _ = train(folder, config, "--local", "total_kimg=1.6")
    whole, _, _ = train(folder, "--resume", half.run_id, "--local", "total_kimg=3.2")
    assert whole.run_id == half.run_id
    require_every_point_once(TrackedRun(folder, half.run_id))
    assert whole.run.data.tags["raygan.resumed.total_kimg"] == "3.2"
    assert whole.run.info.status == "FINISHED"
