// What an operator does with the command line: check, run --to, and ending it.

import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import WebSocket from "ws";

import { startEchoServer } from "../echo_server.mjs";
import { command, everythingTo, freshFolder, makeCertificate, startGate, startWith, tlsAndPlain } from "../gate.mjs";
import { Program, output } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const work = process.env.INTEROP_WORK;
const shortForm = tlsAndPlain + everythingTo(9000);

export default () =>
  suite("command line", async () => {
    const folder = await freshFolder("command_line");
    const ca = await makeCertificate(folder, "certs");
    await checks(folder);
    await withoutFile(folder);

    const server = await startEchoServer();
    await scenario("SIGTERM: an npm ws client gets Close 1012", () => endsWithWs(folder, server), 60);
    await scenario("SIGTERM: wscat over wss is told and ends", () => endsWithWscat(folder, server, ca), 60);
    await scenario("SIGINT ends it in order too", () => endsBySigint(folder, server), 60);
    await server.end();
  });

async function checks(folder) {
  const accepts = (config) => checked(folder, config, 0);
  const refuses = async (config, ...parts) => {
    const said = await checked(folder, config, 2);
    for (const part of parts) contains(said, part, "output");
  };
  await scenario("check: the short form", async () => {
    const said = await accepts(shortForm);
    for (const part of ["localhost", "127.0.0.1:9000", "websocket"]) contains(said, part, "output");
  });
  await scenario("check: an unknown key has a line and a suggestion", () =>
    refuses(shortForm.replace("servers", "server"), "proxy.toml:10:1", "`servers`"),
  );
  await scenario("check: a certificate that is not there", () =>
    refuses(shortForm.replace("server.crt", "absent.crt"), "absent.crt", "proxy.toml:4:"),
  );
  await scenario("check: a route to an upstream that is not there", () =>
    refuses(shortForm.replace('upstream = "websocket"', 'upstream = "websockets"'), "proxy.toml:13:12", 'did you mean "websocket"?'),
  );
  await scenario("check: all that is wrong at once", () =>
    refuses(shortForm.replace("servers", "server").replace("absent", "x").replace(":0", ":port"), "`servers`", ":port"),
  );
  await scenario("check: what is not TOML", () => refuses("[[listener]\n", "proxy.toml:1:"));
  await scenario("check: a file that is not there", async () => {
    const { code, output: said } = await command(folder, "check", "-c", "nowhere.toml");
    equal(code, 2, "exit code");
    contains(said, "nowhere.toml", "output");
  });
}

async function checked(folder, config, expected) {
  await writeFile(join(folder, "proxy.toml"), config);
  const { code, output: said } = await command(folder, "check", "-c", "proxy.toml");
  equal(code, expected, `exit code with "${said.trim().replaceAll("\n", " | ")}"`);
  return said;
}

async function withoutFile(folder) {
  const quick = ["run", "--to", "127.0.0.1:9000", "--tls", "0", "--plain", "0"];
  await scenario("run --to --print-config: check accepts it", async () => {
    const { code, output: printed } = await command(folder, ...quick, "--print-config");
    equal(code, 0, "exit code");
    await checked(folder, printed, 0);
  });
  await scenario("run --to serves with a certificate of its own", async () => {
    const server = await startEchoServer();
    const args = ["run", "--to", `127.0.0.1:${server.port}`, "--tls", "0", "--plain", "0"];
    const gate = await startWith(folder, args, 2);
    const url = `https://localhost:${gate.ports[0]}/`;
    const answer = await output("curl", ["-sS", "-i", "--max-time", "10", "--cacert", "certs/ca.crt", url], { cwd: folder });
    contains(answer, /^HTTP\/1\.1 404 /, "answer of a server that has no pages");
    await gate.end();
    await server.end();
  });
}

/** Both peers get a Close of their own (rule T9), and wsgate ends with 0. */
async function endsWithWs(folder, server) {
  const gate = await startGate(folder, tlsAndPlain + everythingTo(server.port), 2);
  const client = new WebSocket(`ws://127.0.0.1:${gate.ports[1]}/echo?id=ended`);
  await once(client, "open");
  const closed = once(client, "close");
  await gate.end();
  const [code, reason] = await closed;
  equal(code, 1012, "close code at the client");
  if (reason.length === 0) throw new Error("the Close frame has no reason");
  equal((await server.endOf("ended")).code, 1001, "close code at the server");
}

/** wscat tells of the end on a terminal alone, which `script` gives it. */
async function endsWithWscat(folder, server, ca) {
  const gate = await startGate(folder, tlsAndPlain + everythingTo(server.port), 2);
  const wscat = `${join(work, "node_modules/.bin/wscat")} --no-color --ca ${ca} --connect wss://localhost:${gate.ports[0]}/echo`;
  const terminal = new Program("wscat", "script", ["--quiet", "--return", "--command", wscat, "/dev/null"]);
  await terminal.saw(/Connected/);
  await gate.end();
  await terminal.saw(/Disconnected \(code: 1012, reason: "[^"]+"\)/);
  equal(await terminal.result(10), 0, "exit code of wscat");
}

async function endsBySigint(folder, server) {
  const gate = await startGate(folder, tlsAndPlain + everythingTo(server.port), 2);
  equal(await gate.program.end("SIGINT"), 0, "exit code");
}
