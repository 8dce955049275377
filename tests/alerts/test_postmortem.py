"""`prodpool postmortem`: what it says of an incident that a real Prometheus stored, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from prodpool.cli import main
from prodpool.monitoring.postmortem.time_range import TimeRangeError, read_range
from prodpool.monitoring.runbook import TEMPLATE
from tests.alerts.incident_story import incident, newer
from tests.helpers.tasks import BlockingTask, fill, occupy
from tests.observe.prometheus import Prometheus
from tests.support import PACKAGE, MakePool

pytestmark = pytest.mark.once

HOUR = ("--from", "2025-03-04T10:00:00Z", "--to", "2025-03-04T12:00+01:00")
RULE = """
groups:
  - name: quick
    rules:
      - alert: PoolQueueGrowing
        expr: max by (job, instance, pool) (workerpool_queue_depth) > 2
        labels: {component: workerpool, severity: critical}
"""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a Prometheus that has stored the stories."""
    folder = tmp_path_factory.mktemp("stored")
    (incident() + newer()).write(folder)
    with Prometheus(folder, {}) as prometheus:
        yield f"http://{prometheus.address}"


def report(capsys: pytest.CaptureFixture[str], server: str, *options: str) -> dict[str, list[str]]:
    """Run the command; return the lines of each section, those that are empty left out."""
    assert main(["postmortem", "--prometheus", server, *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    title, *rest = re.split(r"^## (.*)\n", captured.out, flags=re.MULTILINE)
    assert title == "# Incident: one line\n\n"
    return {
        name: [line for line in text.splitlines() if line]
        for name, text in zip(rest[::2], rest[1::2], strict=True)
    }


def refused(capsys: pytest.CaptureFixture[str], server: str, *options: str) -> str:
    """Run the command, see it refuse with status 2, and return the last line of what it says."""
    with pytest.raises(SystemExit) as ended:
        main(["postmortem", "--prometheus", server, *options])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1].removeprefix("prodpool postmortem: error: ")


def cells(lines: list[str]) -> dict[str, list[str]]:
    """Return the cells of each row of a table by the first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_what_it_cost(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every task is counted: before and after a restart, of an instance that ended, of one that came."""
    said = report(capsys, server, *HOUR, "--job", "service")
    assert said["Date and time"][0] == "2025-03-04 10:00:00 to 11:00:00 UTC (1 h)"
    assert "known to 15 s" in said["Date and time"][1]
    # a:1 has 199 good steps, 40 bad ones and one after the restart; b:1 has 160, c:1 76 and a first.
    ok = 199 * 150 + 40 * 100 + 60 + 160 * 150 + 90 + 76 * 150
    assert (ok, 40 * 20, 40 * 30) == (69_400, 800, 1200)
    assert cells(said["Impact"]) == {
        "": ["`webhooks`"],
        "---": ["---"],
        "scraped": ["3 instances, 10:00:00 to 11:00:00"],
        "tasks offered": ["71,400"],
        "admitted": ["70,200"],
        "finished, by result": ["70,200: 69,400 ok, 800 error, 0 panic, timeout"],
        "dropped, by reason": ["1,200: 1,200 full, 0 breaker_open, cancelled, closed, expired, shutdown"],
        "abandoned by a stop": ["not exported"],
        "workers lost": ["0"],
        "failed or lost, of those that ended": ["2,000 of 71,400: 2.8 %"],
        "objective of 99.5 %": ["missed: 5.6 times the share that may end badly"],
        "error budget of 30 days burnt": ["1.68 of 216 minutes (0.778 %)"],
        "most tasks queued": ["103"],
        "longest wait in the queue": ["42.5 s"],
        "most hung tasks": ["2"],
    }
    assert "- Signs of a problem or alerts: from 10:10:15 to 10:24:00 (13 min 45 s)." in said["Impact"]
    assert "- Nothing seen of `thumbnails`: no alert and no sign of a problem." in said["Impact"]
    assert "a 0 proves nothing for `b:1`, which ended" in "\n".join(said["Impact"])


def test_the_whole_report(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the page beside this test: detection, the timeline and nothing else in it, sizes then and now."""
    assert main(["postmortem", "--prometheus", server, *HOUR, "--job", "service"]) == 0
    said = capsys.readouterr().out.replace(server, "http://prometheus:9090")
    said = re.sub(r"at [-0-9: ]{19} UTC by prodpool \S+\.", "at NOW by prodpool VERSION.", said)
    assert said == Path(__file__).with_name("postmortem.expected.md").read_text()


def test_the_questions_for_people_are_those_of_the_runbook(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every section of the template is there in its order; what Prometheus cannot know is left as it is."""
    page = (PACKAGE / "monitoring" / TEMPLATE).read_text().split("\n## Postmortem template\n")[1]
    template = page.split("```")[1]
    said = report(capsys, server, *HOUR, "--pool", "webhooks")
    assert list(said) == re.findall(r"^## (.*)$", template, re.MULTILINE)
    for name in ("Root cause", "Mitigation", "Resolution", "Lessons", "Action items"):
        assert f"## {name}\n{said[name][0]}\n" in template
        assert len(said[name]) == 1


def test_an_alert_that_fires_at_both_ends(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A time cut out of the incident is told to be such: it had begun before, and was not over."""
    said = report(
        capsys, server, "--from", "2025-03-04 10:16", "--to", "2025-03-04 10:18", "--pool", "webhooks"
    )
    assert "- Times that were given without a zone were read as UTC." in said["Date and time"]
    assert "- Signs of a problem or alerts: from 10:16:00 to **not over at the end**." in said["Impact"]
    assert "- **It had begun before this time:** pass an earlier `--from` to see when." in said["Detection"]
    fires = "`PoolDropping` (warning) fires already at the beginning; its condition holds since "
    assert f"- 10:16:00 (T+0) {fires}2025-03-04 10:10:30: `webhooks`" in said["Timeline"]
    assert "- 10:18:00 (T+2 min) `PoolDropping` (warning) still fires: `webhooks`" in said["Timeline"]


def test_a_breaker_that_flaps(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of many changes that are alike the first four and the last are told, and how many were left out."""
    timeline = report(capsys, server, *HOUR, "--pool", "reports")["Timeline"]
    assert [re.sub(r" \(.*?\)", "", line, count=1) for line in timeline if "breaker" in line] == [
        "- 10:20:15 breaker closed -> open: `reports` in `d:1`",
        "- 10:20:30 breaker open -> closed: `reports` in `d:1`",
        "- 10:20:45 breaker closed -> open: `reports` in `d:1`",
        "- 10:21:00 breaker open -> closed: `reports` in `d:1`",
        "- 10:21:15 35 more changes of this kind (breaker) until 10:29:45: `reports` in `d:1`",
        "- 10:30:00 breaker open -> closed: `reports` in `d:1`",
    ]


@pytest.mark.parametrize(("begin", "step"), [("2025-02-01", 250), ("2025-01-01T00:01", 496)])
def test_a_month_and_more(begin: str, step: int, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A time too long for a point at each scrape is read at points further apart, and that is said."""
    said = report(capsys, server, "--from", begin, "--to", "2025-03-04T12:00", "--pool", "thumbnails")
    assert f"known to {step} s" in said["Date and time"][1]
    # 400 steps from 09:00 to 10:40, after which the next point of the longer time is 348 s away.
    assert cells(said["Impact"])["tasks offered"] == [f"{400 * 150:,}"]


def test_a_newer_version(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is offered, abandoned and lost is told where it is exported; more results are no failures."""
    rows = cells(report(capsys, server, *HOUR, "--pool", "reports")["Impact"])
    assert rows["tasks offered"] == ["2,640"]
    assert rows["finished, by result"] == ["2,160: 960 ok, 480 cancelled, 480 expected, 240 error"]
    assert rows["failed or lost, of those that ended"] == ["240 of 2,160: 11.1 %"]
    assert rows["abandoned by a stop"] == ["720"]
    assert rows["workers lost"] == ["480: 480 killed"]
    assert rows["most tasks queued"] == ["7"]
    assert rows["longest wait in the queue"] == ["not exported"]
    assert cells(report(capsys, server, *HOUR)["Impact"])[""] == [
        "`reports` of `newer`",
        "`webhooks` of `service`",
    ]
    rows = cells(report(capsys, server, *HOUR, "--job", "newer", "--slo", "0.99")["Impact"])
    assert rows["objective of 99 %"] == ["missed: 11.1 times the share that may end badly"]
    assert rows["error budget of 30 days burnt"] == ["6.67 of 432 minutes (1.54 %)"]


def test_a_time_without_data(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pool without samples in that time has no zeros but no data, and without its name it is an error."""
    before = ("--from", "2025-03-04T06:00Z", "--to", "2025-03-04T07:00Z")
    said = report(capsys, server, *before, "--pool", "webhooks")
    assert {cell for name, row in cells(said["Impact"]).items() for cell in row if name.strip("-")} == {
        "no data"
    }
    assert "- **No data of `webhooks`:** Prometheus has no sample" in "\n".join(said["Impact"])
    assert said["Detection"][0] == "- First sign: not known, without data of the pools."
    assert refused(capsys, server, *before) == (
        f"{server} has no sample of any pool from 2025-03-04 06:00:00 UTC to 2025-03-04 07:00:00 UTC, which "
        "is not to say that nothing happened: it knows the pools reports, thumbnails, webhooks from another "
        "time; pass another --from and --to, or ask a Prometheus that keeps its data for longer"
    )


def test_unknown_names(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pool or job that is not there is refused with the names of those that are."""
    assert refused(capsys, server, *HOUR, "--pool", "web.*") == (
        "--pool 'web.*' is not there: pass one of reports, thumbnails, webhooks"
    )
    assert refused(capsys, server, *HOUR, "--pool", "webhooks", "--job", "newer") == (
        "--pool 'webhooks' is not there: pass one of reports"
    )
    assert refused(capsys, server, *HOUR, "--job", "sevrice") == (
        "--job 'sevrice' is not there: pass one of newer, service"
    )


def test_a_file_is_not_overwritten(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report goes into a file that is not there yet, or into any with --force."""
    file = tmp_path / "postmortem.md"
    wanted = ["postmortem", "--prometheus", server, *HOUR, "--pool", "reports", "--output", str(file)]
    assert main(wanted) == 0
    assert capsys.readouterr().out == ""
    assert file.read_text().startswith("# Incident: one line\n\n## Date and time\n")
    file.write_text("mine")
    assert refused(capsys, server, *wanted[3:]) == (
        f"{file}: there already: add --force to overwrite, or choose another FILE"
    )
    assert file.read_text() == "mine"
    assert main([*wanted, "--force"]) == 0
    assert file.read_text() != "mine"
    assert refused(capsys, server, *wanted[3:-1], str(tmp_path / "none" / "x.md")) == (
        f"{tmp_path}/none/x.md: No such file or directory: choose another FILE, or make it one that can be "
        "written to"
    )


def test_a_prometheus_without_pools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Prometheus that has never scraped a pool is not taken for one that saw nothing happen."""
    with Prometheus(tmp_path, {}) as prometheus:
        address = f"http://{prometheus.address}"
        assert refused(capsys, address, "--from", "-2h") == (
            f"{address} has no series workerpool_workers, which every pool exports: is it the Prometheus "
            "that scrapes the service? The guide on metrics says how a service serves them"
        )


def test_a_real_incident(
    make_pool: MakePool, registry: CollectorRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a real pool went through under a real rule is told as soon as it is over, numbers and all."""
    rules = tmp_path / "rules.yml"
    rules.write_text(RULE)
    pool = make_pool(1, queue_capacity=5, name="real", registry=registry)
    http, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        targets = {"real_service": [f"127.0.0.1:{http.server_port}"]}
        with Prometheus(tmp_path, targets, rule_files=[rules], interval=0.2) as prometheus:
            prometheus.wait_for("workerpool_workers")
            task = BlockingTask()
            occupy(pool, task, 1)
            fill(pool, task)
            prometheus.wait_for('ALERTS{alertstate="firing"}')
            task.release()
            prometheus.wait_for("workerpool_queue_depth == 0")
            prometheus.wait_for("absent(ALERTS)")
            prometheus.wait_for_scrapes(6)
            said = report(capsys, f"http://{prometheus.address}", "--from", "-1m", "--pool", "real")
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
    assert cells(said["Impact"])["tasks offered"] == [str(pool.stats().offered)]
    told = [line.split(") ", 1)[1] for line in said["Timeline"] if "PoolQueueGrowing" in line]
    where = f"`real` in `127.0.0.1:{http.server_port}`"
    assert told == [
        f"`PoolQueueGrowing` (critical) fires: {where}",
        f"`PoolQueueGrowing` (critical) is resolved: {where}",
    ]
    assert cells(said["Size then and now"])["workers"] == ["no data", "1", "1"]


NOW = datetime(2026, 11, 30, 14, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-11-30T13:00:00Z", "13:00:00"),
        ("2026-11-30T15:00+02:00", "13:00:00"),
        ("2026-11-30 13:00:30", "13:00:30"),
        ("2026-11-30", "00:00:00"),
        ("now-2h", "12:05:00"),
        ("-90m", "12:35:00"),
        ("-1h30m", "12:35:00"),
        ("now-1.5h", "12:35:00"),
    ],
)
def test_how_a_time_is_read(text: str, read: str) -> None:
    """ISO 8601 with a zone or in UTC, and times before now, are understood; a zone left out is told."""
    when = read_range(text, "now", NOW)
    assert f"{datetime.fromtimestamp(when.start, UTC):%H:%M:%S}" == read
    assert datetime.fromtimestamp(when.end, UTC) == NOW
    assert bool(when.notes) == (text in {"2026-11-30 13:00:30", "2026-11-30"})


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("yesterday", "now", "--from 'yesterday' is not a time: pass a time such as 2026-11-30T14:05:00Z, "),
        ("-2h", "25:00", "--to '25:00' is not a time: pass a time such as "),
        ("-99999999999d", "now", "--from '-99999999999d' is not a time: "),
        (
            "now-1h",
            "-2h",
            "--from now-1h is 2026-11-30 13:05:00 UTC and not before --to -2h, which is 2026-11-30 12:05:00",
        ),
        ("now", "now", "--from now is 2026-11-30 14:05:00 UTC and not before"),
        (
            "2026-12-01",
            "2026-12-02",
            "--from 2026-12-01 is 2026-12-01 00:00:00 UTC, and it is 2026-11-30 14:05:00 UTC now: pass",
        ),
    ],
)
def test_a_time_that_cannot_be(start: str, end: str, message: str) -> None:
    """What is no time, or makes no time to look at, is refused with the value and a way out."""
    with pytest.raises(TimeRangeError, match="^" + re.escape(message)):
        read_range(start, end, NOW)


def test_an_end_in_the_future_is_cut() -> None:
    """A time that has not ended ends now, and the report says so."""
    when = read_range("-1h", "2026-12-01T00:00Z", NOW)
    assert when.seconds == 3600
    assert when.notes == (
        "The end that was given, 2026-12-01 00:00:00 UTC, is still to come: this is what was known.",
    )
