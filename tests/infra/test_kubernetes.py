"""Everything else that the overlays send to Kubernetes: selectors find pods, what is referred to exists, nothing is open or secret."""

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import yaml

from tests.infra.parts import INFRA, OVERLAYS, of_kind, overlay, pod_templates, ray_clusters

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.autoscaler._private.kuberay.node_provider import IN_CLUSTER_CA_CERT_PATH, IN_CLUSTER_TOKEN_PATH

README = (INFRA / "README.md").read_text()
OURS = {"raygan", "mlflow", "mlflow-postgres"}


def matches(selector, labels):
    return selector.items() <= labels.items()


@pytest.fixture(params=OVERLAYS)
def manifests(request):
    return overlay(request.param)


def test_all_of_it_is_in_one_namespace_that_takes_only_restricted_pods(manifests):
    (namespace,) = of_kind(manifests, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"]["namespace"] for m in manifests if m["kind"] != "Namespace"} == {namespace["metadata"]["name"]}


def test_every_pod_is_what_a_restricted_namespace_takes(manifests):
    templates = pod_templates(manifests)
    assert len(templates) >= 4  # head, workers, MLflow, PostgreSQL
    for where, template in templates.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["runAsUser"] > 0, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
        assert not any("hostPath" in volume for volume in spec["volumes"]), where
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where
            assert "hostPort" not in str(container["ports"]), where


def test_only_an_autoscalers_container_has_the_rights_of_a_service_account(manifests):
    """Jobs run in the other container of its pod, and would have its rights if the pod had them."""
    account = Path(IN_CLUSTER_TOKEN_PATH).parent
    for where, template in pod_templates(manifests).items():
        assert template["spec"]["automountServiceAccountToken"] is False, where
        tokens = {volume["name"] for volume in template["spec"]["volumes"] if "projected" in volume}
        for container in template["spec"]["containers"]:
            assert not tokens & {mount["name"] for mount in container["volumeMounts"]}, where
            assert not [mount for mount in container["volumeMounts"] if "serviceaccount" in mount["mountPath"]], where
    for name, spec in ray_clusters(manifests).items():
        volumes = {volume["name"]: volume for volume in spec["headGroupSpec"]["template"]["spec"]["volumes"]}
        if not spec.get("enableInTreeAutoscaling"):
            assert not [volume for volume in volumes.values() if "projected" in volume], name
            continue
        (mount,) = spec["autoscalerOptions"]["volumeMounts"]
        assert mount == {"name": mount["name"], "mountPath": str(account), "readOnly": True}
        sources = {kind: source for entry in volumes[mount["name"]]["projected"]["sources"] for kind, source in entry.items()}
        assert sources.keys() == {"serviceAccountToken", "configMap", "downwardAPI"}
        assert sources["configMap"]["name"] == "kube-root-ca.crt"
        paths = [sources["serviceAccountToken"], *sources["configMap"]["items"], *sources["downwardAPI"]["items"]]
        assert [entry["path"] for entry in paths] == ["token", "ca.crt", "namespace"]
        assert {IN_CLUSTER_TOKEN_PATH, IN_CLUSTER_CA_CERT_PATH} == {f"{account}/token", f"{account}/ca.crt"}  # where Ray looks


def test_the_autoscaler_writes_its_logs_where_the_head_reads_them(manifests):
    """KubeRay gives the autoscaler's container the pod's volume `ray-logs` on /tmp/ray, and makes an empty one where there is none."""
    for spec in ray_clusters(manifests).values():
        template = spec["headGroupSpec"]["template"]["spec"]
        (mount,) = [mount for mount in template["containers"][0]["volumeMounts"] if mount["mountPath"] == "/tmp/ray"]
        assert mount["name"] == "ray-logs"
        assert {"name": "ray-logs", "emptyDir": {}} in template["volumes"]


def test_every_container_has_limits_and_says_when_it_is_well(manifests):
    for where, template in pod_templates(manifests).items():
        for container in template["spec"]["containers"]:
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"].get(
                "memory" if where.startswith("Ray") else "", container["resources"]["limits"]["memory"]
            ), where
            named = {port["name"] for port in container["ports"]}
            for probe in ("readinessProbe", "livenessProbe"):
                if "httpGet" in container[probe]:
                    assert container[probe]["httpGet"]["port"] in named, where


def test_selectors_find_pods_and_services_name_their_ports(manifests):
    labels = [template["metadata"]["labels"] for template in pod_templates(manifests).values()]
    for name, policy in of_kind(manifests, "NetworkPolicy").items():
        assert any(matches(policy["spec"]["podSelector"]["matchLabels"], own) for own in labels), name
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            for peer in rule.get("from", []) + rule.get("to", []):
                if "podSelector" in peer:
                    assert any(matches(peer["podSelector"]["matchLabels"], own) for own in labels), name
    for name, service in of_kind(manifests, "Service").items():
        (found,) = [t for t in pod_templates(manifests).values() if matches(service["spec"]["selector"], t["metadata"]["labels"])]
        offered = {port["name"]: port["containerPort"] for c in found["spec"]["containers"] for port in c["ports"]}
        for port in service["spec"]["ports"]:
            assert offered[port["targetPort"]] == port["port"], name
    for kind in ("Deployment", "StatefulSet"):
        for name, owner in of_kind(manifests, kind).items():
            assert matches(owner["spec"]["selector"]["matchLabels"], owner["spec"]["template"]["metadata"]["labels"]), name


