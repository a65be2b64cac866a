// A route of Next.js (app router) that receives callbacks at /hooks/video. Set WEBHOOK_SECRET (whsec_...), then:
//
// npm install standardwebhooks

import { Webhook } from "standardwebhooks";

export const runtime = "nodejs";
export const dynamic = "force-dynamic";

// In an app: a unique column in the database, in the transaction that does the work.
const seen = new Set();

export async function POST(request) {
  const body = await request.text(); // not request.json(): the signature is over the bytes as they arrived
  let event;
  try {
    event = new Webhook(process.env.WEBHOOK_SECRET).verify(body, Object.fromEntries(request.headers));
  } catch {
    return new Response(null, { status: 401 });
  }
  if (!seen.has(event.id)) {
    seen.add(event.id);
    console.log(event.type, event.data.task_id, event.data.url);
  }
  return new Response(null, { status: 204 }); // also for a repeated event, else it is sent again
}
