// Rows that open to show more. An open row stays open when the page builds it again.

import { el } from "./dom.js";

const opened = new Set();

// `key` identifies the row. `onToggle` is called after the row was opened or closed.
export function disclosure(key, summary, children, onToggle = () => {}) {
  const toggle = ({ target }) => {
    if (target.open) opened.add(key);
    else opened.delete(key);
    onToggle();
  };
  return el("details", { open: opened.has(key), toggle }, el("summary", { "data-focus": "open" }, summary), children);
}
