"""`raygan submit`: a job that is to be stopped, where the cluster does not take it at once; and whose runs its end closes."""

import json
import os
import signal
import threading
import time
import uuid
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from gan_core.overrides import validate
from pipelines import cli, environment, tracking
from pipelines.config import JobConfig, load_named
from pipelines.submitting import address, following, runs
from pipelines.sweeps import ledger
from tests.pipelines.sent import STORED

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray gives it to aiohttp

SUBMIT = ["submit", "--submission-id", "some", "--stop-on-interrupt"]


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C while the job is followed for the first time."""
    real, calls = following.follow, []

    def once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(following, "follow", once)


def test_a_job_is_told_to_stop_again_where_the_cluster_does_not_take_it(server, interrupted, capsys):
    server.refuses_stops = 3
    assert cli.main([*SUBMIT, "train", "digits", STORED]) == 130
    assert (server.stops, server.refuses_stops) == (["some"], 0)
    assert "job some stopped" in capsys.readouterr().err


def test_a_job_that_could_not_be_told_to_stop_is_said_to_go_on(server, interrupted, monkeypatch, capsys):
    monkeypatch.setattr(following, "STOP_AGAIN_SECONDS", 0.5)
    server.refuses_stops = 10_000
    began = time.monotonic()
    assert cli.main([*SUBMIT, "train", "digits", STORED]) == 130
    err = capsys.readouterr().err
    assert 2 <= 10_000 - server.refuses_stops <= 12
    assert time.monotonic() - began < 30
    assert "job some could not be told to stop, and where it was sent it goes on (Request failed with status code 500" in err
    assert "--stop some" in err
    assert server.stops == []


def test_stop_is_patient_too_and_says_when_it_was_in_vain(server, monkeypatch, capsys):
    server.cuts = [1, 1, 1]
    assert cli.main(["submit", "--no-wait", "--submission-id", "some", "train", "digits", STORED]) == 0
    monkeypatch.setattr(following, "STOP_AGAIN_SECONDS", 0.3)
    server.refuses_stops = 10_000
    assert cli.main(["submit", "--stop", "some"]) == 1
    assert "job some could not be told to stop" in capsys.readouterr().err
    server.refuses_stops = 2
    assert cli.main(["submit", "--stop", "some"]) == 0
    assert server.stops == ["some"]


def test_a_job_that_the_cluster_loses_while_it_stops_is_lost_and_not_bad_input(server, monkeypatch, capsys):
    server.cuts = [1, 1, 1]
    assert cli.main(["submit", "--no-wait", "--submission-id", "some", "train", "digits", STORED]) == 0
    real = following.stop

    def stop(*arguments):
        real(*arguments)
        server.forgets = True

    monkeypatch.setattr(following, "stop", stop)
    assert cli.main(["submit", "--stop", "some"]) == 1
    assert "what became of job some is not known" in capsys.readouterr().err


@pytest.fixture
def heard_ctrl_c():
    """Python's own handler: a shell starts jobs in the background with Ctrl-C ignored, and the tests with them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("words", "stops"), [(["--stop-on-interrupt"], ["some"]), ([], [])], ids=["stop", "leave"])
def test_ctrl_c_while_the_job_is_sent_stops_it_too(server, capsys, words, stops, heard_ctrl_c):
    server.submitting_seconds, server.cuts = 3.0, [1, 1, 1]

    def interrupt():
        while not server.jobs:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert cli.main(["submit", *words, "--submission-id", "some", "train", "digits", STORED]) == 130
    thread.join(10)
    err = capsys.readouterr().err
    assert "job some may have been sent" in err
    assert ("job some stopped" in err, server.stops) == (bool(stops), stops)


def test_a_job_that_arrives_late_is_waited_for_and_another_one_of_its_id_is_left_alone(monkeypatch):
    monkeypatch.setattr(following, "PAUSES", (0.02,))
    stops, answers = [], []

    def about(job):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(metadata=found)

    cluster = address.Cluster(SimpleNamespace(get_job_info=about, stop_job=stops.append), "http://there")
    missing = RuntimeError("Request failed with status code 404: Job some does not exist.")
    answers[:] = [missing, ConnectionError("away"), {environment.SUBMISSION: "mine"}]
    following.stop(cluster, "some", "mine")
    assert (stops, answers) == (["some"], [])
    for other in ({environment.SUBMISSION: "another"}, {}, None):
        answers[:] = [missing, other]
        with pytest.raises(following.UnstoppedError, match="http://there has another job of that id"):
            following.stop(cluster, "some", "mine")
    assert stops == ["some"]


class Store:
    """Runs of the jobs of one id, in a store of MLflow that is shared."""

    def __init__(self, uri):
        self.uri, self.job = uri, f"job-{uuid.uuid4().hex[:8]}"
        self.client = MlflowClient(uri)
        self.experiment = self.client.create_experiment(self.job, artifact_location=f"{uri.removeprefix('sqlite:///')}-artifacts")

    def run(self, start, mark="", other=""):
        """A RUNNING one that began at `start` ms."""
        tags = {tracking.RAY_JOB: other or self.job} | ({environment.SUBMISSION: mark} if mark else {})
        return self.client.create_run(self.experiment, start, tags).info.run_id

    def status(self, run):
        return self.client.get_run(run).info.status

    def ends(self, status, mark="", start=1000):
        """What `runs.tell` counts at the end of the job."""
        metadata = {environment.SUBMISSION: mark} if mark else None
        about = SimpleNamespace(status=SimpleNamespace(value=status), metadata=metadata, start_time=start)
        return runs.tell(self.uri, self.job, about)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def store(uri):
    return Store(uri)


