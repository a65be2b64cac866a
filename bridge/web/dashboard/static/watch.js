// One watch in the drawer: its state, its callbacks, its details, and the actions on it.

import { copyButton } from "./copy.js";
import { openCancelDialog } from "./dialogs.js";
import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { counted, duration, moment, number, shortened, watchStatus, words } from "./format.js";
import { RequestError, post } from "./net.js";
import { openPayloads } from "./payload.js";
import { showReceiver } from "./receivers.js";
import { closeWatch, hrefOf, state } from "./state.js";
import { relative } from "./time.js";
import { showStages, showTimeline } from "./timeline.js";

let lastOpened = "";
let loadFailed = false; // the message is an error of loading the watch; the next success removes it
let busy = ""; // the action that has not been answered yet

const narrow = matchMedia("(max-width: 60rem)");

export function startWatch() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.watch && !byId("dialog").open) {
      event.preventDefault();
      closeWatch();
    }
  });
  narrow.addEventListener("change", updateInert);
}

// --- open and close -----------------------------------------------------------------------------------------------

export function openWatchChanged(before) {
  const drawer = byId("watch");
  if (!state.watch) {
    setHidden(drawer, true);
    drawer.replaceChildren();
    updateInert();
    const link = [...byId("rows").children].find((node) => node.reconcileKey === lastOpened)?.querySelector("a.watch-link");
    (link ?? byId("watches")).focus({ preventScroll: true });
    return;
  }
  if (state.watch === before.watch && drawer.childElementCount) return;
  lastOpened = state.watch;
  buildDrawer(drawer);
  setHidden(drawer, false);
  updateInert();
  byId("watch-title").focus({ preventScroll: true });
}

// On a narrow screen the drawer covers the page, and Tab must not reach the covered part.
function updateInert() {
  const covered = Boolean(state.watch) && narrow.matches;
  for (const part of document.querySelectorAll("#page > header, #page > main")) part.inert = covered;
}

function buildDrawer(drawer) {
  drawer.replaceChildren(
    el("div", { class: "drawer-top" }, el("h2", { id: "watch-title", tabindex: "-1", class: "user-text" }, "Watch"), el("span", { id: "watch-copy" }), el("button", { type: "button", class: "quiet icon-button", "aria-label": "Close the watch", click: closeWatch }, icon("close"))),
    el("p", { id: "watch-message", class: "message", role: "status" }),
    el("div", { id: "watch-status" }),
    el("section", { "aria-label": "Callbacks" }, el("ul", { id: "watch-deliveries", class: "deliveries" })),
    el("section", { "aria-labelledby": "timing-title" }, el("h3", { id: "timing-title" }, "Duration of each step"), el("dl", { id: "timing", class: "details" })),
    el("section", { "aria-labelledby": "timeline-title" }, el("h3", { id: "timeline-title" }, "Timeline"), el("ol", { id: "timeline", class: "timeline" })),
    el("section", { "aria-labelledby": "details-title" }, el("h3", { id: "details-title" }, "Details"), el("dl", { id: "watch-details", class: "details" })),
  );
}

// --- show ---------------------------------------------------------------------------------------------------------

export function showWatch(watch) {
  if (watch.id !== state.watch || !byId("watch-title")) return;
  setText(byId("watch-title"), shortened(watch.task_id));
  if (loadFailed) showMessage("");
  const { state: watchState, outcome, status, progress, diagnosis, id, task_id } = watch;
  reconcile(byId("watch-copy"), [task_id], () => "copy", () => copyButton("the task id", task_id));
  reconcile(byId("watch-status"), [{ id, task_id, state: watchState, outcome, status, progress, diagnosis, events: watch.deliveries.length }], () => "status", buildStatus);
  reconcile(byId("watch-deliveries"), watch.deliveries.map((delivery) => ({ ...delivery, watchState, watch: id })), (delivery) => delivery.id, buildDelivery);
  showStages(watch.timing);
  showTimeline(id, watch.timeline);
  reconcile(byId("watch-details"), detailsOf(watch), (detail) => detail.name, buildDetail);
}

export function watchFailed({ detail, code }) {
  showMessage(code === "not_found" ? "This watch does not exist, or it was deleted after its retention time." : `The watch is not up to date: ${detail}.`);
  loadFailed = true;
}

function buildStatus(watch) {
  const [iconName, text] = watchStatus(watch);
  const hasEvent = watch.events > 0 || watch.state === "settled";
  return el(
    "div",
    { class: "watch-status" },
    el("p", { class: "state" }, icon(iconName), el("strong", {}, text), el("span", { class: "id muted user-text" }, watch.id), copyButton("the watch id", watch.id)),
    watch.diagnosis ? el("p", { class: "diagnosis user-text", "data-level": watch.diagnosis.level }, icon(watch.diagnosis.level), el("span", {}, watch.diagnosis.explanation)) : null,
    el(
      "p",
      { class: "actions" },
      watch.state === "active" ? el("button", { type: "button", class: "danger", "data-focus": "cancel", click: () => openCancelDialog(watch.task_id, () => cancel(watch.id)) }, "Cancel the watch…") : null,
      hasEvent ? el("button", { type: "button", "data-focus": "payload", click: () => showPayloads(watch.id, "") }, "Payload and curl…") : null,
      el("button", { type: "button", "data-focus": "ping", click: () => ping(watch.id) }, "Ping the receiver"),
    ),
  );
}

