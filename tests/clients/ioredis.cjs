// ioredis against a cluster, unmodified: plain on every replica, pipelines, listeners, its cluster
// client, and its Sentinel client. Arguments: the folder with its modules, the replicas' ports.

const assert = require("node:assert/strict");
const { createRequire } = require("node:module");

const [folder, ...ports] = process.argv.slice(2);
const Redis = createRequire(`${folder}/`)("ioredis");
const host = "127.0.0.1";

async function strings(client, port) {
  const [key, number, other] = ["", ":n", ":o"].map((end) => `io:${port}${end}`);
  await client.del(key, number, other);
  assert.equal(await client.get(key), null);
  const binary = Buffer.from([0, 255, 13, 10]);
  assert.equal(await client.set(key, binary), "OK");
  assert.deepEqual(await client.getBuffer(key), binary);
  assert.equal(await client.set(key, "no", "NX"), null);
  assert.equal(await client.setnx(key, "no"), 0);
  assert.equal(await client.getset(key, "a"), "\u0000\ufffd\r\n");
  assert.equal(await client.append(key, "bc"), 3);
  assert.equal(await client.strlen(key), 3);
  assert.equal(await client.mset({ [key]: "a", [other]: "b" }), "OK");
  assert.deepEqual(await client.mget(key, "nothing", other), ["a", null, "b"]);
  assert.equal(await client.getdel(other), "b");
  assert.equal(await client.incr(number), 1);
  assert.equal(await client.decrby(number, 11), -10);
  await assert.rejects(client.incr(key), /ERR value is not an integer/);
  await assert.rejects(client.call("NONESUCH", "a"), /ERR unknown command 'NONESUCH'/);
  assert.equal(await client.exists(key, number, other), 2);
  assert.equal(await client.type(key), "string");
  assert.ok((await client.dbsize()) >= 2);
}

async function talk(client) {
  assert.equal(await client.ping(), "PONG");
  assert.match(await client.info("server"), /redis_version:7\.2\./);
  assert.deepEqual(await client.config("GET", "save").then(Object), await client.config("GET", "save"));
  assert.ok(["master", "slave"].includes((await client.role())[0]));
  assert.match(String(await client.client("LIST")), /lib-name=ioredis/);
  assert.equal((await client.time()).length, 2);
  assert.ok((await client.command("COUNT")) > 30);
}

async function pipelines(client, port) {
  const key = `io:pipeline:${port}`;
  await client.del(key);
  const pipeline = client.pipeline();
  for (let round = 0; round < 100; round += 1) pipeline.incr(key).get(key);
  const replies = await pipeline.exec();
  replies.forEach(([error, reply], place) => {
    assert.equal(error, null);
    assert.equal(Number(reply), Math.floor(place / 2) + 1);
  });
}

async function transactions(client, port) {
  const key = `io:transaction:${port}`;
  await client.del(key);
  const replies = await client.multi().incr(key).get(key).ping().exec();
  assert.deepEqual(replies, [[null, 1], [null, "1"], [null, "PONG"]]);
  await client.watch(key);
  await client.incr(key);
  assert.equal(await client.multi().incr(key).exec(), null);
  assert.equal(await client.get(key), "2");
}

async function cluster(port) {
  const client = new Redis.Cluster([{ host, port: Number(port) }]);
  for (let number = 0; number < 50; number += 1) {
    assert.equal(await client.set(`io:cluster:${number}`, number), "OK");
    assert.equal(await client.get(`io:cluster:${number}`), String(number));
  }
  assert.equal(client.nodes("master").length, 1);
  assert.equal(client.nodes("slave").length, ports.length - 1);
  client.disconnect();
}

async function sentinel() {
  const sentinels = ports.map((port) => ({ host, port: Number(port) }));
  for (const role of ["master", "slave"]) {
    let client = new Redis({ sentinels, name: "mymaster", role });
    // A busy machine may elect another leader in between.
    for (let turn = 0; (await client.role())[0] !== role; turn += 1) {
      assert.ok(turn < 50, `whom it finds is no ${role}`);
      client.disconnect();
      client = new Redis({ sentinels, name: "mymaster", role });
    }
    assert.equal(await client.set("io:sentinel", role), "OK");
    assert.equal(await client.get("io:sentinel"), role);
    client.disconnect();
  }
}

async function listeners() {
  const listening = ports.map((port) => new Redis(Number(port), host));
  const heard = listening.map((client, place) => {
    const messages = [];
    client.on("message", (channel, message) => messages.push(message));
    return messages;
  });
  for (const client of listening) await client.subscribe("io:news");
  const client = new Redis(Number(ports[0]), host);
  const wanted = Array.from({ length: 20 }, (_, number) => `${number}`);
  for (const message of wanted) await client.publish("io:news", message);
  while (heard.some((messages) => messages.length < wanted.length)) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  for (const messages of heard) assert.deepEqual(messages, wanted);
  for (const each of [client, ...listening]) each.disconnect();
}

async function databases() {
  for (const port of ports) {
    const one = new Redis({ host, port: Number(port), db: 1 });
    const two = new Redis(`redis://${host}:${port}/2`);
    const zero = new Redis({ host, port: Number(port) });
    for (const [client, value] of [[one, "one"], [two, "two"], [zero, "zero"]]) {
      assert.equal(await client.set("io:db", value), "OK");
    }
    assert.deepEqual(await Promise.all([one, two, zero].map((it) => it.get("io:db"))), ["one", "two", "zero"]);
    assert.equal(await one.select(2), "OK");
    assert.equal(await one.get("io:db"), "two");
    // After a new connection, ioredis selects the database again.
    two.disconnect(true);
    assert.equal(await two.get("io:db"), "two");
    for (const each of [one, two, zero]) each.disconnect();
  }
}

async function main() {
  for (const port of ports) {
    const client = new Redis({ host, port: Number(port), maxRetriesPerRequest: 0 });
    await strings(client, port);
    await talk(client);
    await pipelines(client, port);
    await transactions(client, port);
    assert.equal(await client.quit(), "OK");
    await cluster(port);
  }
  await sentinel();
  await listeners();
  await databases();
  console.log("ioredis is content");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
