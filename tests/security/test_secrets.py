"""Secrets come from the environment alone, and are written nowhere: they are planted, and everything that is left is searched for them."""

import base64
import os
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from gan_core.data._tables import without_secrets
from pipelines import cli
from pipelines.config import public_uri
from tests.pipelines.command import finish, start, write_config

PLANTED = {
    "MLFLOW_TRACKING_USERNAME": "planted-user-7Qx1",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-8Rz2",
    "MLFLOW_TRACKING_TOKEN": "planted-token-9Sk3",
    "AWS_ACCESS_KEY_ID": "PLANTEDKEYID4",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-5Tm4",
    "AWS_SESSION_TOKEN": "planted-session-6Un5",
    "RAY_AUTH_TOKEN": "planted-ray-token-0123456789abcdef0123456789abcdef",
    "HF_TOKEN": "hf_planted7Vp6",
    "PGPASSWORD": "planted-database-1Wq7",
}


def needles():
    """Each secret as it is, and as it looks in base64 wherever it begins."""
    found = []
    for value in PLANTED.values():
        found.append(value.encode())
        found += [base64.b64encode(b"x" * shift + value.encode())[4:-4] for shift in range(3)]
    return [needle for needle in found if len(needle) > 10]


def leaks(root):
    """Files below `root` that hold a secret, with the secret; `root` itself in no message."""
    found = []
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found += [(str(path.relative_to(root)), needle) for needle in needles() if needle in content]
            found += [(f"name of {path}", needle) for needle in needles() if needle in str(path).encode()]
    return found


