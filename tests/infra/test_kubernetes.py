"""Everything else that the overlays send to Kubernetes: selectors find pods, what is referred to exists, nothing is open or secret."""

import re

import pytest

from tests.infra.parts import INFRA, OVERLAYS, of_kind, overlay, pod_templates

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


def test_only_an_autoscaler_has_the_rights_of_a_service_account(manifests):
    for where, template in pod_templates(manifests).items():
        scales = where.startswith("Ray") and where.endswith(" head") and "autoscalerOptions" in str(manifests)
        assert template["spec"]["automountServiceAccountToken"] is scales, where


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
            assert volumes.keys() <= mounted, where


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
