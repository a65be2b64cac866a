// Requests to the page's own routes. URLs are relative to this file, so a proxy may add a path before them.

const ROOT = new URL("../", import.meta.url);

let csrfToken = "";

// A request that failed. `status` is the HTTP status, 0 without an answer; the message is for the operator.
export class RequestError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function setCsrfToken(token) {
  csrfToken = token;
}

export function urlOf(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url;
}

async function request(path, options, query) {
  let response;
  try {
    response = await fetch(urlOf(path, query), { credentials: "same-origin", cache: "no-store", ...options });
  } catch {
    throw new RequestError(0, "The bridge does not answer.");
  }
  const text = await response.text();
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    throw new RequestError(response.status, `The answer (${response.status}) does not come from the bridge.`);
  }
  if (!response.ok) throw new RequestError(response.status, body?.detail ?? `The bridge answered ${response.status}.`);
  return body;
}

export const get = (path, query) => request(path, {}, query);

export const post = (path, body) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrfToken },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
