// Formats numbers, times and a watch's status. Times are relative to the server's clock, which every answer contains.

let clockOffset = 0;

export function setNow(seconds) {
  clockOffset = seconds - Date.now() / 1000;
}

export const now = () => Date.now() / 1000 + clockOffset;

const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const number = (value) => (value === null || value === undefined ? "–" : integers.format(value));

export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export const words = (name) => String(name ?? "").replaceAll("_", " ");

// Returns a long id without its middle: people compare the beginning and the end.
export const shortened = (id) => (id.length > 40 ? `${id.slice(0, 20)}…${id.slice(-12)}` : id);

export function span(seconds) {
  const left = Math.max(0, Math.round(seconds));
  if (left < 60) return `${left} s`;
  if (left < 3600) return `${Math.floor(left / 60)} min`;
  if (left < 86400) return twoUnits(left, 3600, "h", 60, "min");
  return twoUnits(left, 86400, "d", 3600, "h");
}

function twoUnits(left, size, unit, smallSize, smallUnit) {
  const rest = Math.floor((left % size) / smallSize);
  return `${Math.floor(left / size)} ${unit}${rest ? ` ${rest} ${smallUnit}` : ""}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : span(seconds);
}

export const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);

export function moment(seconds) {
  const text = new Date(seconds * 1000).toISOString();
  const today = new Date(now() * 1000).toISOString().slice(0, 10);
  return text.slice(0, 10) === today ? text.slice(11, 19) : `${text.slice(0, 10)} ${text.slice(11, 19)}`;
}

export const iso = (seconds) => new Date(seconds * 1000).toISOString();

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = count;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit ? left.toFixed(1) : left} ${units[unit]}`;
}

const OUTCOME_ICONS = { completed: "good", failed: "warn", timed_out: "warn", unavailable: "warn" };

// Returns the icon and the text for a watch's state.
export function watchStatus({ state, outcome, status, progress }) {
  if (state === "cancelled") return ["off", "cancelled"];
  if (state === "settled") return [OUTCOME_ICONS[outcome] ?? "note", words(outcome)];
  if (status === "in_progress") return ["run", progress === null ? "in progress" : `running, ${progress} %`];
  return ["wait", status === "unknown" ? "no status yet" : words(status)];
}
