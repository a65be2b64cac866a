// One watch: what is known of it, what can be done, and its time line.

import { askCancel } from "./dialogs.js";
import { byId, el, icon, reconcile, setHidden, setText } from "./dom.js";
import { counted, duration, moment, number, words } from "./format.js";
import { Problem, post } from "./net.js";
import { closeWatch, state } from "./state.js";
import { standing } from "./table.js";
import { absolute, relative } from "./time.js";

let cameFrom = "";
let complaint = false; // the message is of the watch as it could not be read: it goes when it can
let sending = "";

const narrow = matchMedia("(max-width: 60rem)");

export function startWatch() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.watch && !byId("dialog").open) {
      event.preventDefault();
      closeWatch();
    }
  });
  narrow.addEventListener("change", cover);
}

// --- opening and closing ------------------------------------------------------------------------------------------

export function watchChanged(before) {
  const drawer = byId("watch");
  if (!state.watch) {
    setHidden(drawer, true);
    drawer.replaceChildren();
    cover();
    const link = [...byId("rows").children].find((node) => node.reconcileKey === cameFrom)?.querySelector("a.open");
    (link ?? byId("watches")).focus({ preventScroll: true });
    return;
  }
  if (state.watch === before.watch && drawer.childElementCount) return;
  cameFrom = state.watch;
  frame(drawer);
  setHidden(drawer, false);
  cover();
  byId("watch-title").focus({ preventScroll: true });
}

// On a narrow screen the watch covers the page, and what is beneath must not be reached by Tab.
function cover() {
  const covered = Boolean(state.watch) && narrow.matches;
  for (const part of document.querySelectorAll("#page > header, #page > main")) part.inert = covered;
}

function frame(drawer) {
  drawer.replaceChildren(
    el("header", { class: "drawer-top" }, el("h2", { id: "watch-title", tabindex: "-1", class: "text" }, "Watch"), el("button", { type: "button", class: "quiet icon-button", "aria-label": "Close the watch", click: closeWatch }, icon("close"))),
    el("p", { id: "watch-message", class: "message", role: "status" }),
    el("div", { id: "watch-head" }),
    el("section", { "aria-label": "Callbacks" }, el("ul", { id: "watch-deliveries", class: "deliveries" })),
    el("section", { "aria-labelledby": "life" }, el("h3", { id: "life" }, "Time line"), el("ol", { id: "timeline", class: "timeline" })),
    el("section", { "aria-labelledby": "facts" }, el("h3", { id: "facts" }, "Details"), el("dl", { id: "watch-facts", class: "facts" })),
  );
}

// --- showing ------------------------------------------------------------------------------------------------------

export function showWatch(one) {
  if (one.id !== state.watch || !byId("watch-title")) return;
  setText(byId("watch-title"), one.task_id);
  if (complaint) say("");
  const { state: stands, outcome, status, progress, trouble, id, task_id } = one;
  reconcile(byId("watch-head"), [{ id, task_id, state: stands, outcome, status, progress, trouble }], () => "head", head);
  reconcile(byId("watch-deliveries"), one.deliveries.map((each) => ({ ...each, watch_state: stands })), (each) => each.id, delivery);
  reconcile(byId("timeline"), numbered(one.timeline), (entry) => entry.key, happening);
  reconcile(byId("watch-facts"), facts(one), (fact) => fact.name, ({ name, value }) => el("div", {}, el("dt", {}, name), el("dd", { class: "text" }, value)));
}

export function watchFailed({ detail, code }) {
  say(code === "not_found" ? "There is no such watch; it may have been deleted after its time." : `As it was: ${detail}.`);
  complaint = true;
}

function head(one) {
  const [mark, says] = standing(one);
  return el(
    "div",
    { class: "standing" },
    el("p", { class: "state" }, icon(mark), el("strong", {}, says), el("span", { class: "id faint text" }, one.id)),
    one.trouble ? el("p", { class: "matter text", "data-level": one.trouble.level }, icon(one.trouble.level), el("span", {}, one.trouble.why)) : null,
    one.state === "active" ? el("p", { class: "actions" }, el("button", { type: "button", class: "danger", "data-focus": "cancel", click: () => askCancel(one.task_id, () => cancel(one.id)) }, "Cancel the watch…")) : null,
  );
}

