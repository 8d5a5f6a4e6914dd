"""`ray job submit` on a cluster of its own, as the README says it."""

import json
import subprocess

import pytest

from pipelines import cli
from tests.pipelines.command import TrackedRun, require_every_point_once, write_config
from tests.pipelines.head import RAY, ROOT, head


@pytest.fixture
def dashboard(tmp_path_factory):
    with head(tmp_path_factory.mktemp("r")) as address:
        yield address


@pytest.mark.slow
def test_the_command_of_the_readme_trains_as_a_ray_job(dashboard, tmp_path):
    config = write_config(tmp_path, workers=2)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    excluded = [".venv/", "runs/", "tests/golden/", "mlflow.db"]
    environment = {"excludes": excluded, "env_vars": {"MLFLOW_TRACKING_URI": uri}}
    submit = [RAY, "job", "submit", "--address", dashboard, "--working-dir", str(ROOT), "--submission-id", "first"]
    entrypoint = ["--", "python", "-m", "pipelines.train", config, f"ray.storage_path={tmp_path}/runs"]
    result = subprocess.run(
        [*submit, "--runtime-env-json", json.dumps(environment), *entrypoint], capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    run_id = result.stdout.split("training run ", 1)[1].split(":")[0]
    run = TrackedRun(tmp_path, run_id)
    require_every_point_once(run)
    assert run.run.data.tags["raygan.ray_job_id"] == "first"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mlflow.tracking_uri=http://127.0.0.1:9"], "ray.storage_path: "),
        (["ray.storage_path=/tmp"], "mlflow.tracking_uri: sqlite:///mlflow.db is in the Ray job's temporary working directory"),
    ],
)
def test_a_job_that_would_write_into_its_temporary_folder_is_refused(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "some"}}))
    assert cli.main(["train", "digits", *words]) == 2
    assert sentence in capsys.readouterr().err
