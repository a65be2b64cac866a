// Everything above and beside the table: what needs a look and why, the figures, receivers, keys, the store.

import { openResend } from "./dialogs.js";
import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { bytes, clock, counted, duration, number, setNow, words } from "./format.js";
import { setFilters } from "./state.js";
import { relative } from "./time.js";

let told = null;
let announced = null;

export const overview = () => told;

export function showOverview(found) {
  told = found;
  setNow(found.now);
  verdict(found);
  reconcile(byId("troubles"), found.troubles, (one) => one.key, trouble);
  figures(found);
  receivers(found.receivers);
  keys(found.credentials);
  store(found);
}

// --- what needs a look --------------------------------------------------------------------------------------------

function verdict({ troubles, figures: { active } }) {
  const serious = troubles.filter((one) => one.level !== "note");
  const text = serious.length ? `${counted(serious.length, "trouble")} to look at` : "All is well";
  const title = byId("verdict");
  setText(title, text);
  title.dataset.level = serious[0]?.level ?? "good";
  document.title = `${serious.length ? `(${serious.length}) ` : ""}amux bridge`;
  announce(serious, active);
}

function announce(serious, active) {
  const before = announced;
  announced = new Map(serious.map((one) => [one.key, one.title]));
  if (before === null) {
    setText(byId("announce"), `${byId("verdict").textContent}. ${counted(active ?? 0, "watch", "watches")} active.`);
    return;
  }
  const fresh = serious.filter((one) => !before.has(one.key)).map((one) => one.title);
  const gone = [...before].filter(([key]) => !announced.has(key)).map(([, title]) => `Over: ${title}`);
  if (fresh.length || gone.length) setText(byId("announce"), [...fresh, ...gone].join(". "));
}

function trouble(one) {
  const actions = [];
  if (Object.keys(one.show).length) {
    actions.push(el("button", { type: "button", "data-focus": "show", click: () => show(one.show) }, "Show them"));
  }
  if (one.resend) {
    const name = told.receivers?.find((each) => each.host === one.resend)?.name ?? "";
    actions.push(el("button", { type: "button", "data-focus": "resend", click: () => openResend(name) }, "Send again…"));
  }
  return el(
    "li",
    { class: "trouble", "data-level": one.level },
    icon(one.level),
    el("h3", {}, el("span", { class: "unseen" }, `${LEVELS[one.level]}: `), one.title),
    el("p", { class: "why" }, one.why),
    el("p", { class: "todo" }, one.todo),
    actions.length ? el("p", { class: "actions" }, actions) : null,
  );
}

const LEVELS = { bad: "Failing", warn: "Needs a look", note: "Worth knowing" };

function show(filters) {
  setFilters(filters);
  byId("watches").scrollIntoView({ block: "start" });
  byId("watches").focus({ preventScroll: true });
}

// --- figures ------------------------------------------------------------------------------------------------------

function figures({ figures: found, store_ok: storeOk }) {
  const items = [
    { name: "Active watches", value: number(found.active), hint: counted(found.tasks, "task polled", "tasks polled"), show: { state: "active" } },
    { name: "Stuck", value: number(found.stuck), level: found.stuck ? "warn" : "", hint: found.held ? `${counted(found.held, "waits", "wait")} for a key` : "polls without an answer", show: { trouble: "stuck" } },
    { name: "Near deadline", value: number(found.nearing), hint: "in the last tenth of their time", show: { trouble: "nearing" } },
    { name: "Callbacks waiting", value: number(found.pending), hint: "sent, or tried again later", show: { delivery_state: "pending" } },
    { name: "Callbacks dead", value: number(found.dead), level: found.dead ? "bad" : "", hint: "given up, kept", show: { delivery_state: "dead" } },
    { name: "Poll lag", value: found.lag_seconds === null ? "–" : `≤ ${duration(found.lag_seconds)}`, level: found.lag_seconds > 5 ? "warn" : "", hint: "p95, last two minutes" },
    { name: "Store", value: storeOk ? duration(found.store_milliseconds === null ? null : found.store_milliseconds / 1000) : "fails", level: storeOk ? "" : "bad", hint: storeOk ? "a write, on average" : "takes no writes" },
  ];
  reconcile(byId("figures"), items, (one) => one.name, figure);
}