const DELIVERY_ICONS = { pending: "wait", delivered: "good", dead: "bad" };

function buildDelivery(delivery) {
  const pending = delivery.state === "pending";
  const retryButton = el("button", { type: "button", "data-focus": "retry", click: () => retry(delivery) }, pending ? "Send now" : "Send again");
  return el(
    "li",
    { "data-level": DELIVERY_ICONS[delivery.state] },
    icon(delivery.superseded ? "off" : DELIVERY_ICONS[delivery.state]),
    el("span", { class: "name" }, delivery.type),
    el("span", { class: "detail" }, delivery.superseded ? "not sent: the watch became final first" : `${delivery.state}, ${counted(delivery.attempts, "attempt")}`),
    pending && delivery.next_attempt_at ? el("span", { class: "detail muted" }, "next attempt ", relative("until", delivery.next_attempt_at)) : null,
    el("span", { class: "id muted user-text" }, delivery.id, " ", copyButton("the event id", delivery.id)),
    el("span", { class: "actions" }, delivery.superseded || delivery.watchState === "cancelled" ? null : retryButton, el("button", { type: "button", "data-focus": "payload", click: () => showPayloads(delivery.watch, delivery.id) }, "Payload…")),
  );
}

function detailsOf(watch) {
  const metadata = Object.entries(watch.metadata ?? {}).filter(([, value]) => value !== null);
  const details = [
    ["Task", watch.task_id],
    ["Watch", watch.id],
    ["App", watch.app],
    ["Callback", watch.callback_url],
    ["Receiver", watch.host],
    ["Events", watch.events.join(", ")],
    ["Registered", `${moment(watch.created_at)} UTC`],
    ["Deadline", `${moment(watch.deadline_at)} UTC, after ${duration(watch.timeout_seconds)}`],
    ["Status", `${words(watch.status)}${watch.progress === null ? "" : `, ${watch.progress} %`}, ${counted(watch.polls, "poll")}`],
    ["Last poll", watch.last_polled_at ? `${moment(watch.last_polled_at)} UTC` : null],
    ["amux key", watch.credential === "configured" ? "AMUX_API_KEY" : `the app's own key, ${watch.credential.slice(0, 8)}`],
    ["Video", watch.video],
    ["Format", watch.format],
    ["Model", watch.model],
    ["Metadata", metadata.map(([name, value]) => `${name} ${value}`).join(", ")],
    ["amux's error", watch.error ? `${watch.error.code ?? ""} ${watch.error.message ?? ""}`.trim() : null],
    ["Extra headers", Object.entries(watch.headers).map(([name, mask]) => `${name}: ${mask}`).join(", ")],
    ["Context", watch.context === "null" ? null : watch.context],
    ["Polled by", watch.owner && watch.owner !== "local" ? watch.owner : null],
  ];
  return details.filter(([, value]) => value).map(([name, value]) => ({ name, value: String(value) }));
}

const COPIED_DETAILS = new Set(["Callback", "Video", "Context"]);

function buildDetail({ name, value }) {
  const shown = name === "Receiver" ? receiverLinks(value) : value;
  return el("div", {}, el("dt", {}, name), el("dd", { class: "user-text", tabindex: value.length > 200 ? "0" : null }, shown, COPIED_DETAILS.has(name) ? [" ", copyButton(name.toLowerCase(), value)] : null));
}

function receiverLinks(host) {
  const figures = () => {
    if (narrow.matches) closeWatch(); // on a narrow screen the drawer covers the table
    showReceiver(host);
  };
  return [host, el("span", { class: "actions" }, el("a", { href: hrefOf({ host }) }, "Its watches"), el("button", { type: "button", class: "link", click: figures }, "Its figures"))];
}

// --- actions ------------------------------------------------------------------------------------------------------

function showMessage(text) {
  loadFailed = false;
  if (byId("watch-message")) setText(byId("watch-message"), text);
}

async function cancel(id) {
  showWatch(await post(`watches/${encodeURIComponent(id)}/cancel`));
  // The button that had the focus no longer exists.
  return () => byId("watch-title")?.focus({ preventScroll: true });
}

const retry = (delivery) =>
  act(`retry ${delivery.id}`, "Not sent again", async () => {
    await post(`deliveries/${encodeURIComponent(delivery.id)}/retry`);
    return `${delivery.type} will be sent now, as attempt ${number(delivery.attempts + 1)}.`;
  });

const ping = (id) =>
  act(`ping ${id}`, "Not sent", async () => {
    showMessage("Sending a ping…");
    const { ok, status_code: status, error, duration_seconds: seconds } = await post(`watches/${encodeURIComponent(id)}/ping`);
    return ok ? `Ping: the receiver answered ${status} in ${duration(seconds)}.` : `Ping failed after ${duration(seconds)}: ${error.message}.`;
  });

const showPayloads = (id, eventId) =>
  act(`payload ${id}`, "Not shown", async () => {
    await openPayloads(id, eventId);
    return "";
  });

// Runs one action at a time and shows the message that it returns, or its error. The button stays enabled, because a
// disabled button loses the focus.
async function act(name, failed, action) {
  if (busy === name) return;
  busy = name;
  try {
    showMessage(await action());
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    showMessage(`${failed}: ${error.message}`);
  } finally {
    busy = "";
  }
}
