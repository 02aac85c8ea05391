// The live page: the replica sends its status and its metrics once a second over /events. The page
// displays them, and rates and events computed from the difference of successive ones.
"use strict";

const SECONDS = 120;
const SILENCE_MS = 4000;
const RETRY_MS = 1000;
const EVENTS_MAX = 200;
const byId = (id) => document.getElementById(id);

const samples = (metrics, name) => metrics["bowline_" + name] || [];
const sum = (metrics, name) => samples(metrics, name).reduce((all, it) => all + it.value, 0);

// Sums the buckets of a histogram over all labels: a map from upper bounds to counts.
function buckets(metrics, name) {
  const counts = new Map();
  for (const sample of samples(metrics, name)) {
    for (const [bound, count] of sample.buckets) {
      const key = bound === null ? Infinity : bound;
      counts.set(key, (counts.get(key) || 0) + count);
    }
  }
  return counts;
}

// Returns quantiles of the durations added to a histogram between two events: the upper bounds of
// their buckets, in seconds; null if none was added.
function quantiles(before, after, name, wanted) {
  const old = buckets(before, name);
  const added = [...buckets(after, name)]
    .map(([bound, count]) => [bound, count - (old.get(bound) || 0)])
    .filter(([, count]) => count > 0)
    .sort((a, b) => a[0] - b[0]);
  const total = added.reduce((all, [, count]) => all + count, 0);
  return wanted.map((quantile) => {
    let left = quantile * total;
    for (const [bound, count] of added) {
      left -= count;
      if (left <= 0) return bound;
    }
    return null;
  });
}

function scaled(value, steps, digits = 3) {
  let [factor, unit] = steps[0];
  for (const step of steps) if (value >= step[0]) [factor, unit] = step;
  const number = value / factor;
  const places = number >= 100 || number === 0 ? 0 : number >= 10 ? 1 : 2;
  return number.toFixed(Math.min(places, digits)) + (unit ? " " + unit : "");
}
const inSeconds = (value) =>
  value === null || value === undefined ? "–" : scaled(value, [[1e-6, "µs"], [1e-3, "ms"], [1, "s"]]);
const inBytes = (value) =>
  scaled(value, [[1, "B"], [1024, "KiB"], [1048576, "MiB"], [1073741824, "GiB"]]);
const inNumbers = (value) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 0 });

// A chart of lines over the last two minutes.
class Chart {
  constructor(id, title, names, format) {
    Object.assign(this, { names, format, points: [] });
    this.figure = byId(id);
    this.caption = document.createElement("figcaption");
    const heading = document.createElement("strong");
    heading.textContent = title;
    this.values = names.map((_, place) => {
      const span = document.createElement("span");
      span.className = "s" + place;
      return span;
    });
    this.caption.append(heading, ...this.values);
    const draw = (tag, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      return element;
    };
    this.svg = draw("svg", { viewBox: "0 0 480 150", role: "img" });
    this.labels = [0, 0.5, 1].map((part) => {
      const y = 126 - part * 114;
      this.svg.append(draw("line", { class: "grid", x1: 58, x2: 474, y1: y, y2: y }));
      const label = draw("text", { x: 52, y: y + 4, "text-anchor": "end" });
      this.svg.append(label);
      return label;
    });
    for (const [seconds, x, anchor] of [[120, 58, "start"], [60, 266, "middle"], [0, 474, "end"]]) {
      const label = draw("text", { x, y: 144, "text-anchor": anchor });
      label.textContent = seconds ? "−" + seconds + " s" : "now";
      this.svg.append(label);
    }
    this.lines = names.map((_, place) => this.svg.appendChild(draw("path", { class: "s" + place })));
    this.title = title;
    this.figure.append(this.caption, this.svg);
  }

