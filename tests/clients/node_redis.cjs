// node-redis against a cluster, unmodified: plain on every replica, its cluster client, its Sentinel
// client, and listeners. Arguments: the folder with its modules, the replicas' ports.

const assert = require("node:assert/strict");
const { createRequire } = require("node:module");

const [folder, ...ports] = process.argv.slice(2);
const { createClient, createCluster, createSentinel } = createRequire(`${folder}/`)("redis");
const host = "127.0.0.1";

async function plain(port) {
  for (const RESP of [2, 3]) {
    const client = await createClient({ url: `redis://${host}:${port}`, RESP }).connect();
    const [key, number] = [`node:${port}:${RESP}`, `node:${port}:${RESP}:n`];
    await client.del([key, number]);
    assert.equal(await client.get(key), null);
    assert.equal(await client.set(key, "a", { expiration: { type: "EX", value: 1_000 } }), "OK");
    const left = await client.ttl(key);
    assert.ok(left > 500 && left <= 1_000, `${left} seconds`);
    assert.equal(await client.incrBy(number, 42), 42);
    assert.equal(await client.hSet(`${key}:h`, { field: "value", other: "more" }) >= 0, true);
    assert.deepEqual({ ...(await client.hGetAll(`${key}:h`)) }, { field: "value", other: "more" });
    await assert.rejects(client.incr(`${key}:h`), /WRONGTYPE/);
    const replies = await Promise.all(
      Array.from({ length: 100 }, () => client.incr(number)),
    );
    assert.deepEqual(replies, Array.from({ length: 100 }, (_, round) => 43 + round));
    await client.close();
  }
}

async function cluster(port) {
  const client = await createCluster({ rootNodes: [{ url: `redis://${host}:${port}` }] }).connect();
  for (let number = 0; number < 50; number += 1) {
    assert.equal(await client.set(`node:cluster:${number}`, `${number}`), "OK");
    assert.equal(await client.get(`node:cluster:${number}`), `${number}`);
  }
  await client.close();
}

async function sentinel() {
  const sentinelRootNodes = ports.map((port) => ({ host, port: Number(port) }));
  const client = await createSentinel({ name: "mymaster", sentinelRootNodes }).connect();
  for (let number = 0; number < 20; number += 1) {
    assert.equal(await client.set(`node:sentinel:${number}`, `${number}`), "OK");
    assert.equal(await client.get(`node:sentinel:${number}`), `${number}`);
  }
  await client.close();
}

async function listeners() {
  const listening = [];
  const heard = ports.map(() => []);
  for (const [place, port] of ports.entries()) {
    const client = await createClient({ url: `redis://${host}:${port}` }).connect();
    await client.subscribe("node:news", (message) => heard[place].push(message));
    listening.push(client);
  }
  const client = await createClient({ url: `redis://${host}:${ports[0]}` }).connect();
  for (let number = 0; number < 20; number += 1) await client.publish("node:news", `${number}`);
  const wanted = Array.from({ length: 20 }, (_, number) => `${number}`);
  while (heard.some((messages) => messages.length < wanted.length)) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  for (const messages of heard) assert.deepEqual(messages, wanted);
  for (const each of [client, ...listening]) await each.close();
}

async function users() {
  const admin = await createClient({ url: `redis://${host}:${ports[0]}` }).connect();
  const rules = ["reset", "on", ">secret", "~node:*", "+get", "+set", "+hello", "+client", "+acl|whoami"];
  assert.equal(await admin.aclSetUser("node", rules), "OK");
  const client = await createClient({
    url: `redis://${host}:${ports[0]}`, username: "node", password: "secret",
  }).connect();
  assert.equal(await client.aclWhoAmI(), "node");
  assert.equal(await client.set("node:user", "1"), "OK");
  await assert.rejects(client.get("other"), /NOPERM/);
  await client.close();
  const wrong = createClient({
    url: `redis://${host}:${ports[0]}`, username: "node", password: "wrong",
    socket: { reconnectStrategy: false },
  });
  wrong.on("error", () => {});
  await assert.rejects(wrong.connect(), /WRONGPASS/);
  assert.equal(await admin.aclDelUser("node"), 1);
  await admin.close();
}

async function databases() {
  for (const port of ports) {
    const client = await createClient({ url: `redis://${host}:${port}/5` }).connect();
    const other = await createClient({ url: `redis://${host}:${port}`, database: 6 }).connect();
    assert.equal(await client.set("node:db", "five"), "OK");
    assert.equal(await other.set("node:db", "six"), "OK");
    assert.equal(await client.get("node:db"), "five");
    await other.select(5);
    assert.equal(await other.get("node:db"), "five");
    await client.close();
    await other.close();
  }
}

async function main() {
  for (const port of ports) {
    await plain(port);
    await cluster(port);
  }
  await sentinel();
  await listeners();
  await users();
  await databases();
  console.log("node-redis is content");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
