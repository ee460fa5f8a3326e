// Python websockets through wsgate: its client before its own server, and each of them with npm ws on the other side.

import { readFile } from "node:fs/promises";
import { join } from "node:path";

import * as clients from "../clients.mjs";
import { startEchoServer } from "../echo_server.mjs";
import { everythingTo, freshFolder, makeCertificate, startGate, tlsAndPlain } from "../gate.mjs";
import { Program, run } from "../programs.mjs";
import { equal, scenario, suite } from "../scenarios.mjs";

const work = process.env.INTEROP_WORK;
const python = join(work, "venv/bin/python");
const endings = [[1000, ""], [1001, "page left"], [4321, "grüß Gott"]];

export default () =>
  suite("python", async () => {
    const folder = await freshFolder("python");
    const ca = await makeCertificate(folder, "certs");
    const inPython = await startPythonServer();
    const inNode = await startEchoServer();

    await through(folder, inPython, async ([tls, plain]) => {
      await pythonClient("websockets over wss", `wss://localhost:${tls}/echo`, ["--ca", ca], inPython);
      await pythonClient("websockets over ws", `ws://127.0.0.1:${plain}/echo`, [], inPython);
      await nodeClient(`wss://localhost:${tls}/echo`, { ca: await readFile(ca) }, inPython);
    });
    await through(folder, inNode, async ([tls]) => {
      await pythonClient("websockets before ws, over wss", `wss://localhost:${tls}/echo`, ["--ca", ca], inNode);
    });

    await inPython.end();
    await inNode.end();
  });

/** Does `body` with the ports of a gate before `server`. */
async function through(folder, server, body) {
  const gate = await startGate(folder, tlsAndPlain + everythingTo(server.port), 2);
  await body(gate.ports);
  await gate.end();
}

async function startPythonServer() {
  const program = new Program("echo_server.py", python, [join(work, "python/echo_server.py")]);
  const [, port] = await program.saw(/listening on (\d+)\n/);
  return {
    port,
    end: () => program.end(),
    async endOf(id) {
      const [, code, reason] = await program.saw(new RegExp(`ended ${id} (\\d+) (.*)\n`));
      return { code: Number(code), reason };
    },
  };
}

async function pythonClient(name, url, options, server) {
  const tries = (what, scenarioOfClient, limit = 30, more = []) =>
    scenario(`${name}: ${what}`, () => pythonTries(scenarioOfClient, [url, ...options, ...more], limit), limit + 5);
  await tries("permessage-deflate", "compresses");
  await tries("16 MB each way", "sends_large", 120);
  await tries("300 connections at once", "come_together", 90);
  await tries("fragments with a ping between", "sends_fragments");
  await tries("subprotocol", "offers_subprotocols");
  for (const [code, reason] of endings) {
    const end = ["--code", String(code), "--reason", reason];
    await scenario(`${name}: client closes with ${code}`, async () => {
      const id = `${name.replaceAll(/\W+/g, "-")}-${code}`;
      await pythonTries("closes_with", [`${url}?id=${id}`, ...options, ...end], 20);
      const { code: seen, reason: why } = await server.endOf(id);
      equal(`${seen} ${why}`, `${code} ${reason}`, "what the server sees");
    });
    await tries(`server closes with ${code}`, "is_closed_with", 20, end);
  }
}

async function nodeClient(url, options, server) {
  const tries = (what, body, limit) => scenario(`ws before websockets, over wss: ${what}`, body, limit);
  await tries("permessage-deflate", () => clients.compresses(url, options));
  await tries("16 MB each way", () => clients.sendsLarge(url, options), 120);
  await tries("fragments with a ping between", () => clients.sendsFragments(url, options));
  await tries("300 connections at once", () => clients.comeTogether(url, options), 90);
  await tries("subprotocol", () => clients.offersSubprotocols(url, options));
  for (const [code, reason] of endings) {
    await tries(`client closes with ${code}`, () => clients.closesWith(url, options, server, code, reason));
    await tries(`server closes with ${code}`, () => clients.isClosedWith(url, options, code, reason));
  }
}

async function pythonTries(name, args, limit) {
  const { code, output } = await run(python, [join(work, "python/client.py"), name, ...args], { limit });
  if (code !== 0) throw new Error(output.trim());
}