  add(at, values) {
    this.points.push({ at, values });
    while (this.points[0].at < at - SECONDS * 1000) this.points.shift();
    const shown = this.points.flatMap((point) => point.values).filter((it) => it !== null);
    const top = roundUp(Math.max(...shown, 0));
    [0, top / 2, top].forEach((value, place) => {
      this.labels[place].textContent = top || !place ? this.format(value) : "";
    });
    this.lines.forEach((line, place) => {
      let path = "";
      let pen = "M";
      for (const point of this.points) {
        const value = point.values[place];
        if (value === null) {
          pen = "M";
          continue;
        }
        const x = 474 - ((at - point.at) / 1000 / SECONDS) * 416;
        const y = 126 - (top ? value / top : 0) * 114;
        path += pen + x.toFixed(1) + " " + y.toFixed(1);
        pen = "L";
      }
      line.setAttribute("d", path);
    });
    const texts = this.names.map((name, place) => name + " " + this.format(values[place]));
    texts.forEach((text, place) => (this.values[place].textContent = text));
    const most = this.names.map((_, place) =>
      Math.max(0, ...this.points.map((point) => point.values[place] ?? 0)));
    const highest = this.names.map((name, place) => name + " maximum " + this.format(most[place]));
    this.svg.setAttribute("aria-label", this.title + ". Now: " + texts.join(", ") +
      ". In the last two minutes: " + highest.join(", ") + ".");
  }
}

// Returns the next number of the form 1, 2 or 5 times a power of ten.
function roundUp(value) {
  if (value <= 0) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((it) => it * power).find((it) => it >= value * 0.999);
}

const charts = {
  commands: new Chart("chart-commands", "Commands per second", ["all", "failed"], inNumbers),
  latency: new Chart("chart-latency", "Latency of commands", ["50 %", "99 %", "99.9 %"], inSeconds),
  sync: new Chart("chart-sync", "Disk sync", ["50 %", "99 %"], inSeconds),
  log: new Chart("chart-log", "Log entries", ["not committed", "not applied"], inNumbers),
};

function report(text, isBad) {
  const list = byId("events");
  if (list.firstElementChild && list.firstElementChild.className === "quiet") list.replaceChildren();
  const [item, time] = [document.createElement("li"), document.createElement("time")];
  const now = new Date();
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString("en-GB");
  item.append(time, text);
  if (isBad) item.className = "bad";
  list.prepend(item);
  while (list.children.length > EVENTS_MAX) list.lastElementChild.remove();
}

// Counters whose increase is shown as an event: name, text, and whether it indicates a problem.
const COUNTERS = [
  ["raft_quorum_losses_total", "stepped down: lost contact with a majority", true],
  ["raft_leadership_transfers_total", "started to transfer its leadership", false],
  ["disk_stalls_total", "the disk stalled", true],
  ["snapshots_total", "completed a snapshot", false],
  ["snapshot_failures_total", "a snapshot failed", true],
  ["requests_refused_total", "refused requests", true],
  ["requests_uncertain_total", "requests with unknown outcome (UNCERTAIN)", true],
  ["connections_refused_total", "refused client connections", true],
  ["wall_clock_jumps_total", "the wall clock of this machine jumped", true],
];

function findEvents(before, after, old, status) {
  if (old.leader !== status.leader) {
    const text = status.leader === null ? "no leader is known" : "replica " + status.leader + " is the leader";
    report(text + ", term " + status.term, status.leader === null);
  }
  if (old.role !== status.role) report("this replica is " + status.role);
  if (old.disk !== status.disk) report("the disk is " + status.disk, status.disk !== "ok");
  for (const peer of status.peers) {
    const known = old.peers.find((it) => it.id === peer.id);
    if (known && known.connected !== peer.connected) {
      report("replica " + peer.id + (peer.connected ? " is connected" : " is disconnected"), !peer.connected);
    }
  }
  for (const [name, text, isBad] of COUNTERS) {
    const count = sum(after, name) - sum(before, name);
    if (count > 0) report(text + (count > 1 ? " (" + inNumbers(count) + ")" : ""), isBad);
  }
}

