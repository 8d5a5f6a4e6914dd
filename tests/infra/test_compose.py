"""compose.yaml: it follows the specification, and what it refers to exists, is closed, pinned and free of secrets."""

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.infra.parts import INFRA, compose

SCHEMA = yaml.safe_load(Path(__file__).with_name("compose.schema.yaml").read_text())
EXAMPLE = dict(line.split("=", 1) for line in (INFRA / ".env.example").read_text().splitlines() if "=" in line and not line.startswith("#"))
SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|_KEY$")
LONG_LIVED = {"postgres", "objects", "mlflow", "ray-head", "ray-worker", "prometheus", "grafana"}


def asked_for():
    """Name -> how compose asks for it: `:?` (must be given) or `:-` (has a default)."""
    text = (INFRA / "compose.yaml").read_text()
    return {
        name: {way for found, way in re.findall(r"\$\{(\w+)(:[?-])", text) if found == name}
        for name, _ in re.findall(r"\$\{(\w+)(.)", text)
    }


def test_the_files_follow_the_schema():
    jsonschema.validate(compose(), SCHEMA)
    jsonschema.validate(yaml.safe_load((INFRA / "compose.gpu.yaml").read_text()), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        {"depend_on": {}},
        {"depends_on": {"postgres": {"condition": "healthy"}}},
        {"ports": ["127.0.0.1:http:5000"]},
        {"restart": "sometimes"},
        {"healthcheck": {"intervall": "5s"}},
        {"healthcheck": {"interval": "5"}},
        {"environment": {"A": True}},
        {"volumes": ["storage"]},
        {"shm_size": "two gigabytes"},
        {"deploy": {"resources": {"limit": {}}}},
        {"pre_stop": [{"user": "root"}]},
    ],
)
def test_what_is_wrong_is_found(change):
    tree = copy.deepcopy(compose())
    tree["services"]["mlflow"] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, SCHEMA)


def test_published_ports_are_on_loopback():
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert sorted(published) == [f"127.0.0.1:{port}:{port}" for port in (3000, 5000, 8265, 9090)]


def test_all_that_services_refer_to_is_there():
    tree = compose()
    for name, service in tree["services"].items():
        assert set(service.get("networks", [])) <= tree["networks"].keys(), name
        assert service["networks"], name  # not the one that everybody is on
        assert set(service.get("secrets", [])) <= tree["secrets"].keys(), name
        for other, how in service.get("depends_on", {}).items():
            tested = tree["services"][other].get("healthcheck", {}).get("test")
            assert how["condition"] != "service_healthy" or tested, (name, other)
        for volume in service.get("volumes", []):
            source = re.sub(r"^\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source == "./data":  # the user's
                continue
            assert (INFRA / source).exists() if source.startswith(".") else source in tree["volumes"], volume
        if "build" in service:
            context = (INFRA / service["build"]["context"]).resolve()
            stages = re.findall(r"^FROM .* AS (\S+)", (context / service["build"]["dockerfile"]).read_text(), re.MULTILINE)
            targets = [service["build"]["target"].replace("${RAYGAN_VARIANT:-cpu}", variant) for variant in ("cpu", "gpu")]
            assert set(targets) <= set(stages), name
    used = {volume.split(":")[0] for service in tree["services"].values() for volume in service.get("volumes", [])}
    assert tree["volumes"].keys() <= used


def test_what_lives_long_is_watched_restarted_and_without_rights():
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        if name in LONG_LIVED:
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name
    assert compose()["services"].keys() > LONG_LIVED


def test_data_are_on_a_network_that_reaches_nothing_and_publishes_nothing():
    tree = compose()
    assert tree["networks"]["data"] == {"internal": True}
    on_data = {name for name, service in tree["services"].items() if "data" in service["networks"]}
    assert on_data == {"postgres", "objects", "bucket", "mlflow"}
    assert {name for name in on_data if "ports" in tree["services"][name]} == {"mlflow"}


def test_no_password_is_written_here_and_none_has_a_default():
    for name, service in compose()["services"].items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", str(value)), (name, key)
    for name, ways in asked_for().items():
        assert ways == {":?"} if SECRET.search(name) else ways == {":-"}, name
    assert all(value == "" for key, value in EXAMPLE.items() if SECRET.search(key))
    assert EXAMPLE.keys() == asked_for().keys()
    assert "/infra/.env" in (INFRA.parent / ".gitignore").read_text().splitlines()


def test_defaults_are_those_of_the_example():
    text = (INFRA / "compose.yaml").read_text()
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text):
        assert EXAMPLE[name] == default


