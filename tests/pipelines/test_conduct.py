"""The driver's beginnings and endings: another driver beside it, signals at bad moments, a store that fails between two calls."""

import argparse
import errno
import os
import signal
from contextlib import contextmanager

import pytest
from mlflow.exceptions import MlflowException

from gan_core import Trainer, checkpoint
from gan_core.building import load_dataset
from gan_core.overrides import flatten, validate
from pipelines import completion, conduct, export, guard, past, storage, tracking, train
from pipelines.completion import Ride
from pipelines.config import JobConfig
from pipelines.patience import end_early
from pipelines.plan import Plan, Ready
from pipelines.signals import Interrupted, deaf, terminable
from tests.support import tiny_tree


class Course:
    """A run that could be trained: its config, data, and a store in a file."""

    def __init__(self, folder):
        uri = f"sqlite:///{folder}/mlflow.db"
        self.config = validate(tiny_tree(mlflow__tracking_uri=uri, ray__storage_path=str(folder / "runs"), ray__num_workers=1), JobConfig)
        self.dataset = load_dataset(self.config.gan())
        self.tracker = tracking.connect(uri, self.config.mlflow.experiment)

    def start(self, name="x"):
        """A run that somebody else's driver has started."""
        return tracking.create_run(self.tracker, self.config, self.dataset, name)

    def conduct(self, *, resume=None, once=False, name="x"):
        plan = Plan(self.config, name, resume, flatten(self.config) if resume else {}, once=once)
        return conduct.run(plan, Ready(self.dataset, []), local=True)

    def run(self, run_id):
        return self.tracker.client.get_run(run_id)

    def runs(self):
        return self.tracker.client.search_runs([self.tracker.experiment_id])


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setattr(conduct, "_launcher", lambda *given, **options: pytest.fail("the training began"))
    return Course(tmp_path)


def launched(monkeypatch, launch):
    monkeypatch.setattr(conduct, "_launcher", lambda config, tracker, stack, local: launch)


def guarded(monkeypatch, meanwhile):
    """`meanwhile` happens while the driver waits for another one."""

    @contextmanager
    def only_driver(*given, **options):
        meanwhile()
        yield

    monkeypatch.setattr(conduct, "only_driver", only_driver)


class AnswersLost:
    """A client whose every method does its work at the first call too, but whose answer to that is lost."""

    def __init__(self, client):
        self._client, self._lost = client, set()

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*given, **options):
            answer = method(*given, **options)
            if name not in self._lost:
                self._lost.add(name)
                raise MlflowException(f"{name}: 502")
            return answer

        return call


@pytest.fixture
def trained(tmp_path, course, monkeypatch):
    """A run with a checkpoint at its end, whose model is quickly saved."""
    run_id = course.start()
    trainer = Trainer(course.config.gan())
    trainer.run(lambda report: None)
    folder = tmp_path / "runs" / run_id / storage.checkpoint_name(trainer.images_seen)
    folder.mkdir(parents=True)
    checkpoint.save(trainer.state_dict(), folder)

    def save_model(path, made):
        path.mkdir()
        (path / "MLmodel").write_text("{}")

    monkeypatch.setattr(export, "save_model", save_model)
    monkeypatch.setattr("pipelines.patience.RETRY_SECONDS", 0.01)
    return run_id


def test_what_is_left_in_mlflow_is_there_once_however_often_answers_are_lost(course, trained):
    losing = course.tracker._replace(client=AnswersLost(course.tracker.client))
    ride = Ride(Plan(course.config, "x", None, {}), course.dataset, losing, trained, True)
    uri = completion.leave(ride, {"hardware": "a CPU", "precision": "float32"}, {"startup/ray_seconds": 1.5, "timing/loop_seconds": 2.5})
    assert {"create_logged_model", "finalize_logged_model", "log_outputs", "log_batch", "set_tag"} <= losing.client._lost
    (model,) = course.tracker.client.search_logged_models([course.tracker.experiment_id])
    run = course.run(trained)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, 160)]
    assert (uri, model.status) == (f"models:/{model.model_id}", "READY")
    for key, value in {"startup/ray_seconds": 1.5, "timing/loop_seconds": 2.5}.items():
        assert [point.value for point in course.tracker.client.get_metric_history(trained, key)] == [value]
    assert (run.data.tags["raygan.worker_hardware"], run.data.tags["raygan.precision"]) == ("a CPU", "float32")


