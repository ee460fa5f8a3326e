// A server by a name whose address changes. wsgate has a resolv.conf of its own for this, in a mount namespace, and asks a DNS
// server at port 53, both of which only root may do.

import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import WebSocket from "ws";

import { startDnsServer } from "../dns_server.mjs";
import { startEchoServer } from "../echo_server.mjs";
import { freshFolder, startGate } from "../gate.mjs";
import { run } from "../programs.mjs";
import { equal, scenario, suite } from "../scenarios.mjs";

const nameServer = "127.53.53.53";
const name = "backend.test";
const [oldAddress, newAddress] = ["127.0.0.2", "127.0.0.3"];
const refresh = 200;

export default () =>
  suite("names", async () => {
    const folder = await freshFolder("names");
    const resolv = join(folder, "resolv.conf");
    await writeFile(resolv, `nameserver ${nameServer}\noptions timeout:1 attempts:1\n`);
    const within = ["unshare", "-m", "sh", "-c", `mount --bind ${resolv} /etc/resolv.conf && exec "$@"`, "sh"];
    const dns = await startOrSkip(within);
    if (dns === undefined) return;

    const old = await startEchoServer(undefined, { host: oldAddress });
    const young = await startEchoServer(undefined, { host: newAddress, port: old.port });
    dns.says = [oldAddress];
    const gate = await startGate(folder, config(old.port, "keep"), 1, within);
    const url = `ws://127.0.0.1:${gate.ports[0]}/echo`;
    await changes(dns, url, old, young);
    await gate.end();

    dns.says = [oldAddress];
    const draining = await startGate(folder, config(old.port, "drain"), 1, within);
    await drains(dns, `ws://127.0.0.1:${draining.ports[0]}/echo`, old, young);
    await draining.end();

    await Promise.all([old.end(), young.end(), dns.end()]);
  });

const config = (port, onRemoved) => `
[[listener]]
address = "127.0.0.1:0"

[upstream.named]
servers = ["${name}:${port}"]
dns_refresh = "${refresh}ms"
on_removed = "${onRemoved}"

[[route]]
upstream = "named"
`;

/** The DNS server; or nothing, and it says why not, if this is no place for one. */
async function startOrSkip([command, ...args]) {
  const { code, output } = await run(command, [...args, "true"]).catch((error) => ({ code: 1, output: error.message }));
  if (code !== 0) return skip(`no mount namespace: ${output.trim()}`);
  return startDnsServer(nameServer, name).catch((error) => skip(error.message));
}

function skip(why) {
  console.log(`# SKIPPED: names that change their address (${why})`);
}

async function changes(dns, url, old, young) {
  const first = await opens(url, "at-the-old-address");
  await scenario("DNS: a tunnel to the address that a name has", () => isAt(first, old));

  dns.says = [newAddress];
  await scenario("DNS: new tunnels go to a name's new address", () => settlesAt(url, young));
  await scenario("DNS: a tunnel at a name's old address lives on", () => isAt(first, old));

  for (const [what, says] of [["a failure", "failure"], ["silence", "silence"], ["an answer without addresses", []]]) {
    dns.says = says;
    await scenario(`DNS: ${what} keeps the last address`, () => stays(dns, url, young, what));
  }

  dns.says = [oldAddress];
  await scenario("DNS: a good answer is heard again after bad ones", () => settlesAt(url, old));
  await scenario("DNS: the first tunnel still lives", () => isAt(first, old));
  first.socket.close();
  await old.endOf(first.id);
}

/** Nothing is asked of the gate between the change and the Close. */
async function drains(dns, url, old, young) {
  const leaves = await opens(url, "at-an-address-that-leaves");
  await isAt(leaves, old);
  const closed = once(leaves.socket, "close", { signal: AbortSignal.timeout(8000) });
  dns.says = [newAddress];
  await scenario("DNS: a tunnel at an address that left is drained on a quiet gate", async () => {
    equal((await closed)[0], 1012, "close code");
    await old.endOf(leaves.id);
  });
  const stays = await opens(url, "at-an-address-that-stays");
  await isAt(stays, young);
  dns.says = [oldAddress, newAddress];
  await scenario("DNS: an address that came back takes tunnels again", async () => {
    await settlesAt(url, old);
    await isAt(stays, young);
  });
  stays.socket.close();
  await young.endOf(stays.id);
}

/** A tunnel under a name of its own. */
async function opens(url, id) {
  const socket = new WebSocket(`${url}?id=${id}`);
  await once(socket, "open", { signal: AbortSignal.timeout(8000) });
  return { socket, id };
}

/** The tunnel is at this server, and alive. */
async function isAt({ socket, id }, server) {
  equal(server.visits.has(id), true, "whether the server at this address has the tunnel");
  const answer = once(socket, "message", { signal: AbortSignal.timeout(5000) });
  socket.send(id);
  equal(String((await answer)[0]), id, "echo");
}

let tries = 0;

/** Opens a tunnel and ends it: whether it was at this server. */
async function reaches(url, server) {
  tries += 1;
  const { socket, id } = await opens(url, `try-${tries}`);
  const there = server.visits.has(id);
  socket.close();
  await once(socket, "close");
  return there;
}

/** Within a few refreshes all new tunnels are at this server. */
async function settlesAt(url, server) {
  const began = performance.now();
  while (!(await reaches(url, server))) {
    if (performance.now() - began > 5000) throw new Error("new tunnels still go to the other address after 5 s");
    await pause(refresh / 4);
  }
  for (let count = 0; count < 5; count += 1) {
    await pause(refresh / 2);
    equal(await reaches(url, server), true, "whether a later tunnel is there too");
  }
}

/** Over several refreshes that bring no address, new tunnels stay where they were, and wsgate has asked. */
async function stays(dns, url, server, what) {
  const before = dns.asked;
  for (let count = 0; count < 4; count += 1) {
    equal(await reaches(url, server), true, `whether a tunnel after ${what} is there`);
    await pause(refresh / 2);
  }
  equal(dns.asked > before, true, "whether the DNS server was asked");
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
