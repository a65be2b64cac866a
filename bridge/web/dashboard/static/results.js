// The result of the filters: how many watches match, how far back the search looked, and actions for these watches.

import { openBulkCancel, openBulkResend } from "./bulk.js";
import { copyButton } from "./copy.js";
import { byId, el, reconcile, setHidden, setText } from "./dom.js";
import { counted, iso, moment } from "./format.js";
import { urlOf } from "./net.js";
import { setFilters, state } from "./state.js";

const MOST_SEARCHED = "100,000";

export const isFiltered = () => Object.keys(state.filters).some((name) => name !== "order");

export function showSearching() {
  setHidden(byId("results"), !isFiltered());
  if (isFiltered()) setText(byId("result-count"), "Searching…");
  reconcile(byId("result-actions"), [], ({ name }) => name, buildAction);
}

export function showResults({ matches, searched_back_to: backTo }) {
  setHidden(byId("results"), !isFiltered());
  if (!isFiltered()) return;
  setText(byId("result-count"), summary(matches ?? 0, backTo));
  const names = [];
  if (backTo && matches) names.push("older"); // without a match, one of the tips has this link
  if (matches) {
    names.push("csv", "json", "link");
    if (["", "active"].includes(state.filters.state ?? "") && !state.filters.outcome) names.push("cancel");
    if (state.filters.state !== "cancelled") names.push("resend");
  }
  const filters = state.filters;
  reconcile(byId("result-actions"), names.map((name) => ({ name, filters, backTo: name === "older" ? backTo : null })), ({ name }) => name, buildAction);
}

function summary(matches, backTo) {
  const count = matches ? counted(matches, "watch matches", "watches match") : "No watch matches";
  if (!backTo) return `${count}.`;
  const why = state.filters.q ? ` A search ends after ${MOST_SEARCHED} watches or 2 seconds.` : "";
  return `${count} among those registered since ${moment(backTo)} UTC.${why} Older watches were not searched.`;
}

const olderThan = (backTo) => setFilters({ ...state.filters, created_after: "", created_before: iso(Math.ceil(backTo * 1000) / 1000) });

const ACTIONS = {
  older: ({ backTo }) => button("Search older watches", () => olderThan(backTo)),
  cancel: ({ filters }) => button("Cancel…", () => openBulkCancel(filters)),
  resend: ({ filters }) => button("Send again…", () => openBulkResend(filters)),
  csv: ({ filters }) => file("CSV", "watches.csv", filters),
  json: ({ filters }) => file("JSON lines", "watches.jsonl", filters),
  link: () => copyButton("the link to these filters", () => location.href, "Copy link"),
};

const buildAction = (item) => el("span", {}, ACTIONS[item.name](item));

const button = (text, click) => el("button", { type: "button", "data-focus": text, click }, text);

const file = (text, path, filters) => el("a", { class: "button", href: urlOf(path, filters), download: true, "data-focus": text }, el("span", { class: "visually-hidden" }, "Download as "), text);

// --- nothing matches ----------------------------------------------------------------------------------------------

export function showNothing(node, { searched_back_to: backTo }) {
  const key = JSON.stringify([state.filters, backTo]);
  if (node.nothingKey === key && node.querySelector("ul")) return;
  node.nothingKey = key;
  const { q, ...others } = state.filters;
  const tips = [];
  if (q && Object.keys(others).some((name) => name !== "order")) tips.push(button("Search without the other filters", () => setFilters({ q })));
  if (backTo) tips.push(button("Search older watches", () => olderThan(backTo)));
  if (q) tips.push("Any part is enough: of an id, of the callback's host and path, of a text or number in the context. A shorter part finds more.", "Not searched: the part of a URL after ?, field names, headers, and receivers' answers.");
  if (state.filters.created_after || state.filters.created_before) tips.push("The times are UTC.");
  tips.push("A watch is deleted BRIDGE_RETENTION_SECONDS after its end.");
  node.replaceChildren(
    el("strong", {}, q ? ["Nothing matches ", el("q", { class: "user-text" }, q)] : "No watch matches these filters"),
    el("ul", { class: "tips" }, tips.map((tip) => el("li", {}, tip))),
  );
}
