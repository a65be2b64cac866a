// The timeline of a watch and the duration of each stage.

import { disclosure } from "./disclosure.js";
import { byId, el, reconcile, svg } from "./dom.js";
import { counted, duration } from "./format.js";
import { absolute, relative } from "./time.js";

// --- the timeline -------------------------------------------------------------------------------------------------

export function showTimeline(watchId, timeline) {
  reconcile(byId("timeline"), withKeys(watchId, timeline), (entry) => entry.key, buildEntry);
}

// Each entry gets a key that stays the same. The key of these kinds has no time, because their time changes.
const CHANGING_KINDS = new Set(["polled", "next_poll", "deadline", "next_attempt"]);

function withKeys(watchId, timeline) {
  const counts = new Map();
  return timeline.map((entry) => {
    const name = `${watchId} ${entry.kind} ${entry.delivery ?? ""} ${CHANGING_KINDS.has(entry.kind) ? "" : entry.at}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
    return { ...entry, key: `${name} ${counts.get(name)}` };
  });
}

function buildEntry(entry) {
  const { at, kind, level, title, ahead, text, body, changes, repeats, key, duration_seconds: seconds } = entry;
  return el(
    "li",
    { "data-kind": kind, "data-level": level || null, "data-ahead": ahead ? "" : null },
    el("span", { class: "when number" }, at === null ? "–" : ahead ? relative("until", at) : absolute(at)),
    el("p", { class: "title" }, title, seconds === undefined ? null : el("span", { class: "muted" }, ` in ${duration(seconds)}`)),
    text ? el("p", { class: "user-text entry-text", tabindex: "0" }, text) : null,
    changes ? buildChanges(changes) : null,
    body ? el("pre", { class: "user-text", tabindex: "0", role: "group", "aria-label": "The beginning of the receiver's answer" }, body) : null,
    repeats ? buildRepeats(key, repeats) : null,
  );
}

function buildRepeats(key, repeats) {
  const last = repeats.at(-1);
  const summary = ["The same result ", counted(repeats.length, "more time"), ", last at ", absolute(last.at)];
  const rows = repeats.map(({ number, at, duration_seconds: seconds, changes }) =>
    el("li", {}, `Attempt ${number}, `, absolute(at), `, ${duration(seconds)}`, changes.length ? buildChanges(changes) : el("span", { class: "muted" }, ", the same answer")),
  );
  return disclosure(key, summary, el("ol", { class: "repeats" }, rows));
}

const CHANGE_NAMES = { result: "Result", answer: "Answer" };

// Shows the differences from the attempt before.
function buildChanges(changes) {
  return el("ul", { class: "changes" }, changes.map(({ name, before, after }) => el("li", { class: "user-text" }, `${CHANGE_NAMES[name]} changed: `, el("del", {}, before || "nothing"), " → ", el("ins", {}, after || "nothing"))));
}

// --- the duration of each stage -----------------------------------------------------------------------------------

const STAGES = [
  ["Submitted to amux", "submitted_at"],
  ["Registered", "registered_at"],
  ["First poll answered", "first_answer_at"],
  ["Ended, by amux's clock", "finished_at"],
  ["End seen by a poll", "seen_at"],
  ["Settled", "settled_at"],
  ["First attempt", "first_attempt_at"],
  ["Delivered", "delivered_at"],
];

export function showStages(timing) {
  reconcile(byId("timing"), stagesOf(timing), (stage) => stage.name, buildStage);
}

// Returns each stage with its time, the seconds since the last known stage, and their share of the whole time (0 to 1).
function stagesOf(timing) {
  const known = STAGES.map(([, field]) => timing[field]).filter((at) => at !== null);
  const last = Math.max(...STAGES.map(([, field], place) => (timing[field] === null ? -1 : place)));
  const whole = Math.max(...known) - Math.min(...known);
  let before = null;
  return STAGES.map(([name, field], place) => {
    const at = timing[field];
    const took = at === null || before === null ? null : Math.max(0, at - before);
    const share = took === null || whole <= 0 ? 0 : Math.min(1, took / whole);
    before = at === null ? before : Math.max(at, before ?? at);
    return { name, at, took, share, missing: place > last ? "not yet" : "not known" };
  });
}

function buildStage({ name, at, took, share, missing }) {
  const drawing = svg("svg", { class: "share", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: (share * 100).toFixed(2), height: "4" }));
  return el("div", {}, el("dt", {}, name), el("dd", {}, at === null ? el("span", { class: "muted" }, missing) : absolute(at), took === null ? null : el("span", { class: "muted" }, ` after ${duration(took)}`), share ? drawing : null));
}
