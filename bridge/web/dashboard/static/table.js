// The table of watches: one page of rows, which the server filters, searches and sorts.

import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { showFilters, startFilters } from "./filters.js";
import { showFirst } from "./first.js";
import { counted, number, shortened, span, watchStatus } from "./format.js";
import { onPlainClick } from "./navigate.js";
import { isFiltered, showNothing, showResults, showSearching } from "./results.js";
import { hrefOf, openWatch, state } from "./state.js";
import { relative } from "./time.js";

let cursors = []; // the cursors that led from the first page to this one
let nextCursor = null;
let reload = () => {};

export const cursor = () => cursors.at(-1) ?? "";

// `onPageChange` is called when the operator turns the page.
export function startTable(onPageChange) {
  reload = onPageChange;
  startFilters();
  byId("next").addEventListener("click", () => turnPage(() => cursors.push(nextCursor)));
  byId("previous").addEventListener("click", () => turnPage(() => cursors.pop()));
  byId("rows").addEventListener("keydown", moveFocus);
  showSearching();
}

// Shows the first page, because the filters have changed.
export function resetTable() {
  cursors = [];
  showFilters();
  showSearching();
}

function turnPage(changeCursors) {
  changeCursors();
  byId("watches").focus({ preventScroll: true });
  byId("watches").scrollIntoView({ block: "nearest" });
  reload();
}

export function showTable(data) {
  const { items, next_cursor: next } = data;
  nextCursor = next;
  setText(byId("table-message"), "");
  reconcile(byId("rows"), items, (watch) => watch.id, buildRow, updateRow);
  markOpenWatch();
  setHidden(byId("empty"), items.length > 0);
  showResults(data);
  if (!items.length && isFiltered()) showNothing(byId("empty"), data);
  else if (!items.length) showFirst(byId("empty"));
  const page = cursors.length + 1;
  setText(byId("table-count"), items.length ? `${counted(items.length, "watch", "watches")} shown${page > 1 || next ? `, page ${page}` : ""}` : "");
  byId("next").disabled = !next;
  byId("previous").disabled = !cursors.length;
}

export function tableFailed({ detail }) {
  const effect = byId("rows").childElementCount ? "The table is not up to date" : "The table cannot be loaded";
  setText(byId("table-message"), `${effect}: ${detail}.`);
}

export function markOpenWatch() {
  for (const node of byId("rows").children) {
    if (node.reconcileKey === state.watch) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
}

// --- a row --------------------------------------------------------------------------------------------------------

function buildRow(watch) {
  return updateRow(el("div", { role: "row", class: "row" }), watch);
}

// A poll changes one cell of six; the other cells keep their nodes.
function updateRow(node, watch) {
  for (const [name, value] of [["data-state", watch.state], ["data-level", watch.diagnosis?.level]]) {
    if (value) node.setAttribute(name, value);
    else node.removeAttribute(name);
  }
  reconcile(node, cellsOf(watch), ({ name }) => name, ({ name, value }) => CELLS[name](value));
  return node;
}

function cellsOf(watch) {
  const { id, task_id, app, callback_url, deliveries, state: watchState, polls, last_polled_at, created_at, deadline_at, settled_at } = watch;
  const cells = [
    { name: "state", value: watchStatus(watch) },
    { name: "task", value: { id, task_id } },
    { name: "app", value: app },
    { name: "callback", value: { callback_url, deliveries, watchState } },
    { name: "polls", value: { polls, at: watchState === "active" ? last_polled_at : null } },
    { name: "age", value: { watchState, created_at, deadline_at, settled_at } },
  ];
  if (watch.diagnosis) cells.push({ name: "diagnosis", value: watch.diagnosis });
  return cells;
}


const cell = (kind, ...children) => el("span", { role: "cell", class: kind }, children);
const muted = (...children) => el("span", { class: "muted" }, children);

const CELLS = {
  state: ([iconName, text]) => cell("state", icon(iconName), el("span", {}, text)),
  // The row is a link, so it can be copied or opened in a new tab. A plain click keeps the filters.
  task: ({ id, task_id }) => cell("task", el("a", { href: hrefOf({ watch: id }), class: "watch-link user-text", "data-focus": "open", title: task_id, click: onPlainClick(() => openWatch(id)) }, shortened(task_id)), el("span", { class: "id muted user-text" }, id)),
  app: (app) => cell("app user-text", el("span", { title: app }, app)),
  callback: (value) => cell("callback", el("span", { class: "url user-text", title: value.callback_url }, value.callback_url.replace(/^https?:\/\//, "")), deliveryCounts(value)),
  polls: ({ polls, at }) => cell("polls number", el("span", {}, el("span", { class: "label" }, "Polls "), number(polls)), at ? muted(relative("ago", at)) : null),
  age: (value) => cell("age number", age(value)),
  diagnosis: ({ level, explanation }) => cell("diagnosis user-text", icon(level), el("span", {}, explanation)),
};

function deliveryCounts({ deliveries: { pending, delivered, dead }, watchState }) {
  const parts = [];
  if (dead) parts.push(el("span", { class: "bad" }, dead > 1 ? `${dead} dead` : "dead"));
  if (pending) parts.push(el("span", {}, pending > 1 ? `${pending} pending` : "pending"));
  if (delivered) parts.push(el("span", {}, delivered > 1 ? `${delivered} delivered` : "delivered"));
  if (!parts.length) parts.push(el("span", {}, watchState === "active" ? "no callback yet" : "no callback"));
  return el("span", { class: "delivery-counts muted" }, parts.flatMap((part, place) => (place ? [", ", part] : [part])));
}

function age({ watchState, created_at, deadline_at, settled_at }) {
  if (watchState === "active") return [el("span", {}, relative("since", created_at)), muted(relative("left", deadline_at))];
  return [el("span", {}, relative("ago", settled_at ?? created_at)), settled_at ? muted(`took ${span(settled_at - created_at)}`) : null];
}

// The arrow keys move the focus from row to row; Tab works as usual.
function moveFocus(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const links = [...byId("rows").querySelectorAll("a.watch-link")];
  const place = links.indexOf(document.activeElement);
  if (place < 0 || !links[place + step]) return;
  event.preventDefault();
  links[place + step].focus();
}
