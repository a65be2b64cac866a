// Everything around the table: figures, amux keys, task classes and the store.

import { showAlerts } from "./alerts.js";
import { byId, el, icon, reconcile } from "./dom.js";
import { bytes, clock, counted, duration, number, setNow, words } from "./format.js";
import { showWatches } from "./navigate.js";
import { showReceivers } from "./receivers.js";
import { relative } from "./time.js";

export function showOverview(overview) {
  setNow(overview.now);
  showAlerts(overview);
  showFigures(overview);
  showReceivers(overview.all_receivers);
  showKeys(overview);
  showClasses(overview.classes);
  showStore(overview);
}

// --- figures ------------------------------------------------------------------------------------------------------

function showFigures({ figures, store_ok: storeOk }) {
  const writeSeconds = figures.store_milliseconds === null ? null : figures.store_milliseconds / 1000;
  const items = [
    { name: "Active watches", value: number(figures.active), hint: counted(figures.tasks, "task polled", "tasks polled"), filters: { state: "active" } },
    { name: "Stuck tasks", value: number(figures.stuck), level: figures.stuck ? "warn" : "", hint: figures.waiting_for_key ? `${counted(figures.waiting_for_key, "waits", "wait")} for a key` : "polls fail or are late", filters: { trouble: "stuck" } },
    { name: "Read in batches", value: number(figures.tasks_in_batches), hint: `${number(figures.tasks - figures.tasks_in_batches)} singly; ${number(figures.requests_saved_per_minute)} requests/min saved` },
    { name: "Near deadline", value: number(figures.nearing_deadline), hint: "in the last tenth of their time", filters: { trouble: "nearing" } },
    { name: "Callbacks pending", value: number(figures.pending), hint: "next attempt now or later", filters: { delivery_state: "pending" } },
    { name: "Callbacks dead", value: number(figures.dead), level: figures.dead ? "bad" : "", hint: "no more retries", filters: { delivery_state: "dead" } },
    { name: "Poll lag", value: figures.lag_seconds === null ? "–" : `≤ ${duration(figures.lag_seconds)}`, level: figures.lag_seconds > 5 ? "warn" : "", hint: "p95, last two minutes" },
    { name: "Store", value: storeOk ? duration(writeSeconds) : "fails", level: storeOk ? "" : "bad", hint: storeOk ? "average write" : "cannot write" },
  ];
  reconcile(byId("figures"), items, (item) => item.name, buildFigure);
}

function buildFigure(item) {
  const children = [
    el("span", { class: "name" }, item.name),
    el("strong", { class: "value" }, item.value),
    el("span", { class: "hint" }, item.hint),
  ];
  const attributes = { class: "figure", "data-level": item.level || null, "data-focus": "figure" };
  if (!item.filters) return el("div", attributes, children);
  return el("button", { ...attributes, type: "button", click: () => showWatches(item.filters) }, children);
}

// --- keys, store --------------------------------------------------------------------------------------------------

// The level and the text for each state of an amux key.
const KEY_STATES = { good: ["good", "accepted by amux"], paused: ["bad", "refused by amux"], throttled: ["warn", "throttled by amux"] };

function showKeys({ credentials, credential_count: count }) {
  const more = count - credentials.length;
  const items = more ? [...credentials, { name: "", more }] : credentials;
  reconcile(byId("keys"), items, (item) => item.name, (item) => (item.name ? buildKey(item) : el("li", { class: "muted" }, `${counted(more, "more key")} of apps`)));
}

function buildKey(key) {
  const [level, text] = KEY_STATES[key.state] ?? ["note", words(key.state)];
  const name = key.name === "configured" ? "AMUX_API_KEY" : `an app's own key, ${key.name.slice(0, 8)}`;
  return el(
    "li",
    { "data-level": level },
    icon(level),
    el("span", { class: "name" }, name),
    el("span", { class: "numbers" }, counted(key.tasks, "task")),
    el("span", { class: "detail" }, text, key.since ? ` since ${clock(key.since)}` : ""),
    key.message ? el("span", { class: "detail user-text" }, key.message) : null,
    key.resumes_at ? el("span", { class: "detail muted" }, "next try ", relative("until", key.resumes_at)) : null,
  );
}

// The name of a class comes from amux's platform and model, from the model that an app gave, or from an amux key.
function className(name) {
  const [origin, ...rest] = name.split(" ");
  if (origin === "amux") return `${known(rest.slice(1).join(" "))}${rest[0] === "-" ? "" : `, platform ${rest[0]}`}`;
  if (origin === "app") return `${rest.join(" ")}, named by apps`;
  if (origin === "key") return rest[0] === "configured" ? "Unknown model" : `Unknown model, key ${rest[0].slice(0, 8)}`;
  return "Rare models";
}

const known = (model) => (model === "-" ? "Unknown model" : model);

function showClasses(classes) {
  const items = classes.length ? classes : [{ name: "" }];
  reconcile(byId("classes"), items, (item) => item.name, (item) => (item.name ? buildClass(item) : el("li", { class: "muted" }, "No task has ended yet.")));
}

function buildClass(item) {
  const fixed = `${duration(item.fixed_delay)} on the fixed schedule`;
  const delay = item.learned_delay === null ? fixed : `${duration(item.learned_delay)} (${fixed})`;
  return el(
    "li",
    {},
    icon("run"),
    el("span", { class: "name user-text" }, className(item.name)),
    el("span", { class: "numbers" }, counted(item.ends, "end")),
    el("span", { class: "detail" }, `half within ${duration(item.p50)}, 90 % within ${duration(item.p90)}`),
    el("span", { class: "detail" }, `${item.polls === null ? "–" : item.polls.toFixed(1)} polls a task`),
    el("span", { class: "detail muted" }, `mean delay until a poll sees the end: ${delay}`),
  );
}

function showStore({ store, store_ok: storeOk, replicas, now }) {
  const items = [{ id: "store", level: storeOk ? "good" : "bad", name: store?.kind ?? "Store", numbers: store ? bytes(store.size_bytes) : "", text: storeOk ? "writable" : "cannot write", place: store?.place, freeBytes: store?.free_bytes, diskBytes: store?.disk_bytes }];
  for (const replica of replicas) {
    const alive = replica.expires_at > now - 5;
    items.push({ id: replica.id, level: alive ? "good" : "warn", name: replica.id, numbers: counted(replica.owned_tasks, "task"), text: replicaText(replica, alive) });
  }
  reconcile(byId("store"), items, (item) => item.id, buildStoreItem);
}

function replicaText(replica, alive) {
  if (!alive) return "replica, does not answer";
  return replica.leaving ? "replica, stopping: its tasks move to others" : "replica, running";
}

function buildStoreItem(item) {
  const free = item.freeBytes === null || item.freeBytes === undefined ? null : `${bytes(item.freeBytes)} of ${bytes(item.diskBytes)} free on its disk`;
  return el(
    "li",
    { "data-level": item.level },
    icon(item.level),
    el("span", { class: "name" }, item.name),
    el("span", { class: "numbers" }, item.numbers),
    el("span", { class: "detail" }, item.text),
    item.place ? el("span", { class: "detail user-text muted" }, item.place) : null,
    free ? el("span", { class: "detail" }, free) : null,
  );
}
