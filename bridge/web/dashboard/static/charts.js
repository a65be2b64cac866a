// Three charts of the last hour, one bar for each minute. The server has the data in memory, since its start.

import { byId, el, reconcile, setText, svg } from "./dom.js";
import { clock, duration, now, number } from "./format.js";

const MINUTES = 60;
const WIDTH = 300;
const HEIGHT = 48;
const STEP = WIDTH / MINUTES;

// `parts` are the fields that a bar stacks, each with its CSS class. `describe` formats one minute, `formatMax` the
// largest value (default: a number), and `minScale` is the smallest value that fills the height (default: 1).
const CHARTS = [
  {
    name: "Polls per minute",
    parts: [["polls", "answered"], ["failed_polls", "failed"]],
    describe: (minute) => withFailed(minute.polls, minute.failed_polls),
  },
  {
    name: "Poll lag, p95",
    parts: [["lag_seconds", "lag"]],
    describe: (minute) => (minute.lag_seconds === null ? "no polls" : `≤ ${duration(minute.lag_seconds)}`),
    minScale: 0.1,
    formatMax: (value) => `≤ ${duration(value)}`,
  },
  {
    name: "Callbacks per minute",
    parts: [["delivered", "delivered"], ["failed_attempts", "failed"]],
    describe: (minute) => withFailed(minute.delivered, minute.failed_attempts),
  },
];

const withFailed = (succeeded, failed) => `${number(succeeded + failed)}${failed ? `, ${number(failed)} failed` : ""}`;

export function showCharts({ minutes }) {
  const thisMinute = Math.floor(now() / 60) * 60;
  const shown = minutes.filter((minute) => minute.at > thisMinute - MINUTES * 60 && minute.at <= thisMinute);
  reconcile(byId("charts"), CHARTS.map(({ name }) => ({ name, minutes: shown, thisMinute })), (item) => item.name, buildChart);
}

function buildChart({ name, minutes, thisMinute }) {
  const chart = CHARTS.find((one) => one.name === name);
  const height = (minute) => chart.parts.reduce((sum, [part]) => sum + (minute[part] ?? 0), 0);
  const max = Math.max(chart.minScale ?? 1, ...minutes.map(height));
  const idle = !minutes.some((minute) => height(minute));
  const maxText = `max. ${(chart.formatMax ?? number)(max)}`;
  const complete = minutes.filter((minute) => minute.at < thisMinute);
  const last = complete.at(-1) ?? minutes.at(-1);
  const value = el("span", { class: "value" }, idle ? "idle" : chart.describe(last));
  const label = `${name}: ${idle ? "idle in the last hour" : `${chart.describe(last)} in the minute of ${clock(last.at).slice(0, 5)}; ${maxText}`}`;
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  drawing.append(svg("path", { class: "base", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }));
  for (const minute of minutes) drawing.append(...bars(minute, chart, max, thisMinute));
  showPointedMinute(drawing, minutes, chart, thisMinute, value, value.textContent);
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, el("span", {}, name), value),
    drawing,
    el("p", { class: "axis muted", "aria-hidden": "true" }, el("span", {}, "1 h ago"), el("span", {}, idle ? "" : maxText), el("span", {}, "now")),
  );
}

function bars(minute, chart, max, thisMinute) {
  const x = WIDTH - STEP - ((thisMinute - minute.at) / 60) * STEP;
  let top = HEIGHT;
  return chart.parts
    .filter(([part]) => minute[part])
    .map(([part, kind]) => {
      const height = Math.max(1, (minute[part] / max) * (HEIGHT - 2));
      top -= height;
      return svg("rect", { class: `bar-${kind}`, x: (x + 0.5).toFixed(2), y: top.toFixed(2), width: (STEP - 1).toFixed(2), height: height.toFixed(2) });
    });
}

// Shows the value of the minute under the pointer. Without a pointer it shows the value of the last minute.
function showPointedMinute(drawing, minutes, chart, thisMinute, value, lastText) {
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const minutesAgo = Math.floor(((box.right - event.clientX) / box.width) * MINUTES);
    const minute = minutes.find((one) => one.at === thisMinute - minutesAgo * 60);
    setText(value, minute ? `${clock(minute.at).slice(0, 5)} · ${chart.describe(minute)}` : lastText);
  });
  drawing.addEventListener("pointerleave", () => setText(value, lastText));
}
