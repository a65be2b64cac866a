// Shown while there is no watch: explains how to register the first watch.

import { copyButton } from "./copy.js";
import { el } from "./dom.js";
import { urlOf } from "./net.js";

let open = false;

// `session.open`: the bridge has no token.
export function startFirst(session) {
  open = session.open;
}

export function showFirst(node) {
  if (node.querySelector("pre")) return;
  const command = firstCommand();
  node.replaceChildren(
    el("strong", {}, "No watch yet"),
    el("span", {}, "An app registers one for each video that it creates at amux. The first command:"),
    el("span", { class: "command" }, el("pre", { tabindex: "0", "aria-label": "The first command" }, command), copyButton("the command", command)),
    el("span", { class: "muted" }, "Put in the id of a task at amux", open ? null : ", a token of BRIDGE_TOKENS", " and your receiver's URL. With ", el("code", {}, "serve --sandbox"), " the task id ", el("code", {}, "sandbox_0_5000_completed_1"), " completes after 5 s."),
  );
}

function firstCommand() {
  const lines = [`curl -s ${new URL("../watch", urlOf(""))} -H 'Content-Type: application/json'`];
  if (!open) lines.push(`  -H 'Authorization: Bearer TOKEN'`);
  lines.push(`  -d '{"task_id": "TASK_ID", "callback_url": "http://127.0.0.1:9000/"}'`);
  return lines.join(" \\\n");
}
