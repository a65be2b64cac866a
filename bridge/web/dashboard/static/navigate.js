// Links and buttons that lead to another part of the page.

import { byId } from "./dom.js";
import { setFilters } from "./state.js";

// A plain click on a link runs `action`. A click with a modifier key follows the link, for example into a new tab.
export function onPlainClick(action) {
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    action();
  };
}

// Shows the watches that match `filters`, and moves the focus to them.
export function showWatches(filters) {
  setFilters(filters);
  focusHeading("watches");
}

export function focusHeading(id) {
  byId(id).scrollIntoView({ block: "start" });
  byId(id).focus({ preventScroll: true });
}
