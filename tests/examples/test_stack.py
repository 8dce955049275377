"""The files of examples/stack fit together and satisfy the tools that can be had without docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.webhook_service.service import parse_arguments
from tests.support import ROOT, missing

pytestmark = pytest.mark.once

STACK = ROOT / "examples" / "stack"
EXPORTED_LABEL = "trace_id"  # of prodpool's exemplars


def read(name: str) -> Any:
    """Return what a YAML file of the stack says."""
    return yaml.safe_load((STACK / name).read_text())


def mounts(service: str) -> dict[str, Path]:
    """Return what a container sees: its paths, and the files of the repository behind them."""
    found = {}
    for volume in read("compose.yaml")["services"][service]["volumes"]:
        here, there, mode = volume.split(":")
        assert mode == "ro"
        found[there] = (STACK / here).resolve()
    return found


def run(program: str, package: str, *args: str) -> None:
    """Run a checker, which must be content."""
    path = shutil.which(program) or missing(program, f"run: apt-get install {package}")
    done = subprocess.run([path, *args], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_mounted_file_is_there() -> None:
    """What the compose file mounts is in the repository, and each service has a pinned image."""
    services = read("compose.yaml")["services"]
    assert set(services) == {"prometheus", "alertmanager", "grafana", "tempo"}
    for name, service in services.items():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        assert [path for path in mounts(name).values() if not path.exists()] == []
        for word in service.get("command", []):
            file = re.fullmatch(r"--?config\.file=(.*)", word)
            assert file is None or file[1] in mounts(name)


def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    """Prometheus finds its rules, and Alertmanager where it listens."""
    seen = mounts("prometheus")
    config = seen["/etc/prometheus/prometheus.yml"].read_text()
    rules = tmp_path / "rules"
    rules.mkdir()
    for there, here in seen.items():
        if there.startswith("/etc/prometheus/rules/"):
            shutil.copy(here, rules / Path(there).name)
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus/rules", str(rules)))
    assert list(rules.iterdir())
    run("promtool", "prometheus", "check", "config", str(tmp_path / "prometheus.yml"))
    (target,) = yaml.safe_load(config)["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert f"--web.listen-address={target}" in read("compose.yaml")["services"]["alertmanager"]["command"]


def test_amtool_takes_the_configuration() -> None:
    """Alertmanager's file is the exported one."""
    file = mounts("alertmanager")["/etc/alertmanager/alertmanager.yml"]
    assert file == ROOT / "alerts" / "alertmanager.yml"
    run("amtool", "prometheus-alertmanager", "check-config", str(file))


def test_a_point_leads_to_its_trace() -> None:
    """The Prometheus data source sends the label that exemplars have to a data source that there is."""
    sources = {one["uid"]: one for one in read("grafana/datasources/datasources.yaml")["datasources"]}
    (link,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == EXPORTED_LABEL
    assert f'Exemplar({{"{EXPORTED_LABEL}"' in exemplars()
    assert sources[link["datasourceUid"]]["type"] == "tempo"
    assert "--enable-feature=exemplar-storage" in read("compose.yaml")["services"]["prometheus"]["command"]
    ports = {uid: int(one["url"].rpartition(":")[2]) for uid, one in sources.items()}
    assert ports["tempo"] == read("tempo.yaml")["server"]["http_listen_port"]
    assert f"--web.listen-address=127.0.0.1:{ports['prometheus']}" in str(read("compose.yaml"))


def exemplars() -> str:
    """Return the code that makes exemplars."""
    import prodpool.telemetry.exporters.prometheus as module

    assert module.__file__ is not None
    return Path(module.__file__).read_text()


def test_grafana_is_given_every_dashboard() -> None:
    """The provider looks where the dashboards are mounted, and none is left out."""
    (provider,) = read("grafana/dashboards/prodpool.yaml")["providers"]
    folder = provider["options"]["path"]
    given = {here for there, here in mounts("grafana").items() if there.startswith(f"{folder}/")}
    assert given == set((ROOT / "dashboards").glob("*.json"))
    assert all(json.loads(path.read_text())["uid"] for path in given)


@pytest.mark.parametrize(
    ("name", "kind", "endpoints"),
    [("podmonitor", "PodMonitor", "podMetricsEndpoints"), ("servicemonitor", "ServiceMonitor", "endpoints")],
)
def test_what_the_operator_needs(name: str, kind: str, endpoints: str) -> None:
    """The monitors select by a label, scrape a named port, and take the job's name from a label."""
    said = read(f"kubernetes/{name}.yaml")
    assert (said["apiVersion"], said["kind"]) == ("monitoring.coreos.com/v1", kind)
    (endpoint,) = said["spec"][endpoints]
    assert endpoint["port"] == "metrics"
    assert said["spec"]["jobLabel"] in said["spec"]["selector"]["matchLabels"]


def test_the_readme_says_what_is_so() -> None:
    """The command for the service parses, its port is the one that is scraped, and links lead on."""
    text = (STACK / "README.md").read_text()
    command = re.search(r"python -m examples\.webhook_service\.service (.*)", text)
    assert command is not None
    options = parse_arguments(command[1].split())
    (target,) = read("prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"127.0.0.1:{options.metrics_port}"
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (STACK / link).exists()] == []
