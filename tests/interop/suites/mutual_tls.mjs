// Certificates of clients: a wss server that wants one of wsgate, by a CA that has nothing to do with the clients', and a wsgate
// that wants one of its clients.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import WebSocket from "ws";

import * as clients from "../clients.mjs";
import { startEchoServer } from "../echo_server.mjs";
import { command, everythingTo, freshFolder, makeCertificate, startGate, tlsAndPlain } from "../gate.mjs";
import { run } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const shown = 'tls = { ca = "internal/ca.crt", cert = "internal/client-gate.crt", key = "internal/client-gate.key" }';

export default () =>
  suite("mutual tls", async () => {
    const folder = await freshFolder("mutual_tls");
    const ca = await readFile(await makeCertificate(folder, "certs"));
    for (const into of ["internal", "foreign"]) {
      await makeCertificate(folder, into);
      await makeClientCertificate(folder, into, "gate");
    }
    const server = await startServer(folder);

    await through(folder, server, shown, async ([tls, plain]) => {
      await everything("over ws", server, `ws://127.0.0.1:${plain}/echo`, {});
      await everything("over wss", server, `wss://localhost:${tls}/echo`, { ca });
    });
    await through(folder, server, `${shown}\n${health}`, checksWithIt);
    await refusals(folder, server);
    await server.end();
    await ofClients(folder, ca);
  });

async function makeClientCertificate(folder, into, name) {
  const { code, output } = await command(folder, "cert", "--dir", into, "--client", name);
  equal(code, 0, `exit code with "${output.trim()}"`);
}

/** It notes the name of each peer. */
async function startServer(folder) {
  const read = (name) => readFile(join(folder, "internal", name));
  const identity = { cert: await read("server.crt"), key: await read("server.key"), ca: await read("ca.crt") };
  const server = await startEchoServer({ ...identity, requestCert: true, rejectUnauthorized: true });
  server.peers = [];
  server.http.on("secureConnection", (socket) => server.peers.push(socket.getPeerCertificate().subject.CN));
  return server;
}

async function through(folder, server, keys, body) {
  const gate = await startGate(folder, tlsAndPlain + everythingTo(server.port, keys), 2);
  await body(gate.ports, gate);
  await gate.end();
}

async function everything(way, server, url, options) {
  const tries = (what, body) => scenario(`mutual TLS to the server, ${way}: ${what}`, body, 60);
  await tries("the server knows wsgate by its name", async () => {
    server.peers = [];
    await clients.sendsMany(url, options);
    equal(server.peers.join(), "gate", "names of the server's peers");
  });
  await tries("permessage-deflate", () => clients.compresses(url, options));
  await tries("20 connections, one after the other", () => comesOften(url, options));
  await tries("client closes with 4321", () => clients.closesWith(url, options, server, 4321, "grüß Gott"));
  await tries("server closes with 4321", () => clients.isClosedWith(url, options, 4321, "grüß Gott"));
}

/** So that TLS sessions are taken up again, in which the certificate isn't sent anew. */
async function comesOften(url, options) {
  for (let count = 0; count < 20; count += 1) {
    const socket = new WebSocket(url, options);
    await once(socket, "open", { signal: AbortSignal.timeout(5000) });
    socket.close();
    await once(socket, "close");
  }
}

const health = `
[upstream.websocket.health]
path = "/echo"
ping = true
interval = "100ms"
timeout = "90ms"
rise = 1
fall = 1
`;

/** Checks show the certificate too: a pool of which all servers are out would answer 503. */
async function checksWithIt([, plain], gate) {
  await scenario("mutual TLS to the server: health checks", async () => {
    await new Promise((resolve) => setTimeout(resolve, 600));
    equal(/server is out/.test(gate.program.output), false, "whether the server was taken out");
    await clients.sendsMany(`ws://127.0.0.1:${plain}/echo`, {});
  });
}

/** Where one does not trust the other the client gets 502, and the log says on which side it was. */
async function refusals(folder, server) {
  const foreign = shown.replaceAll("internal/client", "foreign/client");
  const cases = {
    "without a certificate of wsgate's": 'tls.ca = "internal/ca.crt"',
    "with one of another CA": foreign,
    "with a server of another CA": shown.replace("internal/ca", "foreign/ca"),
    "with a server of another name": shown.replace("{ ", '{ server_name = "elsewhere.test", '),
  };
  for (const [what, keys] of Object.entries(cases)) {
    await scenario(`mutual TLS to the server, ${what}: 502`, () =>
      through(folder, server, keys, async ([, plain], gate) => {
        server.peers = [];
        const socket = new WebSocket(`ws://127.0.0.1:${plain}/echo`);
        const [error] = await once(socket, "error");
        contains(error.message, "502", "what the client is told");
        await gate.logged(/status=502 /);
        equal(server.peers.join(), "", "peers that the server has let in");
      }),
    );
  }
}

const asking = (clientAuth) => `
[[listener]]
address = "127.0.0.1:0"
tls = { cert = "certs/server.crt", key = "certs/server.key", client_ca = "internal/ca.crt", client_auth = "${clientAuth}" }
`;

/** Clients of wsgate, which has to be shown a certificate of the internal CA. */
async function ofClients(folder, ca) {
  const server = await startEchoServer();
  const gate = await startGate(folder, asking("required") + asking("optional") + everythingTo(server.port), 2);
  const [required, optional] = gate.ports.map((port) => `wss://localhost:${port}/echo`);
  const read = (name) => readFile(join(folder, name));
  const identity = async (into) => ({
    ca,
    cert: await read(`${into}/client-gate.crt`),
    key: await read(`${into}/client-gate.key`),
  });
  const [right, wrong] = [await identity("internal"), await identity("foreign")];

  await scenario("mutual TLS from clients: ws with its certificate, and the log names it", async () => {
    await clients.sendsMany(required, right);
    await gate.logged(/ tunnel_end .*client:"CN=gate,O=wsgate development"/);
  });
  await scenario("mutual TLS from clients: 20 connections, one after the other", () => comesOften(required, right), 60);
  await scenario("mutual TLS from clients: optional lets both in", async () => {
    await clients.sendsMany(optional, { ca });
    await clients.sendsMany(optional, right);
  });
  const versions = ["TLSv1.2", "TLSv1.3"];
  for (const version of versions) {
    const only = { minVersion: version, maxVersion: version };
    await scenario(`mutual TLS from clients, ${version}: without one`, () => isRefused(gate, required, { ca, ...only }));
    await scenario(`mutual TLS from clients, ${version}: another CA's`, () => isRefused(gate, optional, { ...wrong, ...only }));
  }
  await scenario("mutual TLS from clients: openssl is told whose certificates are wanted", async () => {
    const address = new URL(required).host.replace("localhost", "127.0.0.1");
    const { output } = await run("openssl", ["s_client", "-connect", address], { limit: 10 });
    contains(output, /Acceptable client certificate CA names\n.*wsgate development CA/, "output");
  });
  await gate.end();
  await server.end();
}

/** The client is told why, by an alert, and the log says it. */
async function isRefused(gate, url, options) {
  const from = gate.program.output.length;
  const socket = new WebSocket(url, options);
  const [error] = await once(socket, "error");
  contains(error.message, /alert/, "what the client is told");
  await gate.logged(/ tls_failure .*ending=tls_client_cert by=gate/, { from });
}
