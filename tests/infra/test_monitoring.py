"""What Prometheus collects and Grafana draws: the names are those that raygan and Ray export."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from pipelines import gauges
from tests.infra.parts import INFRA, compose, dashboard_queries

BOARD = json.loads((INFRA / "compose/grafana/dashboards/raygan.json").read_text())
PROMETHEUS = yaml.safe_load((INFRA / "compose/prometheus.yaml").read_text())
RULES = yaml.safe_load((INFRA / "compose/alerts.yaml").read_text())["groups"][0]["rules"]
# Of Ray 2.60's nodes and MLflow 3.17's server, as seen at their endpoints; GPU metrics as Ray's own dashboards name them.
OTHERS = {
    "ray_node_gpus_utilization": {"instance", "GpuIndex", "GpuDeviceName"},
    "ray_node_gram_used": {"instance", "GpuIndex", "GpuDeviceName"},
    "ray_node_gram_available": {"instance", "GpuIndex", "GpuDeviceName"},
    "ray_node_cpu_utilization": {"instance"},
    "ray_node_mem_used": {"instance"},
    "ray_node_mem_total": {"instance"},
    "ray_node_disk_utilization_percentage": {"instance"},
    "ray_node_network_receive_speed": {"instance"},
    "ray_node_network_send_speed": {"instance"},
    "ray_resources": {"instance", "Name", "State"},
    "ray_cluster_active_nodes": {"node_type"},
    "ray_actors": {"instance", "State", "Source", "Name"},
    "ray_train_controller_state": {"ray_train_run_name", "ray_train_run_id", "ray_train_controller_state"},
    "ray_train_report_total_blocked_time_s": {"ray_train_run_name", "ray_train_worker_world_rank"},
    "ray_object_store_memory": {"instance", "Location"},
    "mlflow_http_request_total": {"method", "status"},
    "mlflow_http_request_duration_seconds_bucket": {"method", "status", "le"},
    "up": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate"},
}
FUNCTIONS = {"sum", "by", "rate", "changes", "histogram_quantile", "label_values"}


def exported():
    """Metric -> its labels, with what raygan exports."""
    plain = {f"ray_{name}": set(gauges.RUN) for name in gauges.PLAIN}
    families = {f"ray_{name}": {*gauges.RUN, label} for name, (_, label, _) in gauges.FAMILIES.items()}
    return {**OTHERS, **plain, **families}


def require_known(query):
    """All names in a query are metrics, or labels of the metrics in it."""
    bare = re.sub(r'"[^"]*"', '""', query)
    metrics = [name for name in re.findall(r"[A-Za-z_]\w*", bare) if name in exported()]
    assert metrics, query
    labels = set.union(*(exported()[name] for name in metrics))
    rest = set(re.findall(r"(?<![\w\[])[A-Za-z_]\w*", bare)) - set(metrics) - FUNCTIONS
    assert rest <= labels, f"{query}: {rest - labels}"
    return labels


def test_the_dashboard_asks_for_what_is_exported_and_names_series_by_labels_that_they_have():
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            labels = require_known(target["expr"])
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]
    for variable in BOARD["templating"]["list"]:
        require_known(variable["definition"])


def test_alerts_ask_for_what_is_exported():
    for rule in RULES:
        labels = require_known(rule["expr"])
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels, rule["alert"]


@pytest.mark.parametrize("query", ["ray_raygan_loss", 'ray_raygan_quality{metric="kid_pixels"}', "sum by (run) (ray_raygan_images_seen)"])
def test_a_query_for_what_is_not_exported_is_found(query):
    with pytest.raises(AssertionError):
        require_known(query)


def test_the_dashboard_shows_everything_that_raygan_exports_and_what_machines_do():
    asked = " ".join(dashboard_queries())
    for name in [*gauges.PLAIN, *gauges.FAMILIES]:
        assert f"ray_{name}" in asked, name
    for name in OTHERS.keys() - {"up", "ALERTS"}:
        assert name in asked, name


def test_the_dashboard_is_one_that_grafana_takes():
    assert BOARD["uid"] == "raygan"
    assert BOARD["schemaVersion"] >= 39
    identifiers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers) == 24
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".") or panel["description"].endswith("..."), panel["title"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}


def test_grafana_finds_the_dashboard_and_its_source():
    grafana, provisioning = compose()["services"]["grafana"], INFRA / "compose/grafana/provisioning"
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/raygan.yaml").read_text())["providers"]
    assert (source["uid"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert provider["options"]["path"] == mounts["./compose/grafana/dashboards"] == "/etc/grafana/dashboards"
    assert mounts["./compose/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == "/etc/grafana/dashboards/raygan.json"


def test_prometheus_reads_rays_list_of_nodes_where_the_head_writes_it():
    services = compose()["services"]
    (ray,) = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "ray"]
    (place,) = ray["file_sd_configs"][0]["files"]
    assert place == "/tmp/ray/prom_metrics_service_discovery.json"
    assert "ray:/tmp/ray" in services["ray-head"]["volumes"]
    assert "ray:/tmp/ray:ro" in services["prometheus"]["volumes"]
    mounts = dict(volume.split(":")[:2] for volume in services["prometheus"]["volumes"])
    for file, where in (
        ("prometheus.yaml", services["prometheus"]["command"][0].partition("=")[2]),
        ("alerts.yaml", PROMETHEUS["rule_files"][0]),
    ):
        assert mounts[f"./compose/{file}"] == where
    (mlflow,) = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "mlflow"]
    assert mlflow["basic_auth"]["password_file"] == f"/run/secrets/{services['prometheus']['secrets'][0]}"
    assert mlflow["basic_auth"]["username"] == services["mlflow"]["environment"]["MLFLOW_AUTH_ADMIN_USERNAME"]
    assert "mlflow:5000" in mlflow["static_configs"][0]["targets"]


def test_promtool_takes_the_configuration_the_rules_and_every_query(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool, which comes with Prometheus, is not on this machine")
    queries = [re.sub(r"\$\w+", "any", query) for query in dashboard_queries()]
    rules = {"groups": [{"name": "panels", "rules": [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries)]}]}
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump(rules))
    for words in (
        ["config", "--syntax-only", str(INFRA / "compose/prometheus.yaml")],
        ["rules", str(INFRA / "compose/alerts.yaml")],
        ["rules", str(tmp_path / "panels.yaml")],
    ):
        result = subprocess.run(["promtool", "check", *words], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr


def test_a_run_is_silent_after_half_an_hour_and_not_before(tmp_path):
    """One that has moved until minute 20, one that begins at minute 60 and never moves, one that reports every 20 minutes."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool, which comes with Prometheus, is not on this machine")
    series = {"stops": "0+100x20 2000x100", "new": "_x60 0x60", "slow": " ".join(f"{n}x19" for n in range(6))}
    input_series = [{"series": f'ray_raygan_images_seen{{run_name="{name}"}}', "values": values} for name, values in series.items()]

    def ringing(minute, *names):
        summary = "run {} has not moved for 30 minutes: finished in a worker that is still there, or hanging"
        alerts = [{"exp_labels": {"run_name": name}, "exp_annotations": {"summary": summary.format(name)}} for name in names]
        return {"eval_time": f"{minute}m", "alertname": "RunSilent", "exp_alerts": alerts}

    times = [
        ringing(10),
        ringing(48),
        ringing(58, "stops"),
        ringing(88, "stops"),
        ringing(95, "stops", "new"),
        ringing(119, "stops", "new"),
    ]
    rules = [str(INFRA / "compose/alerts.yaml")]
    tests = [{"interval": "1m", "input_series": input_series, "alert_rule_test": times}]
    (tmp_path / "silent.yaml").write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": tests}))
    result = subprocess.run(["promtool", "test", "rules", str(tmp_path / "silent.yaml")], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
