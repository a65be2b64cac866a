// The table of watches: a page of it, as the server filters, searches and orders.

import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { counted, number, span, words } from "./format.js";
import { hrefOf, openWatch, setFilters, state } from "./state.js";
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
  reconcile(byId("rows"), items, (one) => one.id, row, fillRow);
  markOpen();
  setHidden(byId("empty"), items.length > 0);
  setText(byId("empty"), Object.keys(state.filters).length ? "No watch is like this." : "No watch has been registered yet.");
  const page = cursors.length + 1;
  setText(byId("table-count"), items.length ? `${counted(items.length, "watch", "watches")} shown${page > 1 || next ? `, page ${page}` : ""}` : "");
  byId("next").disabled = !next;
  byId("previous").disabled = !cursors.length;
}

export function tableFailed({ detail }) {
  const says = byId("rows").childElementCount ? "The table is as it was" : "The table cannot be read";
  setText(byId("table-message"), `${says}: ${detail}.`);
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
  return fillRow(el("div", { role: "row", class: "row" }), one);
}

// A poll changes one cell of six: the others stay as they are.
function fillRow(node, one) {
  for (const [name, value] of [["data-state", one.state], ["data-level", one.trouble?.level]]) {
    if (value) node.setAttribute(name, value);
    else node.removeAttribute(name);
  }
  reconcile(node, cells(one), ({ name }) => name, ({ name, of }) => CELLS[name](of));
  return node;
}

function cells(one) {
  const { id, task_id, app, callback_url, deliveries, state: stands, polls, last_polled_at, created_at, deadline_at, settled_at } = one;
  const found = [
    { name: "state", of: standing(one) },
    { name: "task", of: { id, task_id } },
    { name: "app", of: app },
    { name: "callback", of: { callback_url, deliveries, stands } },
    { name: "polls", of: { polls, at: stands === "active" ? last_polled_at : null } },
    { name: "age", of: { stands, created_at, deadline_at, settled_at } },
  ];
  if (one.trouble) found.push({ name: "matter", of: one.trouble });
  return found;
}

// A link, so that it can be copied or opened in another tab; here the filters stay.
function openHere(event, id) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  openWatch(id);
}

const cell = (kind, ...inside) => el("span", { role: "cell", class: kind }, inside);
const faint = (...inside) => el("span", { class: "faint" }, inside);

const CELLS = {
  state: ([mark, says]) => cell("state", icon(mark), el("span", {}, says)),
  task: ({ id, task_id }) => cell("task", el("a", { href: hrefOf(id), class: "open text", "data-focus": "open", click: (event) => openHere(event, id) }, task_id), el("span", { class: "id faint text" }, id)),
  app: (app) => cell("app text", app),
  callback: (one) => cell("callback", el("span", { class: "url text", title: one.callback_url }, one.callback_url.replace(/^https?:\/\//, "")), sent(one)),
  polls: ({ polls, at }) => cell("polls number", el("span", {}, el("span", { class: "label" }, "Polls "), number(polls)), at ? faint(relative("ago", at)) : null),
  age: (one) => cell("age number", age(one)),
  matter: ({ level, why }) => cell("matter text", icon(level), el("span", {}, why)),
};

function sent({ deliveries: { pending, delivered, dead }, stands }) {
  const parts = [];
  if (dead) parts.push(el("span", { class: "bad" }, dead > 1 ? `${dead} dead` : "dead"));
  if (pending) parts.push(el("span", {}, pending > 1 ? `${pending} waiting` : "waiting"));
  if (delivered) parts.push(el("span", {}, delivered > 1 ? `${delivered} delivered` : "delivered"));
  if (!parts.length) parts.push(el("span", {}, stands === "active" ? "nothing to send yet" : "nothing sent"));
  return el("span", { class: "sent faint" }, parts.flatMap((part, place) => (place ? [", ", part] : [part])));
}

function age({ stands, created_at, deadline_at, settled_at }) {
  if (stands === "active") return [el("span", {}, relative("since", created_at)), faint(relative("left", deadline_at))];
  return [el("span", {}, relative("ago", settled_at ?? created_at)), settled_at ? faint(`took ${span(settled_at - created_at)}`) : null];
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
