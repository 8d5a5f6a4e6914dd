"""RayClusters and RayJobs against a schema of ray.io/v1, and what raygan needs of them."""

import copy
import os
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from gan_core.overrides import merge, parse
from gan_core.overrides import validate as validate_config
from pipelines import train
from pipelines.config import JobConfig, load_named
from pipelines.sweeps import plan as plans
from tests.infra.parts import INFRA, OVERLAYS, of_kind, overlay, pod_templates, ray_clusters

REDUCED = yaml.safe_load(Path(__file__).with_name("ray_io_v1.yaml").read_text())
GRACE_SECONDS, STOP_SECONDS = 90, "60"


def from_crd(schema):
    """A JSON schema of Kubernetes' openAPIV3Schema: strict about names, tolerant of formats."""
    if isinstance(schema, list):
        return [from_crd(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: from_crd(value) for key, value in schema.items() if key != "format" and not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields", False))
    return made


def full_schemas():
    """Kind -> schema, of the CRD files in $RAYGAN_KUBERAY_CRDS, a file or a folder; empty where that is not set."""
    if not (place := os.environ.get("RAYGAN_KUBERAY_CRDS")):
        return {}
    files = sorted(Path(place).glob("*.yaml")) if Path(place).is_dir() else [Path(place)]
    crds = [crd for file in files for crd in yaml.safe_load_all(file.read_text()) if crd and crd["kind"] == "CustomResourceDefinition"]
    found = {}
    for crd in crds:
        for version in crd["spec"]["versions"]:
            if version["name"] == "v1":
                schema = from_crd(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                found[crd["spec"]["names"]["kind"]] = schema
    return found


def validate(manifest):
    jsonschema.validate(manifest, full_schemas().get(manifest["kind"], REDUCED))


def ray_manifests(name):
    return [manifest for manifest in overlay(name) if manifest["apiVersion"].startswith("ray.io")]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_manifests_of_an_overlay_follow_the_schema(name):
    found = ray_manifests(name)
    assert {manifest["kind"] for manifest in found} == {"cpu-kind": {"RayCluster", "RayJob"}, "gpu": {"RayCluster"}, "spot": {"RayJob"}}[
        name
    ]
    for manifest in found:
        validate(manifest)


def spoiled():
    """Descriptions and changes of a RayCluster that the schema must not let pass."""

    def change(*path, to):
        def spoil(manifest):
            *way, last = path
            for step in way:
                manifest = manifest[step]
            if to is None:
                del manifest[last]
            else:
                manifest[last] = to

        return spoil

    head, worker = ("spec", "headGroupSpec"), ("spec", "workerGroupSpecs", 0)
    container = (*worker, "template", "spec", "containers", 0)
    return {
        "a misspelt field": change(*worker, "minReplica", to=1),
        "a number among rayStartParams": change(*head, "rayStartParams", "num-cpus", to=0),
        "a group without a name": change(*worker, "groupName", to=None),
        "a head without a template": change(*head, "template", to=None),
        "replicas in words": change(*worker, "replicas", to="2"),
        "a container without an image": change(*container, "image", to=None),
        "a misspelt probe": change(*container, "readynessProbe", to={}),
        "a port as text": change(*container, "ports", 0, "containerPort", to="52365"),
        "an unknown mode of authentication": change("spec", "authOptions", "mode", to="tokens"),
        "an environment value that is a number": change(*container, "env", 0, "value", to=0),
        "a kind of volume that does not exist": change(*worker, "template", "spec", "volumes", 0, to={"name": "storage", "pvc": {}}),
    }


@pytest.mark.parametrize("what", spoiled())
def test_what_is_wrong_is_found(what):
    manifest = copy.deepcopy(of_kind(ray_manifests("cpu-kind"), "RayCluster")["raygan"])
    validate(manifest)
    spoiled()[what](manifest)
    with pytest.raises(jsonschema.ValidationError):
        validate(manifest)


@pytest.mark.parametrize("change", [{"backoffLimit": 3}, {"shutdownAfterJobFinishes": True}, {"rayClusterSpec": {}}, {"entrypont": "x"}])
def test_a_job_on_a_standing_cluster_may_not_ask_for_what_only_its_own_has(change):
    if full_schemas():
        pytest.skip("KubeRay's operator checks this, its schema does not")
    job = copy.deepcopy(of_kind(ray_manifests("cpu-kind"), "RayJob")["raygan-sweep"])
    job["spec"] |= change
    with pytest.raises(jsonschema.ValidationError):
        validate(job)


def test_a_full_definition_is_made_strict_and_lets_numbers_be_text_where_kubernetes_does():
    cpu = {"type": "integer", "format": "int32", "x-kubernetes-int-or-string": True}
    schema = from_crd({"type": "object", "properties": {"cpu": cpu, "free": {"type": "object"}}})
    jsonschema.validate({"cpu": "1", "free": {"any": 1}}, schema)
    jsonschema.validate({"cpu": 1}, schema)
    for wrong in ({"cpus": 1}, {"cpu": 1.5}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("name", OVERLAYS)
def test_clusters_ask_for_a_token_and_leave_time_for_a_checkpoint(name):
    manifests = overlay(name)
    for spec in ray_clusters(manifests).values():
        assert spec["authOptions"] == {"mode": "token", "secretName": "raygan-ray-token"}
        assert spec["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for where, template in pod_templates(manifests).items():
        if not where.startswith("Ray"):
            continue
        (container,) = template["spec"]["containers"]
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == STOP_SECONDS
        assert template["spec"]["terminationGracePeriodSeconds"] == GRACE_SECONDS
        script = Path(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert script.name in of_kind(manifests, "ConfigMap")["raygan-scripts"]["data"]
        assert str(script.parent) in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_drains_and_stops_end_before_kubernetes_kills():
    drain = (INFRA / "kuberay/base/scripts/drain.sh").read_text()
    assert int(re.search(r"RAYGAN_DRAIN_SECONDS:-(\d+)", drain)[1]) == int(STOP_SECONDS) < GRACE_SECONDS


def test_the_spot_overlay_keeps_the_driver_where_nothing_is_taken_away_and_tries_again():
    (job,) = of_kind(overlay("spot"), "RayJob").values()
    assert job["spec"]["backoffLimit"] > 0
    assert "--once " in job["spec"]["entrypoint"]
    assert "ray.min_workers=" in job["spec"]["entrypoint"]
    spec = job["spec"]["rayClusterSpec"]
    head, (group,) = spec["headGroupSpec"]["template"], spec["workerGroupSpecs"]
    (term,) = head["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["on-demand"]
    assert group["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert {"key": "karpenter.sh/capacity-type", "operator": "Equal", "value": "spot", "effect": "NoSchedule"} in (
        group["template"]["spec"]["tolerations"]
    )
    assert group["minReplicas"] == 1
    assert spec["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("name", ["gpu", "spot"])
def test_gpu_workers_have_the_gpu_image_and_a_gpu(name):
    for where, template in pod_templates(overlay(name)).items():
        if where.startswith("Ray"):
            (container,) = template["spec"]["containers"]
            assert container["image"].endswith("-gpu")
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (not where.endswith(" head"))


def test_the_sweep_on_kind_is_one_that_raygan_plans():
    (job,) = of_kind(overlay("cpu-kind"), "RayJob").values()
    program, command, config, space, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("raygan", "sweep")
    plan = plans.make(config, space, dict(parse(word) for word in words))
    assert plan.config.job().ray.storage_path == "/var/lib/raygan/runs"


def test_the_training_on_spot_nodes_is_one_that_raygan_takes():
    (job,) = of_kind(overlay("spot"), "RayJob").values()
    program, command, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("raygan", "train")
    options = train.parser().parse_intermixed_args(words)
    assert options.once == "mnist-spot"
    name, *overrides = options.words
    config = validate_config(merge(load_named(name), dict(parse(word) for word in overrides)), JobConfig)
    assert (config.ray.num_workers, config.ray.min_workers, config.ray.use_gpu) == (4, 1, True)
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (config.ray.min_workers, config.ray.num_workers) == (group["minReplicas"], group["maxReplicas"])
