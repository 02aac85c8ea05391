// ioredis and node-redis with TLS, unmodified, on every replica and as cluster clients. Arguments: the
// folder with their modules, the folder with the certificates, the replicas' ports.

const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");

const [folder, certificates, ...ports] = process.argv.slice(2);
const modules = createRequire(`${folder}/`);
const host = "127.0.0.1";
const file = (name) => readFileSync(`${certificates}/${name}`);
const tls = { ca: file("ca.crt"), cert: file("client.crt"), key: file("client.key") };

async function ioredis() {
  const Redis = modules("ioredis");
  for (const port of ports) {
    const client = new Redis({ host, port, tls });
    const value = Buffer.alloc(300_000, "xyz");
    assert.equal(await client.set(`io:${port}`, value), "OK");
    assert.deepEqual(await client.getBuffer(`io:${port}`), value);
    client.disconnect();
  }
  const nodes = ports.map((port) => ({ host, port }));
  const cluster = new Redis.Cluster(nodes, { redisOptions: { tls } });
  assert.equal(await cluster.set("io:cluster", "value"), "OK");
  cluster.disconnect();
}

async function nodeRedis() {
  const { createClient } = modules("redis");
  for (const port of ports) {
    const socket = { host, port: Number(port), tls: true, ...tls };
    const client = await createClient({ socket }).connect();
    assert.equal(await client.set(`node:${port}`, "value"), "OK");
    assert.equal(await client.get(`node:${port}`), "value");
    await client.close();
  }
}

ioredis()
  .then(nodeRedis)
  .then(() => console.log("is content"));
