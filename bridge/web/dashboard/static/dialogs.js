// The page's dialog, and two uses of it: confirm a cancellation, and choose which dead callbacks to send again.

import { byId, el, setText } from "./dom.js";
import { counted, iso, now, number } from "./format.js";
import { RequestError, post } from "./net.js";

// Shows elements in the dialog; the first one is its title, with the id dialog-title. `kind` is a CSS class.
export function openDialog(children, kind = "") {
  const dialog = byId("dialog");
  dialog.className = kind;
  dialog.replaceChildren(...children);
  dialog.showModal();
  dialog.addEventListener("close", restoreFocus, { once: true });
}

// The browser gives the focus back to the button that opened the dialog. If that button is gone, the heading gets it.
function restoreFocus() {
  const active = document.activeElement;
  if (active === document.body || byId("dialog").contains(active)) byId("alert-summary").focus({ preventScroll: true });
}

export const closeDialog = () => byId("dialog").close();

// Run an action with its button disabled. An error is shown in `message`, and the button can be used again.
export async function run(button, message, action) {
  button.disabled = true;
  try {
    await action();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    setText(message, error.message);
    button.disabled = false;
    button.focus(); // a disabled button loses the focus
  }
}

// --- cancel -------------------------------------------------------------------------------------------------------

// `cancel` is asynchronous and returns a function to call when the dialog is closed.
export function openCancelDialog(taskId, cancel) {
  const message = el("p", { class: "message", role: "alert" });
  const confirm = el("button", { type: "button", class: "danger", click: () => run(confirm, message, async () => { const afterClose = await cancel(); closeDialog(); afterClose(); }) }, "Cancel the watch");
  openDialog([
    el("h2", { id: "dialog-title" }, "Cancel this watch?"),
    el("p", {}, "The bridge stops polling for this watch and sends nothing more to its app. The task ", el("strong", { class: "user-text" }, taskId), " itself continues at amux. You cannot undo this."),
    message,
    el("p", { class: "actions" }, confirm, el("button", { type: "button", click: closeDialog, autofocus: true }, "Keep the watch")),
  ]);
}

// --- send again ---------------------------------------------------------------------------------------------------

const PERIODS = [["Any time", 0], ["In the last hour", 3600], ["In the last 24 hours", 86400]];

// `hosts` are the names of hosts with dead callbacks; `selected` is one of them, or "" for all.
export function openResendDialog(hosts, selected) {
  const host = el("select", { id: "resend-host", change: count }, el("option", { value: "" }, "All receivers"), hosts.map((name) => el("option", { value: name, selected: name === selected }, name)));
  const period = el("select", { id: "resend-period", change: count }, PERIODS.map(([name, seconds]) => el("option", { value: seconds }, name)));
  const result = el("p", { id: "resend-count", class: "count", role: "status" }, "Counting…");
  const message = el("p", { class: "message", role: "alert" });
  const send = el("button", { type: "button", class: "primary", disabled: true, click: () => run(send, message, resend) }, "Send again");
  let filter = null;
  let lastCount = 0;

  async function count() {
    const thisCount = ++lastCount;
    send.disabled = true;
    setText(message, "");
    const seconds = Number(period.value);
    // `until` excludes callbacks that die after the count: exactly the number that is shown will be sent.
    filter = { state: "dead", until: iso(now()), ...(seconds ? { since: iso(now() - seconds) } : {}), ...(host.value ? { callback_host: host.value } : {}) };
    try {
      const { count: dead } = await post("deliveries/retry", { ...filter, dry_run: true });
      if (thisCount !== lastCount) return;
      setText(result, dead ? `${counted(dead, "dead callback")} will be sent again, with the same webhook-id as before.` : "No dead callback matches.");
      setText(send, dead ? `Send ${number(dead)} again` : "Send again");
      send.disabled = !dead;
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      setText(result, "");
      setText(message, error.message);
    }
  }

  async function resend() {
    const { count: sent } = await post("deliveries/retry", filter);
    setText(result, `${counted(sent, "callback is", "callbacks are")} due now. The table shows each result.`);
    setText(send, "Done");
    cancel.focus();
  }

  const cancel = el("button", { type: "button", click: closeDialog }, "Close");
  openDialog([
    el("h2", { id: "dialog-title" }, "Send dead callbacks again"),
    el("p", { class: "field" }, el("label", { for: "resend-host" }, "Receiver"), host),
    el("p", { class: "field" }, el("label", { for: "resend-period" }, "Became dead"), period),
    result,
    message,
    el("p", { class: "actions" }, send, cancel),
  ]);
  count();
}
