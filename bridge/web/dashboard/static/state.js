// What is looked at, kept in the address: a filter or a watch can be sent to a colleague, and Back goes back.

const FILTERS = ["q", "host", "state", "outcome", "delivery_state", "trouble", "order"];

let listeners = [];

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const filters = {};
  for (const name of FILTERS) if (given.get(name)) filters[name] = given.get(name);
  return { filters, watch: given.get("watch") ?? "" };
}

export let state = read();

export const onChange = (listener) => listeners.push(listener);

function write({ filters, watch }, keep) {
  const wanted = new URLSearchParams(filters);
  if (watch) wanted.set("watch", watch);
  const hash = wanted.toString();
  const url = `${location.pathname}${hash ? `#${hash}` : ""}`;
  if (keep) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  apply();
}

function apply() {
  const before = state;
  state = read();
  for (const listener of listeners) listener(before);
}

export function setFilters(filters) {
  const clean = Object.fromEntries(Object.entries(filters).filter(([name, value]) => FILTERS.includes(name) && value));
  write({ filters: clean, watch: state.watch }, false);
}

export const openWatch = (watch) => write({ filters: state.filters, watch }, true);

export const closeWatch = () => write({ filters: state.filters, watch: "" }, true);

export const hrefOf = (watch) => `#${new URLSearchParams({ watch })}`;

export function startState() {
  addEventListener("popstate", apply);
  addEventListener("hashchange", apply);
}
