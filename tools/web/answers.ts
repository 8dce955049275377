// Turns what Prometheus answered into the frames that Grafana's UI library draws.
import {
  type Field,
  type FieldConfig,
  type GrafanaTheme2,
  FieldType,
  type DataFrame,
  getDisplayProcessor,
  toDataFrame,
} from '@grafana/data';

export interface Answer {
  refId: string;
  legend: string;
  labels: Record<string, string>;
  points: Array<[number, number]>;
}

export interface Shown {
  id: number;
  type: string;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  options: any;
  fieldConfig: { defaults: any; overrides: any[] };
  transformations?: Array<{ id: string; options: any }>;
  answers: Answer[];
}

export interface Page {
  title: string;
  variables: Record<string, string>;
  panels: Shown[];
  from: number; // seconds
  to: number;
  step: number;
}

export const nameOf = ({ legend, labels }: Answer): string => {
  if (legend !== '__auto') {
    return legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');
  }
  return Object.values(labels).join(' ') || 'value';
};

// One value for each step of the range, null where there was none: a gap is to be seen as one.
const grid = (page: Page, answer: Answer): { times: number[]; values: Array<number | null> } => {
  const known = new Map(answer.points.map(([at, value]) => [Math.round((at - page.from) / page.step), value]));
  const count = Math.round((page.to - page.from) / page.step);
  const steps = Array.from({ length: count + 1 }, (_, step) => step);
  return {
    times: steps.map((step) => (page.from + step * page.step) * 1000),
    values: steps.map((step) => known.get(step) ?? null),
  };
};

const overridden = (panel: Shown, name: string): FieldConfig => {
  const config = structuredClone(panel.fieldConfig.defaults);
  config.custom ??= {};
  for (const { matcher, properties } of panel.fieldConfig.overrides) {
    const meant = matcher.id === 'byName' ? matcher.options === name : new RegExp(matcher.options).test(name);
    for (const { id, value } of meant ? properties : []) {
      const [first, second] = id.split('.');
      if (second) {
        config[first][second] = value;
      } else {
        config[first] = value;
      }
    }
  }
  return config;
};

const dressed = (field: Field, name: string, index: number, theme: GrafanaTheme2): void => {
  field.state = { displayName: name, seriesIndex: index };
  field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
};

export const framesOf = (page: Page, panel: Shown, theme: GrafanaTheme2): DataFrame[] => {
  const answers = panel.answers.map((answer) => ({ ...answer, name: nameOf(answer) }));
  answers.sort((a, b) => (a.refId === b.refId ? a.name.localeCompare(b.name) : a.refId.localeCompare(b.refId)));
  return answers.map((answer, index) => {
    const { times, values } = grid(page, answer);
    const frame = toDataFrame({
      refId: answer.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: times, config: {} },
        { name: answer.name, type: FieldType.number, values, config: overridden(panel, answer.name) },
      ],
    });
    frame.fields[1].config.displayName = answer.name;
    frame.fields.forEach((field) => dressed(field, field.name, index, theme));
    return frame;
  });
};

// The columns of a table: the labels and the value that the panel's transformation names, in its order, a row for
// each series.
export const columnsOf = ({ transformations, options, answers }: Shown): { heads: string[]; rows: string[][] } => {
  const { indexByName: places, renameByName: headings } = transformations![0].options;
  const names = Object.keys(headings).sort((a, b) => places[a] - places[b]);
  const heads = names.map((name) => headings[name]);
  const rows = answers.map(({ labels, points }) =>
    names.map((name) => (name === 'Value' ? String(points[points.length - 1][1]) : labels[name]))
  );
  const by = heads.indexOf(options.sortBy[0].displayName);
  return { heads, rows: rows.sort((a, b) => a[by].localeCompare(b[by])) };
};

export const lastOf = (field: Field): number | null => {
  const known = field.values.filter((value: number | null) => value !== null);
  return known.length ? known[known.length - 1] : null;
};
