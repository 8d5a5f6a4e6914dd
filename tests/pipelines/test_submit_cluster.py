"""`raygan submit` and `ray job submit` on a cluster that asks for a token: each end, its exit status, and the run in MLflow."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid

import psutil
import pytest
from mlflow import MlflowClient
from ray.job_submission import JobSubmissionClient

from tests.pipelines.command import write_config
from tests.pipelines.head import RAY, ROOT, head, ray_environment
from tests.pipelines.test_ray_run import wait_for
from tests.support import noise_images, write_parquet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TOKEN, PLANTED = "token-of-the-tests-2917", "planted-secret-5529"
LONG = "total_kimg=100000"


class Place:
    """A cluster, a project's folder, and where its runs go."""

    def __init__(self, address, cluster_folder, folder):
        self.address, self.cluster_folder, self.folder = address, cluster_folder, folder
        self.uri = f"sqlite:///{folder}/tracked/mlflow.db"
        (folder / "tracked").mkdir()
        (folder / "project").mkdir()
        write_config(folder / "project", workers=2)
        self.environment = ray_environment(
            RAY_AUTH_TOKEN=TOKEN, MLFLOW_TRACKING_URI=self.uri, MLFLOW_TRACKING_PASSWORD=PLANTED, HOME=str(folder), PYTHONPATH=str(ROOT)
        )
        self.words = [f"ray.storage_path={folder}/runs"]

    def submit(self, *words, **environment):
        """`raygan submit` as a process; Ctrl-C reaches it."""
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines.submit", "--address", self.address, *words],
                cwd=self.folder / "project",
                env={**self.environment, **environment},
                stdout=out,
                stderr=err,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it calls nothing that holds a lock
            )

    def finished(self, process, timeout=500):
        try:
            return process.wait(timeout), *self.said()
        finally:
            process.kill()

    def said(self):
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def ray_job(self, *words, timeout=500, **environment):
        command = [RAY, "job", words[0], "--address", self.address, *words[1:]]
        return subprocess.run(
            command, env={**self.environment, "RAY_AUTH_MODE": "token", **environment}, capture_output=True, text=True, timeout=timeout
        )

    def ray_job_submit(self, job, *words):
        variables = {"MLFLOW_TRACKING_URI": self.uri, "RAY_JOB_STOP_WAIT_TIME_S": "60"}
        environment = json.dumps({"excludes": [".venv/", "tests/"], "env_vars": variables})
        entrypoint = ["--", "python", "-m", "pipelines.train", str(self.folder / "project/tiny.yaml"), *self.words, *words]
        return ["submit", "--working-dir", str(ROOT), "--submission-id", job, "--runtime-env-json", environment, *entrypoint]

    def client(self):
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {TOKEN}"})

    def runs(self, job):
        client = MlflowClient(tracking_uri=self.uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return client.search_runs(experiments, f"tags.`raygan.ray_job_id` = '{job}'")

    def run(self, job):
        (found,) = self.runs(job)
        return found.info.status

    def training(self, job):
        """Wait until the job's run has reports."""
        wait_for(lambda: any(run.data.metrics.get("progress/images_seen", 0) > 800 for run in self.tracked(job)), 240)

    def tracked(self, job):
        try:
            return self.runs(job)
        except Exception:
            return []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with head(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as address:
        yield address, folder


@pytest.fixture
def place(cluster, tmp_path):
    return Place(*cluster, tmp_path)


@pytest.fixture
def job():
    return f"job-{uuid.uuid4().hex[:8]}"


def test_a_submitted_training_ends_well_and_is_found_again(place, job):
    project = place.folder / "project"
    (project / ".env").write_text(PLANTED)
    (project / "notes.txt").write_text("travels")
    status, out, err = place.finished(place.submit("--submission-id", job, "train", "tiny.yaml", *place.words))
    assert status == 0, out[-2000:] + err[-2000:]
    assert place.run(job) == "FINISHED"
    assert re.search(r"^run \w{32} FINISHED  http", out, re.M)
    assert len(re.findall(r"^training run", out, re.M)) == 1
    (unpacked,) = place.cluster_folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/notes.txt")
    there = {path.relative_to(unpacked.parent).as_posix() for path in unpacked.parent.rglob("*") if "__pycache__" not in path.parts}
    assert {"notes.txt", "tiny.yaml", "pipelines/train.py"} <= there
    assert not any(name.startswith((".env", "tests")) for name in there)
    info = place.client().get_job_info(job)
    assert PLANTED not in repr(info) + place.client().get_job_logs(job) + out
    assert "MLFLOW_TRACKING_PASSWORD: set here and not sent" in err
    again = place.finished(place.submit("--run", job))
    assert (again[0], "FINISHED" in again[1]) == (0, True)
    again = place.finished(place.submit("--submission-id", job, "train", "tiny.yaml", *place.words))
    assert (again[0], "--submission-id: the cluster has a job" in again[2]) == (2, True)


def test_a_submitted_training_that_fails_fails_the_command_and_the_run(place, job):
    words = ["optimizer.generator.lr=1e30", "optimizer.discriminator.lr=1e30", *place.words]
    status, out, err = place.finished(place.submit("--submission-id", job, "train", "tiny.yaml", *words))
    assert (status, place.run(job)) == (1, "FAILED"), out[-2000:] + err[-2000:]
    assert f"job {job} failed with exit status 1" in err


def test_what_only_the_cluster_can_find_wrong_is_bad_input_too(place, job):
    words = ["data.name=parquet", "data.path=/nowhere/images.parquet", *place.words]
    status, out, err = place.finished(place.submit("--submission-id", job, "train", "tiny.yaml", *words))
    assert status == 2, out[-2000:] + err[-2000:]
    assert "/nowhere/images.parquet" in out
    assert place.tracked(job) == []


def test_a_stopped_job_ends_as_a_terminated_command_and_its_run_as_killed(place, job):
    process = place.submit("--submission-id", job, "train", "tiny.yaml", LONG, *place.words)
    place.training(job)
    stop = [sys.executable, "-m", "pipelines.submit", "--address", place.address, "--stop", job]
    stopped = subprocess.run(stop, env=place.environment, capture_output=True, text=True, timeout=200)
    assert stopped.returncode == 0, stopped.stderr
    status, out, err = place.finished(process)
    assert (status, place.run(job)) == (143, "KILLED"), out[-2000:] + err[-2000:]


def test_after_ctrl_c_the_job_goes_on_and_can_be_followed_again(place, job):
    process = place.submit("--submission-id", job, "train", "tiny.yaml", LONG, *place.words)
    place.training(job)
    process.send_signal(signal.SIGINT)
    status, _, err = place.finished(process)
    assert (status, f"--logs {job}" in err) == (130, True)
    assert place.client().get_job_status(job) == "RUNNING"
    assert place.run(job) == "RUNNING"
    process = place.submit("--stop-on-interrupt", "--logs", job)
    wait_for(lambda: "training run" in place.said()[0])
    process.send_signal(signal.SIGINT)
    status, out, err = place.finished(process)
    assert (status, place.run(job)) == (130, "KILLED"), out[-2000:] + err[-2000:]
    assert place.client().get_job_status(job) == "STOPPED"


def test_a_restart_of_the_dashboard_costs_no_line_of_the_output(tmp_path_factory, tmp_path, job):
    """The dashboard is ended, and started again as it was, as the supervisor of a head node would do."""
    folder = tmp_path_factory.mktemp("r")
    with head(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as address:
        place = Place(address, folder, tmp_path)
        process = place.submit("--submission-id", job, "train", "tiny.yaml", "total_kimg=200", *place.words)
        place.training(job)
        port = f"--port={address.rpartition(':')[2]}"
        dashboard = next(found for found in psutil.process_iter() if port in (words := found.cmdline()) and "dashboard.py" in words[1])
        words, variables, there = dashboard.cmdline(), dashboard.environ(), dashboard.cwd()
        dashboard.terminate()
        wait_for(lambda: "the connection is lost" in place.said()[1])
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        fresh = subprocess.Popen(words, env=variables, cwd=there, **quiet)
        try:
            status, out, err = place.finished(process)
            assert status == 0, out[-2000:] + err[-2000:]
            assert err.count("the connection is lost") == 1
            assert place.client().get_job_logs(job) in out
            assert len(re.findall("^training run", out, re.M)) == 1
        finally:
            os.killpg(fresh.pid, signal.SIGTERM)
            fresh.wait(30)


@pytest.mark.parametrize(
    ("token", "sentence"), [("", "asks for a token (401)"), ("wrong", "refuses the token from RAY_AUTH_TOKEN (403)")], ids=["none", "wrong"]
)
def test_without_the_token_nothing_starts(place, job, token, sentence):
    changes = {"RAY_AUTH_TOKEN": token}
    status, _, err = place.finished(place.submit("--submission-id", job, "train", "tiny.yaml", *place.words, **changes))
    assert (status, sentence in err, TOKEN in err) == (2, True, False), err
    refused = place.ray_job(*place.ray_job_submit(job), **changes)
    assert refused.returncode == 1
    assert "authentication token" in refused.stderr
    assert all(found.submission_id != job for found in place.client().list_jobs())


def test_ray_job_submit_ends_as_the_training_does(place, job):
    good = place.ray_job(*place.ray_job_submit(job))
    assert good.returncode == 0, good.stdout[-2000:] + good.stderr[-2000:]
    assert place.run(job) == "FINISHED"
    bad = place.ray_job(*place.ray_job_submit(f"{job}-bad", "optimizer.generator.lr=1e30", "optimizer.discriminator.lr=1e30"))
    assert (bad.returncode, place.run(f"{job}-bad")) == (1, "FAILED"), bad.stdout[-2000:]
    assert place.client().get_job_info(f"{job}-bad").driver_exit_code == 1
    worse = place.ray_job(*place.ray_job_submit(f"{job}-worse", "total_kmg=1"))
    assert (worse.returncode, place.client().get_job_info(f"{job}-worse").driver_exit_code) == (1, 2)


def test_ray_job_stop_leaves_the_run_killed(place, job):
    command = place.ray_job_submit(job, LONG)
    command.insert(1, "--no-wait")
    assert place.ray_job(*command).returncode == 0
    place.training(job)
    stopped = place.ray_job("stop", job)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert (place.client().get_job_status(job), place.run(job)) == ("STOPPED", "KILLED")


def documented(file, beginning):
    """The shell command in a document that begins so, as the words of one line."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    return next(line for line in text.splitlines() if line.strip().startswith(beginning))


@pytest.mark.parametrize("file", ["README.md", "infra/README.md"])
@pytest.mark.parametrize("beginning", ["raygan submit train mnist", "RAY_AUTH_MODE=token ray job submit"])
def test_the_documented_commands_train(place, file, beginning):
    """As they stand, but for the places, which are those of this machine, and for a small training by two workers."""
    encoded, _ = noise_images(60, size=28, channels=1)
    images = write_parquet(place.folder / "train.parquet", encoded, [n % 3 for n in range(60)], nested=True)
    command = documented(file, beginning)
    for said, here in (
        ("/shared/mnist/train.parquet", str(images)),
        ("/shared/runs", f"{place.folder}/runs"),
        ("ray.num_workers=8", "ray.num_workers=2"),
        ("http://TRACKING:5000", place.uri),
    ):
        command = command.replace(said, here)
    small = "total_kimg=0.2 schedule.report_kimg=0.1 batch_size=16 schedule.evaluate_kimg=0.2 schedule.checkpoint_kimg=0.2"
    environment = {**place.environment, "RAY_API_SERVER_ADDRESS": place.address}
    done = subprocess.run(f"{command} {small}", shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    client = MlflowClient(tracking_uri=place.uri)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (run.info.status, run.data.metrics["progress/images_seen"] >= 200) == ("FINISHED", True)


def test_a_sweeps_runs_and_its_trials_are_found_by_the_job(place, job):
    words = ["smoke", "sweep.trials=2", "sweep.search=random", "sweep.confirm=0", *place.words]
    (place.folder / "project/tiny.yaml").write_text(
        (place.folder / "project/tiny.yaml").read_text().replace("num_workers: 2", "num_workers: 1")
    )
    status, out, err = place.finished(place.submit("--submission-id", job, "sweep", "tiny.yaml", *words))
    assert status == 0, out[-3000:] + err[-3000:]
    kinds = sorted(run.data.tags["raygan.kind"] for run in place.runs(job))
    assert kinds == ["sweep", "trial", "trial"]
    assert "and 2 trials beside it" in out
