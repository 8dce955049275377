"""What all dashboards have around their panels: variables in one order, annotations, links, rows, ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from dashboards import promql
from dashboards.panels import SOURCE, Panel

TAG = "prodpool"
ALL = model.VariableOption(selected=True, text=["All"], value=["$__all"])
OBJECTIVES = ("0.9", "0.95", "0.99", "0.995", "0.999")
OBJECTIVE = "0.995"
# Where the link to the runbook leads, until somebody says where they keep it.
RUNBOOK = "runbook.md"


@dataclass(frozen=True)
class Row:
    """A heading and the panels under it, once for each value of the variable ``repeat`` if there is one."""

    id: int
    title: str
    panels: Sequence[Panel]
    repeat: str | None = None


@dataclass(frozen=True)
class Board:
    """A dashboard: where it is found, what it is about, what is on it.

    Attributes:
        file: Its file, without folder and ending.
        since: The start of its time range, as Grafana writes it.
        one_pool: Whether it is about one pool, chosen from the list, rather than about any number.
    """

    file: str
    title: str
    description: str
    since: str
    rows: Sequence[Row]
    one_pool: bool = False

    @property
    def uid(self) -> str:
        """What its address is made of."""
        return f"{TAG}-{self.file}"


def _from_labels(name: str, title: str, metric: str) -> dashboard.QueryVariable:
    query = f"label_values({metric}, {name})"
    variable = dashboard.QueryVariable(name).label(title).datasource(SOURCE)
    # Grafana 10 and later want an object; qryType 1 is "label values".
    variable.query({"qryType": 1, "query": query, "refId": f"variable-{name}"})
    variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable.sort(model.VariableSort.ALPHABETICAL_ASC)
    return variable


def _any_of(variable: dashboard.QueryVariable) -> dashboard.QueryVariable:
    return variable.multi(True).include_all(True).all_value(".+").current(ALL)


def _variables(board: Board) -> list[Any]:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    job = _from_labels("job", "Job", "workerpool_info")
    instance = _from_labels("instance", "Instance", 'workerpool_info{job=~"$job"}')
    pool = _from_labels("pool", "Pool", f"workerpool_info{{{promql.PROCESS}}}")
    objective = dashboard.CustomVariable("slo").label("Objective").values(",".join(OBJECTIVES))
    objective.description(
        "Share of the offered tasks that are to succeed; the alerts have it from their own file."
    )
    objective.current(model.VariableOption(selected=True, text=OBJECTIVE, value=OBJECTIVE))
    objective.options(
        [model.VariableOption(selected=one == OBJECTIVE, text=one, value=one) for one in OBJECTIVES]
    )
    compare = dashboard.TextBoxVariable("compare").label("Compare by").default_value("instance")
    compare.description(
        "Label of your targets, such as version or canary, whose values the row Compare sets side by side."
    )
    compare.current(model.VariableOption(text="instance", value="instance"))
    runbook = dashboard.ConstantVariable("runbook").value(RUNBOOK)
    runbook.description("Where the link to the runbook leads.")
    runbook.build().hide = model.VariableHide.HIDE_VARIABLE  # for which this builder has no method
    return [
        source.multi(False).include_all(False),
        _any_of(job),
        _any_of(instance),
        pool.multi(False).include_all(False) if board.one_pool else _any_of(pool),
        objective,
        *([compare] if board.one_pool else []),
        runbook,
    ]


def _annotations() -> list[dashboard.AnnotationQuery]:
    alerts = dashboard.AnnotationQuery().name("Firing alerts").datasource(SOURCE).enable(True)
    alerts.icon_color("red").expr(promql.ALERTS).step("30s")
    alerts.title_format("{{alertname}}").text_format("{{severity}}: {{pool}} {{instance}}").tag_keys(
        "severity"
    )
    starts = dashboard.AnnotationQuery().name("Starts").datasource(SOURCE).enable(True)
    starts.icon_color("blue").expr(f"process_start_time_seconds{{{promql.PROCESS}}} * 1000").step("30s")
    starts.use_value_for_time(True).title_format("Start").text_format("{{job}} {{instance}}")
    return [alerts, starts]


def _links() -> list[dashboard.DashboardLink]:
    siblings = dashboard.DashboardLink("Worker pools").type(model.DashboardLinkType.DASHBOARDS)
    siblings.tags([TAG]).as_dropdown(False).include_vars(True).keep_time(True)
    runbook = dashboard.DashboardLink("Runbook").type(model.DashboardLinkType.LINK).icon("doc")
    runbook.url("${runbook}").tooltip("What each alert means and what to do").target_blank(True)
    return [siblings, runbook]


def to_json(board: Board) -> str:
    """Return the dashboard's file."""
    made = dashboard.Dashboard(board.title).uid(board.uid).description(board.description).tags([TAG])
    made.readonly().tooltip(model.DashboardCursorSync.CROSSHAIR).time(board.since, "now").refresh("30s")
    made.timezone("browser").links(_links())  # type: ignore[arg-type]
    for variable in _variables(board):
        made.with_variable(variable)
    for annotation in _annotations():
        made.annotation(annotation)
    for row in board.rows:
        heading = dashboard.Row(row.title).id(row.id).collapsed(False)
        made.with_row(heading if row.repeat is None else heading.repeat(row.repeat))
        for panel in row.panels:
            made.with_panel(panel)
    plain = json.loads(JSONEncoder().encode(made.build()))
    for shown in (*plain["links"], *plain["annotations"]["list"]):
        # "inControlsMenu" is what the SDK writes: it would hide them behind a menu.
        del shown["placement"]
    for panel in plain["panels"]:
        if panel["type"] == "table":
            # Of an older Grafana; the newest has the footer among a column's settings.
            del panel["options"]["footer"]
    for variable in plain["templating"]["list"]:
        # What the SDK writes for every variable has a meaning for those of type interval alone.
        for key in ("auto", "auto_count", "auto_min"):
            del variable[key]
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"
