// Shows what the API tells, and orders what is asked for. Everything that is shown is put in as text.

const PERIOD = 2000;
const PAGE = 100;

const byId = (id) => document.getElementById(id);

// The token, for as long as this page is open.
let token = "";
// The filter of the tunnels, and after which of them the page begins.
let filter = {};
let after = null;

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, method = "GET", body = undefined) {
  const headers = {};
  if (token) headers["Authorization"] = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) options.body = JSON.stringify(body);
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Refused(response.status, answer.error);
  return answer;
}

function element(name, text = "", classes = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = classes;
  return made;
}

function button(text, order) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", order);
  return made;
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const cell of cells) {
    made.append(cell instanceof Node ? cell : element("td", cell));
  }
  return made;
}

const numeric = (text) => element("td", text, "number");

function cut(text) {
  const cell = element("td", text, "cut");
  cell.title = text;
  return cell;
}

function cellOf(...parts) {
  const cell = document.createElement("td");
  cell.append(...parts);
  return cell;
}

function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0s";
  let rest = Math.floor(seconds);
  const parts = [];
  for (const [unit, size] of units.slice(first, first + 2)) {
    const count = Math.floor(rest / size);
    if (count > 0) parts.push(`${count}${unit}`);
    rest %= size;
  }
  return parts.join(" ");
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (count >= 1024 && at + 1 < units.length) {
    count /= 1024;
    at += 1;
  }
  return `${at === 0 ? count : count.toFixed(1)} ${units[at]}`;
}

const way = (direction) => `${direction.messages} in ${bytes(direction.bytes)}`;

function say(text, isBad) {
  const message = byId("message");
  message.textContent = text;
  message.className = `message ${isBad ? "bad" : "good"}`;
  message.hidden = text === "";
}

function showStatus(status) {
  const readiness = byId("readiness");
  readiness.textContent = status.readiness.replace("_", " ");
  readiness.className = `badge ${status.readiness === "ready" ? "good" : "bad"}`;
  const entries = [
    ["Version", status.version],
    ["Process", String(status.pid)],
    ["Up for", duration(status.uptime_s)],
    ["Configuration", `generation ${status.generation}`],
    ["Connections", `${status.connections.in_use} of ${status.connections.max}`],
    ["TLS handshakes", `${status.tls_handshakes.in_use} of ${status.tls_handshakes.max}`],
    ["Tunnels", String(status.tunnels)],
  ];
  if (status.last_reload) {
    entries.push(["Last reload", `${status.last_reload.at}, ${status.last_reload.ok ? "in force" : "refused"}`]);
  }
  if (status.drain) entries.push(["Drain", `${status.drain.open} of ${status.drain.began_with} still open`]);
  const list = entries.map(([name, value]) => {
    const entry = document.createElement("div");
    entry.append(element("dt", name), element("dd", value));
    return entry;
  });
  byId("status").replaceChildren(...list);
}

function showListeners(listeners) {
  const rows = listeners.map((listener) => {
    const certificates = listener.certificates.map((one) => `${one.names.join(", ")} until ${one.not_after.slice(0, 10)}`);
    return row(listener.address, listener.tls ? "yes" : "no", certificates.join("; "));
  });
  byId("listeners").replaceChildren(...rows);
}

function showUpstreams(upstreams) {
  const rows = upstreams.flatMap((upstream) => upstream.endpoints.map((endpoint, place) => {
    const isOut = endpoint.state === "drained_by_admin";
    const order = isOut
      ? button("Restore", () => restore(upstream.name, endpoint.name))
      : button("Drain", () => drain(upstream.name, endpoint.name));
    const state = element("span", endpoint.state.replaceAll("_", " "), `badge ${endpoint.state === "in" ? "good" : "bad"}`);
    return row(
      place === 0 ? upstream.name : "",
      endpoint.name,
      cellOf(state),
      numeric(String(endpoint.open)),
      numeric(String(endpoint.idle)),
      cellOf(order),
    );
  }));
  byId("upstreams").replaceChildren(...rows);
}

