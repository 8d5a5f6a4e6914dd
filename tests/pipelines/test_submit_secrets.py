"""`raygan submit` sends no secrets: none in its words, addresses and variables, no file that is named as one, no token unasked."""

import os
import subprocess
import sys

import pytest

from pipelines import cli
from pipelines.submitting import package
from tests.pipelines.head import ROOT
from tests.pipelines.job_server import JobServer

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray gives it to aiohttp

STORED = "ray.storage_path=/shared/runs"
SECRETS = (
    *("prod-secrets.yaml", "db_secrets.json", ".secrets", ".secrets.toml", "terraform.tfstate", "terraform.tfstate.backup", "prod.tfvars"),
    *("id.ppk", ".vault-token", ".vault_pass", ".s3cfg", ".boto", ".my.cnf", ".databrickscfg", ".dockercfg", "rclone.conf", "client.ovpn"),
    *("token", "token.txt", "auth_token.txt", "hf-token", "password.txt", "passwords.yaml", "api_key.txt", "gcp-key.json", "rootkey.csv"),
    *("infra/env.prod", "deep/My_AccessKeys.csv", "kaggle.json", ".kaggle/x.json", "x-firebase-adminsdk-1.json", ".bash_history"),
    *("password.py", "secrets/x.yaml", "db.password", "Prod_Token.JSON", "service.jwt"),
)
DATA = ("a.pkl", "a.pickle", "a.tfrecord", "a.mp4", "a.csv", "a.tsv", "a.jsonl", "a.tar.gz", "a.csv.gz", "deep/a.MKV", "a.feather")
CODE = ("env.py", "keys.py", "tokenizer.py", "monkey.json", "keyed.yaml", "environment.yml", "requirements.txt", "data/csv.py", "tick.sh")


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


@pytest.mark.parametrize(("name", "reason"), [*((name, "a secret") for name in SECRETS), *((name, "data") for name in DATA)])
def test_a_file_that_is_named_as_a_secret_or_as_data_stays(project, name, reason):
    make(project, name)
    content = package.collect(project)
    assert set(content.stays.values()) == {reason}
    assert all(item.path.is_relative_to(ROOT) for item in content.items)


@pytest.mark.parametrize("name", CODE)
def test_code_and_configs_that_only_remind_of_secrets_travel(project, name):
    make(project, name)
    content = package.collect(project)
    assert (content.stays, [item.name for item in content.items if item.path.is_relative_to(project)]) == ({}, [name])


def test_what_is_held_back_as_a_secret_is_said_when_a_job_is_sent(server, project, capsys):
    make(project, "password.py", ".env", "images.parquet", "mine.py")
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert "not sent, for their names are those of secrets: .env, password.py\n" in capsys.readouterr().err
    make(project, *(f"{number}.key" for number in range(12)))
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert capsys.readouterr().err.count(".key") == 9
    (project / ".env").unlink()
    for path in [*project.glob("*.key"), project / "password.py"]:
        path.unlink()
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert "not sent" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "value", ["https://planted@host/x", "s3://bucket/x?secret_key=planted", "redis://:planted@host", "S3://planted@bucket"]
)
def test_a_variable_whose_value_holds_a_secret_is_not_passed(project, monkeypatch, capsys, value):
    monkeypatch.setenv("PLACE", value)
    assert cli.main(["submit", "--dry-run", "--pass-env", "PLACE", "train", "digits", STORED]) == 2
    out, err = capsys.readouterr()
    assert "PLACE looks like a secret" in err
    assert "planted" not in out + err


def test_a_config_with_a_secret_in_an_address_does_not_travel_for_a_run_that_goes_on(project, capsys):
    (project / "mine.yaml").write_text("data: {name: digits}\nray: {storage_path: 's3://planted@bucket/x'}\n")
    assert cli.main(["submit", "--dry-run", "train", "--from-run", "some", "mine.yaml"]) == 2
    (project / "mine.yaml").write_text("mlflow: {tracking_uri: 'http://planted@host'}\nray: {storage_path: /shared/x}\n")
    assert cli.main(["submit", "--dry-run", "train", "--from-run", "some", "mine.yaml"]) == 2
    out, err = capsys.readouterr()
    assert err.count("ray.storage_path: it holds a password or a key") == 1
    assert err.count("mlflow.tracking_uri: holds a password or a token") == 1
    assert "planted" not in out + err


@pytest.mark.parametrize("value", ["http://planted@head:8265", "http://me:planted@head", "http://head/?token=planted"])
def test_a_dashboards_address_with_a_secret_is_refused_and_not_repeated(project, capsys, value):
    assert cli.main(["submit", "--address", value, "train", "digits", STORED]) == 2
    out, err = capsys.readouterr()
    assert "--address: it holds a password or a key" in err
    assert "planted" not in out + err


def test_with_rays_mode_too_the_token_goes_only_to_a_cluster_that_asks(server, project):
    """In a process of its own: Ray reads the mode while it is imported."""
    values = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "planted-7731", "PYTHONPATH": str(ROOT)}
    with JobServer().running() as asking:
        asking.token = "planted-7731"
        calls = [f"submit.main(['--address', '{address}', 'train', 'digits', '{STORED}'])" for address in (server.address, asking.address)]
        command = [sys.executable, "-c", f"from pipelines import submit; print({', '.join(calls)})"]
        done = subprocess.run(command, cwd=project, env=values, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["0 0"]), done.stderr
    assert len(server.headers) > 4
    assert "planted-7731" not in str(server.headers)
    assert sum("planted-7731" in str(headers) for headers in asking.headers) == len(asking.headers) - 1 > 3
    assert not asking.headers[0].get("Authorization")


@pytest.mark.parametrize("file", [".gitignore", ".rayignore"])
def test_a_secret_that_is_ignored_stays_too_and_is_not_told(project, file):
    make(project, "password.py", ".env", "part/tokens.py")
    (project / file).write_text(".env\npart/\n!password.py\n")
    content = package.collect(project)
    assert content.stays == {"password.py": "a secret", ".env": file, "part": file}
    assert package.held_back(content) == "not sent, for their names are those of secrets: password.py"
