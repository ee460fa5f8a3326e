// Socket.IO with three servers behind a sticky cookie. The servers are taken in turn, so that all that keeps the requests of a
// client together is the cookie.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { io } from "socket.io-client";

import { freshFolder, makeCertificate, startGate, tlsAndPlain } from "../gate.mjs";
import { Program, output } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const work = process.env.INTEROP_WORK;
const names = ["first", "second", "third"];
const opening = "/socket.io/?EIO=4&transport=polling";

const pool = (servers, sticky) => `
[upstream.socketio]
servers = [${servers.map(({ port }) => `"127.0.0.1:${port}"`).join(", ")}]
balance = "round_robin"
${sticky}

[upstream.socketio.health]
check = "tcp"
interval = "200ms"
timeout = "150ms"
rise = 1
fall = 1

[[route]]
upstream = "socketio"
`;

const both = ["polling", "websocket"];
const ways = { "polling, then websocket": both, "polling alone": ["polling"], "websocket alone": ["websocket"] };

export default () =>
  suite("socketio", async () => {
    const folder = await freshFolder("socketio");
    const ca = await readFile(await makeCertificate(folder, "certs"));
    const servers = await Promise.all(names.map((name) => startServer(name, 0)));
    const gate = await startGate(folder, tlsAndPlain + pool(servers, 'sticky_cookie = "io_server"'), 2);
    const places = {
      http: { url: `http://127.0.0.1:${gate.ports[1]}` },
      https: { url: `https://localhost:${gate.ports[0]}`, ca },
    };

    for (const [scheme, place] of Object.entries(places)) {
      for (const [way, transports] of Object.entries(ways)) {
        await tries(`${way}, over ${scheme}`, servers, () => staysAtOne(servers, place, transports));
      }
    }
    await tries("the cookie over http", servers, () => setsCookie(places.http.url, []));
    await tries("the cookie over https", servers, () => setsCookie(places.https.url, ["--cacert", "certs/ca.crt"], folder));
    await tries("a client that shows the cookie gets no other", servers, () => keepsCookie(places.http.url));
    await tries("a server is killed and comes back", servers, () => losesOne(servers, places.http), 40);
    await gate.end();

    await withoutCookie(folder, servers);
    await Promise.all(servers.map(({ program }) => program.end()));
  });

async function startServer(name, port) {
  const program = new Program(`socket.io ${name}`, "node", [join(work, "socketio_server.mjs"), name, String(port)]);
  const [, chosen] = await program.saw(/listening on (\d+)\n/);
  return { name, program, port: Number(chosen) };
}

let clients = 0;
const present = [];

/** A client under a name of its own, which keeps cookies, and notes when it is cut. */
function newClient({ url, ...options }, transports) {
  clients += 1;
  const name = `client-${clients}-`;
  const socket = io(url, {
    ...{ transports, query: { client: name }, withCredentials: true, forceNew: true },
    ...{ reconnectionDelay: 50, reconnectionDelayMax: 200, ...options },
  });
  const client = { name, socket, cuts: [] };
  present.push(client);
  socket.on("disconnect", (reason) => client.cuts.push(reason));
  return client;
}

/** Waits until the client is connected by the last of its transports. */
async function connected({ socket }, transports) {
  if (!socket.connected) await onceOr(socket, "connect", "connect_error");
  const last = transports.at(-1);
  if (socket.io.engine.transport.name !== last) await once(socket.io.engine, "upgrade", deadline());
  equal(socket.io.engine.transport.name, last, "transport");
}

async function onceOr(socket, good, bad) {
  const stop = new AbortController();
  const failure = once(socket, bad, { signal: stop.signal }).then(([error]) => {
    throw error;
  });
  try {
    await Promise.race([once(socket, good, deadline()), failure]);
  } finally {
    stop.abort();
    failure.catch(() => {});
  }
}

async function until(comes, what) {
  const began = performance.now();
  while (!(await comes())) {
    if (performance.now() - began > 5000) throw new Error(`not within 5 s: ${what}`);
    await after(20);
  }
}

const deadline = () => ({ signal: AbortSignal.timeout(8000) });

/** Says something, and resolves to the name of the server that answers. */
async function talks({ socket }, said = "hello") {
  const answer = await socket.timeout(5000).emitWithAck("say", said);
  const [name, echoed] = answer.split(": ");
  equal(echoed, said, "what came back");
  return name;
}

/** The servers that saw requests of this client, each with what it printed of them. */
function seen({ name }, servers) {
  const lines = (server) => server.program.output.split("\n").filter((line) => line.startsWith(`${name} `));
  return servers.map((server) => ({ server: server.name, lines: lines(server) })).filter((of) => of.lines.length > 0);
}

/** Six clients at once are spread over the servers evenly, and all requests of each reach one server. */
async function staysAtOne(servers, place, transports) {
  const reached = new Map(names.map((name) => [name, 0]));
  const guests = await enter(place, transports, 6);
  for (const guest of guests) {
    const said = Array.from({ length: 10 }, (_, number) => `${guest.name}${number}`);
    const heard = [];
    for (const word of said) heard.push(await talks(guest, word));
    const [one, ...others] = seen(guest, servers);
    equal(others.length, 0, "number of other servers that saw the client");
    equal(heard.every((name) => name === one.server), true, `whether ${one.server} alone answered`);
    for (const transport of transports) contains(one.lines.join("\n"), ` ${transport} GET`, `what ${one.server} saw`);
    equal(one.lines.some((line) => line.includes(" polling ")), transports.includes("polling"), "whether it polled");
    reached.set(one.server, reached.get(one.server) + 1);
  }
  equal([...reached.values()].join(), "2,2,2", "clients of each server");
  equal(guests.flatMap(({ cuts }) => cuts).join(), "", "what cut the clients");
}