def test_every_pod_is_behind_a_policy_that_lets_only_named_ones_in(manifests):
    policies = of_kind(manifests, "NetworkPolicy").values()
    for where, template in pod_templates(manifests).items():
        over = [p for p in policies if matches(p["spec"]["podSelector"]["matchLabels"], template["metadata"]["labels"])]
        assert over, where
        for policy in over:
            assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            assert all(rule.get("from") for rule in policy["spec"].get("ingress", [])), where


def test_volumes_and_what_they_are_made_of_are_there(manifests):
    claims, maps = of_kind(manifests, "PersistentVolumeClaim"), of_kind(manifests, "ConfigMap")
    templates = {m["metadata"]["name"]: m["spec"].get("volumeClaimTemplates", []) for m in manifests if m["kind"] == "StatefulSet"}
    autoscalers = {
        f"{m['kind']} {m['metadata']['name']} head": {mount["name"] for mount in spec.get("autoscalerOptions", {}).get("volumeMounts", [])}
        for m in manifests
        if (spec := m["spec"] if m["kind"] == "RayCluster" else m.get("spec", {}).get("rayClusterSpec"))
    }
    for where, template in pod_templates(manifests).items():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        own = {claim["metadata"]["name"] for claim in templates.get(where.partition(" ")[2], [])}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, where
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, where
        for container in template["spec"]["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= volumes.keys() | own, where
            assert volumes.keys() - autoscalers.get(where, set()) <= mounted, where


def test_secrets_come_from_the_readmes_commands_and_from_nowhere_else(manifests):
    assert not of_kind(manifests, "Secret")
    made = {}
    for command in README.split("secret generic ")[1:]:
        made[command.split()[0]] = set(re.findall(r"--from-literal=([\w-]+)=", command.split("&&")[0].split("\n\n")[0]))
    asked = {}
    for where, template in pod_templates(manifests).items():
        for container in template["spec"]["containers"]:
            for entry in container["env"]:
                if re.search(r"PASSWORD|TOKEN|SECRET|USERNAME", entry["name"]):
                    reference = entry["valueFrom"]["secretKeyRef"]
                    asked.setdefault(reference["name"], set()).add(reference["key"])
                    assert reference["key"] in made[reference["name"]], where
    assert made["raygan-ray-token"] == {"auth_token"}
    assert made["raygan-mlflow"] == asked["raygan-mlflow"]


def test_addresses_name_services_of_the_overlay(manifests):
    services = of_kind(manifests, "Service")
    for template in pod_templates(manifests).values():
        for container in template["spec"]["containers"]:
            values = {entry["name"]: entry.get("value") for entry in container["env"]}
            if uri := values.get("MLFLOW_TRACKING_URI"):
                host, port = re.match(r"http://([\w-]+):(\d+)$", uri).groups()
                assert int(port) in [entry["port"] for entry in services[host]["spec"]["ports"]]
            if host := values.get("PGHOST"):
                assert host in services


@pytest.mark.parametrize("name", ["gpu", "spot"])
def test_the_readmes_overlay_takes_every_image_of_ours_from_the_registry_and_its_commands_push_them_all(name, tmp_path):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, whose kustomize builds the manifests, is not on this machine")
    (words,) = re.findall(r"kustomize edit set image (.*?) && ", README)
    images = [word.partition("=")[::2] for word in words.split()]
    changes = [{"name": old, "newName": new.rpartition(":")[0], "newTag": new.rpartition(":")[2]} for old, new in images]
    base = os.path.relpath(INFRA / "kuberay/overlays" / name, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "images": changes}))
    built = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    pods = pod_templates(list(yaml.safe_load_all(built.stdout)))
    used = {container["image"] for template in pods.values() for container in template["spec"]["containers"]}
    ours = {image for image in used if "raygan" in image}
    assert ours == {new for _, new in images}
    assert used - ours == {"postgres:17.10-bookworm"}
    for image in ours:
        (target,) = re.findall(rf"--target (\w+) -t {re.escape(image)} \. && docker push {re.escape(image)}$", README, re.MULTILINE)
        assert target == ("mlflow" if "mlflow" in image else "gpu")


def test_prometheus_asks_mlflow_by_a_name_that_it_answers(manifests):
    """Its server refuses other Host headers, such as the address of a pod."""
    (target,) = re.findall(r'static_configs: \[\{targets: \["([^"]+)"\]\}\]', README)
    (allowed,) = [
        arg for t in pod_templates(manifests).values() for c in t["spec"]["containers"] for arg in c.get("args", []) if "hosts=" in arg
    ]
    assert target in allowed.partition("=")[2].split(",")
    host, port = target.split(":")
    (service,) = [s for s in of_kind(manifests, "Service").values() if s["metadata"]["name"] == "mlflow"]
    assert host == f"mlflow.{service['metadata']['namespace']}.svc.cluster.local"
    assert int(port) in [entry["port"] for entry in service["spec"]["ports"]]
