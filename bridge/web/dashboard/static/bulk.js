// Dialogs that change many watches or callbacks. A dialog counts them first. Later watches are not changed.

import { closeDialog, openDialog, run } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { counted, iso, now, number } from "./format.js";
import { RequestError, post } from "./net.js";

// `body()` is the request's body, which is sent first with `dry_run`. `fields` are elements with an input or a select;
// a change of one counts again. `countOf(count)` is the sentence before the change, `doneOf(count)` the one after it.
function openCountedDialog({ title, explanation = "", fields = [], path, body, verb, kind, countOf, doneOf }) {
  const result = el("p", { id: "change-count", class: "count", role: "status" }, "Counting…");
  const message = el("p", { class: "message", role: "alert" });
  const start = el("button", { type: "button", class: kind, disabled: true, click: () => run(start, message, change) }, verb(0));
  const cancel = el("button", { type: "button", click: closeDialog, autofocus: true }, "Close");
  let counting = 0;
  let request = null; // what was counted

  async function count() {
    const thisCount = ++counting;
    start.disabled = true;
    setText(message, "");
    const candidate = body();
    try {
      const answer = await post(path, { ...candidate, dry_run: true });
      if (thisCount !== counting) return;
      request = answer.up_to === undefined ? candidate : { ...candidate, up_to: answer.up_to };
      const rest = answer.left ? ` This step covers the newest 10,000 watches that match. Repeat it for the other ${number(answer.left)}.` : "";
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
    for (const field of fields) field.querySelector("input, select").disabled = true;
    setText(result, "Working…");
    const answer = await post(path, request);
    setText(result, doneOf(answer.count));
    setText(start, "Done");
    cancel.focus();
  }

  for (const field of fields) field.addEventListener("change", count);
  openDialog([el("h2", { id: "dialog-title" }, title), explanation ? el("p", {}, explanation) : null, ...fields, result, message, el("p", { class: "actions" }, start, cancel)].filter((part) => part !== null));
  count();
}

const verbToSend = (count) => (count ? `Send ${number(count)} again` : "Send again");

const sentText = (count) => `${counted(count, "callback is", "callbacks are")} due now. The table shows each result.`;

// --- all watches that match the filters ---------------------------------------------------------------------------

// The order of the table is not a condition.
const conditions = ({ order, ...filters }) => filters;

export function openBulkCancel(filters) {
  openCountedDialog({
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
  openCountedDialog({
    title: "Send the callbacks of these watches again?",
    explanation: "Dead callbacks are sent again. The webhook-id stays the same, so a receiver can detect duplicates.",
    fields: [el("p", {}, el("label", { for: "bulk-delivered" }, delivered, " Also send delivered callbacks again, if a receiver has lost them"))],
    path: "watches/resend",
    body: () => ({ filters: conditions(filters), delivered: delivered.checked }),
    verb: verbToSend,
    kind: "primary",
    countOf: (count) => (count ? `${counted(count, "callback")} will be sent again.` : "No callback of these watches can be sent again."),
    doneOf: sentText,
  });
}

// --- dead callbacks -----------------------------------------------------------------------------------------------

const PERIODS = [["Any time", 0], ["In the last hour", 3600], ["In the last 24 hours", 86400]];

// `hosts` are the names of hosts with dead callbacks. `selected` is one of them, or "" for all.
export function openResendDialog(hosts, selected) {
  const host = el("select", { id: "resend-host" }, el("option", { value: "" }, "All receivers"), hosts.map((name) => el("option", { value: name, selected: name === selected }, name)));
  const period = el("select", { id: "resend-period" }, PERIODS.map(([name, seconds]) => el("option", { value: seconds }, name)));
  openCountedDialog({
    title: "Send dead callbacks again",
    fields: [
      el("p", { class: "field" }, el("label", { for: "resend-host" }, "Receiver"), host),
      el("p", { class: "field" }, el("label", { for: "resend-period" }, "Became dead"), period),
    ],
    path: "deliveries/retry",
    body: () => deadFilter(host.value, Number(period.value)),
    verb: verbToSend,
    kind: "primary",
    countOf: (count) => (count ? `${counted(count, "dead callback")} will be sent again with the same webhook-id.` : "No dead callback matches."),
    doneOf: sentText,
  });
}

// `until` excludes callbacks that become dead after the count, so exactly the shown number is sent.
function deadFilter(host, seconds) {
  return { state: "dead", until: iso(now()), ...(seconds ? { since: iso(now() - seconds) } : {}), ...(host ? { callback_host: host } : {}) };
}
