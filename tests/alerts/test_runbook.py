"""The runbook has a page for every alert, in one form, and names nothing that does not exist."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import prodpool
from prodpool.cli import main
from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.model import Alert, render
from prodpool.monitoring.runbook import runbook
from prodpool.monitoring.thresholds import AlertThresholds
from tests.support import ROOT, missing

pytestmark = pytest.mark.once

PAGE = (ROOT / "runbook.md").read_text()
PARTS = ("Meaning.", "Impact.", "Confirm.", "Likely causes", "Mitigate now.", "Fix.", "Do not", "Escalate")
INLINE = re.compile(r"`([^`\n]+)`")
# Options that the verbs of kubectl in the runbook have, for where there is no kubectl to ask.
FILLED_IN = {"POD": "pod-1", "SERVICE": "service", "PID": "1", "POOL": "pool"}


def sections() -> dict[str, str]:
    """Return the page of each alert."""
    text = PAGE.split("\n## Common questions\n")[0]
    _, *rest = re.split(r"^### (Pool\w+)$", text, flags=re.MULTILINE)
    return dict(zip(rest[::2], rest[1::2], strict=True))


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    """The pages are those of the alerts, in the order of the rule file."""
    assert list(sections()) == [alert.name for alert in ALERTS]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_a_page_has_every_part_in_order(alert: Alert) -> None:
    """Meaning, impact, confirmation, causes with a sign each, mitigation, fix, warning, escalation."""
    page = sections()[alert.name]
    places = [page.find(f"**{part}") for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)
    assert 2 <= page.count("```promql") <= 3
    assert f"```promql\n{render(alert.expr, AlertThresholds())}\n```" in page
    causes = page[places[3] : places[4]]
    numbered = re.findall(r"^\d\. .*$", causes, re.MULTILINE)
    assert numbered
    by_page = re.compile(r"(go to )?\[Pool\w+\]\(#\w+\)\.?$")  # the signs are on the page that it leads to
    assert [line for line in numbered if "ign" not in line and not by_page.search(line)] == []
    for word in ("Expect ", "Panel: ", r"(Log|Log and span)\b", r"[Ss]pan\b"):
        assert re.search(word, page), f"{word} is missing"


def test_thresholds_are_those_of_the_rules() -> None:
    """No number of a threshold is written into the template: with other settings, every one is another."""
    others = AlertThresholds(
        slo=0.97, slo_min_tasks=4321, dwell=10, oldest_queued=11, duration=2.5, queue_depth=4567,
        queue_fill=0.61, utilisation=0.62, panic_rate=0.63, drop_rate=64, stall=1140, drain=660,
        namespace_label="cluster", scheduling_delay=0.07, descriptors=0.57,
    )  # fmt: skip
    page = runbook(others)
    for alert in ALERTS:
        assert f"```promql\n{render(alert.expr, others)}\n```" in page
    for ours, theirs in (
        ("99.5 %", "97 %"),
        ("fewer than 100 tasks", "fewer than 4321 tasks"),
        ("for more than 30 seconds", "for more than 10 seconds"),
        ("within 30 seconds", "within 10 seconds"),
        ("for more than 5 seconds", "for more than 2.5 seconds"),
        ("More than 1000 tasks", "More than 4567 tasks"),
        ("80 % full", "61 % full"),
        ("more than 95 %", "more than 62 %"),
        ("More than 0.1 tasks", "More than 0.63 tasks"),
        ("more than 0 per second", "more than 64 per second"),
        ("in 5 minutes", "in 19 minutes"),
        ("PoolStopped\n\n**critical**, once it has held for 1 minute;", "it has held for 11 minutes;"),
        ("for more than 5 minutes: this pool", "for more than 110 seconds: this pool"),
        ("more than 20 ms late", "more than 70 ms late"),
        ("more than 80 % of the file descriptors", "more than 57 % of the file descriptors"),
        ("by (job, pool)", "by (cluster, job, pool)"),
        ("More than 7.2 %", "More than 43.2 %"),
    ):
        assert ours in PAGE, ours
        assert ours not in page, ours
        assert theirs in page, theirs


def commands() -> list[list[str]]:
    """Return every command that the runbook names, with its capitals filled in."""
    tools = ("kubectl ", "amtool ", "promtool ", "prodpool ", "py-spy ")
    found = dict.fromkeys(code for code in INLINE.findall(PAGE) if code.startswith(tools))
    assert len(found) > 10
    return [shlex.split(re.sub("|".join(FILLED_IN), lambda word: FILLED_IN[word[0]], code)) for code in found]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_exists(command: list[str], tmp_path: Path) -> None:
    """A command that the runbook names exists, and has the options that are named."""
    if command[:2] == ["prodpool", "postmortem"]:
        command[command.index("--prometheus") + 1] = "http://127.0.0.1:9"
        said = run(sys.executable, "-m", *command)
        # Likewise: it understands everything, and then there is no Prometheus.
        assert "http://127.0.0.1:9 cannot be asked" in said.stderr, said.stderr
    elif command in (["prodpool", "log"], ["prodpool", "stacks"]):
        said = subprocess.run(
            [sys.executable, "-m", *command], input="", capture_output=True, text=True, check=False
        )
        assert (said.returncode, f"prodpool {command[1]}: there is no" in said.stderr) == (1, True)
    elif command[0] == "prodpool":
        assert main([*command[1:], str(tmp_path)]) == 0
    elif command[0] == "amtool":
        amtool = shutil.which("amtool") or missing("amtool", "run: apt-get install prometheus-alertmanager")
        said = run(amtool, *command[1:], "--alertmanager.url=http://127.0.0.1:9")
        # It understands everything, and then there is nobody to tell.
        assert "connection refused" in said.stderr, said.stderr
    else:
        assert command[0] == "kubectl"
        if "py-spy" in command:
            command = command[: command.index("--")]
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            pytest.skip("kubectl is missing; no Debian package has it")
        verb = command[1:3] if command[1] in {"rollout", "set"} else command[1:2]
        said = run(kubectl, *verb, "--help")
        assert said.returncode == 0, said.stderr
        for option in re.findall(r"--[a-z-]+", " ".join(command)):
            inherited = run(kubectl, "options").stdout
            assert option in said.stdout + inherited, option


def test_py_spy_shows_where_a_task_hangs(tmp_path: Path) -> None:
    """The command that the runbook leans on prints the task's own line, and the process goes on."""
    program = (
        "import time\n"
        "import prodpool\n"
        "def waits_for_ever():\n"
        "    time.sleep(1000)\n"
        "pool = prodpool.threads(name='hangs', max_workers=1)\n"
        "pool.submit(waits_for_ever)\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or missing(
        "py-spy", "pip install it"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        ends_at = time.monotonic() + 20
        said = run(py_spy, "dump", "--pid", str(child.pid))
        while "waits_for_ever" not in said.stdout and time.monotonic() < ends_at:
            if "ermission" in said.stderr:
                missing(
                    "the right to trace a process", "run the tests as root, or set kernel.yama.ptrace_scope=0"
                )
            said = run(py_spy, "dump", "--pid", str(child.pid))
        assert "waits_for_ever" in said.stdout, said.stderr
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


def source_strings() -> set[str]:
    """Return every string constant in the package's code."""
    assert prodpool.__file__ is not None
    return {
        node.value
        for path in Path(prodpool.__file__).parent.rglob("*.py")
        if "bundle" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_log_events_exist() -> None:
    """A log event that the runbook names is written by the code."""
    named = {code for code in INLINE.findall(PAGE) if re.fullmatch(r"(pool|task|breaker)\.[a-z_]+", code)}
    assert len(named) > 8
    assert named <= source_strings()


def test_names_of_the_api_exist() -> None:
    """A method, option, error or setting of prodpool that the runbook names exists."""
    code = " ".join(INLINE.findall(PAGE))
    methods = set(re.findall(r"\bpool\.([a-z_]+)\(", code))
    assert methods >= {"resize", "pause", "resume", "stats", "stop"}
    assert [one for one in methods if not hasattr(prodpool.InstrumentedPool, one)] == []
    errors = set(re.findall(r"\b(Pool\w+Error|\w+OpenError|\w+LostError|BreakerPolicy)\b", code))
    assert [one for one in errors if one not in prodpool.__all__] == []
    settings = set(re.findall(r"(?<![\w-])--(slo|dwell|duration|stall|drain|queue-fill|[a-z-]+-url)\b", PAGE))
    assert [
        one for one in settings if one.replace("-", "_") not in AlertThresholds.__dataclass_fields__
    ] == []
    keywords = {"overload", "wait", "timeout", "deadline", "idempotent", "exclude"}
    assert {word for word in re.findall(r"\b([a-z_]+)=", code) if word in keywords} == keywords


def anchors(text: str) -> Iterator[str]:
    """Yield the anchors of all headings, as Markdown viewers make them."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_links_lead_somewhere() -> None:
    """A link within the page has its heading, and what an alert links to is one."""
    there = set(anchors(PAGE))
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= there
    assert {
        alert.annotations(AlertThresholds())["runbook_url"].partition("#")[2] for alert in ALERTS
    } <= there
    assert re.findall(r"\]\((?!#)([^)]*)\)", PAGE) == []
    linked = runbook(AlertThresholds(dashboard_url="https://grafana.example"))
    assert "(https://grafana.example/d/prodpool-pool?viewPanel=42)" in linked


def test_nothing_is_left_to_fill_in() -> None:
    """No placeholder of the template, or of the alerts' own texts, is left."""
    assert re.findall(r"<[a-z_]+>|\{\{|TODO|FIXME|\bTBD\b", PAGE) == []
