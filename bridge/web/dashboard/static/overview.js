// Everything around the table: alerts, figures, receivers, amux keys and the store.

import { openResendDialog } from "./dialogs.js";
import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { bytes, clock, counted, duration, number, setNow, words } from "./format.js";
import { setFilters } from "./state.js";
import { relative } from "./time.js";

let lastReceivers = [];
let announcedAlerts = null;

export function showOverview(overview) {
  lastReceivers = overview.receivers ?? [];
  setNow(overview.now);
  showSummary(overview);
  reconcile(byId("alerts"), overview.alerts, (alert) => alert.key, buildAlert);
  showFigures(overview);
  showReceivers(overview.receivers);
  reconcile(byId("keys"), overview.credentials, (key) => key.name, buildKey);
  showClasses(overview.classes);
  showStore(overview);
}

// Open the dialog that sends dead callbacks again; `name` is the host that it selects, "" for all.
export function openResend(name) {
  const hosts = [...new Set(lastReceivers.filter((receiver) => receiver.dead).map((receiver) => receiver.name))];
  if (name && !hosts.includes(name)) hosts.push(name);
  openResendDialog(hosts, name);
}

// --- alerts -------------------------------------------------------------------------------------------------------

const LEVEL_NAMES = { bad: "Failing", warn: "Needs attention", note: "Information" };

function showSummary({ alerts, figures }) {
  const problems = alerts.filter((alert) => alert.level !== "note");
  const title = byId("alert-summary");
  setText(title, problems.length ? counted(problems.length, "problem needs attention", "problems need attention") : "No problems");
  title.dataset.level = problems[0]?.level ?? "good";
  document.title = `${problems.length ? `(${problems.length}) ` : ""}amux bridge`;
  announceChanges(problems, figures.active);
}

// For screen readers: first the summary, then each problem that begins or ends.
function announceChanges(problems, active) {
  const before = announcedAlerts;
  announcedAlerts = new Map(problems.map((alert) => [alert.key, alert.title]));
  if (before === null) {
    setText(byId("announcement"), `${byId("alert-summary").textContent}. ${counted(active ?? 0, "active watch", "active watches")}.`);
    return;
  }
  const begun = problems.filter((alert) => !before.has(alert.key)).map((alert) => alert.title);
  const ended = [...before].filter(([key]) => !announcedAlerts.has(key)).map(([, title]) => `Solved: ${title}`);
  if (begun.length || ended.length) setText(byId("announcement"), [...begun, ...ended].join(". "));
}

function buildAlert(alert) {
  const actions = [];
  if (Object.keys(alert.filters).length) {
    actions.push(el("button", { type: "button", "data-focus": "show", click: () => showWatches(alert.filters) }, "Show watches"));
  }
  if (alert.resend_host) {
    const name = lastReceivers.find((receiver) => receiver.host === alert.resend_host)?.name ?? "";
    actions.push(el("button", { type: "button", "data-focus": "resend", click: () => openResend(name) }, "Send again…"));
  }
  return el(
    "li",
    { class: "alert", "data-level": alert.level },
    icon(alert.level),
    el("h3", {}, el("span", { class: "visually-hidden" }, `${LEVEL_NAMES[alert.level]}: `), alert.title),
    el("p", { class: "explanation" }, alert.explanation),
    el("p", { class: "next-step" }, alert.next_step),
    actions.length ? el("p", { class: "actions" }, actions) : null,
  );
}

function showWatches(filters) {
  setFilters(filters);
  byId("watches").scrollIntoView({ block: "start" });
  byId("watches").focus({ preventScroll: true });
}

// --- figures ------------------------------------------------------------------------------------------------------

function showFigures({ figures, store_ok: storeOk }) {
  const writeSeconds = figures.store_milliseconds === null ? null : figures.store_milliseconds / 1000;
  const items = [
    { name: "Active watches", value: number(figures.active), hint: counted(figures.tasks, "task polled", "tasks polled"), filters: { state: "active" } },
    { name: "Stuck tasks", value: number(figures.stuck), level: figures.stuck ? "warn" : "", hint: figures.waiting_for_key ? `${counted(figures.waiting_for_key, "waits", "wait")} for a key` : "polls fail or are late", filters: { trouble: "stuck" } },
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

// --- receivers, keys, store ---------------------------------------------------------------------------------------

function showReceivers(receivers) {
  setHidden(byId("resend-all"), !receivers?.some((receiver) => receiver.dead));
  const empty = receivers ? "No receiver fails." : "Unknown: the store does not answer.";
  const items = receivers?.length ? receivers : [{ host: "", empty }];
  reconcile(byId("receivers"), items, (item) => item.host, (item) => (item.host ? buildReceiver(item) : el("li", { class: "muted" }, item.empty)));
}

function buildReceiver(receiver) {
  const level = receiver.dead ? "bad" : "warn";
  const error = receiver.dead ? receiver.dead_error : receiver.waiting_error;
  const filters = { host: receiver.host, delivery_state: receiver.dead ? "dead" : "pending" };
  const counts = [receiver.dead ? `${number(receiver.dead)} dead` : "", receiver.waiting ? `${number(receiver.waiting)} pending` : ""];
  return el(
    "li",
    { "data-level": level },
    icon(level),
    el("button", { type: "button", class: "name user-text", "data-focus": "host", click: () => showWatches(filters) }, receiver.host),
    el("span", { class: "detail" }, counts.filter(Boolean).join(", ")),
    error ? el("span", { class: "detail user-text" }, error.message ?? String(error.code)) : null,
    receiver.waiting && receiver.next_at ? el("span", { class: "detail muted" }, "next attempt ", relative("until", receiver.next_at)) : null,
  );
}

// By the state of a credential.
const KEY_STATES = { good: ["good", "accepted by amux"], paused: ["bad", "refused by amux"], throttled: ["warn", "throttled by amux"] };

function buildKey(key) {
  const [level, text] = KEY_STATES[key.state] ?? ["note", words(key.state)];
  const name = key.name === "configured" ? "AMUX_API_KEY" : `an app's own, ${key.name.slice(0, 8)}`;
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

// A class is named by amux's platform and model, by the model that an app gave, or by an amux key.
function className(name) {
  const [origin, ...rest] = name.split(" ");
  if (origin === "amux") return `${rest.slice(1).join(" ")}, platform ${rest[0]}`;
  if (origin === "app") return `${rest.join(" ")}, named by apps`;
  if (origin === "key") return rest[0] === "configured" ? "Unknown model" : `Unknown model, key ${rest[0].slice(0, 8)}`;
  return "Rare models";
}

function showClasses(classes) {
  const items = classes.length ? classes : [{ name: "" }];
  reconcile(byId("classes"), items, (item) => item.name, (item) => (item.name ? buildClass(item) : el("li", { class: "muted" }, "No task has ended yet.")));
}

function buildClass(item) {
  const learned = item.learned_delay === null ? "fixed schedule" : `${duration(item.learned_delay)} learned`;
  return el(
    "li",
    {},
    icon("run"),
    el("span", { class: "name user-text" }, className(item.name)),
    el("span", { class: "numbers" }, counted(item.ends, "end")),
    el("span", { class: "detail" }, `half within ${duration(item.p50)}, 90 % within ${duration(item.p90)}`),
    el("span", { class: "detail" }, `${item.polls === null ? "–" : item.polls.toFixed(1)} polls a task`),
    el("span", { class: "detail muted" }, `end seen after ${learned}, ${duration(item.fixed_delay)} fixed (mean)`),
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
