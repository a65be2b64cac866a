// Rows that open. What the operator has opened stays open when its row is built again.

import { el } from "./dom.js";

const opened = new Set();

// `key` identifies the row. `onToggle` is called after it was opened or closed.
export function disclosure(key, summary, children, onToggle = () => {}) {
  const toggle = ({ target }) => {
    if (target.open) opened.add(key);
    else opened.delete(key);
    onToggle();
  };
  return el("details", { open: opened.has(key), toggle }, el("summary", { "data-focus": "open" }, summary), children);
}
