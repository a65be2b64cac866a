// A task of Trigger.dev that waits for a video, as a waitpoint token. Set BRIDGE_URL and BRIDGE_TOKEN, then:
//
// npm install @trigger.dev/sdk
//
// The token's URL is the callback: no server of yours receives it, and the task costs nothing while it waits.

import { task, wait } from "@trigger.dev/sdk";

export const makeVideo = task({
  id: "make-video",
  run: async ({ taskId }) => {
    const token = await wait.createToken({ timeout: "2h" });
    const answer = await fetch(`${process.env.BRIDGE_URL}/watch`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${process.env.BRIDGE_TOKEN}` },
      // The same task and URL: a repeated request finds the same watch.
      body: JSON.stringify({ task_id: taskId, callback_url: token.url }),
    });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    const result = await wait.forToken(token); // the callback's body is its output
    if (!result.ok) throw new Error("no event came in time");
    const { type, data } = result.output;
    if (type !== "video.completed") throw new Error(`${type}: ${data.error?.message}`);
    return data.url;
  },
});
