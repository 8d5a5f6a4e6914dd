"""`raygan submit` on this side: what is refused, which cluster is asked, and what is sent there."""

import io
import json
import os
import zipfile

import pytest

from pipelines import cli
from pipelines.submitting import address, orders, package
from tests.pipelines.sent import CONFIG, STORED, make

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray gives it to aiohttp


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "digits", STORED, "total_kmg=1"], "unknown key 'total_kmg' (did you mean 'total_kimg'?)"),
        (["train", "digits", STORED, "batch_size=-1"], "batch_size"),
        (["train", "digts", STORED], "did you mean 'digits'?"),
        (["train"], "give a config"),
        (["trian", "digits"], "did you mean 'train'?"),
        ([], "give a command to submit"),
        (["theory"], "give a command to submit, given theory"),
        (["train", "digits", STORED, "--local"], "--local is for here"),
        (["sweep", "digits", "loss_x_ratio", "--dry-run", STORED], "--dry-run is for here"),
        (["train", "digits"], "ray.storage_path: runs is a place in this folder"),
        (["train", "digits", "ray.storage_path=../runs"], "ray.storage_path: ../runs is a place in this folder"),
        (["train", "mnist", STORED, "data.path=mnist.parquet"], "data.path: mnist.parquet is a place in this folder"),
        (["train", "digits", STORED, "mlflow.tracking_uri=sqlite:///here.db"], "mlflow.tracking_uri: sqlite:///here.db is in this folder"),
        (["train", "digits", STORED, "mlflow.tracking_uri=http://u:p4ss@host"], "it holds a password"),
        (["train", "--resume", "some", "ray.storage_path=runs"], "ray.storage_path: runs is a place"),
        (["sweep", "digits", "loss_x_rato", STORED], "loss_x_ratio"),
        (["sweep", "digits", "loss_x_ratio", STORED, "sweep.trails=3"], "did you mean 'trials'?"),
        (["sweep", "digits", "loss_x_ratio"], "ray.storage_path: runs is a place"),
        (["evaluate"], "give something to judge"),
        (["evaluate", "samples"], "the target samples: samples is a place in this folder"),
        (["evaluate", "models:/m/1", "fake_cout=3"], "did you mean 'fake_count'?"),
        (["sample", "run", "--num", "3", "--out", "here.parquet"], "--out: here.parquet is a place in this folder"),
        (["sample", "run"], "give one of --num"),
        (["prepare", "/images", "prepared", "--resolution", "8"], "DST: prepared is a place in this folder"),
        (["report", "some", "--out", "page"], "--out: page is a place in this folder"),
        (["--pass-env", "HF_TOKEN", "train", "digits", STORED], "--pass-env: HF_TOKEN is not set here"),
        (["--submission-id", "../up", "train", "digits", STORED], "--submission-id: '../up' is no job's id"),
        (["--stop", "a/b"], "--stop: 'a/b' is no job's id"),
        (["--stop", "some", "train", "digits"], "leave out the command train"),
        (["--no-wait", "--logs", "some"], "--no-wait has no effect with --logs"),
        (["--address", "ray://head:10001", "train", "digits", STORED], "ray://head:10001 is no dashboard's address"),
        (["--address", "http://u:p4ss@head", "train", "digits", STORED], "--address: it holds a password"),
        (["--address", "http://127.0.0.1:9", "train", "digits", STORED], "no Ray dashboard answers at http://127.0.0.1:9"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(project, capsys, words, sentence):
    make(project, "samples/x.txt")
    assert cli.main(["submit", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "p4ss" not in err


@pytest.mark.parametrize(
    ("variables", "given", "expected"),
    [
        ({}, None, "http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "auto"}, None, "http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "https://a/ray/"}, None, "https://a/ray"),
        ({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "b:2"}, None, "http://b:2"),
        ({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:2"}, "c:3", "http://c:3"),
    ],
)
def test_the_address_given_comes_before_those_of_the_environment(project, monkeypatch, variables, given, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert address.resolve(given) == expected


@pytest.mark.parametrize("value", ["head:6379", "ray://head:10001"])
def test_an_address_that_is_no_dashboards_is_refused_with_its_source(project, monkeypatch, value):
    monkeypatch.setenv("RAY_ADDRESS", value)
    with pytest.raises(ValueError, match=f"RAY_ADDRESS: {value} is no dashboard's address"):
        address.resolve(None)


def test_a_config_file_from_elsewhere_or_ignored_travels_too(project, tmp_path):
    make(tmp_path, "far.yaml", text=CONFIG)
    make(project, "near.yaml", text=CONFIG)
    (project / ".gitignore").write_text("near.yaml\n")
    far = orders.read(["train", str(tmp_path / "far.yaml"), STORED], project)
    assert (far.words[0], list(far.files)) == ("submitted/far.yaml", ["submitted/far.yaml"])
    near = orders.read(["train", "near.yaml", STORED], project)
    assert near.words[0] == "near.yaml"
    assert "near.yaml" in {item.name for item in package.collect(project, near.files).items}


def submitted(server):
    (job,) = server.jobs.values()
    return job


def test_the_job_gets_code_store_and_time_to_stop_and_no_secret(server, project, monkeypatch, capsys):
    make(project, "hello.txt")
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "planted-7731")
    server.token = "planted-7731"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert cli.main(["submit", "--pass-env", "GLOO_SOCKET_IFNAME", "train", "digits", STORED]) == 0
    asked = submitted(server)
    assert asked["entrypoint"] == "python -m pipelines.train digits ray.storage_path=/shared/runs"
    variables = asked["runtime_env"]["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": "60", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "GLOO_SOCKET_IFNAME": "eth0"}
    assert asked["metadata"]["raygan.tracking_uri"] == "http://127.0.0.1:9"
    assert "entrypoint_num_cpus" not in asked
    (packed,) = server.packages.values()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {"hello.txt", "pipelines/train.py", "gan_core/steps.py", "tune_spaces/loss_x_ratio.py"} <= set(archive.namelist())
    out, err = capsys.readouterr()
    assert "MLFLOW_TRACKING_PASSWORD, AWS_SECRET_ACCESS_KEY: set here and not sent" in err
    assert "planted-7731" not in json.dumps(asked) + out + err
    assert b"planted-7731" not in packed


@pytest.mark.parametrize("name", ["MY_API_KEY", "DB_PASSWORD", "github_token", "AWS_PROFILE"])
def test_a_variable_that_looks_like_a_secret_is_not_passed(project, monkeypatch, capsys, name):
    monkeypatch.setenv(name, "planted-7731")
    assert cli.main(["submit", "--pass-env", name, "train", "digits", STORED]) == 2
    err = capsys.readouterr().err
    assert f"{name} looks like a secret" in err
    assert "planted-7731" not in err


@pytest.mark.parametrize(
    ("token", "source", "sentence"),
    [
        (None, None, "asks for a token (401)"),
        ("wrong", "RAY_AUTH_TOKEN", "refuses the token from RAY_AUTH_TOKEN (403)"),
        ("right", "RAY_AUTH_TOKEN", ""),
        ("right", "RAY_AUTH_TOKEN_PATH", ""),
        ("right", "~/.ray/auth_token", ""),
    ],
)
def test_a_token_is_found_where_ray_looks_for_it_and_sent_where_it_is_asked_for(
    server, tmp_path, monkeypatch, capsys, token, source, sentence
):
    server.token = "right"
    if source == "RAY_AUTH_TOKEN":
        monkeypatch.setenv(source, token)
    elif source:
        path = tmp_path / "home/.ray/auth_token"
        make(path.parent, "auth_token", text=f"{token}\n")
        if source == "RAY_AUTH_TOKEN_PATH":
            monkeypatch.setenv(source, str(path.rename(tmp_path / "elsewhere")))
    assert cli.main(["submit", "train", "digits", STORED]) == (2 if sentence else 0)
    err = capsys.readouterr().err
    assert sentence in err
    assert len(server.jobs) == (0 if sentence else 1)
    assert "Bearer" not in err


def test_the_address_given_is_the_one_that_is_asked(server, monkeypatch):
    """Ray's own client would take that of the environment."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    assert cli.main(["submit", "--address", server.address, "train", "digits", STORED]) == 0
    assert len(server.jobs) == 1
    assert os.environ["RAY_ADDRESS"] == os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:9"


def test_a_token_is_not_sent_to_a_cluster_that_does_not_ask(server, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "for-another-cluster")
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert not any(headers.get("Authorization") for headers in server.headers)
    assert len(server.headers) > 4
