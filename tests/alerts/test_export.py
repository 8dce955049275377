"""`prodpool export`: what it writes, what it refuses, and that it overwrites nothing unasked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import prodpool
from prodpool.cli import main
from tests.packaging.test_import import core_modules
from tests.support import ROOT

ALERTS = {"prodpool.rules.yml", "prodpool.prometheusrule.yml", "alertmanager.yml", "mixin.libsonnet"}
DASHBOARDS = {path.name for path in (ROOT / "dashboards").glob("*.json")}


def files(folder: Path) -> set[str]:
    """Return the names of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run the command, see it refuse with status 2, and return the last line of what it says."""
    with pytest.raises(SystemExit) as ended:
        main(["export", *args])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("alerts", ALERTS),
        ("dashboards", DASHBOARDS),
        ("runbook", {"runbook.md"}),
        ("all", {f"alerts/{x}" for x in ALERTS} | {f"dashboards/{x}" for x in DASHBOARDS} | {"runbook.md"}),
    ],
)
def test_what_is_written(
    kind: str, names: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind writes its files, into a folder that it makes, and says which; by default those committed."""
    folder = tmp_path / "new" / "folder"
    assert main(["export", kind, str(folder)]) == 0
    assert files(folder) == names
    assert set(capsys.readouterr().out.split()) == {str(folder / name) for name in names}
    committed = {"alerts": ROOT / "alerts", "dashboards": ROOT / "dashboards"}.get(kind, ROOT)
    assert {name: (folder / name).read_text() for name in names} == {
        name: (committed / name).read_text() for name in names
    }


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where one file is there nothing at all is written; --force writes all."""
    mine = tmp_path / "alertmanager.yml"
    mine.write_text("mine")
    said = refused(capsys, "alerts", str(tmp_path))
    assert said == (
        f"prodpool export: error: {mine}: there already, so nothing was written: add --force to overwrite, "
        "or choose another DIR"
    )
    assert files(tmp_path) == {"alertmanager.yml"}
    assert mine.read_text() == "mine"
    assert main(["export", "alerts", str(tmp_path), "--force"]) == 0
    assert mine.read_text() == (ROOT / "alerts" / "alertmanager.yml").read_text()
    assert files(tmp_path) == ALERTS


def test_thresholds_are_the_same_everywhere(tmp_path: Path) -> None:
    """Rules, runbook and dashboards are written for the thresholds that were chosen."""
    args = [
        "--slo",
        "0.98",
        "--dwell",
        "10",
        "--runbook-url",
        "https://wiki.example/pools",
        "--drop-rate",
        "3",
    ]
    assert main(["export", "all", str(tmp_path), *args]) == 0
    rules = yaml.safe_load((tmp_path / "alerts" / "prodpool.rules.yml").read_text())
    exprs = {
        rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    }
    assert "14.4 * 0.02" in exprs["PoolErrorBudgetBurn1h"]
    assert exprs["PoolDwellHigh"].endswith("> 10")
    assert exprs["PoolDropping"].endswith("> 3")
    page = (tmp_path / "runbook.md").read_text()
    assert "waits for more than 10 seconds" in page
    assert 'le="10.0"' in page
    assert "More than 28.8 %" in page
    assert "allows; at exactly that pace the budget" in page
    assert "of 98 %" in page
    for path in (tmp_path / "dashboards").iterdir():
        variables = {one["name"]: one for one in json.loads(path.read_text())["templating"]["list"]}
        assert variables["slo"]["current"]["value"] == "0.98"
        assert [one["value"] for one in variables["slo"]["options"] if one["selected"]] == ["0.98"]
        assert "0.98" in variables["slo"]["query"].split(",")
        assert variables["runbook"]["query"] == "https://wiki.example/pools"


def test_labels_may_be_given_one_by_one(tmp_path: Path) -> None:
    """A label each, or all at once with commas, is the same."""
    one_by_one = ["--namespace-label", "cluster", "--namespace-label", "namespace"]
    for name, args in (("one", one_by_one), ("both", ["--namespace-label=cluster,namespace"])):
        assert main(["export", "all", str(tmp_path / name), *args]) == 0
    for name in files(tmp_path / "one"):
        text = (tmp_path / "one" / name).read_text()
        assert "cluster" in text, name
        assert text == (tmp_path / "both" / name).read_text(), name


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["alerts", "--dwell", "20"], "--dwell 20.0: a quantile is told apart only at the bounds"),
        (["alerts", "--slo", "high"], "argument --slo: 'high': pass a number, such as 0.995"),
        (
            ["alerts", "--slo-min-tasks", "1.5"],
            "argument --slo-min-tasks: '1.5': pass a whole number, such as 100",
        ),
        (["alerts", "--buckets", "1,x"], "argument --buckets: '1,x': pass numbers, such as 0.001,"),
        (["rules"], "invalid choice: 'rules' (choose from"),
        (["alerts", "--dwel", "30"], "unrecognized arguments: --dwel"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_bad_value_is_named(
    args: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not fit is refused before anything is written, with its name, its value and what would do."""
    kind, *options = args
    assert says in refused(capsys, kind, str(tmp_path / "out"), *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A DIR that cannot be one is named."""
    file = tmp_path / "file"
    file.touch()
    said = refused(capsys, "runbook", str(file))
    assert said.endswith("choose another DIR, or make it one that can be written to")
    assert str(file) in said


def test_half_an_export_is_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a file in the middle cannot be written, none of those before it is left."""
    (tmp_path / "alerts").write_text("a file where a folder has to be")
    assert str(tmp_path / "alerts") in refused(capsys, "all", str(tmp_path))
    assert files(tmp_path) == {"alerts"}


def test_the_installed_command(tmp_path: Path) -> None:
    """The console script and `python -m prodpool` do the same, and answer --help and --version."""
    script = shutil.which("prodpool", path=str(Path(sys.executable).parent))
    assert script is not None
    for number, command in enumerate(([script], [sys.executable, "-P", "-m", "prodpool"])):
        folder = tmp_path / str(number)
        for args in (["export", "runbook", str(folder)], ["export", "--help"], ["--version"]):
            done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=30, check=False)
            assert done.returncode == 0, done.stderr
        assert files(folder) == {"runbook.md"}
    bad = subprocess.run([script, "export"], capture_output=True, text=True, timeout=30, check=False)
    assert bad.returncode == 2


WITHOUT_EXTRAS = """
import sys

class Absent:
    allowed = set(sys.argv[2:])

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in self.allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is not among the core dependencies", name=name)

sys.meta_path.insert(0, Absent())
from prodpool.cli import main
sys.exit(main(["export", "all", sys.argv[1]]))
"""


def test_the_core_dependencies_are_enough(tmp_path: Path) -> None:
    """The export runs where nothing but the core dependencies can be imported."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS, str(tmp_path), *core_modules()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "runbook.md" in files(tmp_path)


def test_a_pool_imports_none_of_it() -> None:
    """`import prodpool` brings neither the command nor what it writes."""
    program = "import sys, prodpool; print(*(name for name in sys.modules if name.startswith('prodpool.')))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert "prodpool.pool" in done.stdout.split()
    assert not any("bundle" in name or "cli" in name for name in done.stdout.split())
    assert prodpool.__all__