def test_a_model_of_another_step_is_a_model_of_its_own(course, trained, tmp_path):
    log = lambda folder: export.log_generator(course.tracker, trained, course.config.gan(), course.dataset, folder)  # noqa: E731
    folder = tmp_path / "runs" / trained / storage.checkpoint_name(160)
    first = log(folder)
    state = checkpoint.load(folder)
    later = tmp_path / "later"
    later.mkdir()
    checkpoint.save({**state, "images_seen": 320}, later)
    assert log(folder) == first != log(later)
    assert sorted(output.step for output in course.run(trained).outputs.model_outputs) == [160, 320]


def test_ctrl_c_while_another_driver_is_waited_for_leaves_its_run_alone(course, monkeypatch, capsys):
    theirs = course.start()
    monkeypatch.setattr(conduct, "_launcher", lambda *given, **options: None)
    guarded(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert course.conduct(resume=theirs) == 130
    assert course.run(theirs).info.status == "RUNNING"
    assert f"raygan train --resume {theirs}" in capsys.readouterr().err


def test_ctrl_c_while_the_guard_of_a_new_run_is_taken_ends_that_run(course, monkeypatch):
    monkeypatch.setattr(conduct, "_launcher", lambda *given, **options: None)
    guarded(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert course.conduct() == 143
    assert [run.info.status for run in course.runs()] == ["KILLED"]


def test_a_run_that_was_finished_while_its_driver_was_waited_for_is_left_as_it_is(course, monkeypatch, capsys):
    run_id = course.start()
    monkeypatch.setattr(conduct, "_launcher", lambda *given, **options: None)
    guarded(monkeypatch, lambda: course.tracker.client.set_terminated(run_id, "FINISHED"))
    assert course.conduct(resume=run_id, once=True) == 0
    assert course.run(run_id).info.status == "FINISHED"
    assert f"run {run_id} is finished: there is nothing to do for --once x" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "returned"), [("FINISHED", 0), ("RUNNING", 2)])
def test_a_run_that_another_driver_started_under_that_name_is_not_started_twice(course, monkeypatch, status, returned):
    monkeypatch.setattr(conduct, "_launcher", lambda *given, **options: None)
    guarded(monkeypatch, lambda: course.tracker.client.update_run(course.start("a/b"), status))
    assert course.conduct(once=True, name="a/b") == returned
    assert [run.info.status for run in course.runs()] == [status]


def test_a_name_with_a_slash_can_be_guarded(course, monkeypatch):
    launched(monkeypatch, lambda *given: (_ for _ in ()).throw(RuntimeError("begun")))
    assert course.conduct(once=True, name="a/b") == 1
    assert [run.info.status for run in course.runs()] == ["FAILED"]


