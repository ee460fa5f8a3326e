// Autobahn|Testsuite through wsgate, and without it: autobahn.mjs [core|all] [server|client]

import { once } from "node:events";
import { WebSocketServer } from "ws";

import { everythingTo, freshFolder, makeCertificate, startGate, tlsAndPlain } from "./gate.mjs";
import { endAll, endAllOnSignals } from "./programs.mjs";
import { endOptions, fuzzServer, startFuzzingServer } from "./wstest.mjs";

const uncompressed = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
const overTls = ["1.*", "2.*", "9.1.*"];
/** permessage-deflate by a thousand short messages each: the suite's kinds of payload, and its offers of parameters. */
const compressed = [
  ...["12.1.1", "12.1.2", "12.1.3", "12.2.1", "12.3.1", "12.4.1", "12.5.1"],
  ...["13.1.1", "13.2.1", "13.3.1", "13.4.1", "13.5.1", "13.6.1", "13.7.1"],
];
/** The rest of 12 and 13 would take many minutes more, for what only the two ends see. */
const choices = {
  core: [...uncompressed, ...compressed],
  all: [...uncompressed, ...compressed, "12.1.*", "13.1.*", "13.7.*"],
};
/** Where illegal frames come. By `frames = "observe"` wsgate lets them pass, and all must be as it is without wsgate. */
const illegal = ["3.*", "4.*", "5.*"];
/** For each run, in seconds. */
const limit = 1500;

/** What came out, of all runs through wsgate. */
const sum = { passed: 0, nonStrict: [], failed: [], different: [] };

const directions = { server: tryServer, client: tryClient };

const [name = "core", ...asked] = process.argv.slice(2);
const chosen = choices[name];
if (!chosen || asked.some((direction) => !Object.hasOwn(directions, direction))) {
  const words = [choices, directions].map((table) => Object.keys(table).join("|"));
  console.error(`usage: autobahn [${words[0]}] [${words[1]}]`);
  process.exit(2);
}
endAllOnSignals();
// Both at once: many cases do nothing but wait.
await Promise.all((asked.length > 0 ? asked : Object.keys(directions)).map(tryDirection));
await endAll();
console.log(closingLine());
process.exit(sum.failed.length === 0 ? 0 : 1);

async function tryDirection(direction) {
  try {
    await directions[direction]();
  } catch (error) {
    console.log(`not ok - ${direction}: ${error.message}`);
    sum.failed.push(`run ${direction}`);
  }
}

/** The fuzzing client and ws's server. */
async function tryServer() {
  const server = await startEcho();
  await tryWays("server", server.address().port, fuzzServer);
  for (const socket of server.clients) socket.terminate();
  server.close();
}

/** A client of ws and the fuzzing server. */
async function tryClient() {
  const server = await startFuzzingServer(chosen);
  await tryWays("client", server.port, (options) => server.fuzzClient(options));
  await server.end();
}

/** Runs the cases by `fuzz`, directly and through wsgate, with the server on `port`. */
async function tryWays(direction, port, fuzz) {
  const folder = await freshFolder(`autobahn-${direction}`);
  const ca = await makeCertificate(folder, "certs");
  const run = (agent, url, cases) => timed(`${direction}/${agent}`, () => fuzz({ agent, url, cases, ca, limit }));
  const direct = await run("direct", `ws://127.0.0.1:${port}`, chosen);
  const through = async (way, url, cases) => compare(`${direction}/${way}`, direct, await run(way, url, cases));

  const gate = await startGate(folder, configuration(port, "enforce"), 2);
  await through("ws", `ws://127.0.0.1:${gate.ports[1]}`, chosen);
  await through("wss", `wss://localhost:${gate.ports[0]}`, overTls);
  await gate.end();
  console.log(`# ${direction}/wss: ${tlsVersions(gate.program.output)}`);

  const observer = await startGate(folder, configuration(port, "observe"), 2);
  await through("observe", `ws://127.0.0.1:${observer.ports[1]}`, illegal);
  await observer.end();
}

/** The versions of TLS in wsgate's access log. */
function tlsVersions(log) {
  return [...new Set(log.match(/TLSv1\.\d/g))].join(" ");
}

function configuration(port, frames) {
  // The suite's server refuses a Host that is not its own.
  return `${tlsAndPlain}${everythingTo(port)}host_header = "upstream"
[route.websocket]
frames = "${frames}"
`;
}

/** ws's server on a free port, which sends every message back. */
async function startEcho() {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, ...endOptions });
  server.on("connection", (socket) => {
    socket.on("error", () => {});
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  await once(server, "listening");
  return server;
}

async function timed(what, run) {
  const began = performance.now();
  const results = await run();
  const time = ((performance.now() - began) / 1000).toFixed(1);
  console.log(`# ${what}: ${results.size} cases in ${time} s: ${tally(results)}`);
  return results;
}

function tally(results) {
  const counts = {};
  for (const { behavior, behaviorClose } of results.values()) {
    const kind = behaviorClose === "OK" ? behavior : `${behavior} (close ${behaviorClose})`;
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return Object.entries(counts).map(([kind, count]) => `${count} ${kind}`).join(", ");
}

/** Adds what came out through wsgate to the sum. */
function compare(run, direct, through) {
  for (const [id, result] of through) {
    const expected = direct.get(id);
    const where = `${id} ${run}`;
    const same = result.behavior === expected.behavior && result.behaviorClose === expected.behaviorClose;
    if (!same) sum.different.push(where);
    if (result.behavior === "NON-STRICT") sum.nonStrict.push(where);
    if (hasFailed(result) || !same && !wasEndedByGate(result)) {
      sum.failed.push(where);
      console.log(`not ok - ${where}: ${shown(result)}; directly ${shown(expected)}`);
    } else {
      sum.passed += 1;
    }
    const late = result.milliseconds - expected.milliseconds;
    if (late > 1000 && !result.measuresSpeed) console.log(`# ${where} took ${late} ms longer than directly`);
  }
}

function hasFailed({ behavior, behaviorClose }) {
  return behavior === "FAILED" || behaviorClose === "FAILED";
}

/** An illegal frame ends the tunnel at once, and what answers the messages before it may come too late. */
function wasEndedByGate({ behavior, behaviorClose, closeCode, closeReason }) {
  return behavior === "NON-STRICT" && behaviorClose === "OK" && closeCode === 1002 && closeReason === "protocol error";
}

function shown(result) {
  const { behavior, behaviorClose, closeCode, closeReason, explanation, received } = result;
  const text = received.length > 300 ? `${received.slice(0, 300)}…` : received;
  return `${behavior}, close ${behaviorClose} (${closeCode} ${closeReason}): ${explanation} Received ${text}`;
}

function closingLine() {
  const ids = (list) => (list.length > 0 ? ` (${grouped(list)})` : "");
  const { passed, nonStrict, failed, different } = sum;
  const parts = [
    `${passed} cases passed`,
    `${nonStrict.length} non-strict${ids(nonStrict)}`,
    `${failed.length} failed${ids(failed)}`,
    `${different.length} different from direct${ids(different)}`,
  ];
  return `autobahn: ${parts.join(", ")}`;
}

/** `3.1 server/ws` and `3.2 server/ws` become `server/ws: 3.1 3.2`. */
function grouped(list) {
  const runs = new Map();
  for (const where of list) {
    const [id, run] = where.split(" ");
    runs.set(run, [...(runs.get(run) ?? []), id]);
  }
  return [...runs].map(([run, ids]) => `${run}: ${ids.join(" ")}`).join("; ");
}
