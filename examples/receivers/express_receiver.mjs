// A receiver with Express. Set WEBHOOK_SECRET (whsec_...), then:
//
// npm install express standardwebhooks
// node express_receiver.mjs

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import express from "express";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
const seen = process.env.SEEN_DIR ?? "seen";
mkdirSync(seen, { recursive: true });

// Whether this event is new. An app uses a unique column, in the transaction that does the work.
function firstTime(eventId) {
  try {
    writeFileSync(join(seen, eventId), "", { flag: "wx" });
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

const app = express();
// raw, not json: the signature is over the bytes as they arrived.
app.post("/hooks/video", express.raw({ type: "application/json" }), (request, response) => {
  /** @type {import("./events.ts").VideoEvent | import("./events.ts").PingEvent} */
  let event;
  try {
    event = webhook.verify(request.body, request.headers);
  } catch {
    return response.status(401).end();
  }
  if (firstTime(event.id)) console.log(event.type, event.data.task_id, event.data.url);
  response.status(204).end(); // also for a repeated event, else it is sent again
});
app.listen(Number(process.env.PORT ?? 9000), "127.0.0.1");