function showPeers(status, metrics) {
  const row = (cells) => {
    const line = document.createElement("tr");
    cells.forEach(([text, kind], place) => {
      const cell = document.createElement(place ? "td" : "th");
      if (!place) cell.scope = "row";
      cell.textContent = text;
      if (kind) cell.className = kind;
      line.append(cell);
    });
    return line;
  };
  const leads = status.role === "leader";
  const rows = [{ ...status, isSelf: true }, ...status.peers].sort((a, b) => a.id - b.id);
  byId("peers").replaceChildren(...rows.map((it) => {
    const isLeader = it.id === status.leader;
    const index = it.isSelf ? status.durable_index : it.match_index;
    const known = index !== null && index !== undefined;
    const state = it.isSelf ? status.role : it.connected ? (isLeader ? "leader" : "connected") : "disconnected";
    const lag = known && (leads || it.isSelf) ? Math.max(0, status.last_index - index) : null;
    const loss = samples(metrics, "peer_loss_ratio").find((s) => s.labels.peer === String(it.id));
    return row([
      [it.id + (it.isSelf ? " (this one)" : "")],
      [it.address || "unknown"],
      [state, state === "disconnected" ? "bad" : isLeader ? "" : "quiet"],
      [known ? inNumbers(index) : "–", "number"],
      [lag === null ? "–" : inNumbers(lag), "number"],
      [it.rtt_us ? inSeconds(it.rtt_us / 1e6) : "–", "number"],
      [loss ? (loss.value * 100).toFixed(1) + " %" : "–", "number"],
      [it.disk || "–", it.disk && it.disk !== "ok" ? "bad" : ""],
    ]);
  }));
  const leader = rows.find((it) => it.id === status.leader);
  byId("leader").textContent = leads
    ? "This replica is the leader, so it knows the progress of the others."
    : leader
      ? "Replica " + leader.id + " is the leader. Only its page shows the progress of the other replicas."
      : "No leader is known.";
}

function show(metrics, status, last, now) {
  byId("replica").textContent = "replica " + status.id;
  const role = byId("role");
  role.textContent = status.role;
  role.className = "badge" + (status.role === "leader" ? " leader" : status.leader === null ? " bad" : "");
  document.title = status.role + " " + status.id + " – Bowline";
  byId("about").textContent = "term " + status.term + ", version " + status.version;
  byId("memory").textContent = inBytes(sum(metrics, "memory_used_bytes"));
  byId("keys").textContent = inNumbers(sum(metrics, "keys"));
  byId("clients").textContent = inNumbers(sum(metrics, "clients"));
  const unapplied = Math.max(0, status.commit_index - status.applied_index);
  byId("behind").textContent = inNumbers(unapplied);
  showPeers(status, metrics);
  const restarted = last && sum(metrics, "cpu_seconds_total") < sum(last.metrics, "cpu_seconds_total");
  if (!last || restarted) {
    if (last) report("the replica was restarted", true);
    return;
  }
  const seconds = (now - last.at) / 1000;
  const rate = (name) => (sum(metrics, name) - sum(last.metrics, name)) / seconds;
  const commands = rate("commands_total");
  const latency = quantiles(last.metrics, metrics, "command_duration_seconds", [0.5, 0.99, 0.999]);
  const sync = quantiles(last.metrics, metrics, "log_sync_duration_seconds", [0.5, 0.99]);
  byId("commands").textContent = inNumbers(commands);
  byId("p50").textContent = inSeconds(latency[0]);
  byId("p99").textContent = inSeconds(latency[1]);
  byId("sync").textContent = inSeconds(sync[1]);
  charts.commands.add(now, [commands, rate("command_failures_total")]);
  charts.latency.add(now, latency);
  charts.sync.add(now, sync);
  charts.log.add(now, [Math.max(0, status.last_index - status.commit_index), unapplied]);
  findEvents(last.metrics, metrics, last.status, status);
}

let last = null;
let isLost = false;
let stream = null;
let watchdog = null;

function onEvent(text) {
  const { status, metrics, busy } = JSON.parse(text);
  if (isLost) report("the replica responds again");
  isLost = false;
  byId("connection").className = busy ? "lost" : "";
  byId("connection").textContent = busy || "live";
  if (busy) return;
  const now = Date.now();
  show(metrics, status, last, now);
  last = { metrics, status, at: now };
}

// Opens the event stream, and reopens it when it ends or when nothing arrives for some time.
function connect() {
  if (stream) stream.close();
  stream = new EventSource("events");
  stream.onmessage = (event) => {
    watch(SILENCE_MS);
    onEvent(event.data);
  };
  stream.onerror = () => watch(RETRY_MS);
  watch(SILENCE_MS);
}

function watch(time) {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    if (!isLost && last) report("connection to the replica lost", true);
    isLost = true;
    byId("connection").textContent = "connection lost, reconnecting";
    byId("connection").className = "lost";
    connect();
  }, time);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
}
const isDark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
byId("theme").textContent = isDark() ? "Light" : "Dark";
byId("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
connect();
