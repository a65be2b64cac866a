// Begins: who is there, then the live stream, and what it says goes to its part of the page.

import { showCharts } from "./charts.js";
import { openResend } from "./dialogs.js";
import { byId, icon, setHidden, setText } from "./dom.js";
import { Problem, address, get, post, setProof } from "./net.js";
import { showOverview } from "./overview.js";
import { onChange, startState, state } from "./state.js";
import { cursor, filtersChanged, markOpen, showTable, startTable, tableFailed } from "./table.js";
import { startClocks } from "./time.js";
import { showWatch, startWatch, watchChanged, watchFailed } from "./watch.js";

// Where a row takes five lines, fifty of them lie between an operator and what is below.
const NARROW = matchMedia("(max-width: 48rem)");

let stream = null;

// --- who is there -------------------------------------------------------------------------------------------------

async function begin() {
  try {
    const session = await get("session");
    if (session.operator) enter(session);
    else askToSignIn();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    askToSignIn(error);
  }
}

function askToSignIn(error) {
  stop();
  document.title = "Sign in · amux bridge";
  const message = byId("sign-in-message");
  if (error) setText(message, error.message);
  setHidden(byId("page"), true);
  setHidden(byId("sign-in"), false);
  byId("token").focus();
}

function enter(session) {
  setProof(session.csrf);
  setText(byId("version"), session.version);
  setText(byId("operator"), session.open ? "open on this machine" : session.operator);
  setHidden(byId("sign-out"), session.open);
  setHidden(byId("sign-in"), true);
  setHidden(byId("page"), false);
  startTable(listen);
  startWatch();
  startState();
  startClocks();
  onChange(moved);
  listen();
  if (state.watch) watchChanged({ watch: "" });
}

async function signOut() {
  try {
    await post("sign-out");
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
  stop();
  location.replace(new URL("../", address("session")));
}

// --- the live stream ----------------------------------------------------------------------------------------------

const PARTS = {
  overview: showOverview,
  charts: showCharts,
  watches: showTable,
  "watches-failed": tableFailed,
  watch: showWatch,
  "watch-failed": watchFailed,
};

function listen() {
  stop();
  const limit = NARROW.matches ? 20 : "";
  const current = new EventSource(address("live", { ...state.filters, limit, cursor: cursor(), watch: state.watch }));
  stream = current;
  for (const [name, show] of Object.entries(PARTS)) {
    current.addEventListener(name, (event) => {
      if (stream !== current) return;
      linkIs("on", "Live");
      show(JSON.parse(event.data));
    });
  }
  current.addEventListener("error", () => {
    if (stream !== current) return;
    linkIs("off", "Reconnecting");
    if (current.readyState === EventSource.CLOSED) lost();
  });
}

// A stream that was refused: the session is over, or the filter is not one.
async function lost() {
  stop();
  try {
    if (!(await get("session")).operator) return askToSignIn(new Problem(0, "The session is over. Sign in again."));
    await get("watches", { ...state.filters, limit: 1 });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 422) return tableFailed({ detail: error.message });
  }
  setTimeout(listen, 3000);
}

function stop() {
  stream?.close();
  stream = null;
}

function linkIs(now, text) {
  byId("link").dataset.state = now;
  setText(byId("link-text"), text);
}

function moved(before) {
  const filters = JSON.stringify(before.filters) !== JSON.stringify(state.filters);
  if (filters) filtersChanged();
  if (before.watch !== state.watch) {
    watchChanged(before);
    markOpen();
  }
  if (filters || before.watch !== state.watch) listen();
}

// --- the theme ----------------------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];

function theme() {
  return document.documentElement.dataset.theme ?? "system";
}

function showTheme() {
  const button = byId("theme");
  const following = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  button.replaceChildren(icon(theme()));
  button.setAttribute("aria-label", `Theme: ${theme()}. Change to ${following}`);
  button.title = `Theme: ${theme()}`;
}

function changeTheme() {
  const following = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (following === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = following;
  try {
    localStorage.setItem("amux-bridge-theme", following);
  } catch {
    // It counts for this page only, then.
  }
  showTheme();
}

byId("theme").addEventListener("click", changeTheme);
byId("sign-out").addEventListener("click", signOut);
byId("resend-all").addEventListener("click", () => openResend(""));
showTheme();
begin();
