// An app in Node (18 or newer) without packages. It creates a video at amux, registers a watch at the bridge, and waits
// for the callback.
//
// AMUX_API_KEY=sk-... WEBHOOK_SECRET=whsec_... node app_fetch.mjs

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const amux = process.env.AMUX_BASE_URL ?? "https://api.amux.ai";
const bridge = process.env.BRIDGE_URL ?? "http://127.0.0.1:8080";
const token = process.env.BRIDGE_TOKEN; // not needed for a sidecar without tokens
const key = Buffer.from(process.env.WEBHOOK_SECRET.replace("whsec_", ""), "base64");

// The npm package standardwebhooks does the same.
function verified(headers, body) {
  const id = headers["webhook-id"], timestamp = headers["webhook-timestamp"];
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) < 300)) return false;
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  return (headers["webhook-signature"] ?? "").split(" ").some((part) => {
    const [version, signature] = part.split(",");
    const given = Buffer.from(signature ?? "", "base64");
    return version === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

async function post(url, bearer, body) {
  const headers = { "Content-Type": "application/json", ...(bearer && { Authorization: `Bearer ${bearer}` }) };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

let resolveEvent;
const received = new Promise((resolve) => (resolveEvent = resolve));
const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    const valid = verified(request.headers, body);
    response.writeHead(valid ? 204 : 401).end();
    if (valid) resolveEvent(JSON.parse(body));
  });
});
await new Promise((resolve) => server.listen(Number(process.env.PORT ?? 9000), "127.0.0.1", resolve));

const task = await post(`${amux}/v1/video/generations`, process.env.AMUX_API_KEY, {
  model: process.env.AMUX_MODEL ?? "seedance-1-0-pro",
  prompt: "a lighthouse in a storm",
});
const watch = await post(`${bridge}/watch`, token, {
  task_id: task.task_id ?? task.id,
  callback_url: `http://127.0.0.1:${server.address().port}/hooks/video`,
  context: { order: 17 },
});
console.log("watching", watch.id);

/** @type {import("../receivers/events.ts").VideoEvent} */
const event = await received; // a web app would start its work here
console.log(event.type, event.data.url, JSON.stringify(event.data.context));
server.close();
server.closeAllConnections();
