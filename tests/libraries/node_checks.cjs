// Checks of one library for Node each, against the replica at a port of this machine.
//
//     node node_checks.cjs LIBRARY PORT FILE SPAN
//
// As python_checks.py. Workers run in this process.

const fs = require("node:fs");
const { createRequire } = require("node:module");
const path = require("node:path");

const installed = process.env.LIBRARIES || process.cwd();
const load = createRequire(path.join(installed, "node_modules", "none.js"));
const [library, portText, file, spanText] = process.argv.slice(2);
const port = Number(portText);
const span = Number(spanText || 0) * 1000;
const JOBS = 300;
const connection = { host: "127.0.0.1", port };
const url = `redis://127.0.0.1:${port}`;
const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

function assert(holds, what) {
  if (!holds) throw new Error(what);
}

// The job: notes that it ran.
const note = (number) => fs.appendFileSync(file, `${number}\n`);
const runs = () =>
  fs.existsSync(file) ? fs.readFileSync(file, "utf8").trim().split("\n").map(Number) : [];

// Adds jobs while workers run them, and counts those that are lost or ran twice. A job whose
// addition fails may run or not.
async function queue(add) {
  const added = new Set();
  let failed = 0;
  for (let number = 0; number < JOBS; number += 1) {
    try {
      await add(number);
      added.add(number);
    } catch (error) {
      console.log(`job ${number}: ${error}`.slice(0, 200));
      failed += 1;
    }
    await sleep(span / JOBS);
  }
  const lost = () => {
    const found = new Set(runs());
    return [...added].filter((number) => !found.has(number)).length;
  };
  // A job whose worker lost its connection is taken up again by a check every 30 seconds.
  for (let wait = 0; wait < 600 && lost() > 0; wait += 1) await sleep(200);
  await sleep(1000);
  const all = runs();
  const twice = all.length - new Set(all).size;
  const result = `jobs=${added.size} failed=${failed} lost=${lost()} twice=${twice}`;
  assert(lost() === 0 && added.size >= JOBS / 2, result);
  return result;
}

async function nodeRedis(options) {
  const client = load("redis").createClient({ url, ...options });
  client.on("error", () => {});
  await client.connect();
  return client;
}

function ioredis(options) {
  const client = new (load("ioredis"))({ ...connection, ...options });
  client.on("error", () => {});
  return client;
}

