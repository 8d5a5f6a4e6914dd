"""The cluster launcher's file, by Ray's own schema, and that it opens nothing but SSH."""

import copy
import subprocess
import warnings

import pytest
import yaml

from tests.infra.parts import INFRA, ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCHER = yaml.safe_load((INFRA / "ray-cluster/aws.yaml").read_text())


def test_ray_takes_it():
    validate_config(prepare_config(copy.deepcopy(LAUNCHER)))


@pytest.mark.parametrize(
    "change", [{"max_worker": 3}, {"head_start_ray_commands": "ray start"}, {"available_node_types": {"a": {"node": {}}}}]
)
def test_what_is_wrong_is_found(change):
    with pytest.raises(Exception, match="validat|unexpected|required|not of type|valid"):
        validate_config(prepare_config(copy.deepcopy(LAUNCHER) | change))


def test_nothing_but_ssh_from_one_address_is_open_and_the_dashboard_stays_inside():
    (rule,) = LAUNCHER["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) == (22, 22, "tcp")
    assert all(entry["CidrIp"].endswith("/32") for entry in rule["IpRanges"])
    head = " ".join(LAUNCHER["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "RAY_JOB_STOP_WAIT_TIME_S=60" in head
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in " ".join(LAUNCHER[commands])
    assert LAUNCHER["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_workers_are_spot_instances_that_are_watched_and_the_head_is_not():
    head, workers = LAUNCHER["available_node_types"]["head"], LAUNCHER["available_node_types"]["spot-gpu"]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for kind in (head, workers):
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])
    assert "infra/ray-cluster/spot-watch.sh" in " ".join(LAUNCHER["worker_start_ray_commands"])


@pytest.mark.parametrize(
    "script", ["secrets.sh", "ray-cluster/spot-watch.sh", "kuberay/base/scripts/drain.sh", "kuberay/base/scripts/stop-jobs.sh"]
)
def test_scripts_are_plain_sh(script):
    checked = subprocess.run(["sh", "-n", str(INFRA / script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert (INFRA / script).read_text().startswith("#!/bin/sh\n")


def test_secrets_and_what_is_large_stay_here():
    left = LAUNCHER["rsync_exclude"]
    assert {".git", ".venv", "runs", "mlflow.db", "**/.env"} <= set(left)
    assert (ROOT / "constraints.txt").exists()
