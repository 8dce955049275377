// Draws a dashboard from its JSON and live answers, with the components of Grafana's UI library.
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import { Component, type ReactNode } from 'react';
import { createRoot } from 'react-dom/client';

import {
  createTheme,
  type DataFrame,
  dateTime,
  getDisplayValueAlignmentFactors,
  ThemeContext,
  type TimeRange,
  VizOrientation,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';

import { framesOf, lastOf, type Page, type Shown } from './answers';
import { Columns, Heatmap, Timeline } from './drawn';

declare const PAGE: Page;

const theme = createTheme({ colors: { mode: 'dark' } });
const WIDTH = 1600;
const CELL = { width: WIDTH / 24, height: 38 };
const GAP = 8;
const HEAD = 56;

const range: TimeRange = {
  from: dateTime(PAGE.from * 1000),
  to: dateTime(PAGE.to * 1000),
  raw: { from: dateTime(PAGE.from * 1000), to: dateTime(PAGE.to * 1000) },
};

interface Inside {
  panel: Shown;
  frames: DataFrame[];
  width: number;
  height: number;
}

const Nothing = ({ panel, width, height }: Inside) => (
  <div style={{ width, height, display: 'grid', placeItems: 'center', color: theme.colors.text.secondary }}>
    {panel.fieldConfig.defaults.noValue ?? 'No data'}
  </div>
);

const Lines = ({ panel, frames, width, height }: Inside) => (
  <TimeSeries
    frames={frames}
    width={width}
    height={height}
    timeRange={range}
    timeZone="utc"
    legend={panel.options.legend}
    options={panel.options}
  />
);

const Stat = ({ panel, frames, width, height }: Inside) => (
  <VizRepeater
    width={width}
    height={height}
    source={frames}
    renderCounter={0}
    orientation={VizOrientation.Auto}
    getValues={() => frames}
    renderValue={({ value: frame, width, height }) => {
      const field = frame.fields[1];
      return (
        <BigValue
          width={width}
          height={height}
          theme={theme}
          value={{ ...field.display!(lastOf(field)), title: panel.options.textMode === 'name' ? field.name : '' }}
          colorMode={panel.options.colorMode}
          graphMode={panel.options.graphMode}
          textMode={panel.options.textMode}
          justifyMode={panel.options.justifyMode}
        />
      );
    }}
  />
);

const Bars = ({ panel, frames, width, height }: Inside) => {
  const most = Math.max(1e-9, ...frames.map((frame) => lastOf(frame.fields[1]) ?? 0));
  const sorted = [...frames].sort((a, b) => (lastOf(b.fields[1]) ?? 0) - (lastOf(a.fields[1]) ?? 0));
  const alignmentFactors = getDisplayValueAlignmentFactors(
    sorted.map(({ fields: [, field] }) => ({ display: { ...field.display!(lastOf(field)), title: field.name } }) as any)
  );
  return (
    <VizRepeater
      width={width}
      height={height}
      source={frames}
      renderCounter={0}
      orientation={VizOrientation.Horizontal}
      minVizHeight={16}
      maxVizHeight={300}
      itemSpacing={8}
      getValues={() => sorted}
      renderValue={({ value: frame, width, height }) => {
        const field = frame.fields[1];
        const value = { ...field.display!(lastOf(field)), title: field.name };
        return (
          <BarGauge
            width={width}
            height={height}
            theme={theme}
            field={{ ...field.config, max: field.config.max ?? most }}
            display={field.display}
            value={value}
            orientation={VizOrientation.Horizontal}
            displayMode={panel.options.displayMode}
            alignmentFactors={alignmentFactors}
          />
        );
      }}
    />
  );
};

const KINDS: Record<string, (inside: Inside) => ReactNode> = {
  timeseries: Lines,
  stat: Stat,
  bargauge: Bars,
  heatmap: (inside) => <Heatmap page={PAGE} theme={theme} {...inside} />,
  table: ({ panel, width, height }) => <Columns panel={panel} theme={theme} width={width} height={height} />,
  'state-timeline': (inside) => <Timeline page={PAGE} theme={theme} {...inside} />,
};

// A panel that cannot be drawn is an error of the whole run, which reads it from the console.
class Guard extends Component<{ title: string; children: ReactNode }, { failed: boolean }> {
  state = { failed: false };
  static getDerivedStateFromError() {
    return { failed: true };
  }
  componentDidCatch(error: Error) {
    console.error(`FAILED ${this.props.title}: ${error.message}`);
  }
  render() {
    return this.state.failed ? null : this.props.children;
  }
}

const place = ({ gridPos: at }: Shown) => ({
  position: 'absolute' as const,
  left: at.x * CELL.width + GAP / 2,
  top: HEAD + at.y * CELL.height,
  width: at.w * CELL.width - GAP,
  height: at.h * CELL.height - GAP,
});

const One = ({ panel }: { panel: Shown }) => {
  const at = place(panel);
  if (panel.type === 'row') {
    return (
      <div style={{ ...at, fontSize: 16, fontWeight: 500, color: theme.colors.text.primary, paddingTop: 4 }}>
        <span style={{ color: theme.colors.text.secondary, marginRight: 8 }}>⌄</span>
        {panel.title}
      </div>
    );
  }
  const frames = framesOf(PAGE, panel, theme);
  const Kind = frames.length ? KINDS[panel.type] : Nothing;
  return (
    <div style={at} className="panel" data-drawn={frames.length > 0}>
      <PanelChrome title={panel.title} width={at.width} height={at.height}>
        {(width: number, height: number) => (
          <Guard title={panel.title}>
            <div data-inside>
              <Kind panel={panel} frames={frames} width={width} height={height} />
            </div>
          </Guard>
        )}
      </PanelChrome>
    </div>
  );
};

const bottom = HEAD + Math.max(...PAGE.panels.map(({ gridPos: at }) => at.y + at.h)) * CELL.height + GAP;

const Board = () => (
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ position: 'relative', width: WIDTH, height: bottom, background: theme.colors.background.canvas }}>
      <div style={{ padding: '14px 12px', display: 'flex', gap: 18, alignItems: 'baseline' }}>
        <span style={{ fontSize: 20, fontWeight: 500 }}>{PAGE.title}</span>
        {Object.entries(PAGE.variables).map(([name, value]) => (
          <span key={name} style={{ fontSize: 13 }}>
            <span style={{ color: theme.colors.text.secondary }}>{name} </span>
            {value}
          </span>
        ))}
      </div>
      {PAGE.panels.map((panel, index) => (
        <One key={index} panel={panel} />
      ))}
    </div>
  </ThemeContext.Provider>
);

createRoot(document.getElementById('page')!).render(<Board />);
const painted = (panel: Element): boolean => {
  const canvases = [...panel.querySelectorAll('canvas')];
  const inside = panel.querySelector('[data-inside]')!;
  return canvases.length
    ? canvases.some((one) => one.getContext('2d')!.getImageData(0, 0, one.width, one.height).data.some((byte) => byte > 0))
    : inside.textContent!.trim().length > 0;
};

// Read from the console by what took the picture.
document.fonts.ready.then(() =>
  setTimeout(() => {
    const drawn = [...document.querySelectorAll('.panel')];
    const empty = drawn.filter((panel) => panel.getAttribute('data-drawn') !== 'true').length;
    const blank = drawn.filter((panel) => !painted(panel)).length;
    console.log(`DRAWN ${drawn.length} EMPTY ${empty} BLANK ${blank}`);
  }, 1000)
);
