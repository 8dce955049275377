// What a dashboard of ours may hold: the types that Grafana publishes, put together for the panels in use.
import type * as s from '@grafana/schema';
import type * as bargauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as statetimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has no enums: what is an enum's member in TypeScript is its plain value there.
type Plain<T> = 0 extends 1 & T ? T
  : T extends string ? `${T}`
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;

// The Prometheus data source's own types are not published.
interface Target {
  datasource: s.DataSourceRef;
  editorMode: 'code' | 'builder';
  exemplar: boolean;
  expr: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  legendFormat: string;
  range: boolean;
  refId: string;
}
type Annotation = Omit<s.AnnotationQuery, 'target'> & {
  expr: string;
  step: string;
  tagKeys?: string;
  textFormat: string;
  titleFormat: string;
  useValueForTime?: boolean;
};
type Field<Custom> = Omit<s.FieldConfig, 'custom'> & { custom?: Partial<Custom> };
type Of<Type extends string, Options, Custom> = Omit<s.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  options: Partial<Options>;
  fieldConfig: { defaults: Field<Custom>; overrides: s.FieldConfigSource['overrides'] };
  targets: Target[];
};
type Panel =
  | Of<'bargauge', bargauge.Options, never>
  | Of<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | Of<'stat', stat.Options, never>
  | Of<'state-timeline', statetimeline.Options, statetimeline.FieldConfig>
  | Of<'table', table.Options, table.FieldConfig>
  | Of<'timeseries', timeseries.Options, timeseries.FieldConfig>
  | s.RowPanel;
export type Board = Plain<
  Omit<s.Dashboard, 'panels' | 'annotations'> & { panels: Panel[]; annotations: { list: Annotation[] } }
>;