def test_a_run_that_is_told_to_stop_has_time_for_its_checkpoint():
    for name in ("ray-head", "ray-worker"):
        service = compose()["services"][name]
        assert int(service["stop_grace_period"].removesuffix("s")) > int(service["environment"]["RAY_JOB_STOP_WAIT_TIME_S"]) == 60
        (hook,) = service["pre_stop"]  # without it nothing tells a job: Ray ends with the container's first process
        mounts = {place: source for source, place, *_ in (volume.split(":") for volume in service["volumes"])}
        script = hook["command"][-1].split()[-1]
        assert script == {"ray-head": "/etc/raygan/stop_jobs.py", "ray-worker": "/etc/raygan/drain.sh"}[name]
        assert (INFRA / mounts[str(Path(script).parent)] / Path(script).name).is_file()
    readme = (INFRA / "README.md").read_text()
    assert "Docker with its compose plugin, 2.30 or newer" in readme


def test_the_hook_of_a_worker_tells_ray_which_node_goes_and_leaves_time_for_a_checkpoint(tmp_path):
    """With a `ray`, `sleep` and `hostname` that write down how they were called."""
    for name, says in {"ray": '"node_id": "abc"', "sleep": "", "hostname": "10.0.0.7"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >> {tmp_path}/calls\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    (command,) = [hook["command"] for hook in compose()["services"]["ray-worker"]["pre_stop"]]
    here = [word.replace("$$", "$").replace("/etc/raygan", str(INFRA / "kuberay/base/scripts")) for word in command]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_ADDRESS": "ray-head:6379"}
    subprocess.run(here, env=environment, check=True, timeout=30, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["hostname", "ray", "ray", "sleep"]
    assert "list nodes --address ray-head:6379 --filter node_ip=10.0.0.7" in calls[1]
    assert "drain-node --node-id abc" in calls[2]
    assert "--deadline-remaining-seconds 20" in calls[2]
    assert calls[3] == "sleep 20"


def test_rays_objects_fit_into_the_shared_memory():
    """Without the option Ray takes 30 % of the memory, and the disk where that is more than /dev/shm has."""
    shared = re.fullmatch(r"(\d+)gb", EXAMPLE["RAY_SHM_SIZE"])[1]
    assert int(shared) * 2**30 * 0.5 < int(EXAMPLE["RAY_OBJECT_STORE_BYTES"]) < int(shared) * 2**30 * 0.95
    for name in ("ray-head", "ray-worker"):
        service = compose()["services"][name]
        assert "--object-store-memory=${RAY_OBJECT_STORE_BYTES:-1600000000}" in service["command"].split()
        assert service["shm_size"] == "${RAY_SHM_SIZE:-2gb}"


def test_mlflow_is_started_as_measured():
    service = compose()["services"]["mlflow"]
    assert {"--workers=1", "--app-name=basic-auth", "--artifacts-destination=s3://mlflow/artifacts"} < set(service["command"])
    assert service["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert service["environment"]["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] == "40"
    assert service["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith(
        "postgresql+psycopg2:"
    )  # SQLAlchemy's default needs another driver
    assert "database_uri = postgresql+psycopg2:///mlflow_auth" in (INFRA / "mlflow/basic_auth.ini").read_text()
    assert "CREATE DATABASE mlflow_auth;" in (INFRA / "mlflow/databases.sql").read_text()


def test_secrets_sh_writes_each_password_once_for_its_owner_alone(tmp_path):
    for name in ("secrets.sh", ".env.example"):
        shutil.copy(INFRA / name, tmp_path)
    wrote = [subprocess.run(["sh", "secrets.sh"], cwd=tmp_path, capture_output=True, text=True) for _ in range(2)]
    assert [result.returncode for result in wrote] == [0, 1]
    assert "there already" in wrote[1].stderr
    lines = [line for line in (tmp_path / ".env").read_text().splitlines() if "=" in line and not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    secrets = [value for key, value in values.items() if SECRET.search(key)]
    assert len(set(secrets)) == len(secrets) == 7
    assert all(re.fullmatch(r"[0-9a-f]{48}", secret) for secret in secrets)
    assert {key: value for key, value in values.items() if EXAMPLE[key]} == {key: value for key, value in EXAMPLE.items() if value}
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == [".env", ".env.example", "secrets.sh"]
