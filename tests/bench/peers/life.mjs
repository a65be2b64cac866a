// The life of a watch on a job queue: POST /watch adds a job, the job polls amux until the task has ended, a second job
// sends the signed callback. `node life.mjs QUEUE SERVER AMUX MILLISECONDS` serves; `fill N` in place of AMUX adds N jobs
// that wait for a day.
import { createHmac, randomUUID } from "node:crypto";
import http from "node:http";

const [kind, server, amux, last] = process.argv.slice(2);
const DAY = 86_400_000;
const KEY = Buffer.alloc(32, 1);
const agent = new http.Agent({ keepAlive: true, maxSockets: 256 });

function ask(method, url, headers, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers, agent, timeout: 10_000 }, (response) => {
      const pieces = [];
      response.on("data", (piece) => pieces.push(piece));
      response.on("end", () => resolve({ status: response.statusCode, body: Buffer.concat(pieces) }));
      response.on("error", reject);
    });
    request.on("timeout", () => request.destroy(new Error("timeout")));
    request.on("error", reject);
    request.end(body);
  });
}

async function poll(watch) {
  const answer = await ask("GET", `${amux}/v1/video/generations/${watch.task_id}`, { authorization: "Bearer bench" });
  const record = JSON.parse(answer.body).data;
  return record.status === "SUCCESS" ? { ...watch, url: record.result_url } : null;
}

async function deliver(id, watch) {
  const at = Math.floor(Date.now() / 1000).toString();
  const body = JSON.stringify({ type: "video.completed", timestamp: new Date().toISOString(), data: watch });
  const signature = createHmac("sha256", KEY).update(`${id}.${at}.${body}`).digest("base64");
  const headers = {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    "webhook-id": id,
    "webhook-timestamp": at,
    "webhook-signature": `v1,${signature}`,
  };
  const answer = await ask("POST", watch.callback_url, headers, body);
  if (answer.status >= 300) throw new Error(`answered ${answer.status}`);
}

async function openPgBoss() {
  const { PgBoss } = await import("pg-boss");
  const boss = new PgBoss({ connectionString: server });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  await boss.createQueue("poll", { retryLimit: 10 });
  await boss.createQueue("deliver", { retryLimit: 10, retryBackoff: true });
  const after = (data, milliseconds) => ({ data, startAfter: new Date(Date.now() + milliseconds) });
  return {
    add: (watch, delay) => boss.insert("poll", [after(watch, delay)]),
    addMany: (watches, delay) => boss.insert("poll", watches.map((watch) => after(watch, delay))),
    async work(delay) {
      const often = { batchSize: 500, pollingIntervalSeconds: 0.5 };
      await boss.work("poll", often, async (jobs) => {
        const running = [], ended = [];
        await Promise.all(jobs.map(async ({ data }) => {
          const found = await poll(data).catch(() => null);
          (found ? ended : running).push(found ?? data);
        }));
        if (running.length) await boss.insert("poll", running.map((data) => after(data, delay)));
        if (ended.length) await boss.insert("deliver", ended.map((data) => ({ data })));
      });
      await boss.work("deliver", often, (jobs) => Promise.all(jobs.map(({ id, data }) => deliver(id, data))));
    },
    close: () => boss.stop(),
  };
}

async function openBullMq() {
  const { DelayedError, Queue, Worker } = await import("bullmq");
  const { hostname: host, port } = new URL(server);
  const connection = { host, port: Number(port), maxRetriesPerRequest: null };
  const defaults = { removeOnComplete: true, attempts: 10, backoff: { type: "exponential", delay: 1000 } };
  const polls = new Queue("poll", { connection, defaultJobOptions: defaults });
  const deliveries = new Queue("deliver", { connection, defaultJobOptions: defaults });
  await Promise.all([polls.waitUntilReady(), deliveries.waitUntilReady()]);
  return {
    add: (watch, delay) => polls.add("poll", watch, { delay }),
    addMany: (watches, delay) => polls.addBulk(watches.map((data) => ({ name: "poll", data, opts: { delay } }))),
    async work(delay) {
      const look = async (job, token) => {
        const found = await poll(job.data).catch(() => null);
        if (found) return void (await deliveries.add("deliver", found));
        await job.moveToDelayed(Date.now() + delay, token);
        throw new DelayedError();
      };
      const workers = [
        new Worker("poll", look, { connection, concurrency: 500 }),
        new Worker("deliver", (job) => deliver(`evt_${job.id}_${randomUUID()}`, job.data), { connection, concurrency: 64 }),
      ];
      await Promise.all(workers.map((worker) => worker.waitUntilReady()));
    },
    close: () => Promise.all([polls.close(), deliveries.close()]),
  };
}

async function fill(queue, many) {
  for (let first = 0; first < many; first += 2_000) {
    const watches = Array.from({ length: Math.min(2_000, many - first) }, (_, place) => ({
      task_id: `task_${String(first + place).padStart(32, "0")}`,
      callback_url: "http://127.0.0.1:9/hooks/video",
    }));
    await queue.addMany(watches, DAY);
  }
}

function serve(queue, delay) {
  const app = http.createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", async () => {
      try {
        const { task_id, callback_url } = JSON.parse(Buffer.concat(pieces));
        await queue.add({ task_id, callback_url }, delay);
        response.writeHead(201, { "content-type": "application/json" }).end(JSON.stringify({ task_id, callback_url }));
      } catch (error) {
        response.writeHead(500).end(String(error));
      }
    });
  });
  app.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${app.address().port}`));
}

const queue = await (kind === "pg-boss" ? openPgBoss() : openBullMq());
if (amux === "fill") {
  await fill(queue, Number(last));
  await queue.close();
  process.exit(0);
}
await queue.work(Number(last));
serve(queue, Number(last));
