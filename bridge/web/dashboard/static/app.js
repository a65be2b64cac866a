// Starts the page: reads the session, opens the live stream and passes each event to its part of the page.

import { openResend } from "./alerts.js";
import { showCharts } from "./charts.js";
import { connectionAnswered, connectionBroken, startConnection, stopConnection } from "./connection.js";
import { byId, icon, setHidden, setText } from "./dom.js";
import { startFirst } from "./first.js";
import { focusHeading } from "./navigate.js";
import { RequestError, get, post, setCsrfToken, urlOf } from "./net.js";
import { showOverview } from "./overview.js";
import { onChange, startState, state } from "./state.js";
import { cursor, markOpenWatch, resetTable, showTable, startTable, tableFailed } from "./table.js";
import { startClocks } from "./time.js";
import { openWatchChanged, showWatch, startWatch, watchFailed } from "./watch.js";

// On a narrow screen a row has five lines. With 20 rows instead of 50 the sections below the table are easy to reach.
const NARROW = matchMedia("(max-width: 48rem)");

let stream = null;

// --- session ------------------------------------------------------------------------------------------------------

async function start() {
  try {
    const session = await get("session");
    if (session.operator) showPage(session);
    else if (session.possible) showSignIn();
    else showNoOperators();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    showSignIn(error);
  }
}

function showSignIn(error) {
  stopStream();
  stopConnection();
  document.title = "Sign in · amux bridge";
  const message = byId("sign-in-message");
  if (error) setText(message, error.message);
  setHidden(byId("page"), true);
  setHidden(byId("sign-in"), false);
  byId("token").focus();
}

// No operator token is configured, so no token opens this page.
function showNoOperators() {
  document.title = "No operator token · amux bridge";
  setHidden(byId("no-operators"), false);
}

function showPage(session) {
  setCsrfToken(session.csrf);
  setText(byId("version"), session.version);
  setText(byId("operator"), session.open ? "no sign-in on this machine" : session.operator);
  setHidden(byId("sign-out"), session.open);
  setHidden(byId("sign-in"), true);
  setHidden(byId("page"), false);
  startFirst(session);
  startTable(startStream);
  startWatch();
  startState();
  startClocks();
  startConnection();
  onChange(stateChanged);
  startStream();
  if (state.watch) openWatchChanged({ watch: "" });
}

async function signOut() {
  try {
    await post("sign-out");
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
  }
  stopStream();
  location.replace(new URL("../", urlOf("session")));
}

// --- the live stream ----------------------------------------------------------------------------------------------

const EVENTS = {
  overview: showOverview,
  charts: showCharts,
  watches: showTable,
  "watches-failed": tableFailed,
  watch: showWatch,
  "watch-failed": watchFailed,
};

function startStream() {
  stopStream();
  const limit = NARROW.matches ? 20 : "";
  const current = new EventSource(urlOf("live", { ...state.filters, limit, cursor: cursor(), watch: state.watch }));
  stream = current;
  for (const [name, show] of Object.entries(EVENTS)) {
    current.addEventListener(name, (event) => {
      if (stream !== current) return;
      connectionAnswered();
      show(JSON.parse(event.data));
    });
  }
  current.addEventListener("error", () => {
    if (stream !== current) return;
    connectionBroken();
    if (current.readyState === EventSource.CLOSED) streamRefused();
  });
}

// The server refused the stream: the session has ended, or a filter is invalid.
async function streamRefused() {
  stopStream();
  try {
    if (!(await get("session")).operator) return showSignIn(new RequestError(0, "Your session has ended. Sign in again."));
    await get("watches", { ...state.filters, limit: 1 });
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.status === 422) return tableFailed({ detail: error.message });
  }
  setTimeout(startStream, 3000);
}

function stopStream() {
  stream?.close();
  stream = null;
}

function stateChanged(before) {
  const filtersChanged = JSON.stringify(before.filters) !== JSON.stringify(state.filters);
  if (filtersChanged) resetTable();
  if (before.watch !== state.watch) {
    openWatchChanged(before);
    markOpenWatch();
  }
  if (filtersChanged || before.watch !== state.watch) startStream();
}

// --- the theme ----------------------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];

const currentTheme = () => document.documentElement.dataset.theme ?? "system";

const nextTheme = () => THEMES[(THEMES.indexOf(currentTheme()) + 1) % THEMES.length];

function showTheme() {
  const button = byId("theme");
  button.replaceChildren(icon(currentTheme()));
  button.setAttribute("aria-label", `Theme: ${currentTheme()}. Change to ${nextTheme()}`);
  button.title = `Theme: ${currentTheme()}`;
}

function changeTheme() {
  const theme = nextTheme();
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("amux-bridge-theme", theme);
  } catch {
    // Without storage the theme lasts until the page is closed.
  }
  showTheme();
}

// The URL's hash contains the filters, so a skip link must not change it.
for (const link of document.querySelectorAll("a.skip-link")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    focusHeading(link.getAttribute("href").slice(1));
  });
}

byId("theme").addEventListener("click", changeTheme);
byId("sign-out").addEventListener("click", signOut);
byId("resend-all").addEventListener("click", () => openResend(""));
showTheme();
start();
