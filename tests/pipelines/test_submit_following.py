"""A job that was sent is followed to its end, however often the connection breaks, and its end is the command's."""

import json
from types import SimpleNamespace

import pytest

from pipelines import cli, environment
from pipelines.submitting import address, following, orders
from tests.pipelines.sent import STORED

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray gives it to aiohttp


@pytest.mark.parametrize(("cuts", "told"), [([], 0), ([1], 0), ([2, 0, 1, 2], 1)])
def test_the_output_is_printed_once_however_often_the_connection_breaks(server, capsys, cuts, told):
    server.cuts = list(cuts)
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    out, err = capsys.readouterr()
    assert out.count("first\nsecond\nthird\n") == 1
    assert [out.count(word) for word in ("first", "second", "third")] == [1, 1, 1]
    assert err.count("the connection is lost") == told


def test_a_connection_that_is_silent_does_not_hide_the_end(server, monkeypatch, capsys):
    monkeypatch.setattr(following, "QUIET_SECONDS", 0.2)
    server.silent, server.cuts = True, [1]
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert capsys.readouterr().out.count("first\nsecond\nthird\n") == 1


def test_a_cluster_that_forgets_the_job_is_told(server, capsys):
    server.forgets = True
    assert cli.main(["submit", "train", "digits", STORED]) == 1
    assert "what became of job" in capsys.readouterr().err


def test_a_cluster_that_goes_away_for_good_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr(following, "AWAY_SECONDS", 0.2)
    monkeypatch.setattr(following, "PAUSES", (0.05,))

    def refused(_):
        raise ConnectionRefusedError("refused")

    client = SimpleNamespace(tail_job_logs=refused, get_job_info=refused)
    with pytest.raises(following.LostError, match="http://gone has not answered for"):
        following.follow(address.Cluster(client, "http://gone"), "some", following.Output())
    assert capsys.readouterr().err.count("the connection is lost") == 1


def test_a_server_that_says_nothing_is_an_error_and_no_endless_wait(server, monkeypatch, capsys):
    monkeypatch.setattr(address, "ANSWER_SECONDS", 0.5)
    server.hangs = True
    assert cli.main(["submit", "train", "digits", STORED]) == 2
    assert "has not answered within 0.5 s" in capsys.readouterr().err


def test_a_job_that_arrived_is_followed_though_the_answer_was_lost(server, capsys):
    server.loses_answer = True
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert len(server.jobs) == 1
    assert "third" in capsys.readouterr().out


def test_an_id_is_taken_once(server, capsys):
    words = ["submit", "--submission-id", "mine", "train", "digits", STORED]
    assert cli.main(words) == 0
    assert cli.main(words) == 2
    assert "--submission-id: the cluster has a job mine" in capsys.readouterr().err
    assert len(server.packages) == 1  # the same bytes are sent once


@pytest.mark.parametrize(
    ("ending", "status", "sentence"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0, "succeeded"),
        ({"status": "FAILED", "driver_exit_code": 1, "message": "log"}, 1, "failed with exit status 1"),
        ({"status": "FAILED", "driver_exit_code": 2}, 2, "failed with exit status 2"),
        ({"status": "FAILED", "driver_exit_code": 143}, 143, "failed with exit status 143"),
        ({"status": "FAILED", "driver_exit_code": -9}, 137, "failed with exit status 137"),
        ({"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILURE", "message": "no disk"}, 1, "(RUNTIME_ENV_SETUP_FAILURE): no disk"),
        ({"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "died"}, 1, "(JOB_SUPERVISOR_ACTOR_DIED): died"),
        ({"status": "STOPPED"}, 143, "stopped"),
    ],
)
def test_the_jobs_end_is_the_commands(server, capsys, ending, status, sentence):
    server.ending = ending
    assert cli.main(["submit", "--submission-id", "some", "train", "digits", STORED]) == status
    assert f"job some {sentence}" in capsys.readouterr().err.replace("failed in Ray ", "")
    assert cli.main(["submit", "--logs", "some"]) == status
    assert "third" in capsys.readouterr().out


def test_without_waiting_the_id_is_printed_and_the_job_can_be_asked_for_and_stopped(server, capsys):
    server.cuts = [1, 1, 1]
    assert cli.main(["submit", "--no-wait", "--submission-id", "some", "train", "digits", STORED]) == 0
    assert "job some at" in capsys.readouterr().out
    assert cli.main(["submit", "--status", "some"]) == 0
    assert "some RUNNING: python -m pipelines.train digits" in capsys.readouterr().out
    assert cli.main(["submit", "--stop", "some"]) == 0
    assert server.stops == ["some"]
    assert "job some stopped" in capsys.readouterr().err
    assert cli.main(["submit", "--status", "other"]) == 2
    assert "knows no job other" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "stops"), [([], []), (["--stop-on-interrupt"], ["some"])])
def test_ctrl_c_leaves_the_job_or_stops_it(server, monkeypatch, capsys, words, stops):
    real, calls = following.follow, []

    def interrupted_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(following, "follow", interrupted_once)
    assert cli.main(["submit", *words, "--submission-id", "some", "train", "digits", STORED]) == 130
    err = capsys.readouterr().err
    assert server.stops == stops
    assert ("--logs some" in err, "job some stopped" in err) == (not stops, bool(stops))


def test_a_job_knows_the_commit_of_its_code_which_travels_without_history(server, monkeypatch):
    here = environment.git()
    assert cli.main(["submit", "--submission-id", "some", "train", "digits", STORED]) == 0
    metadata = server.jobs["some"]["metadata"] | {"job_submission_id": "some"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    monkeypatch.setattr(environment, "_output", lambda *_: None)  # no git there
    assert environment.git() == here
    assert environment.describe()["ray_job"] == "some"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "http://localhost:5000", "sqlite:////abs/mlflow.db"])
def test_a_store_on_this_machine_is_refused_for_a_cluster_that_is_elsewhere(uri):
    from pipelines.submitting import sending

    order = orders.Order("train", [], {}, uri)
    with pytest.raises(ValueError, match="is on this machine, and the cluster is at http://10.0.0.1:8265"):
        sending.require_reached(order, SimpleNamespace(address="http://10.0.0.1:8265"))
    sending.require_reached(order, SimpleNamespace(address="http://127.0.0.1:8265"))
    sending.require_reached(order._replace(tracking_uri="http://tracking:5000"), SimpleNamespace(address="http://10.0.0.1:8265"))