def test_a_storage_without_locks_is_named_and_leaves_no_run_running(course, monkeypatch, capsys):
    monkeypatch.setattr(conduct, "_launcher", lambda *given, **options: None)

    def acquire(*given, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(guard.FileLock, "acquire", acquire)
    assert course.conduct() == 1
    assert [run.info.status for run in course.runs()] == ["FAILED"]
    assert "raygan train: ray.storage_path: no lock can be had in" in capsys.readouterr().err


def test_an_error_of_rays_at_the_start_is_a_sentence(course, monkeypatch, capsys):
    from ray.exceptions import AuthenticationError

    def launcher(*given, **options):
        raise AuthenticationError("a token is asked for")

    monkeypatch.setattr(conduct, "_launcher", launcher)
    assert course.conduct() == 2
    assert capsys.readouterr().err.startswith("raygan train: a token is asked for")
    assert course.runs() == []


@pytest.mark.parametrize("words", [["digits", "--once", "x"], ["--resume", "abc"], ["--from-run", "abc"]], ids=" ".join)
def test_a_store_that_fails_after_it_has_answered_is_a_sentence(course, monkeypatch, capsys, words):
    def fail(*given):
        raise MlflowException("INTERNAL_ERROR: the pool is exhausted")

    monkeypatch.setattr(past, "named_run", fail)
    monkeypatch.setattr(past, "read_config", fail)
    assert train.main([*words, f"mlflow.tracking_uri={course.tracker.uri}"]) == 2
    said = capsys.readouterr().err
    assert "raygan train: mlflow.tracking_uri: sqlite:///" in said
    assert "the pool is exhausted" in said


def test_a_run_that_cannot_be_read_is_not_called_a_run_that_is_not_there(course, monkeypatch):
    run_id = course.start()
    with pytest.raises(ValueError, match="no run 'abc' in sqlite"):
        past.read_config(course.tracker, "abc")

    class Failing:
        def get_run(self, run_id):
            raise MlflowException("the pool is exhausted")

    with pytest.raises(ValueError, match=rf"run '{run_id}' cannot be read from sqlite.* \(the pool is exhausted\)"):
        past.read_config(course.tracker._replace(client=Failing()), run_id)


def test_a_server_that_would_have_its_clients_write_here_leaves_no_run_running(course):
    far = course.tracker._replace(uri="http://far.example:5000")
    with pytest.raises(ValueError, match="wants its clients to write artifacts to"):
        tracking.create_run(far, course.config, course.dataset, "x")
    assert [run.info.status for run in course.runs()] == ["FAILED"]


def again():
    for signum in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), signum)


def test_signals_while_the_last_words_are_written_disturb_nothing(course, monkeypatch):
    run_id = course.start()

    class Slow:
        def set_terminated(self, run_id, status):
            again()
            course.tracker.client.set_terminated(run_id, status)

    with terminable():
        end_early(course.tracker._replace(client=Slow()), run_id, "KILLED")
    assert course.run(run_id).info.status == "KILLED"
    with terminable(), pytest.raises(Interrupted):
        again()


def test_signals_while_the_cluster_is_left_change_no_exit_status(course, monkeypatch):
    def launch(*given):
        raise RuntimeError("the workers are gone")

    def launcher(config, tracker, stack, local):
        stack.callback(again)
        return launch

    monkeypatch.setattr(conduct, "_launcher", launcher)
    assert course.conduct() == 1
    assert [run.info.status for run in course.runs()] == ["FAILED"]


def test_signals_are_heard_again_after_the_last_words():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with deaf():
        again()
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("place", ["Job", "Progress"])
def test_a_signal_between_the_runs_beginning_and_its_launch_ends_it_as_killed(course, monkeypatch, capsys, place):
    monkeypatch.setattr(conduct, "_launcher", lambda *given, **options: lambda *more: pytest.fail("the training began"))
    monkeypatch.setattr(conduct, place, lambda *given, **options: os.kill(os.getpid(), signal.SIGTERM))
    assert course.conduct() == 143
    (run,) = course.runs()
    assert (run.info.status, run.data.tags["raygan.stopped"]) == ("KILLED", "by SIGTERM, no new checkpoint")
    assert f"raygan train --resume {run.info.run_id}" in capsys.readouterr().err


def test_a_signal_outside_the_training_is_a_status_and_no_traceback(monkeypatch, capsys):
    def make_plan(options: argparse.Namespace) -> Plan:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("pipelines.plan.make_plan", make_plan)
    assert train.main(["digits"]) == 143
    assert "interrupted" in capsys.readouterr().err


def test_in_a_job_the_way_to_go_on_is_told_for_where_it_was_sent_too(course, monkeypatch):
    plan = Plan(course.config, "x", None, {})
    here = f"raygan train --resume abc mlflow.tracking_uri={course.config.mlflow.tracking_uri}"
    assert conduct._again(plan, "abc", local=False) == here
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "some"}}')
    assert (
        conduct._again(plan, "abc", local=False) == f"{here}, or from where this job was sent: {here.replace('train', 'submit train', 1)}"
    )
    assert conduct._again(plan, "abc", local=True) == f"{here} --local"
