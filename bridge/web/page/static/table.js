// The table of watches: a page of it, as the server filters, searches and orders.

import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { counted, moment, number, span, words } from "./format.js";
import { hrefOf, setFilters, state } from "./state.js";
import { relative } from "./time.js";

let cursors = [];
let following = null;
let changed = () => {};

export const cursor = () => cursors.at(-1) ?? "";

export function startTable(whenChanged) {
  changed = whenChanged;
  const form = byId("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => apply());
  let typing = 0;
  byId("q").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(apply, 250);
  });
  byId("clear").addEventListener("click", () => {
    setFilters({});
    byId("q").focus();
  });
  byId("next").addEventListener("click", () => turn(() => cursors.push(following)));
  byId("previous").addEventListener("click", () => turn(() => cursors.pop()));
  byId("rows").addEventListener("keydown", walk);
  showFilters();
}

function apply() {
  const given = Object.fromEntries(new FormData(byId("filters")));
  if (given.q) given.q = given.q.trim();
  setFilters({ ...given, host: state.filters.host });
}

export function filtersChanged() {
  cursors = [];
  showFilters();
}

function turn(move) {
  move();
  byId("watches").focus({ preventScroll: true });
  byId("watches").scrollIntoView({ block: "nearest" });
  changed();
}

function showFilters() {
  for (const field of byId("filters").elements) {
    if (!field.name) continue;
    const wanted = state.filters[field.name] ?? "";
    field.toggleAttribute("data-set", Boolean(wanted));
    // What is being typed is not written over by what was asked for a moment ago.
    if (field.value !== wanted && (field.name !== "q" || document.activeElement !== field)) field.value = wanted;
  }
  setHidden(byId("clear"), !Object.keys(state.filters).length);
  const host = byId("host-filter");
  setHidden(host, !state.filters.host);
  host.replaceChildren(
    ...(state.filters.host
      ? ["Only callbacks to ", el("strong", { class: "text" }, state.filters.host), " ", el("button", { type: "button", class: "quiet", click: () => setFilters({ ...state.filters, host: "" }) }, "Show all hosts")]
      : []),
  );
}

export function showTable({ items, next_cursor: next }) {
  following = next;
  setText(byId("table-message"), "");
  reconcile(byId("rows"), items, (one) => one.id, row);
  markOpen();
  setHidden(byId("empty"), items.length > 0);
  setText(byId("empty"), Object.keys(state.filters).length ? "No watch is like this." : "No watch has been registered yet.");
  const page = cursors.length + 1;
  setText(byId("table-count"), items.length ? `${counted(items.length, "watch", "watches")} shown${page > 1 || next ? `, page ${page}` : ""}` : "");
  byId("next").disabled = !next;
  byId("previous").disabled = !cursors.length;
}

export function tableFailed({ detail }) {
  setText(byId("table-message"), `The table is as it was: ${detail}.`);
}

export function markOpen() {
  for (const node of byId("rows").children) {
    if (node.reconcileKey === state.watch) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
}

// --- a row --------------------------------------------------------------------------------------------------------

const OUTCOMES = { completed: "good", failed: "warn", timed_out: "warn", unavailable: "warn" };

export function standing(one) {
  if (one.state === "cancelled") return ["off", "cancelled"];
  if (one.state === "settled") return [OUTCOMES[one.outcome] ?? "note", words(one.outcome)];
  if (one.status === "in_progress") return ["run", one.progress === null ? "in progress" : `running ${one.progress} %`];
  return ["wait", one.status === "unknown" ? "not seen yet" : words(one.status)];
}

function row(one) {
  const [mark, says] = standing(one);
  return el(
    "div",
    { role: "row", class: "row", "data-state": one.state, "data-level": one.trouble?.level },
    el("span", { role: "cell", class: "state" }, icon(mark), el("span", {}, says)),
    el("span", { role: "cell", class: "task" }, el("a", { href: hrefOf(one.id), class: "open text", "data-focus": "open" }, one.task_id), el("span", { class: "id faint text" }, one.id)),
    el("span", { role: "cell", class: "app text" }, one.app),
    el("span", { role: "cell", class: "callback" }, el("span", { class: "url text", title: one.callback_url }, one.callback_url.replace(/^https?:\/\//, "")), sent(one)),
    el("span", { role: "cell", class: "polls number" }, el("span", {}, el("span", { class: "label" }, "Polls "), number(one.polls)), one.state === "active" && one.last_polled_at ? el("span", { class: "faint" }, relative("ago", one.last_polled_at)) : null),
    el("span", { role: "cell", class: "age number" }, age(one)),
    one.trouble ? el("span", { role: "cell", class: "matter text" }, icon(one.trouble.level), el("span", {}, one.trouble.why)) : null,
  );
}

function sent({ deliveries: { pending, delivered, dead }, state: stands }) {
  const parts = [];
  if (dead) parts.push(el("span", { class: "bad" }, dead > 1 ? `${dead} dead` : "dead"));
  if (pending) parts.push(el("span", {}, pending > 1 ? `${pending} waiting` : "waiting"));
  if (delivered) parts.push(el("span", {}, delivered > 1 ? `${delivered} delivered` : "delivered"));
  if (!parts.length) parts.push(el("span", {}, stands === "active" ? "nothing to send yet" : "nothing sent"));
  return el("span", { class: "sent faint" }, parts.flatMap((part, place) => (place ? [", ", part] : [part])));
}

function age(one) {
  if (one.state === "active") return [el("span", { title: `${moment(one.created_at)} UTC` }, relative("since", one.created_at)), el("span", { class: "faint" }, relative("left", one.deadline_at))];
  const took = one.settled_at ? el("span", { class: "faint" }, `took ${span(one.settled_at - one.created_at)}`) : null;
  return [el("span", {}, relative("ago", one.settled_at ?? one.created_at)), took];
}

// Arrows walk from row to row; Tab goes on as everywhere.
function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const links = [...byId("rows").querySelectorAll("a.open")];
  const place = links.indexOf(document.activeElement);
  if (place < 0 || !links[place + step]) return;
  event.preventDefault();
  links[place + step].focus();
}
