// The dialog with a watch's payloads as they are sent, and a curl command that sends one to a local address.

import { copyButton } from "./copy.js";
import { closeDialog, openDialog } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { moment } from "./format.js";
import { get } from "./net.js";

const SAVED_ADDRESS = "amux-bridge-local-address";
const DEFAULT_ADDRESS = "http://127.0.0.1:9000/";

// `eventId` is the event to show first, "" for the last one. Throws RequestError.
export async function openPayloads(watchId, eventId) {
  const { payloads, now } = await get(`watches/${encodeURIComponent(watchId)}/payloads`);
  const content = el("div", { class: "payload" });
  const choice = el("select", { id: "payload-event", change: show }, payloads.map(({ id, type }) => el("option", { value: id }, type)));
  if (payloads.length) choice.value = eventId || payloads.at(-1).id;
  function show() {
    const payload = payloads.find((one) => one.id === choice.value);
    content.replaceChildren(...(payload ? partsOf(payload) : [el("p", {}, "The watch has no event yet.")]));
  }
  openDialog(
    [
      el("h2", { id: "dialog-title" }, "Payload as sent"),
      payloads.length > 1 ? el("p", { class: "field" }, el("label", { for: "payload-event" }, "Event"), choice) : null,
      el("p", { class: "muted" }, `Signed now, at ${moment(now)} UTC. A receiver accepts this signature for 5 minutes.`),
      content,
      el("p", { class: "actions" }, el("button", { type: "button", click: closeDialog, autofocus: true }, "Close")),
    ].filter((part) => part !== null),
    "wide",
  );
  show();
}

function partsOf({ headers, masked_headers: masked, payload }) {
  const headerText = [...headers, ...masked].map(([name, value]) => `${name}: ${value}`).join("\n");
  const command = el("pre", { tabindex: "0", role: "group", "aria-label": "The curl command" });
  const address = el("input", { id: "local-address", type: "url", value: savedAddress(), spellcheck: "false", autocomplete: "off", input: showCommand });
  function showCommand() {
    saveAddress(address.value);
    setText(command, curl(address.value, headers, payload));
  }
  showCommand();
  return [
    part("Headers", headerText, "the headers", headerText),
    part("Payload", indented(payload), "the payload", payload),
    el("h3", {}, "Send it to a local address", copyButton("the curl command", () => curl(address.value, headers, payload), "Copy curl")),
    el("p", { class: "field" }, el("label", { for: "local-address" }, "Address"), address),
    command,
    masked.length ? el("p", { class: "muted" }, "The command does not contain the app's own headers, because their values are masked.") : null,
  ].flat().filter((one) => one !== null);
}

function part(title, shown, name, copied) {
  return [el("h3", {}, title, copyButton(name, copied)), el("pre", { tabindex: "0", role: "group", "aria-label": title, class: "user-text" }, shown)];
}

// The command sends the exact bytes, so the signature is valid.
function curl(address, headers, payload) {
  const options = headers.map(([name, value]) => `  -H ${quoted(`${name}: ${value}`)}`);
  return [`curl -sS ${quoted(address)}`, ...options, `  --data-binary ${quoted(payload)}`].join(" \\\n");
}

// Returns a text as one word of a POSIX shell.
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// Returns JSON with line breaks and indentation. All other characters stay the same, so 5.0 does not become 5.
function indented(json) {
  let depth = 0;
  const line = (change) => `\n${"  ".repeat((depth += change))}`;
  return json.replace(/"(?:[^"\\]|\\.)*"|\{\}|\[\]|[{}[\],:]/g, (token) => {
    if (token === "{" || token === "[") return token + line(1);
    if (token === "}" || token === "]") return line(-1) + token;
    if (token === ",") return token + line(0);
    return token === ":" ? ": " : token;
  });
}

function savedAddress() {
  try {
    return localStorage.getItem(SAVED_ADDRESS) || DEFAULT_ADDRESS;
  } catch {
    return DEFAULT_ADDRESS;
  }
}

function saveAddress(address) {
  try {
    localStorage.setItem(SAVED_ADDRESS, address);
  } catch {
    // Without storage the next dialog shows the default address.
  }
}
