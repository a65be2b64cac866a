// The table of receivers: their health, their figures of the last 24 hours, pausing and resuming.

import { closeDialog, openDialog, run } from "./dialogs.js";
import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { counted, duration, number } from "./format.js";
import { focusHeading, onPlainClick, showWatches } from "./navigate.js";
import { RequestError, post } from "./net.js";
import { hrefOf } from "./state.js";
import { relative } from "./time.js";

const HEALTH_ICONS = { unknown: "off", healthy: "good", doubtful: "warn", failing: "bad" };

// Shows the receivers. `found` is null while the store does not answer; then the rows do not change.
export function showReceivers(found) {
  setHidden(byId("resend-all"), !found?.items.some((receiver) => receiver.dead));
  setText(byId("receivers-empty"), emptyText(found));
  if (found === null) return;
  reconcile(byId("receivers"), found.items, (receiver) => receiver.receiver, buildRow);
}

function emptyText(found) {
  if (found === null) return "The store does not answer: these figures are not up to date.";
  if (!found.count) return "No receiver yet. A receiver is listed with its first callback.";
  return found.count > found.items.length ? `${number(found.items.length)} of ${counted(found.count, "receiver")} are shown: those that need attention, then the busiest.` : "";
}

// Puts the focus on a receiver's row, or on the table's heading when the receiver is not in the table.
export function showReceiver(name) {
  focusHeading("receivers-title");
  [...byId("receivers").children].find((node) => node.reconcileKey === name)?.querySelector("a").focus();
}

// --- a row --------------------------------------------------------------------------------------------------------

const cell = (kind, label, ...children) => el("span", { role: "cell", class: kind }, label ? el("span", { class: "label" }, `${label} `) : null, children);

function buildRow(receiver) {
  const { receiver: name, health, failures_in_a_row: failures, attempts, success_share: share, p50_seconds: p50, p99_seconds: p99, pending, dead } = receiver;
  return el(
    "div",
    { role: "row", class: "receiver", "data-level": HEALTH_ICONS[health] },
    cell("name", "", el("a", { href: hrefOf({ host: name }), class: "user-text", title: name, "data-focus": "name", click: onPlainClick(() => showWatches({ host: name })) }, name)),
    cell("health", "", icon(HEALTH_ICONS[health]), el("span", {}, health, failures > 1 ? el("span", { class: "muted" }, `, ${counted(failures, "failure")} in a row`) : null)),
    cell("number", "2xx", shareText(share, attempts)),
    cell("number", "p50", duration(p50)),
    cell("number", "p99", duration(p99)),
    cell("number", "Pending", countLink(name, "pending", pending)),
    cell("number", "Dead", countLink(name, "dead", dead)),
    cell("last", "Last answer", lastAnswer(receiver)),
    cell("actions", "", pauseButton(receiver)),
  );
}


function countLink(host, state, count) {
  if (!count) return "0";
  const filters = { host, delivery_state: state };
  return el("a", { href: hrefOf(filters), class: state, "data-focus": state, "aria-label": `${count} ${state}: show the watches`, click: onPlainClick(() => showWatches(filters)) }, number(count));
}

function shareText(share, attempts) {
  if (share === null) return "–";
  const percent = Math.floor(share * 1000) / 10; // rounded down: 99.96 % must not become 100 %
  return el("span", { title: `of ${counted(attempts, "attempt")} in the last 24 hours` }, `${percent} %`);
}

function lastAnswer({ last_answer: last, paused_at: pausedAt, paused_by: pausedBy }) {
  const parts = [];
  if (pausedAt) parts.push(el("strong", {}, `Paused by ${pausedBy}, `, relative("ago", Date.parse(pausedAt) / 1000)), el("br"));
  if (!last) return [...parts, "–"];
  return [...parts, last.error ? el("span", { class: "user-text" }, last.error.message) : String(last.status_code), el("span", { class: "muted" }, ", ", relative("ago", Date.parse(last.at) / 1000))];
}

// --- pause and resume ---------------------------------------------------------------------------------------------

function pauseButton({ receiver: name, paused_at: pausedAt, pending }) {
  const [text, action] = pausedAt ? ["Resume", () => resume(name, pending)] : ["Pause…", () => openPauseDialog(name)];
  return el("button", { type: "button", "data-focus": "pause", click: action }, text, el("span", { class: "visually-hidden" }, ` ${name}`));
}

function openPauseDialog(name) {
  const message = el("p", { class: "message", role: "alert" });
  const pause = async () => {
    await change(name, "pause");
    closeDialog();
    say(`${name} is paused.`);
  };
  const confirm = el("button", { type: "button", class: "primary", click: () => run(confirm, message, pause) }, "Pause the receiver");
  openDialog([
    el("h2", { id: "dialog-title" }, "Pause this receiver?"),
    el("p", {}, "The bridge sends nothing to ", el("strong", { class: "user-text" }, name), " until it is resumed. Its callbacks wait and use up no attempts. Every replica follows within 5 s."),
    message,
    el("p", { class: "actions" }, confirm, el("button", { type: "button", click: closeDialog, autofocus: true }, "Do not pause")),
  ]);
}

async function resume(name, pending) {
  try {
    await change(name, "resume");
    say(`${name} is resumed.${pending ? ` ${counted(pending, "pending callback becomes", "pending callbacks become")} due, spread over time.` : ""}`);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    say(`${name} is not resumed: ${error.message}`);
  }
}

const change = (name, action) => post(`receivers/${encodeURIComponent(name)}/${action}`);

const say = (text) => setText(byId("receivers-message"), text);
