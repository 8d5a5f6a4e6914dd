"""The cluster launcher's file, by Ray's own schema, and what Ray would make of it at AWS (moto's)."""

import copy
import json
import re
import subprocess
import warnings

import pytest
import yaml

from tests.infra.parts import INFRA, ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import DEFAULT_AMI, bootstrap_aws
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


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """EC2 of nobody, in the launcher's region; Ray's keys go into an empty home."""
    for name, value in {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield boto3.client("ec2", LAUNCHER["provider"]["region"])


def users_group(aws):
    """The security group that infra/README.md makes: SSH from one address, everything from itself."""
    (vpc,) = aws.describe_vpcs()["Vpcs"]
    group = aws.create_security_group(GroupName="raygan", Description="raygan", VpcId=vpc["VpcId"])["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    aws.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh, inside])
    return group


def launched(aws, config):
    """What Ray makes of the file, and who may reach which port of the machines: (protocol, port, addresses)."""
    made = bootstrap_aws(prepare_config(config))
    groups = {group for kind in made["available_node_types"].values() for group in kind["node_config"]["SecurityGroupIds"]}
    rules = [rule for group in aws.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"] for rule in group["IpPermissions"]]
    return made, {(r["IpProtocol"], r.get("FromPort"), span["CidrIp"]) for r in rules for span in r["IpRanges"]}


def test_ray_opens_nothing_beside_what_the_users_group_lets_in(aws):
    group, config = users_group(aws), copy.deepcopy(LAUNCHER)
    for kind in config["available_node_types"].values():
        assert [re.sub("0{17}", "", name) for name in kind["node_config"]["SecurityGroupIds"]] == ["sg-"]
        kind["node_config"]["SecurityGroupIds"] = [group]
    made, open_to = launched(aws, config)
    assert open_to == {("tcp", 22, "203.0.113.7/32")}
    assert {entry["GroupName"] for entry in aws.describe_security_groups()["SecurityGroups"]} == {"default", "raygan"}  # none of Ray's
    kinds = {name: kind["node_config"]["IamInstanceProfile"] for name, kind in made["available_node_types"].items()}
    assert kinds == {"head": {"Name": "raygan-head"}, "spot-gpu": {"Name": "raygan-worker"}}
    assert made["head_node"] == {}  # Ray has made no profile of its own, which could not pass the workers' role


def test_a_group_of_rays_own_is_open_to_everybody_whatever_rules_it_is_given(aws):
    config = copy.deepcopy(LAUNCHER)
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    config["provider"]["security_group"] = {"GroupName": "raygan", "IpPermissions": [ssh]}
    for kind in config["available_node_types"].values():
        del kind["node_config"]["SecurityGroupIds"]
    assert ("tcp", 22, "0.0.0.0/0") in launched(aws, config)[1]


def test_what_is_the_users_to_set_is_marked_and_explained():
    text, readme = (INFRA / "ray-cluster/aws.yaml").read_text(), (INFRA / "README.md").read_text()
    marked = [line.split(":")[0].strip() for line in text.splitlines() if "  # <-" in line]
    assert sorted(marked) == ["IamInstanceProfile"] * 2 + ["ImageId"] * 2 + ["SecurityGroupIds"] * 2
    assert not [ami for ami in DEFAULT_AMI.values() if ami in text]  # Ubuntu 18.04, whose glibc is older than the wheels of PyTorch
    group = [line for line in readme.splitlines() if "authorize-security-group-ingress" in line]
    assert len(group) == 2
    assert "--protocol tcp --port 22 --cidr YOUR_ADDRESS/32" in group[0]
    assert '--protocol all --source-group "$GROUP"' in group[1]
    assert "base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id" in readme


def test_the_head_may_launch_workers_and_pass_them_their_role_and_workers_reach_the_bucket_alone():
    policies = {
        name: json.loads((INFRA / f"ray-cluster/{name}.json").read_text())["Statement"] for name in ("raygan-head", "raygan-worker")
    }
    allowed = {
        name: {a: s["Resource"] for s in p for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])}
        for name, p in policies.items()
    }
    bucket = {"s3:ListBucket": "arn:aws:s3:::BUCKET"} | {f"s3:{verb}Object": "arn:aws:s3:::BUCKET/*" for verb in ("Get", "Put", "Delete")}
    assert allowed["raygan-worker"] == bucket
    instances = {"DescribeInstances", "RunInstances", "TerminateInstances", "CreateTags"}
    assert {f"ec2:{verb}" for verb in instances} <= allowed["raygan-head"].keys()
    assert allowed["raygan-head"].items() >= bucket.items()
    assert allowed["raygan-head"]["iam:PassRole"] == "arn:aws:iam::*:role/raygan-worker"


def test_the_dashboard_stays_inside_and_everybody_has_the_token():
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


@pytest.mark.parametrize("script", ["secrets.sh", "ray-cluster/spot-watch.sh", "kuberay/base/scripts/drain.sh"])
def test_scripts_are_plain_sh(script):
    checked = subprocess.run(["sh", "-n", str(INFRA / script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert (INFRA / script).read_text().startswith("#!/bin/sh\n")


def test_secrets_and_what_is_large_stay_here():
    left = LAUNCHER["rsync_exclude"]
    assert {".git", ".venv", "runs", "mlflow.db", "**/.env"} <= set(left)
    assert (ROOT / "constraints.txt").exists()
