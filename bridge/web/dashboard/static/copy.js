// Buttons that copy a text.

import { el, setText } from "./dom.js";

const SHOWN_MILLISECONDS = 2000;

// `text` is the text or an asynchronous function that returns it. `label` names what is copied.
export function copyButton(label, text, caption = "Copy") {
  const status = el("span", { class: "visually-hidden", role: "status" });
  const shown = el("span", {}, caption);
  const button = el("button", { type: "button", class: "copy", "aria-label": `${caption}: ${label}`, title: `Copy ${label}`, "data-focus": `copy ${label}`, click: copy }, shown, status);
  async function copy() {
    let result = "Copied";
    try {
      await write(typeof text === "function" ? await text() : text, button);
    } catch (error) {
      result = `Not copied: ${error.message}`;
    }
    setText(shown, result);
    setText(status, `${result}: ${label}`);
    setTimeout(() => {
      setText(shown, caption);
      setText(status, "");
    }, SHOWN_MILLISECONDS);
  }
  return button;
}

// Browsers allow the clipboard API only with https and on localhost. Elsewhere the text is selected and copied.
async function write(text, near) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true" }, "");
  area.value = text;
  near.after(area); // inside an open dialog only the dialog's own elements can be selected
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  near.focus({ preventScroll: true });
  if (!copied) throw new Error("the browser does not allow it");
}
