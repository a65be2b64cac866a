// The page's dialog, and the dialog that confirms a cancellation.

import { byId, currentElement, el, setText } from "./dom.js";
import { RequestError } from "./net.js";

// Shows elements in the dialog; the first one is its title, with the id dialog-title. `kind` is a CSS class.
export function openDialog(children, kind = "") {
  const dialog = byId("dialog");
  const opener = document.activeElement;
  dialog.className = kind;
  dialog.replaceChildren(...children);
  dialog.showModal();
  dialog.addEventListener("close", () => restoreFocus(opener), { once: true });
}

// The browser returns the focus to the button that opened the dialog. A change of the page can replace this button while
// the dialog is open: then the new button gets the focus. If there is none, the heading gets it.
function restoreFocus(opener) {
  if (focusIsLost()) currentElement(opener)?.focus({ preventScroll: true });
  if (focusIsLost()) byId("alert-summary").focus({ preventScroll: true });
}

const focusIsLost = () => document.activeElement === document.body || byId("dialog").contains(document.activeElement);

export const closeDialog = () => byId("dialog").close();

// Runs an action with its button disabled. An error is shown in `message`, and the button can be used again.
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
