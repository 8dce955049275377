// Kinds of panel that Grafana has and its UI library does not, in the same look: heatmaps and state timelines; and
// tables, whose component there fails outside of Grafana's own build.
import { interpolateOranges } from 'd3-scale-chromatic';
import { type CSSProperties, useEffect, useRef } from 'react';

import { type DataFrame, dateTimeFormat, type GrafanaTheme2, getValueFormat, formattedValueToString } from '@grafana/data';

import { columnsOf, type Page, type Shown, nameOf } from './answers';

interface Size {
  page: Page;
  panel: Shown;
  theme: GrafanaTheme2;
  width: number;
  height: number;
}

const LEFT = 62;
const BOTTOM = 22;

const ticks = (page: Page): number[] => {
  const wanted = (page.to - page.from) / 5;
  const every = [5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((one) => one >= wanted) ?? 3600;
  const first = Math.ceil(page.from / every) * every;
  return Array.from({ length: 40 }, (_, i) => first + i * every).filter((at) => at < page.to);
};

const clock = (at: number): string => dateTimeFormat(at * 1000, { format: 'HH:mm:ss', timeZone: 'utc' });

const Axis = ({ page, theme, width, top }: { page: Page; theme: GrafanaTheme2; width: number; top: number }) => (
  <>
    {ticks(page).map((at) => (
      <span
        key={at}
        style={{
          position: 'absolute',
          top,
          left: LEFT + ((at - page.from) / (page.to - page.from)) * (width - LEFT),
          transform: 'translateX(-50%)',
          fontSize: 12,
          color: theme.colors.text.primary,
        }}
      >
        {clock(at)}
      </span>
    ))}
  </>
);

// Each bucket of Prometheus holds those below it, too; what is drawn are the differences.
const buckets = (panel: Shown) => {
  const bound = (name: string): number => (name === '+Inf' ? Infinity : Number(name));
  const rising = [...panel.answers].sort((a, b) => bound(nameOf(a)) - bound(nameOf(b)));
  const below = new Map<number, number>();
  return rising.map((answer) => {
    const cells = answer.points.map(([at, value]): [number, number] => {
      const own = value - (below.get(at) ?? 0);
      below.set(at, value);
      return [at, Math.max(0, own)];
    });
    return { bound: bound(nameOf(answer)), cells };
  });
};

export const Heatmap = ({ page, panel, theme, width, height }: Size) => {
  const canvas = useRef<HTMLCanvasElement>(null);
  const seconds = getValueFormat('s');
  const all = buckets(panel);
  const seen = all.map(({ cells }, i) => (cells.some(([, n]) => n > 0) ? i : -1)).filter((i) => i >= 0);
  const rows = seen.length ? all.slice(seen[0], seen[seen.length - 1] + 1) : [];
  const high = height - BOTTOM;
  const rowHeight = high / Math.max(1, rows.length);
  const most = Math.max(1e-9, ...rows.flatMap(({ cells }) => cells.map(([, n]) => n)));
  useEffect(() => {
    const context = canvas.current!.getContext('2d')!;
    const column = ((width - LEFT) * page.step) / (page.to - page.from);
    rows.forEach(({ cells }, row) => {
      for (const [at, n] of cells.filter(([, count]) => count > 1e-9)) {
        const x = ((at - page.from) / (page.to - page.from)) * (width - LEFT);
        context.fillStyle = interpolateOranges(1 - 0.85 * Math.sqrt(n / most));
        // In a dark theme the scheme runs from dark to light.
        context.fillRect(x - column, high - (row + 1) * rowHeight, Math.max(1, column - 1), rowHeight - 1);
      }
    });
  });
  const step = Math.ceil(16 / rowHeight);
  return (
    <div style={{ position: 'relative', width, height }}>
      <canvas ref={canvas} width={width - LEFT} height={high} style={{ position: 'absolute', left: LEFT }} />
      {rows.map(({ bound }, row) =>
        row % step ? null : (
          <span
            key={bound}
            style={{
              position: 'absolute',
              right: width - LEFT + 8,
              top: high - (row + 1) * rowHeight - 8,
              fontSize: 12,
              color: theme.colors.text.primary,
            }}
          >
            {bound === Infinity ? '+Inf' : formattedValueToString(seconds(bound))}
          </span>
        )
      )}
      <Axis page={page} theme={theme} width={width} top={high + 4} />
    </div>
  );
};

// Neighbouring steps of one state are one band.
const bands = (frame: DataFrame): Array<{ from: number; to: number; value: number }> => {
  const found: Array<{ from: number; to: number; value: number }> = [];
  const [times, values] = frame.fields.map((field) => field.values);
  for (let i = 0; i + 1 < times.length; i++) {
    const before = found[found.length - 1];
    if (values[i] === null) {
      continue;
    }
    if (before && before.value === values[i] && before.to === times[i]) {
      before.to = times[i + 1];
    } else {
      found.push({ from: times[i], to: times[i + 1], value: values[i] });
    }
  }
  return found;
};

export const Timeline = ({ page, panel, theme, width, height, frames }: Size & { frames: DataFrame[] }) => {
  const label = 130;
  const words = Object.values<any>(panel.fieldConfig.defaults.mappings[0].options);
  const high = height - BOTTOM - 26;
  const rowHeight = high / Math.max(1, frames.length);
  const share = (at: number): number => (at / 1000 - page.from) / (page.to - page.from);
  const text: CSSProperties = { position: 'absolute', fontSize: 12, color: theme.colors.text.primary };
  return (
    <div style={{ position: 'relative', width, height }}>
      {frames.map((frame, row) => (
        <div key={row}>
          <span style={{ ...text, right: width - label + 10, top: (row + 0.5) * rowHeight - 8 }}>
            {frame.fields[1].name}
          </span>
          {bands(frame).map(({ from, to, value }) => (
            <div
              key={from}
              style={{
                position: 'absolute',
                top: (row + 0.1) * rowHeight,
                height: rowHeight * panel.options.rowHeight,
                left: label + share(from) * (width - label),
                width: Math.max(1, (share(to) - share(from)) * (width - label)),
                background: theme.visualization.getColorByName(words[value].color),
                opacity: 0.75,
              }}
            />
          ))}
        </div>
      ))}
      {ticks(page).map((at) => (
        <span
          key={at}
          style={{ ...text, top: high + 4, left: label + share(at * 1000) * (width - label), transform: 'translateX(-50%)' }}
        >
          {clock(at)}
        </span>
      ))}
      <div style={{ ...text, top: high + BOTTOM + 6, display: 'flex', gap: 14 }}>
        {words.map(({ text: word, color }) => (
          <span key={word} style={{ display: 'flex', alignItems: 'center', gap: 6 }}>
            <i style={{ width: 14, height: 4, borderRadius: 2, background: theme.visualization.getColorByName(color) }} />
            {word}
          </span>
        ))}
      </div>
    </div>
  );
};

export const Columns = ({ panel, theme, width, height }: Omit<Size, 'page'>) => {
  const { heads, rows } = columnsOf(panel);
  const cell: CSSProperties = {
    padding: '2px 8px',
    textAlign: 'left',
    fontSize: 13,
    lineHeight: '22px',
    borderBottom: `1px solid ${theme.colors.border.weak}`,
  };
  return (
    // What does not fit is scrolled to.
    <div style={{ width, height, overflow: 'hidden', color: theme.colors.text.primary }}>
      <table style={{ width: '100%', tableLayout: 'fixed', borderCollapse: 'collapse' }}>
        <thead>
          <tr>
            {heads.map((head) => (
              <th key={head} style={{ ...cell, fontWeight: 500, color: theme.colors.text.secondary }}>
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.join(' ')}>
              {row.map((text, index) => (
                <td key={index} style={cell}>
                  {text}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
};
