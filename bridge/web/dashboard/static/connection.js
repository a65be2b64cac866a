// Shows whether the bridge answers. While it does not answer, the headline says since when, and the data are dimmed.

import { byId, setText } from "./dom.js";
import { moment, now } from "./format.js";

// The stream has an event about every 2 s. A store that does not answer can delay the next one by 15 s.
const SILENT_SECONDS = 20;
// A broken stream is opened again after 2 s. A proxy can end a stream; that is not a fault of the bridge.
const BROKEN_SECONDS = 3;

let timer = 0;
let answeredAt = null; // by the bridge's clock, in Unix seconds
let eventAt = 0; // the monotonic clock, in milliseconds
let brokenAt = null;
let headline = null; // the headline and its level before the data became stale

export function startConnection() {
  eventAt = performance.now();
  timer = setInterval(judge, 500);
}

// The page shows the sign-in form, so there is no stream.
export function stopConnection() {
  clearInterval(timer);
}

// An event arrived.
export function connectionAnswered() {
  eventAt = performance.now();
  brokenAt = null;
  answeredAt = now();
  show("on", "Live");
  if (headline !== null) showFresh();
}

// The stream is broken; the browser or the page opens it again.
export function connectionBroken() {
  brokenAt ??= performance.now();
  show("off", "Reconnecting");
}

function judge() {
  const at = performance.now();
  const broken = brokenAt !== null && at - brokenAt > BROKEN_SECONDS * 1000;
  if (headline === null && (broken || at - eventAt > SILENT_SECONDS * 1000)) showStale();
}

function showStale() {
  const title = byId("alert-summary");
  headline = { text: title.textContent, level: title.dataset.level };
  setText(title, answeredAt === null ? "The bridge does not answer" : `The bridge has not answered since ${moment(answeredAt)}`);
  title.dataset.level = "bad";
  document.title = "No answer · amux bridge";
  byId("page").toggleAttribute("data-stale", true);
  setText(byId("announcement"), `${title.textContent}.`);
  show("off", "Reconnecting");
}

function showFresh() {
  const title = byId("alert-summary");
  setText(title, headline.text);
  title.dataset.level = headline.level;
  headline = null;
  document.title = "amux bridge";
  byId("page").toggleAttribute("data-stale", false);
  setText(byId("announcement"), "The bridge answers again.");
}

function show(connectionState, text) {
  byId("connection").dataset.state = connectionState;
  setText(byId("connection-text"), text);
}
