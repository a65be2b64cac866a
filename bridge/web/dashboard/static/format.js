// Numbers and times. The server's clock counts, not this machine's: every answer says what time it is there.

let offset = 0;

export function setNow(seconds) {
  offset = seconds - Date.now() / 1000;
}

export const now = () => Date.now() / 1000 + offset;

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export const words = (name) => String(name ?? "").replaceAll("_", " ");

export function span(seconds) {
  const left = Math.max(0, Math.round(seconds));
  if (left < 60) return `${left} s`;
  if (left < 3600) return `${Math.floor(left / 60)} min`;
  if (left < 86400) return two(left, 3600, "h", 60, "min");
  return two(left, 86400, "d", 3600, "h");
}

function two(left, size, unit, below, small) {
  const rest = Math.floor((left % size) / below);
  return `${Math.floor(left / size)} ${unit}${rest ? ` ${rest} ${small}` : ""}`;
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
