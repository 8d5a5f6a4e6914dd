"""Reads infra/ for its tests: the pins, the builds of kustomize, and what is inside them."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
OVERLAYS = ("cpu-kind", "gpu", "spot")
PINNED = re.compile(r"^[\w./-]+:(?!latest$)[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?$")


@cache
def pins():
    """name -> version, from constraints.txt."""
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {name.lower(): version for name, version in lines}


@cache
def _build(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, whose kustomize builds the manifests, is not on this machine")
    result = subprocess.run(["kubectl", "kustomize", str(INFRA / folder)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def build(folder):
    """The manifests that `kubectl apply -k infra/FOLDER` would send."""
    return list(yaml.safe_load_all(_build(folder)))


def overlay(name):
    return build(f"kuberay/overlays/{name}")


def of_kind(manifests, kind):
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}


def pod_templates(manifests):
    """Where -> pod template (metadata and spec), for everything that makes pods."""
    found = {}
    for manifest in manifests:
        where, spec = f"{manifest['kind']} {manifest['metadata']['name']}", manifest.get("spec", {})
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            found[where] = spec["template"]
        cluster = spec if manifest["kind"] == "RayCluster" else spec.get("rayClusterSpec")
        if cluster:
            found[f"{where} head"] = cluster["headGroupSpec"]["template"]
            found |= {f"{where} {group['groupName']}": group["template"] for group in cluster["workerGroupSpecs"]}
    return found


def ray_clusters(manifests):
    """Name -> spec of the Ray clusters, those of jobs too."""
    specs = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "RayCluster"}
    jobs = {m["metadata"]["name"]: m["spec"].get("rayClusterSpec") for m in manifests if m["kind"] == "RayJob"}
    return specs | {name: spec for name, spec in jobs.items() if spec}


def compose():
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


def dashboard_queries():
    import json

    board = json.loads((INFRA / "compose/grafana/dashboards/raygan.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