const DELIVERY = { pending: "wait", delivered: "good", dead: "bad" };

function delivery(one) {
  const again = el("button", { type: "button", "data-focus": "again", click: () => sendAgain(one) }, one.state === "pending" ? "Send now" : "Send again");
  return el(
    "li",
    { "data-level": DELIVERY[one.state] },
    icon(one.superseded ? "off" : DELIVERY[one.state]),
    el("span", { class: "name" }, one.type),
    el("span", { class: "detail" }, one.superseded ? "not sent: overtaken by the end" : `${one.state === "pending" ? "waiting" : one.state}, ${counted(one.attempts, "attempt")}`),
    one.state === "pending" && one.next_attempt_at ? el("span", { class: "detail faint" }, "next ", relative("until", one.next_attempt_at)) : null,
    el("span", { class: "id faint text" }, one.id),
    one.superseded || one.watch_state === "cancelled" ? null : again,
  );
}

function numbered(timeline) {
  const seen = new Map();
  return timeline.map((entry) => {
    const name = `${entry.kind} ${entry.delivery ?? ""} ${entry.kind === "polled" || entry.ahead ? entry.title.slice(0, 4) : entry.at}`;
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return { ...entry, key: `${name} ${seen.get(name)}` };
  });
}

function happening(entry) {
  return el(
    "li",
    { "data-kind": entry.kind, "data-level": entry.level || null, "data-ahead": entry.ahead ? "" : null },
    el("span", { class: "when number" }, entry.at === null ? "–" : entry.ahead ? relative("until", entry.at) : absolute(entry.at)),
    el("p", { class: "what" }, entry.title, entry.duration_seconds === undefined ? null : el("span", { class: "faint" }, ` in ${duration(entry.duration_seconds)}`)),
    entry.text ? el("p", { class: "text" }, entry.text) : null,
    entry.body ? el("pre", { class: "text", tabindex: "0", "aria-label": "The beginning of the receiver's answer" }, entry.body) : null,
  );
}

function facts(one) {
  const lines = [
    ["Watch", one.id],
    ["App", one.app],
    ["Callback", one.callback_url],
    ["Events", one.events.join(", ")],
    ["Registered", `${moment(one.created_at)} UTC`],
    ["Deadline", `${moment(one.deadline_at)} UTC, after ${duration(one.timeout_seconds)}`],
    ["Task", `${words(one.status)}${one.progress === null ? "" : `, ${one.progress} %`}, ${counted(one.polls, "poll")}`],
    ["Last poll", one.last_polled_at ? `${moment(one.last_polled_at)} UTC` : null],
    ["amux key", one.credential === "configured" ? "AMUX_API_KEY" : `the app's own, ${one.credential.slice(0, 8)}`],
    ["Video", one.video],
    ["Format", one.format],
    ["Metadata", one.metadata ? Object.entries(one.metadata).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value}`).join(", ") : null],
    ["amux's error", one.error ? `${one.error.code ?? ""} ${one.error.message ?? ""}`.trim() : null],
    ["Extra headers", Object.entries(one.headers).map(([name, mask]) => `${name}: ${mask}`).join(", ")],
    ["Context", one.context === "null" ? null : one.context],
    ["Polled by", one.owner && one.owner !== "local" ? one.owner : null],
  ];
  return lines.filter(([, value]) => value).map(([name, value]) => ({ name, value: String(value) }));
}

// --- doing --------------------------------------------------------------------------------------------------------

function say(text) {
  complaint = false;
  if (byId("watch-message")) setText(byId("watch-message"), text);
}

async function cancel(id) {
  showWatch(await post(`watches/${encodeURIComponent(id)}/cancel`));
  // The button that had the focus is gone.
  return () => byId("watch-title")?.focus({ preventScroll: true });
}

// The button is not disabled meanwhile: it would lose the focus.
async function sendAgain(one) {
  if (sending === one.id) return;
  sending = one.id;
  try {
    await post(`deliveries/${encodeURIComponent(one.id)}/retry`);
    say(`${one.type} is sent now, as attempt ${number(one.attempts + 1)}.`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(`Not sent again: ${error.message}`);
  } finally {
    sending = "";
  }
}