function figure(one) {
  const inside = [
    el("span", { class: "name" }, one.name),
    el("strong", { class: "value" }, one.value),
    el("span", { class: "hint" }, one.hint),
  ];
  const attributes = { class: "figure", "data-level": one.level || null, "data-focus": "figure" };
  if (!one.show) return el("div", attributes, inside);
  return el("button", { ...attributes, type: "button", click: () => show(one.show) }, inside);
}

// --- receivers, keys, store ---------------------------------------------------------------------------------------

function receivers(found) {
  setHidden(byId("resend-all"), !found?.some((one) => one.dead));
  const otherwise = found ? "Every receiver takes its callbacks." : "Not known while the store does not answer.";
  const items = found?.length ? found : [{ host: "", otherwise }];
  reconcile(byId("receivers"), items, (one) => one.host, (one) => (one.host ? receiver(one) : nothing(one.otherwise)));
}

const nothing = (text) => el("li", { class: "faint" }, text);

function receiver(one) {
  const level = one.dead ? "bad" : "warn";
  const said = one.dead ? one.dead_error : one.waiting_error;
  const filter = { host: one.host, delivery_state: one.dead ? "dead" : "pending" };
  return el(
    "li",
    { "data-level": level },
    icon(level),
    el("button", { type: "button", class: "name text", "data-focus": "host", click: () => show(filter) }, one.host),
    el("span", { class: "detail" }, [one.dead ? `${number(one.dead)} dead` : "", one.waiting ? `${number(one.waiting)} waiting` : ""].filter(Boolean).join(", ")),
    said ? el("span", { class: "detail text" }, said.message ?? String(said.code)) : null,
    one.waiting && one.next_at ? el("span", { class: "detail faint" }, "next try ", relative("until", one.next_at)) : null,
  );
}

const KEY_STATES = { good: ["good", "taken by amux"], paused: ["bad", "refused by amux"], slowed: ["warn", "asked to slow down"] };

function keys(found) {
  reconcile(byId("keys"), found, (one) => one.name, key);
}

function key(one) {
  const [level, says] = KEY_STATES[one.state] ?? ["note", words(one.state)];
  const name = one.name === "configured" ? "AMUX_API_KEY" : `an app's own, ${one.name.slice(0, 8)}`;
  return el(
    "li",
    { "data-level": level },
    icon(level),
    el("span", { class: "name" }, name),
    el("span", { class: "numbers" }, counted(one.tasks, "task")),
    el("span", { class: "detail" }, says, one.since ? ` since ${clock(one.since)}` : ""),
    one.message ? el("span", { class: "detail text" }, one.message) : null,
    one.resumes_at ? el("span", { class: "detail faint" }, "asked again ", relative("until", one.resumes_at)) : null,
  );
}

function store({ store: found, store_ok: storeOk, replicas, now: at }) {
  const level = storeOk ? "good" : "bad";
  const items = [{ id: "store", level, name: found?.kind ?? "Store", numbers: found ? bytes(found.size_bytes) : "", says: storeOk ? "takes writes" : "takes no writes", place: found?.place, free: found?.free_bytes, disk: found?.disk_bytes }];
  for (const one of replicas) {
    const alive = one.expires_at > at - 5;
    items.push({ id: one.id, level: alive ? "good" : "warn", name: one.id, numbers: counted(one.owned_tasks, "task"), says: replicaSays(one, alive) });
  }
  reconcile(byId("store"), items, (one) => one.id, storeItem);
}

function replicaSays(one, alive) {
  if (!alive) return "replica, not heard of";
  return one.leaving ? "replica, stopping: its tasks are handed over" : "replica, alive";
}

function storeItem(one) {
  const free = one.free === null || one.free === undefined ? null : `${bytes(one.free)} of ${bytes(one.disk)} free on its disk`;
  return el(
    "li",
    { "data-level": one.level },
    icon(one.level),
    el("span", { class: "name" }, one.name),
    el("span", { class: "numbers" }, one.numbers),
    el("span", { class: "detail" }, one.says),
    one.place ? el("span", { class: "detail text faint" }, one.place) : null,
    free ? el("span", { class: "detail" }, free) : null,
  );
}
