// The dashboard of i2kit. Everything that a machine, a manifest or a cloud wrote is put in as text, never as markup.
"use strict";

// What is kept in the page at most.
const MAX_SAMPLES = 60; // looks at use and traffic
const MAX_FEED = 200; // changes as they happened
const MAX_LINES = 2000; // lines of containers
const MAX_ROWS = 200; // rows of a table of events

const SAMPLE = 2000; // between two looks at use and traffic, in milliseconds
const SILENCE = 35000; // the server sends something every 10 seconds
const RETRY = [1000, 2000, 4000, 8000];

const state = {
  cloud: "", current: "", environments: [], environment: "",
  fleet: null, feed: [], trouble: "", link: "connecting", detail: "",
  uses: new Map(), counters: new Map(), totals: [], tones: new Map(),
  search: "", only: "all",
};

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------------------- elements

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

const h = (name, attributes, ...children) => build(document.createElement(name), attributes, children);
const s = (name, attributes, ...children) => build(document.createElementNS(SVG, name), attributes, children);

const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") : null);

// Makes `old` what `fresh` is, and leaves what is the same alone: focus, selections and open details stay.
function patch(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== 1) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.nodeName === "INPUT") return;
  patchChildren(old, [...fresh.childNodes]);
}

function patchChildren(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
  let at = parent.firstChild;
  for (const want of wanted) {
    const key = keyOf(want);
    const found = key ? keyed.get(key) : at && !keyOf(at) && at.nodeName === want.nodeName ? at : null;
    if (!found) {
      parent.insertBefore(want, at);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else parent.insertBefore(found, at);
    patch(found, want);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// ---------------------------------------------------------------------------------------------- words and signs

const WORDS = { good: "as it should be", busy: "on its way", warn: "needs a look", bad: "down", idle: "at rest" };

const SIGNS = {
  good: () => [s("circle", { cx: 12, cy: 12, r: 9 }), s("path", { d: "m8 12.300 2.700 2.700L16 9.5" })],
  busy: () => [s("circle", { cx: 12, cy: 12, r: 9, opacity: 0.3 }), s("path", { class: "turns", d: "M12 3a9 9 0 0 1 9 9" })],
  warn: () => [s("path", { d: "M12 3.5 22 20.5H2z" }), s("path", { d: "M12 10v4.5M12 17.5v.1" })],
  bad: () => [s("path", { d: "M8 3h8l5 5v8l-5 5H8l-5-5V8z" }), s("path", { d: "m9 9 6 6m0-6-6 6" })],
  idle: () => [s("circle", { cx: 12, cy: 12, r: 9, "stroke-dasharray": "3.5 3.5" }), s("path", { d: "M8.5 12h7" })],
};

const sign = (tone) => s("svg", { class: "sign", viewBox: "0 0 24 24", "aria-hidden": "true" }, SIGNS[tone]());
const toned = (tone, text) => h("span", { class: `tone ${tone}` }, sign(tone), h("span", {}, text));
const chip = (tone, text) => h("span", { class: `chip ${tone}` }, sign(tone), h("span", {}, text));

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

const cpu = (millis) => (millis >= 1000 ? `${(millis / 1000).toFixed(2)} CPU` : `${Math.round(millis)}m`);
const count = (value) => Math.round(value).toLocaleString("en");
const rate = (value) => (value === 0 ? "0" : value < 10 ? value.toFixed(1) : count(value));
const micros = (value) => (value === null ? "—" : value < 1000 ? `≤ ${value} µs` : value < 1e6 ? `≤ ${value / 1000} ms` : `≤ ${value / 1e6} s`);
const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many || `${one}s`}`;

function span(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const two = (number) => String(number).padStart(2, "0");
const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;

function ago(seconds) {
  const age = Date.now() / 1000 - seconds;
  const date = new Date(seconds * 1000);
  const text = age < 5 ? "just now" : `${span(age)} ago`;
  return h("time", { datetime: date.toISOString(), title: date.toLocaleString() }, text);
}

function moment(seconds) {
  const date = new Date(seconds * 1000);
  const day = Date.now() / 1000 - seconds > 64800 ? `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` : "";
  return h("time", { datetime: date.toISOString(), title: date.toLocaleString(), class: "number" }, day + clock(date));
}

// ---------------------------------------------------------------------------------------------- figures

function spark(values, least) {
  const top = Math.max(least || 1, ...values);
  // A page that was just opened has few looks: they get more room each.
  const step = 100 / Math.max(15, values.length - 1);
  const start = 100 - (values.length - 1) * step;
  const points = values.map((value, at) => `${(start + at * step).toFixed(2)},${(19 - (value / top) * 18).toFixed(2)}`);
  return s("svg", { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" },
    values.length > 1 && s("path", { class: "area", d: `M${start.toFixed(2)},20 L${points.join(" L")} L100,20 Z` }),
    values.length > 1 && s("polyline", { class: "line", points: points.join(" ") }));
}

function bar(tone, part, done, whole) {
  const width = (value) => (whole ? Math.min(100, (value / whole) * 100) : 0);
  return s("svg", { class: `bar ${tone}`, viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "track", width: 100, height: 4, rx: 1 }),
    s("rect", { class: "part", width: width(part), height: 4, rx: 1 }),
    s("rect", { class: "fill", width: width(done), height: 4, rx: 1 }));
}

function table(caption, columns, rows) {
  return h("table", { role: "table", class: caption.toLowerCase().split(" ")[0] },
    h("caption", { class: "hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((name) => h("th", { role: "columnheader", scope: "col" }, name)))),
    h("tbody", { role: "rowgroup" }, rows.map(([key, cells]) => h("tr", { role: "row", "data-key": key },
      cells.map((cell, at) => h("td", { role: "cell", "data-label": columns[at] }, h("div", {}, cell)))))));
}

const card = (title, note, ...children) => h("section", { class: "card", "data-key": `card ${title}` },
  h("div", { class: "title" }, h("h2", {}, title), note && h("span", { class: "note" }, note)), children);

// ---------------------------------------------------------------------------------------------- what there is

const idOf = (name) => `${name.namespace}/${name.name}`;
const linkTo = (group) => `#/group/${encodeURIComponent(group.id.namespace)}/${encodeURIComponent(group.id.name)}`;
const groupOf = (id) => state.fleet && state.fleet.groups.find((group) => idOf(group.id) === id);
const running = (group) => group.instances.filter((instance) => instance.tone !== "idle");

function usesOf(instances) {
  const known = instances.filter((instance) => instance.usage);
  return {
    known: known.length > 0,
    cpu: known.reduce((sum, instance) => sum + instance.usage.cpuMillis, 0),
    memory: known.reduce((sum, instance) => sum + instance.usage.memoryBytes, 0),
    limit: known.reduce((sum, instance) => sum + (instance.limit ? instance.limit.memoryBytes : 0), 0),
  };
}

// A look at use and traffic: rates are differences of counters.
function sample() {
  if (!state.fleet || state.link !== "live") return;
  const keep = (map, key, values) => {
    const kept = map.get(key) || {};
    for (const [name, value] of Object.entries(values)) kept[name] = [...(kept[name] || []), value].slice(-MAX_SAMPLES);
    map.set(key, kept);
  };
  const seen = new Set();
  for (const group of state.fleet.groups) {
    for (const instance of group.instances) {
      if (!instance.usage) continue;
      seen.add(instance.id);
      keep(state.uses, instance.id, { cpu: instance.usage.cpuMillis, memory: instance.usage.memoryBytes });
    }
    const used = usesOf(group.instances);
    seen.add(idOf(group.id));
    keep(state.uses, idOf(group.id), { cpu: used.cpu, memory: used.memory });
  }
  for (const key of state.uses.keys()) if (!seen.has(key)) state.uses.delete(key);
  const now = performance.now() / 1000;
  let connections = 0;
  const ports = new Set();
  for (const service of state.fleet.services) {
    for (const port of service.traffic) {
      const key = `${idOf(service.id)} ${port.port}`;
      ports.add(key);
      const before = state.counters.get(key);
      const rates = { connections: 0, received: 0, sent: 0, errors: 0 };
      // Counters begin again with a port that is bound anew.
      if (before && port.connections >= before.port.connections) {
        const time = Math.max(0.5, now - before.time);
        rates.connections = (port.connections - before.port.connections) / time;
        rates.received = Math.max(0, port.receivedBytes - before.port.receivedBytes) / time;
        rates.sent = Math.max(0, port.sentBytes - before.port.sentBytes) / time;
        rates.errors = Math.max(0, port.errors - before.port.errors) / time;
      }
      connections += rates.connections;
      const history = before ? [...before.history, rates.connections].slice(-MAX_SAMPLES) : [];
      state.counters.set(key, { time: now, port, rates, history });
    }
  }
  for (const key of state.counters.keys()) if (!ports.has(key)) state.counters.delete(key);
  const used = usesOf(state.fleet.groups.flatMap((group) => group.instances));
  state.totals = [...state.totals, { connections, cpu: used.cpu, memory: used.memory }].slice(-MAX_SAMPLES);
  render();
}

// ---------------------------------------------------------------------------------------------- views

function tile(what, figure, unit, ...more) {
  return h("div", { class: "tile", "data-key": what }, h("div", { class: "what" }, what),
    h("div", { class: "figure" }, figure, unit && h("small", {}, ` ${unit}`)), more);
}

function nothing() {
  return h("div", { class: "card empty large", "data-key": "nothing" },
    h("h1", {}, `Environment ${state.environment} holds nothing`),
    h("p", {}, "Deploy something, and it appears here by itself: ", h("code", {}, "i2kit deploy app.yaml")));
}

function overview() {
  const { groups, services } = state.fleet;
  if (!groups.length && !services.length && !state.fleet.volumes.length) return [nothing(), attention()];
  const instances = groups.flatMap(running);
  const healthy = instances.filter((instance) => instance.tone === "good").length;
  const fine = groups.filter((group) => group.tone === "good" || group.tone === "idle").length;
  const used = usesOf(groups.flatMap((group) => group.instances));
  const last = state.totals[state.totals.length - 1] || { connections: 0 };
  const counted = services.some((service) => service.traffic.length);
  const values = (name) => state.totals.map((total) => total[name]);
  return [
    h("div", { class: "head", "data-key": "title" }, h("h1", {}, `Environment ${state.environment}`), state.cloud && h("span", { class: "muted" }, `on ${state.cloud}`)),
    h("div", { class: "tiles", "data-key": "tiles" },
      tile("Groups", fine, `of ${groups.length} as wanted`),
      tile("Instances", healthy, `of ${instances.length} healthy`),
      used.known && tile("Processors", (used.cpu / 1000).toFixed(2), "used", spark(values("cpu"), 10)),
      used.known && tile("Memory", bytes(used.memory), used.limit ? `of ${bytes(used.limit)}` : "", spark(values("memory"), 1)),
      counted && tile("New connections", rate(last.connections), "a second", spark(values("connections"), 1))),
    attention(),
    card("Groups", "", groups.length ? groupsTable(groups) : h("p", { class: "empty" }, "No groups: nothing runs.")),
    groups.some((group) => group.rollouts.length) && card("Rollouts", "when each revision served", chart(groups)),
  ];
}

function attention() {
  const warnings = state.fleet.warnings.map((text) => [`w ${text}`, "warn", text, null]);
  const wrong = state.fleet.groups.filter((group) => group.tone === "warn" || group.tone === "bad");
  const items = warnings.concat(wrong.map((group) => {
    const ill = group.instances.find((instance) => instance.tone === "bad" || instance.tone === "warn");
    const why = group.causes[0] || (ill ? `${ill.name}: ${ill.health}` : `${group.healthy} of ${group.replicas} healthy, ${group.status}`);
    return [idOf(group.id), group.tone, why, group];
  }));
  if (!items.length) return null;
  return h("section", { class: "card", "data-key": "attention" },
    h("div", { class: "title" }, h("h2", {}, "Needs a look")),
    h("ul", { class: "addresses" }, items.map(([key, tone, text, group]) => h("li", { "data-key": key, class: "cell" },
      group ? [h("span", { class: `tone ${tone}` }, sign(tone), h("a", { href: linkTo(group) }, group.name)), h("span", {}, text)] : toned(tone, text)))));
}

function groupsTable(groups) {
  const uses = groups.some((group) => usesOf(group.instances).known);
  const columns = ["Group", "Instances", "Revision", ...(uses ? ["Processors", "Memory"] : []), "Status"];
  return table("Groups", columns, groups.map((group) => {
    const used = usesOf(group.instances);
    const kept = state.uses.get(idOf(group.id)) || { cpu: [] };
    return [idOf(group.id), [
      [h("a", { class: "name", href: linkTo(group) }, group.name), " ", h("span", { class: "muted" }, group.kind)],
      group.kind === "CronJob" ? "—" : [h("div", { class: "cell" }, h("span", { class: "number" }, `${group.healthy} of ${group.replicas}`), squares(group))],
      group.current === null ? "—" : String(group.current),
      ...(uses ? [
        used.known ? h("div", { class: "cell fixed" }, h("span", { class: "number" }, cpu(used.cpu)), spark(kept.cpu, 10)) : "—",
        used.known ? h("span", { class: "number" }, bytes(used.memory)) : "—",
      ] : []),
      toned(group.tone, group.status),
    ]];
  }));
}

const squares = (group) => h("div", { class: "squares", "aria-hidden": "true" },
  group.instances.slice(0, 40).map((instance) => h("span", { class: instance.tone, "data-key": instance.id, title: `${instance.name}: ${instance.health}` }, sign(instance.tone))));

// Rollouts of all groups on one axis of time: a bar from the end of a rollout to the end of the next one.
function chart(groups) {
  const rows = groups.filter((group) => group.rollouts.length);
  const now = Date.now() / 1000;
  const width = Math.max(280, Math.min(1240, $("view").clientWidth - 36));
  const left = width < 560 ? 0 : 130;
  const high = width < 560 ? 46 : 34;
  const first = Math.min(...rows.flatMap((group) => group.rollouts.map((rollout) => rollout.created)), now - 120);
  const x = (time) => left + 6 + ((Math.min(time, now) - first) / (now - first || 1)) * (width - left - 14);
  const height = rows.length * high + 24;
  const ticks = width < 560 ? 3 : 6;
  const marks = Array.from({ length: ticks + 1 }, (_, at) => first + ((now - first) * at) / ticks);
  const label = (time) => (now - time < 3 ? "now" : now - first > 172800 ? new Date(time * 1000).toLocaleDateString() : clock(new Date(time * 1000)).slice(0, now - first < 900 ? 8 : 5));
  const drawn = rows.map((group, at) => {
    const top = at * high + (left ? 5 : 17);
    const done = group.rollouts.filter((rollout) => rollout.deployed).sort((a, b) => a.deployed - b.deployed);
    const bars = done.map((rollout, index) => {
      const until = index + 1 < done.length ? done[index + 1].deployed : now;
      const from = x(rollout.deployed);
      const wide = Math.max(3, x(until) - from - 2);
      const current = rollout.isCurrent ? " now" : "";
      return [s("rect", { class: `served${current}`, x: from.toFixed(1), y: top, width: wide.toFixed(1), height: 22, rx: 4 }),
        wide > 16 && s("text", { class: `number${current}`, x: (from + 6).toFixed(1), y: top + 15 }, rollout.revision)];
    });
    const signs = group.rollouts.filter((rollout) => !rollout.deployed || rollout.tone === "bad" || rollout.tone === "warn").map((rollout) => {
      const from = x(rollout.started || rollout.created);
      const mark = sign(rollout.tone);
      build(mark, { x: (Math.min(from, width - 14) - 8).toFixed(1), y: top + 3, width: 16, height: 16 }, []);
      return s("g", { class: rollout.tone }, s("title", {}, `revision ${rollout.revision}: ${rollout.status}`),
        s("circle", { class: "ground", cx: Math.min(from, width - 14).toFixed(1), cy: top + 11, r: 10 }), mark);
    });
    return s("g", { "data-key": idOf(group.id) },
      s("text", { class: "name", x: left ? 0 : 6, y: left ? top + 15 : top - 4 }, group.name.length > 18 ? `${group.name.slice(0, 17)}…` : group.name), bars, signs);
  });
  return s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Revisions of each group over time; the page of a group has them as a list" },
    marks.map((time, at) => [s("line", { class: "grid", x1: x(time).toFixed(1), x2: x(time).toFixed(1), y1: 0, y2: height - 20 }),
      s("text", { x: x(time).toFixed(1), y: height - 5, "text-anchor": at === 0 ? "start" : at === ticks ? "end" : "middle" }, label(time))]), drawn);
}

function groupView(id) {
  const group = groupOf(id);
  if (!group) {
    return [h("div", { class: "card empty large" }, h("h1", {}, "This group is gone"), h("p", {}, h("a", { href: "#/" }, "All groups of the environment")))];
  }
  const services = state.fleet.services.filter((service) => service.groups.some((found) => idOf(found) === id));
  const objects = new Set([group, ...group.instances].map((found) => found.object));
  const events = state.fleet.events.filter((event) => objects.has(event.object));
  return [
    h("div", { class: "head", "data-key": `head ${id}` },
      h("h1", {}, group.name), chip(group.tone, group.status),
      h("div", { class: "buttons" },
        group.canChange && h("button", { type: "button", "data-do": "scale", "data-group": id }, "Scale…"),
        group.canChange && h("button", { type: "button", "data-do": "restart", "data-group": id }, "Restart…"),
        group.earlier !== null && h("button", { type: "button", "data-do": "rollback", "data-group": id, "data-revision": group.earlier }, "Roll back…"),
        h("a", { class: "hidden", href: `#/logs/${id}` }, "Logs of this group"),
        h("button", { type: "button", "data-do": "logs", "data-group": id }, "Logs")),
      h("p", { class: "facts" }, h("span", {}, group.kind),
        group.kind !== "CronJob" && h("span", {}, `${group.healthy} of ${group.replicas} healthy`),
        group.current !== null && h("span", {}, `revision ${group.current}`),
        group.scaler && h("span", {}, `scaled by load between ${group.scaler.min} and ${group.scaler.max}: ${group.scaler.metrics.join(", ")}${group.scaler.failure ? ` (${group.scaler.failure})` : ""}`))),
    group.causes.length > 0 && card("Why it is not healthy", "", h("ul", {}, group.causes.map((cause) => h("li", {}, cause)))),
    card("Instances", plural(group.instances.length, "instance"), instancesTable(group)),
    group.instances.some((instance) => instance.replica) && card("Replicas", "what each says of itself", replicasTable(group)),
    group.runs.length > 0 && card("Runs", "the newest first", runsTable(group)),
    h("div", { class: "two", "data-key": "two" },
      card("Rollouts", "the newest first", group.rollouts.length ? h("ol", { class: "timeline" }, group.rollouts.map((rollout) => rolloutItem(id, rollout)))
        : h("p", { class: "empty" }, "It was not rolled out yet.")),
      h("div", { class: "services", "data-key": "services" }, services.length ? services.map(serviceCard)
        : card("Services", "", h("p", { class: "empty" }, "No Service leads to this group.")))),
    card("Events", "the newest first", eventsTable(events)),
  ];
}

function rolloutItem(id, rollout) {
  const took = rollout.deployed && rollout.deployed > rollout.created ? `took ${span(rollout.deployed - rollout.created)}` : null;
  const active = rollout.tone === "busy" || rollout.status === "rolling back";
  return h("li", { "data-key": `rollout ${rollout.revision}` },
    h("span", { class: `mark ${rollout.tone}` }, sign(rollout.tone)),
    h("div", { class: "line" }, h("strong", {}, `Revision ${rollout.revision}`), h("span", { class: rollout.tone }, rollout.status),
      rollout.isCurrent && rollout.status !== "current" && h("span", { class: "muted" }, "current"),
      rollout.canRollBack && h("button", { type: "button", class: "small", "data-do": "rollback", "data-group": id, "data-revision": rollout.revision, "aria-label": `Roll back to revision ${rollout.revision}` }, "Roll back…")),
    active && rollout.progress && h("div", { class: "progress" }, bar(rollout.tone, rollout.progress[0], rollout.progress[1], rollout.progress[2]),
      h("span", {}, `${rollout.progress[0]} of ${rollout.progress[2]} started, ${rollout.progress[1]} healthy`)),
    h("div", {}, rollout.cause),
    h("div", { class: "meta" }, h("span", {}, moment(rollout.created), ", ", ago(rollout.created)), took && h("span", {}, took),
      h("span", {}, rollout.size), h("span", {}, "image ", h("span", { class: "mono" }, rollout.image))),
    rollout.reason && h("pre", { class: "reason", tabindex: 0 }, rollout.reason));
}

function instancesTable(group) {
  if (!group.instances.length) return h("p", { class: "empty" }, group.replicas ? "No instance is there yet." : "None are wanted: scale the group to start some.");
  const uses = group.instances.some((instance) => instance.usage);
  const addresses = group.instances.some((instance) => instance.address);
  const columns = ["Instance", "Health", "Revision", "Restarts", "Age", ...(uses ? ["Processors", "Memory"] : []), ...(addresses ? ["Address"] : [])];
  return table(`Instances of ${group.name}`, columns, group.instances.map((instance) => {
    const kept = state.uses.get(instance.id) || { cpu: [], memory: [] };
    const limit = instance.limit;
    return [instance.id, [
      h("details", {}, h("summary", {}, h("strong", {}, instance.name)), containers(instance)),
      toned(instance.tone, instance.health),
      String(instance.revision),
      instance.restarts ? h("span", { class: "tone warn" }, sign("warn"), instance.restarts) : "0",
      ago(instance.since),
      ...(uses ? [
        instance.usage ? h("div", { class: "cell fixed" }, h("span", { class: "number" }, cpu(instance.usage.cpuMillis)), spark(kept.cpu, 10)) : "—",
        instance.usage ? h("div", { class: "cell fixed" }, h("span", { class: "number" }, bytes(instance.usage.memoryBytes) + (limit ? ` of ${bytes(limit.memoryBytes)}` : "")), spark(kept.memory, limit ? limit.memoryBytes : 1)) : "—",
      ] : []),
      ...(addresses ? [h("span", { class: "mono" }, instance.address || "—")] : []),
    ]];
  }));
}

function replicasTable(group) {
  const told = group.instances.filter((instance) => instance.replica);
  const index = (value) => value === null ? "—" : value.toLocaleString("en");
  return table(`Replicas of ${group.name}`, ["Replica", "Role", "Term", "Applied", "Behind", "Note"], told.map(({ id, name, replica }) => [id, [
    h("strong", {}, name),
    toned(replica.tone, replica.role),
    index(replica.term),
    index(replica.applied),
    index(replica.behind),
    replica.note || "—",
  ]]));
}

const containers = (instance) => h("ul", { class: "containers" },
  instance.machine && h("li", { class: "muted" }, `machine: ${instance.machine}`),
  instance.containers.length ? instance.containers.map((container) => h("li", { "data-key": container.name },
    toned(container.ready ? "good" : "warn", container.name), h("span", {}, container.state),
    container.restarts > 0 && h("span", {}, plural(container.restarts, "restart")),
    container.usage && h("span", { class: "number" }, `${cpu(container.usage.cpuMillis)}, ${bytes(container.usage.memoryBytes)}`)))
    : h("li", { class: "muted" }, "No container has been reported yet."));

function runsTable(group) {
  return table(`Runs of ${group.name}`, ["Run", "Status", "Succeeded", "Failed", "Started", "Time"], group.runs.map((run) => [`run ${run.number}`, [
    String(run.number), [toned(run.tone, run.status), run.reason && h("pre", { tabindex: 0 }, run.reason)],
    run.completions === null ? String(run.completed) : `${run.completed} of ${run.completions}`, String(run.failed), ago(run.started),
    span((run.ended || Date.now() / 1000) - run.started),
  ]]));
}

function servicesView() {
  const { services } = state.fleet;
  return [h("h1", { "data-key": "title" }, "Services"),
    services.length ? h("div", { class: "services", "data-key": "services" }, services.map(serviceCard))
      : h("div", { class: "card empty large", "data-key": "none" }, h("p", {}, "No Service: a manifest with one gives groups an address, and it is here then."))];
}

function serviceCard(service) {
  const opened = (address) => (address.url && /^https?:\/\//.test(address.url)
    ? h("li", {}, h("a", { href: address.url, target: "_blank", rel: "noreferrer noopener" }, address.text)) : h("li", { class: "mono" }, address.text));
  return h("section", { class: "card", "data-key": `service ${idOf(service.id)}` },
    h("div", { class: "title" }, h("h2", {}, service.name), h("span", { class: "muted" }, service.kind),
      h("span", { class: "note" }, service.targets ? toned(service.tone, `${service.healthy} of ${service.targets} healthy`) : "no targets")),
    service.addresses.length > 0 && h("ul", { class: "addresses", "aria-label": `Addresses of ${service.name}` }, service.addresses.map(opened)),
    service.groups.length > 0 && h("p", { class: "cell muted" }, "leads to ", service.groups.map((id) => {
      const group = groupOf(idOf(id));
      return group ? h("a", { href: linkTo(group) }, group.name) : h("span", {}, idOf(id));
    })),
    service.traffic.length > 0 && h("ul", { class: "ports" }, service.traffic.map((port) => {
      const kept = state.counters.get(`${idOf(service.id)} ${port.port}`) || { rates: { connections: 0, received: 0, sent: 0, errors: 0 }, history: [] };
      const fact = (what, value) => h("div", {}, h("dt", {}, what), h("dd", {}, value));
      return h("li", { "data-key": port.port },
        h("div", { class: "cell fixed" }, h("h3", {}, port.port), spark(kept.history, 1), h("span", { class: "muted number" }, `${rate(kept.rates.connections)} new a second`)),
        h("dl", {}, fact("Connections", count(port.connections)), fact("Open", count(port.open)),
          fact("In a second", bytes(kept.rates.received)), fact("Out a second", bytes(kept.rates.sent)),
          fact("Errors", port.errors ? toned("warn", count(port.errors)) : "0"),
          fact("Connect p99", micros(port.p99Micros))));
    })));
}

function eventsTable(events) {
  if (!events.length) return h("p", { class: "empty" }, "Nothing has happened.");
  const shown = events.slice(0, MAX_ROWS);
  const seen = new Map();
  return [table("Events", ["Time", "Type", "Reason", "Object", "Message"], shown.map((event) => {
    const key = `${event.time} ${event.reason} ${event.object}`;
    seen.set(key, (seen.get(key) || 0) + 1);
    const [first, ...rest] = event.message.split("\n");
    return [`${key} ${seen.get(key)}`, [
      moment(event.time), event.kind === "Warning" ? toned("warn", "Warning") : h("span", { class: "muted" }, "Normal"), event.reason,
      h("span", { class: "mono" }, event.object), [first, rest.length > 0 && h("details", {}, h("summary", {}, "more"), h("pre", { tabindex: 0 }, rest.join("\n")))],
    ]];
  })), events.length > shown.length && h("p", { class: "note" }, `${count(events.length - shown.length)} older ones are left out; i2kit events has all.`)];
}

function eventsView() {
  const wanted = state.search.toLowerCase();
  const fits = (event) => (state.only === "all" || event.kind === "Warning")
    && (!wanted || `${event.reason} ${event.object} ${event.message}`.toLowerCase().includes(wanted));
  return [h("h1", { "data-key": "title" }, "Events"),
    h("div", { class: "controls", "data-key": "controls" },
      h("label", { class: "grow" }, "Filter", h("input", { type: "search", id: "event-filter", autocomplete: "off", spellcheck: "false", placeholder: "Events with this text" })),
      h("button", { type: "button", "data-do": "only", "aria-pressed": String(state.only === "warnings") }, "Warnings only")),
    card("Since this page was opened", "", state.feed.length ? h("ol", { class: "addresses" }, state.feed.slice(0, 30).map(([time, text, number]) =>
      h("li", { class: "cell", "data-key": `feed ${number}` }, h("span", { class: "muted number" }, clock(time)), h("span", {}, text))))
      : h("p", { class: "empty" }, "No change yet. Those of groups and instances appear here as they happen.")),
    card("All", "the newest first", eventsTable(state.fleet.events.filter(fits)))];
}

function volumesView() {
  const { volumes } = state.fleet;
  return [h("h1", { "data-key": "title" }, "Volumes"), volumes.length ? card("Disks", "they outlive instances", table("Volumes", ["Volume", "Size", "Used", "Class", "Instance", "Snapshots"],
    volumes.map((volume) => [volume.name, [h("strong", {}, volume.name), volume.size, volume.used || "—", volume.class || "—",
      h("span", { class: "mono" }, volume.instance || "—"), volume.snapshots.join(", ") || "—"]])))
    : h("div", { class: "card empty large", "data-key": "none" }, h("p", {}, "No volume: a PersistentVolumeClaim makes one, which outlives instances."))];
}

// ---------------------------------------------------------------------------------------------- the frame

function route() {
  const [, view, ...rest] = location.hash.replace(/^#/, "").split("/");
  const parts = rest.map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  return { view: view || "", id: parts.length > 1 ? parts.join("/") : "" };
}

function navigation(at) {
  const { fleet } = state;
  const items = [["", "Overview", null], ["services", "Services", fleet && fleet.services.length], ["events", "Events", fleet && fleet.events.length],
    ["logs", "Logs", null], ["volumes", "Volumes", fleet && fleet.volumes.length]];
  const link = (href, current, ...content) => h("a", { href, "aria-current": current ? "page" : null }, content);
  return [h("ul", {}, items.map(([view, name, number]) => h("li", {}, link(`#/${view}`, at.view === view, name, number ? h("span", { class: "count" }, number) : null)))),
    fleet && fleet.groups.length > 0 && h("h2", {}, "Groups"),
    fleet && fleet.groups.length > 0 && h("ul", { class: "groups" }, fleet.groups.map((group) => h("li", { "data-key": idOf(group.id) },
      link(linkTo(group), at.view === "group" && at.id === idOf(group.id),
        h("span", { class: group.tone }, sign(group.tone)), group.name, h("span", { class: "hidden" }, `: ${WORDS[group.tone]}`),
        group.kind !== "CronJob" && h("span", { class: "count" }, `${group.healthy}/${group.replicas}`)))))].filter(Boolean);
}

function banner() {
  if (state.link === "refused") {
    return h("div", { class: "banner bad" }, h("p", {}, h("strong", {}, "This page's key is no longer good. "), "Open the URL that ", h("code", {}, "i2kit dashboard"), " has printed; each run has a new one."));
  }
  if (state.link === "lost") {
    return h("div", { class: "banner bad" }, h("p", {}, h("strong", {}, "The connection is lost; what is shown is old. "), state.detail,
      " It is tried again by itself. If the dashboard has ended, run ", h("code", {}, "i2kit dashboard"), " again and open its new URL."),
      h("button", { type: "button", "data-do": "retry" }, "Try now"));
  }
  if (state.trouble) return h("div", { class: "banner" }, h("p", {}, h("strong", {}, "The cloud cannot be asked; what is shown is old. "), state.trouble));
  return null;
}

const LINK = { connecting: ["busy", "Connecting"], live: ["good", "Live"], lost: ["bad", "Connection lost"], refused: ["bad", "Refused"], resting: ["idle", "Paused"] };

function render() {
  const at = route();
  patchChildren($("nav"), navigation(at));
  const warning = banner();
  patchChildren($("banner"), warning ? [warning] : []);
  const [tone, word] = LINK[state.link];
  $("link").className = `link ${tone}`;
  patchChildren($("link"), [sign(tone), h("span", {}, word)]);
  $("logs").hidden = at.view !== "logs";
  $("view").hidden = at.view === "logs";
  const titles = { services: "Services", events: "Events", logs: "Logs", volumes: "Volumes" };
  const group = at.view === "group" && groupOf(at.id);
  document.title = `${group ? group.name : titles[at.view] || state.environment || "Dashboard"} · i2kit`;
  if (at.view === "logs") {
    logChoices();
    return;
  }
  if (!state.fleet) {
    patchChildren($("view"), [h("p", { class: "empty" }, state.link === "connecting" ? "Connecting…" : "Nothing was received yet.")]);
    return;
  }
  const views = { group: () => groupView(at.id), services: servicesView, events: eventsView, volumes: volumesView };
  patchChildren($("view"), (views[at.view] || overview)().filter(Boolean));
}

// ---------------------------------------------------------------------------------------------- what is received

// Lines of JSON as they come; `ended` says why they do not go on.
async function follow(path, controller, received) {
  const response = await fetch(path, { signal: controller.signal, cache: "no-store", credentials: "same-origin" });
  if (!response.ok) {
    const error = new Error(await problem(response));
    error.refused = response.status === 401 || response.status === 403;
    throw error;
  }
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const timer = setTimeout(() => controller.abort(), SILENCE);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    received(lines.filter(Boolean).map((line) => JSON.parse(line)));
  }
}

async function problem(response) {
  const text = await response.text();
  try { return JSON.parse(text).error; } catch { return text.trim() || `HTTP ${response.status}`; }
}

let watching = null;
let waiting = null;
let tries = 0;

function watch() {
  const before = watching;
  // It ends without a word: whoever looks next begins anew.
  watching = null;
  if (before) before.abort();
  clearTimeout(waiting);
  if (document.hidden) {
    // A browser has six connections to a server: pages that nobody looks at leave theirs to others.
    state.link = "resting";
    render();
    return;
  }
  if (state.link === "resting") state.link = "connecting";
  const controller = new AbortController();
  watching = controller;
  const mine = () => watching === controller;
  follow(`watch?environment=${encodeURIComponent(state.environment)}`, controller, (lines) => {
    if (!mine()) return;
    tries = 0;
    state.link = "live";
    for (const line of lines) {
      if (line.trouble) state.trouble = line.trouble;
      if (line.fleet) receive(line);
    }
    render();
  }).then(() => { throw new Error("The dashboard has ended the connection."); }).catch((error) => {
    if (!mine()) return;
    watching = null;
    state.link = error.refused ? "refused" : "lost";
    state.detail = error.name === "AbortError" ? "Nothing has come for a while." : error.message === "Failed to fetch" || error.name === "TypeError" ? "The dashboard does not answer." : error.message;
    render();
    if (!error.refused) waiting = setTimeout(watch, RETRY[Math.min(tries++, RETRY.length - 1)]);
  });
}

let told = 0;

function receive({ fleet, changes }) {
  state.trouble = "";
  const first = !state.fleet;
  state.fleet = fleet;
  for (const text of changes) state.feed = [[new Date(), text, told += 1], ...state.feed].slice(0, MAX_FEED);
  const said = [];
  for (const group of fleet.groups) {
    const before = state.tones.get(idOf(group.id));
    if (before && before !== group.tone) said.push(`${group.name}: ${WORDS[group.tone]}, ${group.healthy} of ${group.replicas} healthy`);
    state.tones.set(idOf(group.id), group.tone);
  }
  if (said.length) $("announce").textContent = said.slice(0, 3).join(". ");
  if (first) sample();
}

async function begin() {
  const isNew = !state.environment;
  try {
    const response = await fetch("environments", { cache: "no-store", credentials: "same-origin" });
    if (!response.ok) {
      if (!isNew) return;
      state.link = response.status === 401 ? "refused" : "lost";
      state.detail = await problem(response);
      if (state.link === "lost") waiting = setTimeout(begin, 3000);
      render();
      return;
    }
    const found = await response.json();
    Object.assign(state, { cloud: found.cloud, current: found.current, environments: found.environments });
    if (isNew) {
      const kept = sessionStorage.getItem("environment");
      state.environment = found.environments.includes(kept) ? kept : found.current;
    }
    const names = [...new Set([...found.environments, state.environment])].sort();
    patchChildren($("environment"), names.map((name) => h("option", { value: name, "data-key": name }, name)));
    $("environment").value = state.environment;
    $("environment").title = found.cloud;
    if (isNew) watch();
  } catch {
    if (!isNew) return;
    state.link = "lost";
    state.detail = "The dashboard does not answer.";
    render();
    waiting = setTimeout(begin, 3000);
  }
}

// ---------------------------------------------------------------------------------------------- logs

const log = { group: "", instance: "", container: "", controller: null, shown: "", again: new Map(), paused: false, held: [], missed: 0, sources: new Map(), frame: 0, pending: [], stuck: true, moved: -1e9 };

function options(select, values, kept) {
  patchChildren(select, values.map(([value, text]) => h("option", { value, "data-key": `o ${value}` }, text)));
  select.value = values.some(([value]) => value === kept) ? kept : values.length ? values[0][0] : "";
}

function logChoices() {
  const groups = state.fleet ? state.fleet.groups : [];
  const asked = route().id;
  if (asked && asked !== log.group && groupOf(asked)) Object.assign(log, { group: asked, instance: "", container: "" });
  if (!log.group || !groupOf(log.group)) log.group = groups.length ? idOf(groups[0].id) : "";
  options($("log-group"), groups.map((group) => [idOf(group.id), group.name]), log.group);
  const group = groupOf(log.group);
  const instances = group ? group.instances : [];
  const named = instances.map((instance) => [instance.id, instance.name]);
  // What was chosen stays so: a rollout takes no lines away that somebody reads.
  if (log.instance && !named.some(([id]) => id === log.instance)) named.push([log.instance, `${log.instance} (gone)`]);
  options($("log-instance"), [["", "All"], ...named], log.instance);
  const names = [...new Set([log.container, ...instances.flatMap((instance) => instance.containers.map((container) => container.name))])].filter(Boolean).sort();
  options($("log-container"), [["", "All"], ...names.map((name) => [name, name])], log.container);
  if (!group) {
    $("log-note").textContent = state.fleet ? "Nothing runs, so there are no lines." : "Connecting…";
    return;
  }
  followLogs();
}

function followLogs() {
  const wanted = JSON.stringify([state.environment, log.group, log.instance, log.container]);
  if (log.controller && log.controller.wanted === wanted) return;
  stopLogs();
  if (document.hidden || route().view !== "logs") return;
  const controller = Object.assign(new AbortController(), { wanted });
  log.controller = controller;
  // The newest lines come once more where it is the same that goes on.
  if (log.shown === wanted) expectAgain();
  else clearLog();
  log.shown = wanted;
  note(`Lines of ${groupOf(log.group).name} as they come.`);
  const { id } = groupOf(log.group);
  const query = new URLSearchParams({ environment: state.environment, namespace: id.namespace, name: id.name, instance: log.instance, container: log.container });
  const again = (why) => {
    if (log.controller !== controller) return;
    note(`${why} It is tried again.`);
    setTimeout(() => {
      if (log.controller !== controller) return;
      log.controller = null;
      if (route().view === "logs") followLogs();
    }, 3000);
  };
  follow(`logs?${query}`, controller, (lines) => {
    if (log.controller === controller) printed(lines);
  }).then(() => again("The lines have ended."), (error) => again(error.refused ? "This page's key is no longer good." : `The lines cannot be read: ${error.message}.`));
}

function stopLogs() {
  if (log.controller) {
    const controller = log.controller;
    log.controller = null;
    controller.abort();
  }
}

function note(text) { $("log-note").textContent = text; }

const keyOfLine = (line) => `${line.instance} ${line.container} ${line.time} ${line.text}`;

// Counts the lines that are there, each of which may come once more.
function expectAgain() {
  log.again = new Map();
  const known = [...$("log-lines").children].map((entry) => entry.logKey).concat([...log.pending, ...log.held].map(keyOfLine));
  for (const key of known) if (key) log.again.set(key, (log.again.get(key) || 0) + 1);
}

function isKnown(line) {
  const key = keyOfLine(line);
  const left = log.again.get(key);
  if (!left) return false;
  if (left > 1) log.again.set(key, left - 1);
  else log.again.delete(key);
  return true;
}

function printed(lines) {
  lines = lines.filter((line) => line.end || line.trouble || !isKnown(line));
  if (log.paused) {
    log.held.push(...lines);
    if (log.held.length > MAX_LINES) log.held.splice(0, log.held.length - MAX_LINES);
    note(`Paused; ${plural(log.held.length, "line")} waiting.`);
    return;
  }
  log.pending.push(...lines);
  if (log.pending.length > MAX_LINES) log.pending.splice(0, log.pending.length - MAX_LINES);
  if (!log.frame) log.frame = requestAnimationFrame(showLines);
}

function showLines() {
  log.frame = 0;
  const box = $("log-lines");
  const wanted = $("log-filter").value.toLowerCase();
  const added = document.createDocumentFragment();
  for (const line of log.pending) {
    if (line.end) continue;
    if (line.trouble) {
      added.append(h("div", { class: "entry trouble" }, line.trouble));
      continue;
    }
    if (!log.sources.has(line.instance)) log.sources.set(line.instance, log.sources.size % 6);
    const entry = h("div", { class: "entry" }, line.time && h("span", { class: "time" }, line.time.slice(11, 23)),
      h("span", { class: `source source-${log.sources.get(line.instance)}` }, `${line.instance} ${line.container || "(vm)"}`), h("span", { class: "text" }, line.text || " "));
    entry.hidden = wanted !== "" && !entry.textContent.toLowerCase().includes(wanted);
    entry.logKey = keyOfLine(line);
    added.append(entry);
  }
  log.pending = [];
  box.append(added);
  while (box.childElementCount > MAX_LINES) box.firstElementChild.remove();
  if (log.stuck) box.scrollTop = box.scrollHeight;
}

function clearLog() {
  log.pending = [];
  log.held = [];
  log.again = new Map();
  $("log-lines").replaceChildren();
}

function filterLog() {
  const wanted = $("log-filter").value.toLowerCase();
  for (const entry of $("log-lines").children) entry.hidden = wanted !== "" && !entry.textContent.toLowerCase().includes(wanted);
  if (log.stuck) $("log-lines").scrollTop = $("log-lines").scrollHeight;
}

function pause() {
  log.paused = !log.paused;
  $("log-pause").setAttribute("aria-pressed", String(log.paused));
  $("log-pause").textContent = log.paused ? "Resume" : "Pause";
  if (log.paused) {
    note("Paused.");
    return;
  }
  const held = log.held;
  log.held = [];
  note("Lines as they come.");
  printed(held);
}

// ---------------------------------------------------------------------------------------------- changes

const asked = { group: null, kind: "", revision: 0, digest: null, number: 0, dialog: 0, busy: false };

// What each change is called, asks and says.
const CHANGES = {
  scale: {
    title: () => `Scale ${asked.group.name}`,
    text: () => `It should have ${plural(asked.group.replicas, "instance")} now.`,
    button: () => ($("replicas").checkValidity() ? `Scale to ${$("replicas").value}` : "Scale"),
    change: () => ({ scale: $("replicas").valueAsNumber }),
    done: () => `${asked.group.name} is being scaled to ${$("replicas").value}.`,
  },
  rollback: {
    title: () => `Roll ${asked.group.name} back to revision ${asked.revision}`,
    text: () => `It runs revision ${asked.group.current} now. Instances are replaced as in any rollout; one that does not become healthy is undone.`,
    button: () => "Roll back",
    change: () => ({ rollback: asked.revision }),
    done: () => `${asked.group.name} is being rolled back to revision ${asked.revision}.`,
  },
  restart: {
    title: () => `Restart ${asked.group.name}`,
    text: () => "All instances are replaced by equal ones, as in any rollout; one that does not become healthy is undone.",
    button: () => "Restart",
    change: () => "restart",
    done: () => `${asked.group.name} is being restarted.`,
  },
};

function ask(kind, id, revision) {
  const group = groupOf(id);
  if (!group) return;
  Object.assign(asked, { group, kind, revision, digest: null, busy: false, dialog: asked.dialog + 1 });
  const scaling = kind === "scale";
  $("dialog-title").textContent = CHANGES[kind].title();
  $("dialog-text").textContent = CHANGES[kind].text();
  $("dialog-count").hidden = !scaling;
  $("replicas").disabled = !scaling;
  $("replicas").value = group.replicas;
  $("dialog").showModal();
  if (scaling) $("replicas").select();
  plan();
}

const wish = (confirmed) => ({ environment: state.environment, group: asked.group.id, change: CHANGES[asked.kind].change(), confirmed });

async function post(path, body) {
  const response = await fetch(path, { method: "POST", cache: "no-store", credentials: "same-origin", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(await problem(response));
  return response.json();
}

async function plan() {
  const number = (asked.number += 1);
  asked.digest = null;
  $("confirm").disabled = true;
  $("confirm").textContent = CHANGES[asked.kind].button();
  if (asked.busy) return;
  if (asked.kind === "scale" && !$("replicas").checkValidity()) {
    patchChildren($("dialog-plan"), [h("p", { class: "note" }, "Give a whole number.")]);
    return;
  }
  try {
    const planned = await post("plan", wish(""));
    if (number !== asked.number) return;
    const steps = planned.unchanged ? h("p", { class: "note" }, "Nothing would change.") : h("ol", { class: "plan" }, planned.steps.map((step) => h("li", {}, step)));
    patchChildren($("dialog-plan"), [steps, ...planned.notes.map((text) => h("p", { class: "note" }, text))]);
    asked.digest = planned.digest;
    $("confirm").disabled = planned.unchanged;
  } catch (error) {
    if (number === asked.number) patchChildren($("dialog-plan"), [h("p", {}, toned("bad", error.message))]);
  }
}

// Sends what was confirmed. The answer is this dialog's: one that was opened meanwhile stays as it is.
async function confirmed() {
  if (!asked.digest || $("confirm").disabled) return;
  $("confirm").disabled = true;
  const { dialog } = asked;
  const isOpen = () => $("dialog").open && asked.dialog === dialog;
  const done = CHANGES[asked.kind].done();
  const { name } = asked.group;
  asked.busy = true;
  $("replicas").disabled = true;
  try {
    await post("change", wish(asked.digest));
    if (isOpen()) $("dialog").close();
    toast("good", done);
  } catch (error) {
    if (!isOpen()) {
      toast("bad", `${name}: ${error.message}`);
      return;
    }
    asked.busy = false;
    $("replicas").disabled = asked.kind !== "scale";
    await plan();
    if (isOpen()) $("dialog-plan").append(h("p", { "data-key": "error" }, toned("bad", error.message)));
  }
}

function toast(tone, text) {
  const shown = h("p", { class: `toast ${tone}` }, toned(tone, text));
  $("toasts").append(shown);
  setTimeout(() => shown.remove(), 8000);
}

// ---------------------------------------------------------------------------------------------- the user

const ACTS = {
  skip: () => $("main").focus(),
  scale: (data) => ask("scale", data.group, 0),
  restart: (data) => ask("restart", data.group, 0),
  rollback: (data) => ask("rollback", data.group, Number(data.revision)),
  logs: (data) => { location.hash = `#/logs/${data.group}`; },
  retry: () => { tries = 0; if (state.environment) watch(); else begin(); },
  only: () => { state.only = state.only === "all" ? "warnings" : "all"; render(); },
  cancel: () => $("dialog").close(),
  pause,
  clear: clearLog,
  bottom: () => { log.stuck = true; $("log-bottom").hidden = true; $("log-lines").scrollTop = $("log-lines").scrollHeight; $("log-lines").focus(); },
};

document.addEventListener("click", (event) => {
  const found = event.target.closest("[data-do]");
  if (!found || found.disabled) return;
  if (found.dataset.do === "skip") event.preventDefault();
  ACTS[found.dataset.do](found.dataset);
});

document.addEventListener("input", (event) => {
  const { target } = event;
  if (target.id === "event-filter") { state.search = target.value; render(); }
  if (target.id === "log-filter") filterLog();
  if (target.id === "log-times") $("log-lines").classList.toggle("times", target.checked);
  if (target.id === "log-wrap") $("log-lines").classList.toggle("wrap", target.checked);
  if (target.id === "replicas") plan();
});

document.addEventListener("change", (event) => {
  const { target } = event;
  if (target.id === "environment") {
    Object.assign(state, { environment: target.value, fleet: null, feed: [], totals: [], trouble: "", link: "connecting" });
    for (const kept of [state.uses, state.counters, state.tones]) kept.clear();
    sessionStorage.setItem("environment", target.value);
    location.hash = "#/";
    stopLogs();
    watch();
    render();
  }
  if (target.id === "log-group") {
    Object.assign(log, { group: target.value, instance: "", container: "" });
    history.replaceState(null, "", `#/logs/${target.value}`);
    logChoices();
  }
  if (target.id === "log-instance") { log.instance = target.value; logChoices(); }
  if (target.id === "log-container") { log.container = target.value; logChoices(); }
});

$("log-controls").addEventListener("submit", (event) => event.preventDefault());
$("dialog-form").addEventListener("submit", (event) => { event.preventDefault(); confirmed(); });
$("log-lines").addEventListener("scroll", () => {
  const box = $("log-lines");
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 40) log.stuck = true;
  // Lines that come and windows that change scroll too.
  else if (performance.now() - log.moved < 3000) log.stuck = false;
  $("log-bottom").hidden = log.stuck;
}, { passive: true });
for (const move of ["wheel", "touchmove", "pointerdown", "keydown"]) {
  $("log-lines").addEventListener(move, () => { log.moved = performance.now(); }, { passive: true });
}
// A window of another size leaves the newest lines in sight.
new ResizeObserver(() => { if (log.stuck) $("log-lines").scrollTop = $("log-lines").scrollHeight; }).observe($("log-lines"));

window.addEventListener("hashchange", () => {
  if (route().view !== "logs") stopLogs();
  render();
  window.scrollTo(0, 0);
  $("main").focus({ preventScroll: true });
});
window.addEventListener("resize", render);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stopLogs();
  if (state.environment && state.link !== "refused") watch();
});

setInterval(sample, SAMPLE);
setInterval(() => { if (!document.hidden && state.link === "live") begin(); }, 15000);
render();
begin();
