// slowhttptest, Debian's tool of slow clients, in its three modes with 200 connections, while others are served (rule B14).

import { once } from "node:events";
import { createServer } from "node:http";
import { setTimeout as after } from "node:timers/promises";

import { freshFolder, startGate } from "../gate.mjs";
import { Program } from "../programs.mjs";
import { equal, scenario, suite } from "../scenarios.mjs";

const connections = 200;
/** Seconds for which a slow client is borne, and in which all have to be cut. */
const [borne, most] = [3, 25];
const large = Buffer.alloc(2 << 20, "a");

const config = (port) => `
[[listener]]
address = "127.0.0.1:0"
timeout = { request_head = "${borne}s", request_body = "${borne}s", write = "${borne}s" }

[upstream.main]
servers = ["127.0.0.1:${port}"]

[[route]]
upstream = "main"
`;

const modes = {
  "slow headers": { label: "head_timeout", path: "/", args: ["-H"] },
  "slow body": { label: "body_timeout", path: "/body", args: ["-B", "-s", "100000"] },
  "slow reading": { label: "write_timeout", path: "/large", args: ["-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32"] },
};

export default () =>
  suite("slow", async () => {
    const folder = await freshFolder("slow");
    const backend = createServer(answer).listen(0, "127.0.0.1");
    await once(backend, "listening");
    const gate = await startGate(folder, config(backend.address().port), 1);
    for (const [what, mode] of Object.entries(modes)) {
      await scenario(`slowhttptest with ${connections} connections: ${what}`, () => isBorne(gate, mode), 60);
    }
    await gate.end();
    backend.closeAllConnections();
    backend.close();
  });

function answer(request, response) {
  request.resume();
  if (request.url === "/large") response.end(large);
  else request.on("end", () => response.end("quick"));
}

/** All are cut at the deadline by its label, and whoever comes meanwhile is answered at once. */
async function isBorne(gate, { label, path, args }) {
  const url = `http://127.0.0.1:${gate.ports[0]}`;
  const from = gate.program.output.length;
  const common = ["-c", connections, "-r", connections, "-i", 1, "-l", most, "-p", 2, "-x", 8];
  const slow = new Program("slowhttptest", "slowhttptest", [...args, ...common.map(String), "-u", url + path]);
  const began = performance.now();
  const took = () => (performance.now() - began) / 1000;
  const cut = () => gate.program.output.slice(from).match(new RegExp(`=${label}\\b`, "g"))?.length ?? 0;
  let served = 0;
  let longest = 0;
  while (cut() < connections && took() < most) {
    const asked = performance.now();
    const response = await fetch(`${url}/`, { signal: AbortSignal.timeout(2000) });
    equal(await response.text(), "quick", "what another client gets");
    longest = Math.max(longest, performance.now() - asked);
    served += 1;
    await after(20);
  }
  equal(cut(), connections, `connections that ended as ${label}`);
  console.log(`# ${label}: all cut in ${took().toFixed(1)} s; ${served} others served, the slowest in ${longest.toFixed(0)} ms`);
  await slow.end("SIGINT");
}
