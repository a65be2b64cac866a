// Two questions: is this watch to be cancelled, and which dead callbacks are to be sent again.

import { byId, el, setText } from "./dom.js";
import { counted, iso, now, number } from "./format.js";
import { Problem, post } from "./net.js";
import { overview } from "./overview.js";

function open(...children) {
  const dialog = byId("dialog");
  dialog.replaceChildren(...children);
  dialog.showModal();
  dialog.addEventListener("close", focusAgain, { once: true });
}

// What opened it has the focus again, by the browser's doing; when that is gone, the page's first words have it.
function focusAgain() {
  const at = document.activeElement;
  if (at === document.body || byId("dialog").contains(at)) byId("verdict").focus({ preventScroll: true });
}

const close = () => byId("dialog").close();

async function attempt(button, message, work) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    setText(message, error.message);
    button.disabled = false;
    button.focus(); // a button that is disabled loses it
  }
}

// --- cancelling ---------------------------------------------------------------------------------------------------

export function askCancel(task, cancel) {
  const message = el("p", { class: "message", role: "alert" });
  const yes = el("button", { type: "button", class: "danger", click: () => attempt(yes, message, async () => { const cancelled = await cancel(); close(); cancelled(); }) }, "Cancel the watch");
  open(
    el("h2", { id: "dialog-title" }, "Cancel this watch?"),
    el("p", {}, "The task ", el("strong", { class: "text" }, task), " goes on at amux; the bridge polls it no more for this watch, and its app is told nothing. This cannot be undone."),
    message,
    el("p", { class: "actions" }, yes, el("button", { type: "button", click: close, autofocus: true }, "Keep it")),
  );
}

// --- sending again ------------------------------------------------------------------------------------------------

const SPANS = [["Any time", 0], ["Within the last hour", 3600], ["Within the last 24 hours", 86400]];

export function openResend(name) {
  const hosts = [...new Set((overview()?.receivers ?? []).filter((one) => one.dead).map((one) => one.name))];
  if (name && !hosts.includes(name)) hosts.push(name);
  const host = el("select", { id: "resend-host", change: count }, el("option", { value: "" }, "All receivers"), hosts.map((one) => el("option", { value: one, selected: one === name }, one)));
  const within = el("select", { id: "resend-within", change: count }, SPANS.map(([says, seconds]) => el("option", { value: seconds }, says)));
  const found = el("p", { id: "resend-count", class: "count", role: "status" }, "Counting");
  const message = el("p", { class: "message", role: "alert" });
  const send = el("button", { type: "button", class: "primary", disabled: true, click: () => attempt(send, message, go) }, "Send again");
  let filter = null;
  let asked = 0;

  async function count() {
    const turn = ++asked;
    send.disabled = true;
    setText(message, "");
    const seconds = Number(within.value);
    // What dies after the count is not sent: the number that was shown is the number that is meant.
    filter = { state: "dead", until: iso(now()), ...(seconds ? { since: iso(now() - seconds) } : {}), ...(host.value ? { callback_host: host.value } : {}) };
    try {
      const { count: dead } = await post("deliveries/retry", { ...filter, dry_run: true });
      if (turn !== asked) return;
      setText(found, dead ? `${counted(dead, "dead callback")} will be sent again, each with the webhook-id it had.` : "No dead callback is like this.");
      setText(send, dead ? `Send ${number(dead)} again` : "Send again");
      send.disabled = !dead;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setText(found, "");
      setText(message, error.message);
    }
  }

  async function go() {
    const { count: sent } = await post("deliveries/retry", filter);
    setText(found, `${counted(sent, "callback is", "callbacks are")} due now. The page shows each as it goes.`);
    setText(send, "Done");
    cancel.textContent = "Close";
    cancel.focus();
  }

  const cancel = el("button", { type: "button", click: close }, "Close");
  open(
    el("h2", { id: "dialog-title" }, "Send dead callbacks again"),
    el("p", { class: "field" }, el("label", { for: "resend-host" }, "Receiver"), host),
    el("p", { class: "field" }, el("label", { for: "resend-within" }, "Given up"), within),
    found,
    message,
    el("p", { class: "actions" }, send, cancel),
  );
  count();
}
