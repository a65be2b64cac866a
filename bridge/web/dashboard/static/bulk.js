// Dialogs that change all watches which the filters find. Each counts first; what comes later is not changed.

import { closeDialog, openDialog, run } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { counted, number } from "./format.js";
import { RequestError, post } from "./net.js";

// `countOf(count)` is the sentence about what will be done, `doneOf(count)` the one about what was done.
function openBulk({ title, explanation, options = [], path, body, verb, kind, countOf, doneOf }) {
  const result = el("p", { id: "bulk-count", class: "count", role: "status" }, "Counting…");
  const message = el("p", { class: "message", role: "alert" });
  const start = el("button", { type: "button", class: kind, disabled: true, click: () => run(start, message, change) }, verb(0));
  const cancel = el("button", { type: "button", click: closeDialog, autofocus: true }, "Close");
  let counting = 0;
  let upTo = null;

  async function count() {
    const thisCount = ++counting;
    start.disabled = true;
    setText(message, "");
    try {
      const answer = await post(path, { ...body(), dry_run: true });
      if (thisCount !== counting) return;
      upTo = answer.up_to;
      const rest = answer.left ? ` They belong to the newest 10,000 watches that match; ${number(answer.left)} more can follow.` : "";
      setText(result, `${countOf(answer.count)}${rest}`);
      setText(start, verb(answer.count));
      start.disabled = !answer.count;
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      setText(result, "");
      setText(message, error.message);
    }
  }

  async function change() {
    for (const option of options) option.querySelector("input").disabled = true;
    setText(result, "Working…");
    const answer = await post(path, { ...body(), up_to: upTo });
    setText(result, doneOf(answer.count));
    setText(start, "Done");
    cancel.focus();
  }

  for (const option of options) option.addEventListener("change", count);
  openDialog([el("h2", { id: "dialog-title" }, title), el("p", {}, explanation), ...options, result, message, el("p", { class: "actions" }, start, cancel)]);
  count();
}

// The order of the table does not matter.
const conditions = ({ order, ...filters }) => filters;

export function openBulkCancel(filters) {
  openBulk({
    title: "Cancel the active watches that match?",
    explanation: "The bridge stops polling for them and sends nothing more to their apps. The tasks continue at amux. You cannot undo this.",
    path: "watches/cancel",
    body: () => ({ filters: conditions(filters) }),
    verb: (count) => (count ? `Cancel ${counted(count, "watch", "watches")}` : "Cancel"),
    kind: "danger",
    countOf: (count) => (count ? `${counted(count, "active watch", "active watches")} will be cancelled.` : "No active watch matches."),
    doneOf: (count) => `${counted(count, "watch is", "watches are")} cancelled.`,
  });
}

export function openBulkResend(filters) {
  const delivered = el("input", { type: "checkbox", id: "bulk-delivered" });
  openBulk({
    title: "Send the callbacks of these watches again?",
    explanation: "Dead callbacks are sent again, with the same webhook-id as before: a receiver that has seen one knows it.",
    options: [el("p", {}, el("label", { for: "bulk-delivered" }, delivered, " Also those that were delivered, if a receiver has lost them"))],
    path: "watches/resend",
    body: () => ({ filters: conditions(filters), delivered: delivered.checked }),
    verb: (count) => (count ? `Send ${number(count)} again` : "Send again"),
    kind: "primary",
    countOf: (count) => (count ? `${counted(count, "callback")} will be sent again.` : "No callback of these watches can be sent again."),
    doneOf: (count) => `${counted(count, "callback is", "callbacks are")} due now. The table shows each result.`,
  });
}
