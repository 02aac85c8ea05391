// The live page in headless Chromium while the leader is killed.
// Arguments: the folder with playwright-core, the path of Chromium, and for each replica its client
// port and the port of its page.
'use strict';

const assert = require('node:assert');
const net = require('node:net');
const path = require('node:path');

const [folder, chromium, ...words] = process.argv.slice(2);
const playwright = require(path.join(folder, 'node_modules', 'playwright-core'));
const numbers = words.map(Number);
const replicas = numbers.slice(0, numbers.length / 2).map((port, place) => ({
  port,
  page: `http://127.0.0.1:${numbers[numbers.length / 2 + place]}/`,
}));
const TIMEOUT_MS = 60000;
const NARROW = { width: 360, height: 740 };

// Sends one inline command to a replica and returns the beginning of the reply.
function ask(port, line) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(`${line}\r\n`));
    socket.once('data', (data) => {
      socket.destroy();
      resolve(data.toString());
    });
    socket.once('error', reject);
  });
}

const field = (text, name) => text.match(new RegExp(`^${name}:(.*?)\r?$`, 'm'))[1];

// Opens the page of a replica. Nothing may be requested from other hosts, and nothing may fail
// in the page. A replica that does not answer is no failure of the page.
async function open(browser, replica, failures) {
  const page = await browser.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  page.on('pageerror', (error) => failures.push(String(error)));
  page.on('console', (message) => {
    const text = message.text();
    if (message.type() === 'error' && !text.includes('net::ERR_')) failures.push(text);
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(replica.page) && !request.url().startsWith('data:')) {
      failures.push(`request to ${request.url()}`);
    }
  });
  await page.goto(replica.page);
  await page.waitForFunction(() => document.getElementById('connection').textContent === 'live');
  return page;
}

// Waits until the element with this id has a text that matches.
const waitForText = (page, id, pattern) =>
  page.waitForFunction(
    ([element, source]) => new RegExp(source).test(document.getElementById(element).innerText),
    [id, pattern.source],
  );

async function main() {
  const infos = await Promise.all(replicas.map(({ port }) => ask(port, 'INFO')));
  const leader = infos.findIndex((info) => field(info, 'role') === 'master');
  const follower = (leader + 1) % replicas.length;
  const browser = await playwright.chromium.launch({
    executablePath: chromium,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'],
  });
  const failures = [];
  try {
    const page = await open(browser, replicas[follower], failures);
    const killed = await open(browser, replicas[leader], failures);

    // Who leads, and the state of all replicas.
    await waitForText(killed, 'role', /^leader$/i);
    await waitForText(page, 'role', /^follower$/i);
    await waitForText(page, 'leader', new RegExp(`^Replica ${leader + 1} is the leader`));
    const rows = await page.locator('#peers tr').allInnerTexts();
    assert.strictEqual(rows.length, replicas.length, rows.join('\n'));
    assert(!rows.some((row) => row.includes('disconnected')), rows.join('\n'));

    // Commands of a client are counted.
    let stop = false;
    const load = (async () => {
      while (!stop) await ask(replicas[follower].port, 'SET page live').catch(() => {});
    })();
    await waitForText(page, 'commands', /^[1-9]/);
    await waitForText(page, 'p99', /^\d.* (µs|ms|s)$/);

    // The leader is killed: the page of a follower shows the next leader, that of the killed
    // replica shows that it is lost, and is live again after `bowline cluster` has restarted it.
    process.kill(Number(field(infos[leader], 'process_id')), 'SIGKILL');
    await waitForText(page, 'events', new RegExp(`replica ${leader + 1} is disconnected`));
    await waitForText(page, 'events', /(replica \d+ is the leader, term \d+)/);
    await waitForText(killed, 'events', /connection to the replica lost/);
    await waitForText(killed, 'events', /the replica responds again/);
    await waitForText(killed, 'connection', /^live$/);
    await waitForText(page, 'events', new RegExp(`replica ${leader + 1} is connected`));
    stop = true;
    await load;

    // The theme follows the system, and the button changes it, also by keyboard.
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await page.emulateMedia({ colorScheme: 'dark' });
    const dark = await background();
    await page.emulateMedia({ colorScheme: 'light' });
    const light = await background();
    assert.notStrictEqual(dark, light);
    for (let presses = 0; presses < 2; presses += 1) {
      await page.keyboard.press('Tab');
    }
    assert.strictEqual(await page.evaluate(() => document.activeElement.id), 'theme');
    await page.keyboard.press('Enter');
    assert.strictEqual(await background(), dark);

    // Nothing is wider than a narrow screen, but for the table, which scrolls by itself.
    await page.setViewportSize(NARROW);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert(width <= NARROW.width, `the page is ${width} px wide`);
    assert.deepStrictEqual(failures, []);
  } finally {
    await browser.close();
  }
  console.log('the live page is content');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
