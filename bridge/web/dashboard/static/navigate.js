// Moves the operator from one part of the page to another.

import { byId } from "./dom.js";
import { setFilters } from "./state.js";

// Shows the watches that match `filters`, and puts the focus there.
export function showWatches(filters) {
  setFilters(filters);
  focusHeading("watches");
}

export function focusHeading(id) {
  byId(id).scrollIntoView({ block: "start" });
  byId(id).focus({ preventScroll: true });
}
