// npm ws on both sides of wsgate.

import { readFile } from "node:fs/promises";
import { join } from "node:path";

import * as clients from "../clients.mjs";
import { startEchoServer } from "../echo_server.mjs";
import { everythingTo, freshFolder, makeCertificate, startGate, tlsAndPlain } from "../gate.mjs";
import { Program } from "../programs.mjs";
import { equal, scenario, suite } from "../scenarios.mjs";

const work = process.env.INTEROP_WORK;

export default () =>
  suite("node", async () => {
    const folder = await freshFolder("node");
    const ca = await makeCertificate(folder, "certs");
    const server = await startEchoServer();
    const gate = await startGate(folder, tlsAndPlain + everythingTo(server.port), 2);
    const [tls, plain] = gate.ports;

    await everything("ws over ws", server, `ws://127.0.0.1:${plain}/echo`, {});
    await everything("ws over wss", server, `wss://localhost:${tls}/echo`, { ca: await readFile(ca) });

    await gate.end();
    await server.end();
    await overTls(folder, ca);
  });

/** The same, and wscat, with a server that speaks TLS by a certificate of the development CA. */
async function overTls(folder, ca) {
  const identity = { cert: await readFile(join(folder, "certs/server.crt")), key: await readFile(join(folder, "certs/server.key")) };
  const server = await startEchoServer(identity);
  const trust = `tls.ca = "certs/ca.crt"`;
  const gate = await startGate(folder, tlsAndPlain + everythingTo(server.port, trust), 2);
  const [tls, plain] = gate.ports;

  await everything("ws over ws to a wss server", server, `ws://127.0.0.1:${plain}/echo`, {});
  await everything("ws over wss to a wss server", server, `wss://localhost:${tls}/echo`, { ca: await readFile(ca) });
  await scenario("wscat over ws to a wss server", () => echoes(`ws://127.0.0.1:${plain}/echo`));
  await scenario("wscat over wss to a wss server", () => echoes(`wss://localhost:${tls}/echo`, "--ca", ca));

  await gate.end();
  await server.end();
}

async function echoes(url, ...options) {
  const wscat = new Program("wscat", join(work, "node_modules/.bin/wscat"), [...options, "--connect", url]);
  try {
    await wscat.saw(/Connected/);
    wscat.say("over there");
    await wscat.saw(/over there\n/);
    wscat.child.stdin.end();
    equal(await wscat.result(5), 0, "exit code of wscat");
  } finally {
    await wscat.end();
  }
}

async function everything(name, server, url, options) {
  const tries = (what, body, limit) => scenario(`${name}: ${what}`, body, limit);
  await tries("permessage-deflate", () => clients.compresses(url, options));
  await tries("16 MB each way", () => clients.sendsLarge(url, options), 120);
  await tries("fragments with a ping between", () => clients.sendsFragments(url, options));
  await tries("1000 small messages in order", () => clients.sendsMany(url, options));
  await tries("300 connections at once", () => clients.comeTogether(url, options), 90);
  await tries("pings of both sides", () => clients.pings(url, options, server));
  await tries("subprotocol", () => clients.offersSubprotocols(url, options));
  for (const [code, reason] of [[1000, ""], [1001, "page left"], [4321, "grüß Gott"]]) {
    await tries(`client closes with ${code}`, () => clients.closesWith(url, options, server, code, reason));
    await tries(`server closes with ${code}`, () => clients.isClosedWith(url, options, code, reason));
  }
  await tries("client vanishes", () => clients.vanishes(url, options, server));
  await tries("server vanishes", () => clients.isLeft(url, options, server));
}
