// Times that go on by themselves: "12 s ago" becomes "13 s ago" without an answer from the server.

import { el, setText } from "./dom.js";
import { iso, moment, now, span } from "./format.js";

const SAYS = {
  ago: (at) => `${span(now() - at)} ago`,
  since: (at) => span(now() - at),
  until: (at) => (at > now() ? `in ${span(at - now())}` : "now"),
  left: (at) => (at > now() ? `${span(at - now())} left` : "overdue"),
};

export function relative(kind, at) {
  return el("time", { datetime: iso(at), title: `${moment(at)} UTC`, "data-kind": kind, "data-at": at }, SAYS[kind](at));
}

export function absolute(at) {
  return el("time", { datetime: iso(at), title: iso(at) }, moment(at));
}

export function startClocks() {
  setInterval(() => {
    if (document.hidden) return;
    for (const node of document.querySelectorAll("time[data-kind]")) {
      setText(node, SAYS[node.dataset.kind](Number(node.dataset.at)));
    }
  }, 1000);
}
