// The filters and the open watch are in the URL's hash: the URL can be sent to a colleague, and Back works.

const FILTERS = ["q", "host", "app", "task_id", "event_id", "state", "outcome", "delivery_state", "trouble", "created_after", "created_before", "order"];

const listeners = [];

function read() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const filters = {};
  for (const name of FILTERS) if (hash.get(name)) filters[name] = hash.get(name);
  return { filters, watch: hash.get("watch") ?? "" };
}

export let state = read();

// A listener is called with the state before the change.
export const onChange = (listener) => listeners.push(listener);

function write({ filters, watch }, addToHistory) {
  const parameters = new URLSearchParams(filters);
  if (watch) parameters.set("watch", watch);
  const hash = parameters.toString();
  const url = `${location.pathname}${hash ? `#${hash}` : ""}`;
  if (addToHistory) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  update();
}

function update() {
  const before = state;
  state = read();
  for (const listener of listeners) listener(before);
}

export function setFilters(filters) {
  const valid = Object.fromEntries(Object.entries(filters).filter(([name, value]) => FILTERS.includes(name) && value));
  write({ filters: valid, watch: state.watch }, false);
}

export const openWatch = (watch) => write({ filters: state.filters, watch }, true);

export const closeWatch = () => write({ filters: state.filters, watch: "" }, true);

// Returns the link to the page with these filters, or with an open watch: `{ host }`, `{ watch }`.
export const hrefOf = (parameters) => `#${new URLSearchParams(parameters)}`;

export function startState() {
  addEventListener("popstate", update);
  addEventListener("hashchange", update);
}