@pytest.mark.parametrize(("status", "left"), [("STOPPED", "KILLED"), ("FAILED", "FAILED"), ("SUCCEEDED", "RUNNING")])
def test_the_end_of_a_job_closes_its_own_runs_and_none_of_the_same_id_elsewhere(store, capsys, status, left):
    own, resumed = store.run(2000, "mine"), store.run(10, "mine")
    others = [store.run(2000, "theirs"), store.run(2000), store.run(2000, "mine", other="other")]
    assert store.ends(status, "mine") == 2
    assert [store.status(run) for run in (own, resumed, *others)] == [left, left, *["RUNNING"] * 3]
    out = capsys.readouterr().out
    assert [run in out for run in (own, resumed, *others)] == [True, True, False, False, False]


def test_the_end_of_a_job_without_a_mark_closes_only_what_began_in_it(store):
    own, before, marked = store.run(1000), store.run(999), store.run(2000, "theirs")
    assert store.ends("FAILED") == 3
    assert [store.status(run) for run in (own, before, marked)] == ["FAILED", "RUNNING", "RUNNING"]
    unknown = store.run(2000)
    assert store.ends("FAILED", start=None) == 4
    assert store.status(unknown) == "RUNNING"


def test_a_jobs_mark_is_its_alone_and_becomes_a_tag_of_its_runs(server, monkeypatch):
    for name in ("first", "second"):
        assert cli.main(["submit", "--submission-id", name, "train", "digits", STORED]) == 0
    marks = [server.jobs[name]["metadata"][environment.SUBMISSION] for name in ("first", "second")]
    assert len(set(marks)) == 2
    assert all(len(mark) == 16 for mark in marks)
    metadata = server.jobs["first"]["metadata"] | {"job_submission_id": "first"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    tags = tracking.source_tags("train", "words", environment.describe())
    assert (tags[tracking.RAY_JOB], tags[environment.SUBMISSION]) == ("first", marks[0])


@pytest.mark.parametrize("trial", [False, True], ids=["run", "trial"])
def test_a_run_that_goes_on_elsewhere_is_its_former_jobs_no_more(store, monkeypatch, trial):
    tracker, run = tracking.reach(store.uri), store.run(2000, "mine")

    def go_on():
        if trial:
            ledger.reopen(tracker, run, environment.describe())
        else:
            tracking.reopen_run(tracker, run, validate(load_named("digits"), JobConfig), {})
        return store.client.get_run(run).data.tags

    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "a", environment.SUBMISSION: "b"}}))
    tags = go_on()
    assert (tags[tracking.RAY_JOB], tags[environment.SUBMISSION]) == ("a", "b")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    tags = go_on()
    assert (tags[tracking.RAY_JOB], tags[environment.SUBMISSION]) == ("", "")
    assert store.ends("STOPPED", "mine") == 0
    assert store.status(run) == "RUNNING"


def test_a_run_outside_jobs_has_no_tag_of_one(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert not {tracking.RAY_JOB, environment.SUBMISSION} & set(tracking.source_tags("train", "words", environment.describe()))


def in_job(monkeypatch, job, mark=""):
    metadata = {"job_submission_id": job} | ({environment.SUBMISSION: mark} if mark else {})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))


def test_a_job_still_finds_a_run_that_another_one_went_on_with_and_leaves_it_alone(store, monkeypatch, capsys):
    tracker, config = tracking.reach(store.uri), validate(load_named("digits"), JobConfig)
    in_job(monkeypatch, store.job, "mine")
    run = store.client.create_run(store.experiment, 2000, tracking.job_tags(environment.job())).info.run_id
    assert store.ends("SUCCEEDED", "mine") == 1
    assert "went on" not in capsys.readouterr().out
    in_job(monkeypatch, "later", "theirs")
    tracking.reopen_run(tracker, run, config, {})
    for status in ("STOPPED", "FAILED"):
        assert store.ends(status, "mine") == store.ends(status) == 1
    assert store.status(run) == "RUNNING"
    assert capsys.readouterr().out.count(f"run {run} RUNNING  http") == 4
    assert store.ends("STOPPED", "of the same id elsewhere") == 0
    runs.tell(store.uri, store.job)
    assert "  (job later went on with it)\n" in capsys.readouterr().out
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    tracking.reopen_run(tracker, run, config, {})
    assert [runs.tell(store.uri, job) for job in (store.job, "later", "another")] == [1, 1, 0]
    assert capsys.readouterr().out.count("  (it went on outside of jobs)\n") == 2


@pytest.mark.parametrize(("job", "kept"), [("a.b-c_1", True), ("of/raysubmit @1", False)])
def test_an_id_that_makes_no_tag_is_kept_as_the_latest_alone(store, monkeypatch, job, kept):
    in_job(monkeypatch, job)
    tags = tracking.job_tags(environment.job())
    run = store.client.create_run(store.experiment, 2000, tags).info.run_id
    assert store.client.get_run(run).data.tags[tracking.RAY_JOB] == job
    assert (tags.get(f"{tracking.RAY_JOB_OF}{job}") == tracking.UNMARKED) is kept
    assert len(tags) == 2 + kept
