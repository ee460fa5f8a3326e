// Autobahn|Testsuite's program wstest: what it is given, and what it found out.

import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import WebSocket from "ws";

import { freshFolder } from "./gate.mjs";
import { Program } from "./programs.mjs";

const wstest = process.env.WSTEST;

/** What newest ws refuses by default, and the suite sends: messages in very many parts. */
const limits = { maxPayload: 64 * 1024 * 1024, maxFragments: 0, maxBufferedChunks: 0 };

const longestCase = 60_000;

/** For an end of ws that the suite talks to; it compresses whatever it may. */
export const endOptions = { ...limits, perMessageDeflate: { threshold: 0 } };

/** Runs the fuzzing client with a server at `url`; its results by case. `ca` is the path of the CA's certificate. */
export async function fuzzServer({ agent, url, cases, ca, limit }) {
  const folder = await freshFolder(`fuzzing-client-${agent}`);
  const hostname = url.startsWith("wss:") ? new URL(url).hostname : undefined;
  const specification = { outdir: "reports", servers: [{ agent, url, hostname }], ...selection(cases) };
  const program = await start(folder, "fuzzingclient", specification, { SSL_CERT_FILE: ca });
  const chosen = await chosenCases(program);
  const code = await program.result(limit);
  if (code !== 0) throw new Error(`wstest ended with ${code}: ${program.tail()}`);
  return results(folder, agent, chosen);
}

/** A fuzzing server on a free port. */
export async function startFuzzingServer(cases) {
  const folder = await freshFolder("fuzzing-server");
  const port = await freePort();
  const specification = { outdir: "reports", url: `ws://127.0.0.1:${port}`, webport: 0, ...selection(cases) };
  const program = await start(folder, "fuzzingserver", specification, {});
  const chosen = await chosenCases(program);
  await listens(program, specification.url);
  return new FuzzingServer(program, folder, port, chosen);
}

class FuzzingServer {
  constructor(program, folder, port, cases) {
    Object.assign(this, { program, folder, port, cases });
  }

  /** Runs a client of ws through those of its cases that match; their results. */
  async fuzzClient({ agent, url, cases, ca, limit }) {
    const chosen = this.cases.filter((id) => cases.some((pattern) => matches(id, pattern)));
    const options = { ...endOptions, ca: await readFile(ca) };
    const deadline = AbortSignal.timeout(limit * 1000);
    for (const id of chosen) {
      await echoUntilClosed(`${url}/runCase?casetuple=${id}&agent=${agent}`, options);
      if (deadline.aborted) throw new Error(`not done in ${limit} s; the last was case ${id}`);
    }
    await echoUntilClosed(`${url}/updateReports?agent=${agent}`, options);
    return results(this.folder, agent, chosen);
  }

  end() {
    return this.program.end("SIGTERM");
  }
}

/** Every message that comes on this connection goes back, as long as it stands. */
async function echoUntilClosed(url, options) {
  const socket = new WebSocket(url, options);
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  // What the suite does to it is no news; how it ends is in the report.
  socket.on("error", () => {});
  const timer = setTimeout(() => socket.terminate(), longestCase);
  await new Promise((resolve) => socket.once("close", resolve));
  clearTimeout(timer);
}

/** Whether the suite means this case by a pattern, such as `9.1.*` or `9.1.1`. */
function matches(id, pattern) {
  return pattern.endsWith("*") ? id.startsWith(pattern.slice(0, -1)) : id === pattern;
}

function selection(cases) {
  return { cases, "exclude-cases": [], "exclude-agent-cases": {} };
}

async function start(folder, mode, specification, env) {
  await writeFile(join(folder, "specification.json"), JSON.stringify(specification));
  // Reactor and reports do without the web server that the suite would put on port 8080.
  const args = ["--mode", mode, "--spec", "specification.json", "--webport", "0"];
  return new Program("wstest", wstest, args, { cwd: folder, env: { ...process.env, ...env } });
}

/** The cases that match what was asked for, in their order. */
async function chosenCases(program) {
  const [, list] = await program.saw(/^Cases = \[(.*)\]$/m, { limit: 30 });
  return [...list.matchAll(/'([\d.]+)'/g)].map(([, id]) => id);
}

/** Waits until it takes connections, which it doesn't tell. */
async function listens(program, url) {
  for (let tries = 0; tries < 100; tries += 1) {
    const socket = new WebSocket(`${url}/getCaseCount`);
    let failed = false;
    socket.on("error", () => (failed = true));
    await new Promise((resolve) => socket.once("close", resolve));
    if (!failed) return;
    if (program.exit !== undefined) break;
    await after(100);
  }
  throw new Error(`no wstest at ${url}: ${program.tail()}`);
}

async function results(folder, agent, cases) {
  const reports = join(folder, "reports");
  const found = JSON.parse(await readFile(join(reports, "index.json"), "utf8"))[agent] ?? {};
  const missing = cases.filter((id) => !Object.hasOwn(found, id));
  if (missing.length > 0) throw new Error(`no result for ${missing.length} cases, first ${missing[0]}`);
  const list = cases.map(async (id) => {
    const report = JSON.parse(await readFile(join(reports, found[id].reportfile), "utf8"));
    return [id, new Result(report)];
  });
  return new Map(await Promise.all(list));
}

/** What the suite saw in a case. */
class Result {
  constructor(report) {
    this.behavior = report.behavior;
    this.behaviorClose = report.behaviorClose;
    this.closeCode = report.remoteCloseCode;
    this.closeReason = report.remoteCloseReason;
    this.milliseconds = report.duration;
    this.measuresSpeed = report.reportTime;
    this.explanation = `${report.result} ${report.resultClose}.`;
    this.received = JSON.stringify(report.received);
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