function showTunnels(page) {
  const rows = page.tunnels.map((tunnel) => row(
    numeric(String(tunnel.id)),
    tunnel.client,
    tunnel.route,
    tunnel.endpoint,
    cut(`${tunnel.host}${tunnel.target}`),
    numeric(duration(tunnel.age_ms / 1000)),
    numeric(duration(tunnel.idle_ms / 1000)),
    numeric(way(tunnel.from_client)),
    numeric(way(tunnel.from_backend)),
    tunnel.closing ? element("td", "closing", "soft") : cellOf(button("Close", () => closeOne(tunnel.id))),
  ));
  byId("tunnels").replaceChildren(...rows);
  byId("tunnels-total").textContent = `${page.total}`;
  const more = byId("more");
  more.hidden = page.next === undefined;
  more.onclick = () => { after = page.next; refresh(); };
  byId("first").hidden = after === null;
}

// The last refresh that began: an answer to an older one is not shown over a newer one's.
let turn = 0;

async function refresh() {
  turn += 1;
  const mine = turn;
  const query = new URLSearchParams({ ...filter, limit: PAGE });
  if (after !== null) query.set("after", after);
  try {
    const [status, listeners, upstreams, tunnels] = await Promise.all([
      ask("/api/status"), ask("/api/listeners"), ask("/api/upstreams"), ask(`/api/tunnels?${query}`),
    ]);
    if (mine !== turn) return;
    showStatus(status);
    showListeners(listeners.listeners);
    showUpstreams(upstreams.upstreams);
    showTunnels(tunnels);
    byId("login").hidden = true;
    byId("content").hidden = false;
    if (byId("message").dataset.of === "refresh") say("", false);
  } catch (error) {
    if (mine === turn) showFailure(error);
  }
}

function showFailure(error) {
  if (error.status === 401) {
    if (token) say(error.message, true);
    token = "";
    byId("content").hidden = true;
    byId("login").hidden = false;
    return;
  }
  if (error.status === undefined) {
    byId("readiness").textContent = "not reached";
    byId("readiness").className = "badge bad";
  }
  say(error.status === undefined ? "wsgate does not answer" : error.message, true);
  byId("message").dataset.of = "refresh";
}

// Does what was asked for, says how it went, and shows what has become of it.
async function order(path, method, body, done) {
  byId("message").dataset.of = "order";
  try {
    say(done(await ask(path, method, body)), false);
  } catch (error) {
    say(error.message, true);
  }
  await refresh();
}

const endpointPath = (upstream, endpoint) =>
  `/api/upstreams/${encodeURIComponent(upstream)}/endpoints/${encodeURIComponent(endpoint)}`;

function drain(upstream, endpoint) {
  const question = `Send nothing new to ${endpoint} of ${upstream}, and ask its tunnels to reconnect?`;
  if (!confirm(question)) return;
  order(`${endpointPath(upstream, endpoint)}/drain`, "POST", { tunnels: "drain" }, () => `${endpoint} is drained`);
}

function restore(upstream, endpoint) {
  if (!confirm(`Use ${endpoint} of ${upstream} again?`)) return;
  order(`${endpointPath(upstream, endpoint)}/restore`, "POST", undefined, () => `${endpoint} is used again`);
}

function closeOne(id) {
  if (!confirm(`Close tunnel ${id}?`)) return;
  order(`/api/tunnels/${id}/close`, "POST", {}, () => `Tunnel ${id} is closing`);
}

function closeFiltered() {
  const which = Object.entries(filter).map(([name, value]) => `${name} ${value}`).join(", ");
  if (!confirm(which ? `Close all tunnels with ${which}?` : "Close all tunnels?")) return;
  const body = which ? filter : { all: true };
  order("/api/tunnels/close", "POST", body, (answer) => `${answer.closed} tunnels are closing`);
}

function reload() {
  if (!confirm("Read the configuration again and put it in force?")) return;
  order("/api/reload", "POST", undefined, (report) => `Generation ${report.generation} is in force`);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  byId("token").value = "";
  say("", false);
  refresh();
});
byId("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  const fields = [...new FormData(event.target)].map(([name, value]) => [name, value.trim()]);
  filter = Object.fromEntries(fields.filter(([, value]) => value !== ""));
  after = null;
  refresh();
});
byId("close-filtered").addEventListener("click", closeFiltered);
byId("reload").addEventListener("click", reload);
byId("first").addEventListener("click", () => { after = null; refresh(); });

const isShown = () => document.visibilityState === "visible" && byId("login").hidden;
setInterval(() => { if (isShown()) refresh(); }, PERIOD);
document.addEventListener("visibilitychange", () => { if (isShown()) refresh(); });
refresh();
