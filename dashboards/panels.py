"""What a panel looks like: one function for each kind, and the colours that mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import (
    heatmap as heatmaps,
)
from grafana_foundation_sdk.builders import (
    stat as stats,
)
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models import prometheus as prom

SOURCE = looks.DataSourceRef(type_val="prometheus", uid="$datasource")
GREEN, YELLOW, ORANGE, RED, DARK_RED, BLUE, PURPLE, GREY = (
    "green",
    "yellow",
    "orange",
    "red",
    "dark-red",
    "blue",
    "purple",
    "#8e8e8e",
)
BY_RESULT = {
    "ok": GREEN,
    "error": RED,
    "panic": PURPLE,
    "timeout": ORANGE,
    "expected": BLUE,
    "cancelled": GREY,
}
BY_REASON = {
    "full": RED,
    "breaker_open": ORANGE,
    "expired": YELLOW,
    "shutdown": PURPLE,
    "closed": BLUE,
    "cancelled": GREY,
}
BY_QUANTILE = {"p50": GREEN, "p95": YELLOW, "p99": RED}
# Steps of a threshold: a colour from a value on; the first from anywhere.
Steps = Sequence[tuple[float | None, str]]
NEUTRAL: Steps = [(None, BLUE)]
NONE_EXPECTED: Steps = [(None, GREEN), (1, RED)]
FILLING: Steps = [(None, GREEN), (0.5, YELLOW), (0.8, RED)]

Builder = TypeVar("Builder", bound=Any)


@dataclass(frozen=True)
class Query:
    """What a panel asks: an expression and the name that its series bear.

    Attributes:
        now: One value, of the end of the range, instead of one for each point.
        linked: Whether exemplars are shown, which lead to a trace.
    """

    expr: str
    legend: str = "__auto"
    now: bool = False
    linked: bool = False

    def target(self, ref: str, form: prom.PromQueryFormat) -> prometheus.Dataquery:
        """Return it as Grafana has it."""
        query = prometheus.Dataquery().datasource(SOURCE).ref_id(ref).expr(self.expr)
        query = query.legend_format(self.legend).format(form).exemplar(self.linked)
        query = query.editor_mode(prom.QueryEditorMode.CODE)
        return query.instant() if self.now else query.range()


@dataclass(frozen=True)
class Text:
    """What a panel says of itself: its id, which links lead to, a title, and one sentence and an advice."""

    id: int
    title: str
    description: str


def _begin(
    panel: Builder,
    text: Text,
    queries: Sequence[Query],
    size: tuple[int, int],
    form: prom.PromQueryFormat = prom.PromQueryFormat.TIME_SERIES,
) -> Builder:
    """Set what all kinds of panel have."""
    panel.id(text.id).title(text.title).description(text.description).datasource(SOURCE)
    panel.span(size[0]).height(size[1])
    for number, query in enumerate(queries):
        panel.with_target(query.target(chr(ord("A") + number), form))
    return panel


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _coloured(panel: Builder, colours: Mapping[str, str]) -> Builder:
    for name, colour in colours.items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_name(name, [model.DynamicConfigValue(id_val="color", value=fixed)])
    return panel


def _by_thresholds() -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)


def stat(
    text: Text,
    query: Query,
    unit: str,
    steps: Steps,
    *,
    size: tuple[int, int] = (4, 4),
    empty: str = "no tasks",
) -> stats.Panel:
    """One number, of the end of the range; or its name, if the query has a legend."""
    panel = _begin(stats.Panel(), text, [query], size).unit(unit).no_value(empty)
    panel.thresholds(_thresholds(steps)).color_scheme(_by_thresholds())
    panel.color_mode(looks.BigValueColorMode.VALUE)
    # A course behind the number would make it hard to read from afar; the panels below have the courses.
    panel.graph_mode(looks.BigValueGraphMode.NONE).reduce_options(
        common.ReduceDataOptions().calcs(["lastNotNull"])
    )
    if query.legend != "__auto":
        panel.text_mode(looks.BigValueTextMode.NAME)
    return panel


def bars(
    text: Text,
    query: Query,
    unit: str,
    steps: Steps,
    *,
    size: tuple[int, int] = (8, 7),
    empty: str = "no tasks",
    points: int | None = None,
) -> bargauge.Panel:
    """One bar for each series, the length of its last value. ``points``: into how many the range is cut."""
    panel = _begin(bargauge.Panel(), text, [query], size).unit(unit).no_value(empty).min(0)
    panel.thresholds(_thresholds(steps)).color_scheme(_by_thresholds())
    panel.orientation(looks.VizOrientation.HORIZONTAL).display_mode(looks.BarGaugeDisplayMode.GRADIENT)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel if points is None else panel.max_data_points(points)


def lines(
    text: Text,
    queries: Sequence[Query],
    unit: str,
    *,
    size: tuple[int, int] = (12, 8),
    stacked: bool = False,
    top: float | None = None,
    limits: Steps = (),
    colours: Mapping[str, str] | None = None,
    dashed: str | None = None,
    empty: str | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        text: What the panel says of itself.
        queries: One or more; each series is a line.
        unit: Of the values, as Grafana names it.
        size: Columns of 24, and rows.
        stacked: Areas on top of each other, for what adds up.
        top: Where the axis ends at least.
        limits: Horizontal lines.
        colours: By name of the series. Lines without are many, and get no area below them.
        dashed: A regular expression for the names of lines that are bounds rather than measurements.
        empty: What is said instead of lines if there are none.
    """
    panel = _begin(timeseries.Panel(), text, queries, size).unit(unit).min(0)
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    panel.line_width(1).fill_opacity(45 if stacked else 8 if colours else 0).show_points(
        looks.VisibilityMode.NEVER
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
    if empty is not None:
        panel.no_value(empty)
    if top is not None:
        panel.axis_soft_max(top)
    if limits:
        panel.thresholds(_thresholds([(None, "transparent"), *limits]))
        style = looks.GraphThresholdsStyleMode.DASHED
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    if dashed is not None:
        style_of = {"fill": "dash", "dash": [6, 6]}
        properties = [("custom.lineStyle", style_of), ("custom.fillOpacity", 0), ("custom.lineWidth", 2)]
        panel.override_by_regexp(
            dashed, [model.DynamicConfigValue(id_val=name, value=value) for name, value in properties]
        )
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .calcs([])
    )
    panel.tooltip(
        common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    )
    return _coloured(panel, colours or {})


