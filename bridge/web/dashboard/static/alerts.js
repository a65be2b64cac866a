// The alerts: one row each, grouped by what they concern. A row opens to its explanation and the next step.

import { openResendDialog } from "./bulk.js";
import { disclosure } from "./disclosure.js";
import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { counted } from "./format.js";
import { showWatches } from "./navigate.js";

const LEVEL_NAMES = { bad: "Failing", warn: "Needs attention", note: "Information" };
const KIND_NAMES = { bridge: "Bridge", amux: "amux", receivers: "Receivers", watches: "Watches" };

let receivers = [];
let announced = null; // the titles of the problems that were announced, by key

export function showAlerts(overview) {
  const { alerts, figures } = overview;
  receivers = overview.receivers ?? [];
  showSummary(alerts);
  announceChanges(alerts.filter(isProblem), figures.active);
  const kinds = [...new Set(alerts.map((alert) => alert.kind))];
  const groups = kinds.map((kind) => ({ kind, alerts: alerts.filter((alert) => alert.kind === kind) }));
  reconcile(byId("alerts"), groups, (group) => group.kind, buildGroup, updateGroup);
  setHidden(byId("no-alerts"), alerts.length > 0);
}

// Opens the dialog that sends dead callbacks again. `name` is the host that the dialog selects, "" for all.
export function openResend(name) {
  const hosts = [...new Set(receivers.filter((receiver) => receiver.dead).map((receiver) => receiver.name))];
  if (name && !hosts.includes(name)) hosts.push(name);
  openResendDialog(hosts, name);
}

// --- the headline -------------------------------------------------------------------------------------------------

const isProblem = (alert) => alert.level !== "note";

// The numbers in the headline add up to the number of rows.
function showSummary(alerts) {
  const problems = alerts.filter(isProblem).length;
  const notes = alerts.length - problems;
  const title = byId("alert-summary");
  const text = problems ? counted(problems, "problem needs attention", "problems need attention") : "No problems";
  setText(title, notes ? `${text}, ${counted(notes, "note")}` : text);
  title.dataset.level = alerts.find(isProblem)?.level ?? "good";
  document.title = `${problems ? `(${problems}) ` : ""}amux bridge`;
}

// For screen readers: first the headline, then each problem that begins or ends.
function announceChanges(problems, active) {
  const before = announced;
  announced = new Map(problems.map((alert) => [alert.key, alert.title]));
  if (before === null) {
    setText(byId("announcement"), `${byId("alert-summary").textContent}. ${counted(active ?? 0, "active watch", "active watches")}.`);
    return;
  }
  const begun = problems.filter((alert) => !before.has(alert.key)).map((alert) => alert.title);
  const ended = [...before].filter(([key]) => !announced.has(key)).map(([, title]) => `Solved: ${title}`);
  if (begun.length || ended.length) setText(byId("announcement"), [...begun, ...ended].join(". "));
}

// --- the rows -----------------------------------------------------------------------------------------------------

function buildGroup(group) {
  const name = `alerts-${group.kind}`;
  const node = el("li", { class: "alert-group" }, el("h2", { id: name }, KIND_NAMES[group.kind]), el("ul", { "aria-labelledby": name }));
  updateGroup(node, group);
  return node;
}

function updateGroup(node, { alerts }) {
  reconcile(node.querySelector("ul"), alerts, (alert) => alert.key, buildAlert);
}

function buildAlert(alert) {
  const { key, level, title, explanation, next_step: nextStep, filters, resend_host: resendHost } = alert;
  const actions = [];
  if (Object.keys(filters).length) {
    actions.push(el("button", { type: "button", "data-focus": "show", click: () => showWatches(filters) }, "Show watches"));
  }
  if (resendHost) {
    const name = receivers.find((receiver) => receiver.host === resendHost)?.name ?? "";
    actions.push(el("button", { type: "button", "data-focus": "resend", click: () => openResend(name) }, "Send again…"));
  }
  return el(
    "li",
    { class: "alert", "data-level": level },
    disclosure(
      `alert ${key}`,
      [icon(level), el("span", { class: "visually-hidden" }, `${LEVEL_NAMES[level]}: `), el("strong", { class: "title" }, title), el("span", { class: "preview muted", "aria-hidden": "true" }, explanation)],
      [el("p", { class: "explanation" }, explanation), el("p", { class: "next-step" }, el("strong", {}, "Next step: "), nextStep)],
      sizeBox,
    ),
    actions.length ? el("p", { class: "actions" }, actions) : null,
  );
}

// The list has a larger height while a row is open. Both heights are fixed. So the page below moves when the operator
// opens or closes a row, but not when an alert begins or ends.
function sizeBox() {
  byId("alert-box").toggleAttribute("data-open", byId("alerts").querySelector("details[open]") !== null);
}
