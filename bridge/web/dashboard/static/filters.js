// The filters above the table: search text, choices, time of registration, and filters that only links can set.

import { byId, el, setHidden } from "./dom.js";
import { iso, now } from "./format.js";
import { setFilters, state } from "./state.js";

const TYPING_MILLISECONDS = 300;

// Filters without a field in the form. The text is shown before the filter's value.
const CHIPS = { host: "Only callbacks to", app: "Only watches of the app", task_id: "Only watches of the task", event_id: "Only the watch with the event" };

let typing = 0; // the timer of a search text that is being typed

// The period that was chosen last: its seconds, and its beginning in RFC 3339.
let chosen = { seconds: "", after: "" };

export function startFilters() {
  const form = byId("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", apply);
  byId("q").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(apply, TYPING_MILLISECONDS);
  });
  byId("period").addEventListener("change", choosePeriod);
  byId("clear").addEventListener("click", () => {
    setFilters({});
    byId("q").focus();
  });
  showFilters();
}

function apply() {
  clearTimeout(typing);
  typing = 0;
  const filters = Object.fromEntries(new FormData(byId("filters")));
  filters.q = filters.q.trim();
  for (const name of Object.keys(CHIPS)) filters[name] = state.filters[name];
  setFilters({ ...filters, ...time() });
}

// --- the time of registration -------------------------------------------------------------------------------------

// This runs before `apply`, which the form's own listener calls for the same event.
function choosePeriod() {
  const seconds = byId("period").value;
  chosen = { seconds, after: Number(seconds) ? iso(Math.floor(now() - Number(seconds))) : "" };
  setHidden(byId("range"), seconds !== "range");
  if (seconds === "range") byId("from").focus();
  else for (const id of ["from", "to"]) byId(id).value = "";
}

// A link contains the beginning of the period, not "the last hour". So it shows the same watches later.
function time() {
  if (byId("period").value !== "range") return { created_after: chosen.after };
  return { created_after: utc(byId("from").value), created_before: utc(byId("to").value) };
}

const utc = (local) => (local ? `${local.length === 16 ? `${local}:00` : local}Z` : "");

function showTime() {
  const { created_after: after = "", created_before: before = "" } = state.filters;
  const period = byId("period");
  if (after && after === chosen.after && !before) {
    period.value = chosen.seconds;
  } else if (after || before) {
    period.value = "range";
    for (const [id, value] of [["from", after], ["to", before]]) {
      const field = byId(id);
      if (document.activeElement !== field) field.value = value.replace(/(\.000)?Z$/, "");
    }
  } else if (period.value !== "range") {
    period.value = "";
  }
  setHidden(byId("range"), period.value !== "range");
  period.toggleAttribute("data-set", Boolean(after || before));
}

// --- the filters in use -------------------------------------------------------------------------------------------

export function showFilters() {
  for (const field of byId("filters").elements) {
    if (!field.name) continue;
    const value = state.filters[field.name] ?? "";
    field.toggleAttribute("data-set", Boolean(value));
    // Do not overwrite the search text while it is being typed.
    if (field.value !== value && (field.name !== "q" || (!typing && document.activeElement !== field))) field.value = value;
  }
  showTime();
  setHidden(byId("clear"), !Object.keys(state.filters).length);
  const chips = Object.keys(CHIPS).filter((name) => state.filters[name]);
  setHidden(byId("host-filter"), !chips.length);
  byId("host-filter").replaceChildren(...chips.map(buildChip));
}

function buildChip(name) {
  const remove = el("button", { type: "button", class: "quiet", click: () => setFilters({ ...state.filters, [name]: "" }) }, name === "host" ? "Show all hosts" : "Show all");
  return el("span", { class: "chip" }, `${CHIPS[name]} `, el("strong", { class: "user-text" }, state.filters[name]), " ", remove);
}