@pytest.fixture
def session(monkeypatch):
    """A folder for Ray's own files, of a short name for the sake of its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_planted_secret_is_left_in_any_file_or_output_of_a_good_and_of_a_failing_command(tmp_path, session):
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **PLANTED,
        "RAY_AUTH_MODE": "token",
        "RAY_TMPDIR": str(session),
        "HOME": str(home),
        "RAYGAN_CACHE": str(tmp_path / "cache"),
    }
    config = write_config(tmp_path, workers=2)
    said, statuses = [], {}

    def run(name, command, *words):
        status, out, err = finish(start(tmp_path, *words, command=command, **environment), 400)
        said.append((name, out + err))
        statuses[name] = status
        return out

    budget = ["total_kimg=0.32", "schedule.evaluate_kimg=0.16", "schedule.checkpoint_kimg=0.16"]
    run_id = run("train", "train", config, *budget).split("run ", 1)[1].split(":")[0]
    run("fails", "train", config, *budget, "optimizer.generator.lr=1e38", "optimizer.discriminator.lr=1e38")
    run("sweep", "sweep", config, "smoke", *budget, "sweep.search=random", "sweep.trials=2", "sweep.confirm=0")
    run("evaluate", "evaluate", run_id, "fake_count=32")
    run("sample", "sample", run_id, "--num", "8", "--out", "fakes.parquet", "--workers", "1")
    run("nowhere", "train", config, "mlflow.tracking_uri=http://127.0.0.1:9")
    assert {name: statuses[name] for name in ("train", "sweep", "evaluate", "sample", "nowhere")} == {
        "train": 0,
        "sweep": 0,
        "evaluate": 0,
        "sample": 0,
        "nowhere": 2,
    }, said
    assert list(session.glob("*")), "Ray's files were not where they are searched for"
    for name, text in said:
        assert not [needle for needle in needles() if needle in text.encode()], name
    assert leaks(tmp_path) == []
    assert leaks(session) == []


def test_tune_puts_no_key_into_the_environment_that_it_shows_of_a_trial(monkeypatch):
    from types import SimpleNamespace

    from ray import tune
    from ray.tune.execution import class_cache

    from pipelines.sweeps import tuning

    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", class_cache.ENV_VARS_TO_PROPAGATE | {"RAYGAN_PLAIN"})
    monkeypatch.setenv("RAYGAN_PLAIN", "goes along")
    shown = []

    def tuner(trainable, **options):
        cached = class_cache._ActorClassCache().get(tune.Trainable)
        shown.append(cached._default_options["runtime_env"]["env_vars"])
        return SimpleNamespace(fit=lambda: None)

    monkeypatch.setattr(tune, "Tuner", tuner)
    batch = tuning.Batch(identities=[], searcher=None, size=1, scheduler=None, retries=0)
    told = {"name": "sweep", "sweep": {"max_concurrent": None}, "tree": {"mlflow": {"delivery_timeout_seconds": 1.0}}, "credentials": {}}
    slots = SimpleNamespace(resources={"cpu": 1}, count=1)
    tuning.run(batch, told, slots, storage_path="s3://bucket", tracker=None, show=print)
    assert shown[0]["RAYGAN_PLAIN"] == "goes along"
    assert not [name for name in PLANTED if name in shown[0]]


def test_credentials_are_in_nothing_that_ray_stores_of_a_training(tmp_path, monkeypatch):
    """With RAY_TRAIN_ENABLE_STATE_TRACKING=1 the config of the workers' function is state, which is exported and shown."""
    from types import SimpleNamespace

    from ray.train.v2._internal.util import construct_train_func

    from gan_core.overrides import validate
    from pipelines import launch, rank
    from pipelines.config import JobConfig
    from pipelines.signals import Asked
    from tests.support import tiny_tree

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow's fluent functions, which other tests call, set it
    for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(key, PLANTED[key])
    given = {}

    def trainer(function, **options):
        given.update(options, function=function)
        return SimpleNamespace(fit=lambda: None)

    monkeypatch.setattr(launch, "ForgivingTrainer", trainer)
    monkeypatch.setattr(launch, "Overseer", lambda *told, **options: None)
    monkeypatch.setattr(launch.boards, "new", lambda facts: "the board")
    monkeypatch.setattr(launch.machines, "uses_gpu", lambda config: False)
    monkeypatch.setattr(launch, "_wait", lambda *told: SimpleNamespace(return_value="done"))
    config = validate(tiny_tree(ray__storage_path=str(tmp_path)), JobConfig)
    job = {"config": config.model_dump(), "tracking_uri": "http://x", "run_id": "r", "content_hash": "h"}
    assert launch.launch(job, config, SimpleNamespace(say=print), Asked()) == "done"
    stored = repr({key: value for key, value in given.items() if key != "function"}).encode()
    assert b"http://x" in stored
    assert [needle for needle in needles() if needle in stored] == []

    called = []
    monkeypatch.setattr(rank, "Pulse", lambda board: pytest.fail("the environment comes first"))
    monkeypatch.setattr(rank, "os", SimpleNamespace(environ=SimpleNamespace(update=called.append)))
    with pytest.raises(pytest.fail.Exception):
        construct_train_func(given["function"], given["train_loop_config"], nullcontext)()
    assert called == [{key: PLANTED[key] for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")}]


ADDRESSES = [
    "s3://planted:planted-password@bucket/x",
    "s3://plantedkeyid@bucket/x",
    "s3://bucket/x?secret_key=planted",
    "s3://bucket/x?region=eu&X-Amz-Signature=planted",
    "gs://bucket/x?access_token=planted",
    "https://planted@host/x",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_kind_of_secret_in_an_address_is_found(address):
    for check in (without_secrets, public_uri):
        with pytest.raises(ValueError, match="password or a token|password, or a key") as refused:
            check(address)
        assert "planted" not in str(refused.value)


@pytest.mark.parametrize("address", [ADDRESSES[0], *(pytest.param(address, marks=pytest.mark.slow) for address in ADDRESSES[1:])])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits", "ray.storage_path={}"],
        ["train", "digits", "data.name=parquet", "data.path={}"],
        ["train", "digits", "mlflow.tracking_uri={}"],
        ["train", "{}"],
        ["evaluate", "{}"],
        ["evaluate", "x", "data.name=parquet", "data.path={}"],
        ["prepare", "{}", "set", "--resolution", "8"],
        ["report", "{}"],
        ["report", "x", "mlflow.tracking_uri={}"],
        ["sample", "{}", "--grid", "g.png"],
        ["sample", "x", "--num", "8", "--out", "{}.parquet"],
    ],
    ids=" ".join,
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(tmp_path, monkeypatch, capsys, words, address):
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format(address) for word in words]) == 2
    printed = capsys.readouterr()
    assert "planted" not in printed.out + printed.err
    assert len(printed.err) > 40
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"planted" not in file.read_bytes()


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits", "ray.storage_path={}"],
        ["train", "--resume", "some", "ray.storage_path={}"],
        ["train", "--from-run", "some", "data.path={}"],
        ["train", "digits", "ray.storage_path=/s", "mlflow.tracking_uri={}"],
        ["sweep", "--resume", "some", "ray.storage_path={}"],
        ["sweep", "digits", "loss_x_ratio", "ray.storage_path={}"],
        ["evaluate", "{}"],
        ["evaluate", "x", "data.name=parquet", "data.path={}"],
        ["sample", "{}", "--num", "8", "--out", "/s/x.parquet"],
        ["sample", "x", "--num", "8", "--out={}.parquet"],
        ["prepare", "{}", "/s/set", "--resolution", "8"],
        ["prepare", "/s/images", "{}", "--resolution", "8"],
        ["report", "x", "mlflow.tracking_uri={}"],
        ["report", "{}"],
    ],
    ids=" ".join,
)
def test_submit_sends_no_address_with_a_secret(tmp_path, monkeypatch, capsys, words, address):
    """--dry-run prints what would be sent, and needs no cluster: nothing else refuses these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.main(["submit", "--dry-run", *(word.format("s3://bucket/x") for word in words)]) == 0
    assert "entrypoint   python -m pipelines." in capsys.readouterr().out
    assert cli.main(["submit", "--dry-run", *(word.format(address) for word in words)]) == 2
    printed = capsys.readouterr()
    assert "a password or a key, and a job's command line is shown" in printed.err
    assert "planted" not in printed.out + printed.err


@pytest.mark.parametrize("uri", ["http://me:planted@127.0.0.1:9", "http://planted@127.0.0.1:9", "postgresql://me:planted@127.0.0.1/x"])
def test_a_secret_in_the_environments_tracking_uri_is_refused_and_not_repeated(tmp_path, monkeypatch, capsys, uri):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for words in (
        ["train", "digits", "--local", "ray.num_workers=1"],
        ["report", "x"],
        ["evaluate", "x"],
        ["theory", "game"],
        ["submit", "--dry-run", "train", "digits", "ray.storage_path=/s"],
        ["submit", "--dry-run", "evaluate", "x"],
        ["submit", "--run", "some"],
    ):
        assert cli.main(words) == 2
        printed = capsys.readouterr()
        assert "$MLFLOW_TRACKING_URI: holds a password or a token" in printed.err
        assert "planted" not in printed.out + printed.err
    assert not os.path.exists(tmp_path / "mlartifacts")


def test_ordinary_addresses_are_no_secrets():
    for address in ("s3://bucket/a@b", "gs://anonymous@bucket/x", "s3://bucket/x?region=eu-west-1&endpoint_override=localhost:9000"):
        assert without_secrets(address) == address
    for uri in (
        "http://127.0.0.1:5000",
        "sqlite:////a/b.db",
        "postgresql+psycopg2://me@host:5432/mlflow",
        "databricks",
        "https://host/a:b@c",
    ):
        assert public_uri(uri) == uri
