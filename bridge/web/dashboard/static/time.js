// Relative times. The browser updates them every second without the server: "12 s ago" becomes "13 s ago".

import { el, setText } from "./dom.js";
import { iso, moment, now, span } from "./format.js";

const FORMATS = {
  ago: (at) => `${span(now() - at)} ago`,
  since: (at) => span(now() - at),
  until: (at) => (at > now() ? `in ${span(at - now())}` : "now"),
  left: (at) => (at > now() ? `${span(at - now())} left` : "overdue"),
};

export function relative(format, at) {
  return el("time", { datetime: iso(at), title: `${moment(at)} UTC`, "data-format": format, "data-at": at }, FORMATS[format](at));
}

export function absolute(at) {
  return el("time", { datetime: iso(at), title: iso(at) }, moment(at));
}

export function startClocks() {
  setInterval(() => {
    if (document.hidden) return;
    for (const node of document.querySelectorAll("time[data-format]")) {
      setText(node, FORMATS[node.dataset.format](Number(node.dataset.at)));
    }
  }, 1000);
}