/** Clients enter one by one, so that taking turns gives each server its share. */
async function enter(place, transports, count) {
  const guests = [];
  for (let entered = 0; entered < count; entered += 1) {
    const guest = newClient(place, transports);
    guests.push(guest);
    await connected(guest, transports);
  }
  return guests;
}

/** A scenario whose clients are gone when it ends, however it ends: their servers know that they left. */
async function tries(name, servers, body, limit) {
  await scenario(`socket.io: ${name}`, body, limit);
  const guests = present.splice(0);
  const missed = guests.filter(({ socket }) => socket.connected).map((guest) => `\n${guest.name} left\n`);
  for (const { socket } of guests) socket.disconnect();
  const known = (line) => servers.some(({ program }) => program.output.includes(line));
  await until(() => missed.every(known), "the servers know that all clients left");
}

/** HttpOnly, for all paths, for this site, Secure by TLS alone, until the browser ends; and it shows no address. */
async function setsCookie(url, trust, folder) {
  const answer = await output("curl", ["-sS", "-i", "--max-time", "10", ...trust, `${url}${opening}`], { cwd: folder });
  const [, value, attributes] = /^set-cookie: io_server=([^;\r]*)(.*)\r$/im.exec(answer) ?? [];
  contains(String(value), /^[0-9a-f]{16}$/, "value of the cookie");
  const secure = trust.length > 0 ? "; Secure" : "";
  equal(attributes, `; Path=/; HttpOnly${secure}; SameSite=Lax`, "attributes of the cookie");
}

/** Opens a session with this cookie, as a browser does that was here before: the cookie that comes, if one does. */
async function opens(url, cookie) {
  const headers = cookie === undefined ? {} : { cookie };
  const answer = await fetch(`${url}${opening}&client=${clientOf(cookie)}`, { headers, ...deadline() });
  equal(answer.status, 200, "status");
  contains(await answer.text(), '"sid"', "answer");
  return answer.headers.getSetCookie().map((set) => set.split(";")[0])[0];
}

const clientOf = (cookie) => (cookie === undefined ? "newcomer" : cookie.replace("=", "-"));

async function keepsCookie(url) {
  const cookies = [await opens(url), await opens(url), await opens(url)];
  equal(new Set(cookies).size, 3, "number of different cookies of three servers");
  for (const cookie of [...cookies, ...cookies]) equal(await opens(url, cookie), undefined, "a cookie that is set again");
}

/** The clients of a killed server go on at the others, and those of the others notice nothing. */
async function losesOne(servers, place) {
  const groups = {};
  for (const [way, transports] of Object.entries(ways)) groups[way] = await enter(place, transports, 3);
  const guests = Object.values(groups).flat();
  const before = new Map();
  for (const guest of guests) before.set(guest, await talks(guest));
  const [lost] = servers;
  const theirs = guests.filter((guest) => before.get(guest) === lost.name);
  equal(theirs.length, 3, "clients of the server that is killed");
  const cookie = await cookieOf(lost, place.url);

  const again = theirs.map(({ socket }) => once(socket, "connect", deadline()));
  await lost.program.end("SIGKILL");
  const instead = await opens(place.url, cookie);
  contains(String(instead), /^io_server=/, "cookie in place of the lost server's");
  equal(instead === cookie, false, "whether the lost server is named again");
  equal(await opens(place.url, instead), undefined, "a cookie that is set once more");

  await Promise.all(again);
  for (const guest of guests) {
    const now = await talks(guest, "still there");
    const moved = theirs.includes(guest);
    equal(now === before.get(guest), !moved, `whether a client of ${before.get(guest)} is there now`);
    equal(guest.cuts.length, moved ? 1 : 0, `number of times that a client of ${before.get(guest)} was cut (${guest.cuts})`);
  }

  servers[0] = await startServer(lost.name, lost.port);
  await comesBack(servers[0], cookie, place);
  for (const guest of guests) equal(guest.cuts.length, theirs.includes(guest) ? 1 : 0, "number of cuts in the end");
}

/** A cookie that leads to this server. */
async function cookieOf(server, url) {
  for (const _ of names) {
    const cookie = await opens(url);
    const from = server.program.output.length;
    await opens(url, cookie);
    await after(50);
    if (server.program.output.slice(from).includes(clientOf(cookie))) return cookie;
  }
  throw new Error(`no cookie leads to ${server.name}`);
}

/** As soon as its checks are good it gets new clients, and those that kept its cookie. */
async function comesBack(server, cookie, place) {
  await until(async () => (await opens(place.url, cookie)) === undefined, `${server.name} gets those that have its cookie`);
  const newcomers = await enter(place, both, 6);
  const reached = await Promise.all(newcomers.map((guest) => talks(guest)));
  equal(reached.includes(server.name), true, "whether newcomers reach the server that came back");
}

/** The counter-proof: without the cookie the requests of one session go to three servers, and it does not come about. */
async function withoutCookie(folder, servers) {
  const gate = await startGate(folder, tlsAndPlain + pool(servers, ""), 2);
  await tries("without the cookie polling fails", servers, async () => {
    const client = newClient({ url: `http://127.0.0.1:${gate.ports[1]}`, reconnection: false }, ["polling"]);
    await once(client.socket.io.engine, "error", deadline());
    equal(seen(client, servers).length > 1, true, "whether several servers saw the client");
  });
  await gate.end();
}