const checks = {
  async bullmq() {
    const { Queue, Worker } = load("bullmq");
    const run = async (job) => note(job.data.number);
    const worker = new Worker("bullmq", run, { connection, concurrency: 4 });
    worker.on("error", () => {});
    const jobs = new Queue("bullmq", { connection });
    jobs.on("error", () => {});
    return queue((number) => jobs.add("note", { number }));
  },

  async bull() {
    const jobs = new (load("bull"))("bull", { redis: connection });
    jobs.on("error", () => {});
    jobs.process(4, async (job) => note(job.data.number));
    return queue((number) => jobs.add({ number }));
  },

  async "bee-queue"() {
    const Queue = load("bee-queue");
    const worker = new Queue("bee", { redis: connection });
    worker.on("error", () => {});
    worker.process(4, async (job) => note(job.data.number));
    const jobs = new Queue("bee", { redis: connection, isWorker: false });
    jobs.on("error", () => {});
    return queue((number) => jobs.createJob({ number }).save());
  },

  async kue() {
    const jobs = load("kue").createQueue({ redis: connection });
    jobs.on("error", () => {});
    // Without it, jobs wait for ever if a connection was lost (README of kue).
    jobs.watchStuckJobs(1000);
    jobs.process("note", 4, (job, done) => {
      note(job.data.number);
      done();
    });
    const save = (job) =>
      new Promise((resolve, reject) => job.save((error) => (error ? reject(error) : resolve())));
    return queue((number) => save(jobs.create("note", { number })));
  },

  async "node-resque"() {
    const { Queue, Worker } = load("node-resque");
    const settings = { pkg: "ioredis", ...connection, database: 0, namespace: "resque" };
    const tasks = { note: { perform: async (number) => note(number) } };
    const worker = new Worker({ connection: settings, queues: ["main"], timeout: 20 }, tasks);
    worker.on("error", () => {});
    await worker.connect();
    await worker.start();
    const jobs = new Queue({ connection: settings }, tasks);
    jobs.on("error", () => {});
    await jobs.connect();
    return queue((number) => jobs.enqueue("main", "note", [number]));
  },

  async redlock() {
    const Redlock = load("redlock").default || load("redlock");
    const client = ioredis();
    const manager = new Redlock([client], { retryCount: 500, retryDelay: 20 });
    manager.on("error", () => {});
    await client.set("redlock-count", 0);
    let errors = 0;
    const run = async () => {
      for (let round = 0; round < 20; round += 1) {
        try {
          const lock = await manager.acquire(["redlock-lock"], 20000);
          await client.set("redlock-count", Number(await client.get("redlock-count")) + 1);
          await manager.release(lock);
        } catch {
          errors += 1;
        }
      }
    };
    await Promise.all([run(), run(), run(), run()]);
    const found = Number(await client.get("redlock-count"));
    assert(found <= 80 && found >= 80 - errors, `${found} with ${errors} errors`);
    return `increments=${found} of 80 errors=${errors}`;
  },

  async "rate-limiter-flexible"() {
    const { RateLimiterRedis } = load("rate-limiter-flexible");
    const limiter = new RateLimiterRedis({ storeClient: ioredis(), points: 5, duration: 3600 });
    const key = `flexible${Date.now()}`;
    let passed = 0;
    for (let number = 0; number < 8; number += 1) {
      await limiter.consume(key).then(() => (passed += 1), (error) => {
        if (error instanceof Error) throw error;
      });
    }
    assert(passed === 5, passed);
    return "5 of 8 requests passed";
  },

  async "rate-limit-redis"() {
    const { RedisStore } = load("rate-limit-redis");
    const client = await nodeRedis();
    const store = new RedisStore({ sendCommand: (...words) => client.sendCommand(words) });
    await store.init({ windowMs: 60000 });
    const key = `limit${Date.now()}`;
    const hits = [];
    for (let number = 0; number < 5; number += 1) {
      hits.push((await store.increment(key)).totalHits);
    }
    assert(hits.join() === "1,2,3,4,5", hits);
    await store.resetKey(key);
    return "5 hits counted";
  },

  async "connect-redis"() {
    const { RedisStore } = load("connect-redis");
    const store = new RedisStore({ client: await nodeRedis() });
    await store.set("session", { cookie: {}, count: 1 });
    assert((await store.get("session")).count === 1, "no session");
    await store.touch("session", { cookie: {} });
    assert((await store.ids()).includes("session"), "no id");
    await store.destroy("session");
    assert(!(await store.get("session")), "not destroyed");
    return "a session was kept and destroyed";
  },

  async keyv() {
    const { Keyv } = load("keyv");
    const KeyvRedis = load("@keyv/redis").default;
    const cache = new Keyv(new KeyvRedis(url));
    await cache.set("a", { b: 1 }, 60000);
    assert((await cache.get("a")).b === 1, "no value");
    assert((await cache.delete("a")) && (await cache.get("a")) === undefined, "not deleted");
    return "set, get and delete";
  },

  async "socket.io-redis-adapter"() {
    const { createAdapter } = load("@socket.io/redis-adapter");
    const make = async () => createAdapter(await nodeRedis(), await nodeRedis());
    return rooms([await make(), await make()]);
  },

  async "socket.io-streams-adapter"() {
    const { createAdapter } = load("@socket.io/redis-streams-adapter");
    const make = async () => createAdapter(await nodeRedis());
    return rooms([await make(), await make()]);
  },

  async "node-redis-client-side-cache"() {
    const { BasicClientSideCache } = load("redis");
    const cache = new BasicClientSideCache();
    const reader = await nodeRedis({ RESP: 3, clientSideCache: cache });
    const writer = await nodeRedis();
    const key = `cached${Date.now()}`;
    for (let number = 0; number < 50; number += 1) {
      await writer.set(key, String(number));
      for (let wait = 0; (await reader.get(key)) !== String(number); wait += 1) {
        assert(wait < 500, "an invalidation is missing");
        await sleep(2);
      }
      await reader.get(key);
    }
    assert(cache.stats().hitCount >= 50, "nothing was cached");
    return "50 invalidations";
  },
};

// Two servers of socket.io, each with a client in one room: messages of one server reach the
// clients of both.
async function rooms(adapters) {
  const { Server } = load("socket.io");
  const { io } = load("socket.io-client");
  const { createServer } = require("node:http");
  const servers = adapters.map((adapter) => {
    const http = createServer();
    const server = new Server(http, { adapter });
    server.on("connection", (socket) => socket.join("room"));
    return { http, server };
  });
  const found = [[], []];
  for (const [index, { http }] of servers.entries()) {
    await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
    const socket = io(`http://127.0.0.1:${http.address().port}`);
    socket.on("message", (number) => found[index].push(number));
    await new Promise((resolve) => socket.on("connect", resolve));
  }
  await sleep(500);
  for (let number = 0; number < 20; number += 1) {
    servers[0].server.to("room").emit("message", number);
  }
  const isMissing = () => found.some((list) => list.length < 20);
  for (let wait = 0; wait < 50 && isMissing(); wait += 1) await sleep(100);
  const wanted = [...Array(20).keys()].join();
  assert(found.every((list) => list.join() === wanted), JSON.stringify(found));
  return "20 messages to clients of both servers";
}

async function main() {
  if (!checks[library]) {
    console.log(Object.keys(checks).join("\n"));
    return;
  }
  process.on("unhandledRejection", (error) => console.log(`unhandled: ${error}`.slice(0, 200)));
  try {
    console.log("ok", await checks[library]());
    process.exit(0);
  } catch (error) {
    console.log(`failed: ${error && error.stack}`);
    process.exit(1);
  }
}

main();
