"""Thresholds that cannot work are refused, with the way out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prodpool.monitoring.formatting import decimal, duration, humanize
from prodpool.monitoring.prometheus_rules import rule_files
from prodpool.monitoring.thresholds import AlertThresholds, SettingError

BAD: list[tuple[dict[str, Any], str]] = [
    ({"slo": 1.0}, r"--slo 1\.0: pass a share between 0 and 1"),
    ({"slo": 99.5}, r"--slo 99\.5: pass a share"),
    ({"slo": math.nan}, r"--slo nan: pass a share"),
    ({"slo": 0.9}, r"--slo 0\.9: 14\.4 times the budget would be 1\.44, .* pass 0\.94 or more"),
    ({"slo_min_tasks": 0}, r"--slo-min-tasks 0: pass a number of 1 or more"),
    ({"dwell": 20.0}, r"--dwell 20\.0: .*pass one of 0\.001, .*10, 30, 60; or say with --buckets"),
    ({"dwell": 300.0}, r"--dwell 300\.0: "),  # the top bound: no quantile is ever above it
    ({"duration": 7.0}, r"--duration 7\.0: "),
    ({"dwell": 30.0, "buckets": (1.0, 5.0, 10.0)}, r"--dwell 30\.0: .*pass one of 1, 5; or"),
    ({"buckets": (5.0, 1.0)}, r"--buckets 5,1: pass two or more rising numbers"),
    ({"buckets": (5.0,)}, r"--buckets 5: pass two or more"),
    ({"queue_depth": 0}, r"--queue-depth 0: pass a number of 1 or more"),
    ({"queue_depth": math.inf}, r"--queue-depth inf: "),
    ({"queue_fill": 80}, r"--queue-fill 80: pass a share"),
    ({"utilisation": 1.0}, r"--utilisation 1\.0: pass a share"),
    ({"panic_rate": -1}, r"--panic-rate -1: pass a rate per second of 0 or more"),
    ({"drop_rate": math.nan}, r"--drop-rate nan: pass a rate"),
    ({"stall": 0}, r"--stall 0: pass a number of seconds of 1 or more"),
    ({"drain": -5}, r"--drain -5: pass a number of seconds"),
    ({"window_scale": 0}, r"--window-scale 0: pass a factor from 0\.001 to 1"),
    ({"window_scale": 2}, r"--window-scale 2: pass a factor"),
    ({"namespace_label": "name space"}, r"--namespace-label name space: pass a label name"),
    ({"namespace_label": "job"}, r"--namespace-label job: the rules use that label already"),
    ({"namespace_label": "cluster,pool"}, r"--namespace-label cluster,pool: the rules use that label"),
    ({"namespace_label": "slo"}, r"--namespace-label slo: the rules use that label"),
    ({"namespace_label": "cluster,"}, r"--namespace-label cluster,: pass a label name"),
    ({"namespace_label": "__meta"}, r"--namespace-label __meta: pass a label name"),
    ({"namespace_label": "eu,eu"}, r"--namespace-label eu,eu: pass each label once"),
    ({"pools": {"mail": {"dwell": 20.0}}}, r"--pool mail:dwell=20\.0: a quantile"),
    ({"pools": {"mail": {"window_scale": 0.5}}}, r"--pool mail:window_scale: a pool may have a value"),
    ({"pools": {"": {"dwell": 30.0}}}, r"--pool : name='' cannot be a pool's name"),
    ({"runbook_url": ""}, r"--runbook-url : pass the address"),
    ({"runbook_url": "https://wiki/{{x}}"}, r"--runbook-url https://wiki/{{x}}: pass an address without"),
    ({"runbook_url": "https://wiki#a"}, r"--runbook-url https://wiki#a: leave out what begins with #"),
    ({"dashboard_url": 'https://g/"'}, r"--dashboard-url https://g/\": pass an address without"),
]


@pytest.mark.parametrize(
    ("bad", "message"), BAD, ids=[f"{next(iter(bad))}-{n}" for n, (bad, _) in enumerate(BAD)]
)
def test_what_cannot_work_is_refused(bad: dict[str, Any], message: str) -> None:
    """The message names the option and its value, and says what would do."""
    with pytest.raises(SettingError, match=message):
        AlertThresholds(**bad)


def test_a_bound_of_other_buckets_will_do() -> None:
    """Pools with buckets of their own get thresholds at these."""
    settings = AlertThresholds(dwell=20, duration=7, buckets=(1, 7, 20, 100))
    text = rule_files(settings)["prodpool.rules.yml"]
    assert ") > 20\n" in text
    assert ") > 7\n" in text


@pytest.mark.parametrize(
    ("setting", "value", "seen"),
    [
        ("slo", 0.999, "> 14.4 * 0.001"),
        ("slo_min_tasks", 7, ":increase1h >= 7"),
        ("dwell", 60.0, "bucket[5m]))\n          ) > 60"),
        ("duration", 2.5, "bucket[5m]))\n          ) > 2.5"),
        ("queue_depth", 77, "workerpool_queue_depth[1m])) > 77"),
        ("queue_fill", 0.55, "> 0.55"),
        ("utilisation", 0.66, "> 0.66"),
        ("panic_rate", 0.03, "> 0.03"),
        ("drop_rate", 0.04, "> 0.04"),
        ("stall", 660.0, "workerpool_completed_total[11m]"),
        ("drain", 240.0, "for: 4m"),
        ("runbook_url", "https://wiki.example/r", "https://wiki.example/r#poolstalled"),
        ("dashboard_url", "https://grafana.example", "https://grafana.example/d/prodpool-pool?"),
        ("namespace_label", "cluster", "by (cluster, job, pool)"),
        ("namespace_label", "cluster,namespace", "by (cluster, namespace, job, instance, pool)"),
        ("pools", {"mail": {"dwell": 60.0}}, 'bucket{pool="mail"}[5m]))\n          ) > 60'),
        ("window_scale", 0.1, "workerpool_queue_depth[6s]"),
    ],
)
def test_a_setting_changes_its_rule(setting: str, value: Any, seen: str) -> None:
    """Each setting appears in the rules, and does not by default."""
    assert seen in rule_files(AlertThresholds(**{setting: value}))["prodpool.rules.yml"]
    assert seen not in rule_files(AlertThresholds())["prodpool.rules.yml"]


def test_numbers_and_times_are_written_plainly() -> None:
    """No exponent, no rest of binary arithmetic, the largest unit that fits."""
    assert [decimal(number) for number in (0.1, 1e-05, 30.0, 1000, 1e6)] == [
        "0.1",
        "0.00001",
        "30",
        "1000",
        "1000000",
    ]
    assert [duration(seconds) for seconds in (300, 90, 1.5, 86_400, 7200, 0.0001)] == [
        "5m",
        "90s",
        "1500ms",
        "1d",
        "2h",
        "1ms",
    ]
    assert [humanize(seconds) for seconds in (60, 90, 7200, 86_400, 0.6, 1)] == [
        "1 minute", "90 seconds", "2 hours", "1 day", "0.6 seconds", "1 second",
    ]  # fmt: skip
    assert decimal(AlertThresholds(slo=0.999).budget) == "0.001"
