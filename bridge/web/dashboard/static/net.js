// Requests to the page's own routes. Found from where this file is, so that a path before them does no harm.

const ROOT = new URL("../", import.meta.url);

let csrf = "";

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function setProof(token) {
  csrf = token;
}

export function address(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url;
}

async function ask(path, options, query) {
  let answer;
  try {
    answer = await fetch(address(path, query), { credentials: "same-origin", cache: "no-store", ...options });
  } catch {
    throw new Problem(0, "The bridge does not answer.");
  }
  const text = await answer.text();
  let told = null;
  try {
    told = text ? JSON.parse(text) : null;
  } catch {
    throw new Problem(answer.status, `Something else than the bridge answered (${answer.status}).`);
  }
  if (!answer.ok) throw new Problem(answer.status, told?.detail ?? `The bridge answered ${answer.status}.`);
  return told;
}

export const get = (path, query) => ask(path, {}, query);

export const post = (path, body) =>
  ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
