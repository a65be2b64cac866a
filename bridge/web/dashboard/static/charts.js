// Three small charts of the last hour, a bar a minute. The process keeps them: they begin with it.

import { byId, el, reconcile, setText, svg } from "./dom.js";
import { clock, duration, now, number } from "./format.js";

const MINUTES = 60;
const WIDTH = 300;
const HEIGHT = 48;
const STEP = WIDTH / MINUTES;

const CHARTS = [
  {
    name: "Polls a minute",
    parts: [["polls", "answered"], ["failed_polls", "failed"]],
    say: (at) => `${number(at.polls + at.failed_polls)}${at.failed_polls ? `, ${number(at.failed_polls)} failed` : ""}`,
  },
  {
    name: "Poll lag, p95",
    parts: [["lag_seconds", "lag"]],
    say: (at) => (at.lag_seconds === null ? "no polls" : `≤ ${duration(at.lag_seconds)}`),
    least: 0.1,
    top: (value) => `≤ ${duration(value)}`,
  },
  {
    name: "Callbacks a minute",
    parts: [["delivered", "taken"], ["failed_attempts", "failed"]],
    say: (at) => `${number(at.delivered + at.failed_attempts)}${at.failed_attempts ? `, ${number(at.failed_attempts)} failed` : ""}`,
  },
];

export function showCharts({ minutes }) {
  const this_minute = Math.floor(now() / 60) * 60;
  const known = minutes.filter((at) => at.at > this_minute - MINUTES * 60 && at.at <= this_minute);
  reconcile(byId("charts"), CHARTS.map(({ name }) => ({ name, known, this_minute })), (one) => one.name, chart);
}

function chart({ name, known, this_minute }) {
  const what = CHARTS.find((one) => one.name === name);
  const height = (at) => what.parts.reduce((sum, [part]) => sum + (at[part] ?? 0), 0);
  const most = Math.max(what.least ?? 1, ...known.map(height));
  const whole = known.filter((at) => at.at < this_minute);
  const last = whole.at(-1) ?? known.at(-1);
  const reading = el("span", { class: "reading" }, last ? what.say(last) : "–");
  const label = `${name}: ${last ? `${what.say(last)} in the minute of ${clock(last.at).slice(0, 5)}` : "nothing yet"}; most ${what.top ? what.top(most) : number(most)}`;
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  drawing.append(svg("path", { class: "base", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }));
  for (const at of known) drawing.append(...bars(at, what, most, this_minute));
  readOut(drawing, known, what, this_minute, reading, reading.textContent);
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, el("span", {}, name), reading),
    drawing,
    el("p", { class: "axis faint", "aria-hidden": "true" }, el("span", {}, "1 h ago"), el("span", {}, `most ${what.top ? what.top(most) : number(most)}`), el("span", {}, "now")),
  );
}

function bars(at, what, most, this_minute) {
  const x = WIDTH - STEP - ((this_minute - at.at) / 60) * STEP;
  let top = HEIGHT;
  return what.parts
    .filter(([part]) => at[part])
    .map(([part, kind]) => {
      const high = Math.max(1, (at[part] / most) * (HEIGHT - 2));
      top -= high;
      return svg("rect", { class: `bar-${kind}`, x: (x + 0.5).toFixed(2), y: top.toFixed(2), width: (STEP - 1).toFixed(2), height: high.toFixed(2) });
    });
}

// The pointer's minute is told where the last one's is otherwise.
function readOut(drawing, known, what, this_minute, reading, otherwise) {
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const back = Math.floor(((box.right - event.clientX) / box.width) * MINUTES);
    const at = known.find((one) => one.at === this_minute - back * 60);
    setText(reading, at ? `${clock(at.at).slice(0, 5)} · ${what.say(at)}` : otherwise);
  });
  drawing.addEventListener("pointerleave", () => setText(reading, otherwise));
}