def heatmap(text: Text, query: Query, *, size: tuple[int, int] = (12, 8)) -> heatmaps.Panel:
    """How many observations fell into each bucket of a histogram of seconds, over time."""
    panel = _begin(heatmaps.Panel(), text, [query], size, prom.PromQueryFormat.HEATMAP)
    panel.calculate(False).cell_gap(1).show_value(looks.VisibilityMode.NEVER)
    panel.y_axis(heatmaps.YAxisConfig().unit("s").axis_placement(looks.AxisPlacement.LEFT))
    panel.filter_values(heatmaps.FilterValueRange().le(1e-9))
    panel.exemplars_color("rgba(255,0,255,0.7)").show_legend()
    panel.tooltip(heatmaps.HeatmapTooltip().mode(looks.TooltipDisplayMode.SINGLE).y_histogram(True))
    panel.color(
        heatmaps.HeatmapColorOptions()
        .mode(heat.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heat.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
        .reverse(False)
    )
    return panel


def timeline(
    text: Text, query: Query, words: Sequence[tuple[str, str]], *, size: tuple[int, int] = (12, 6)
) -> statetimeline.Panel:
    """A band for each series, coloured by its state: ``words`` are the names and colours of 0, 1, 2 ..."""
    panel = _begin(statetimeline.Panel(), text, [query], size)
    options = {
        str(value): model.ValueMappingResult(text=word, color=colour, index=value)
        for value, (word, colour) in enumerate(words)
    }
    panel.mappings([model.ValueMap(options=options)]).color_scheme(_by_thresholds())
    panel.thresholds(_thresholds([(None, GREY)])).unit("short")
    panel.merge_values(True).show_value(looks.VisibilityMode.NEVER).row_height(0.8)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .calcs([])
    )
    return panel


def columns(
    text: Text, query: Query, names: Mapping[str, str], *, size: tuple[int, int] = (24, 9), empty: str
) -> table.Panel:
    """A row for each series. ``names``: its labels that are columns, and "Value", with their headings."""
    panel = _begin(table.Panel(), text, [query], size, prom.PromQueryFormat.TABLE)
    panel.unit("none").no_value(empty).cell_height(looks.TableCellHeight.SM).show_header(True)
    panel.sort_by([common.TableSortByFieldState().display_name(next(iter(names.values())))])
    organised = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(names)},
        "renameByName": dict(names),
    }
    return panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=organised))


Panel = stats.Panel | bargauge.Panel | timeseries.Panel | heatmaps.Panel | statetimeline.Panel | table.Panel
Panels = Callable[[], Sequence[Panel]]
