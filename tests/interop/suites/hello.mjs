// The Node program of the original setting behind wsgate, by the ten-line configuration, as curl and wscat see it.

import { join } from "node:path";

import { everythingTo, freshFolder, makeCertificate, startGate, tlsAndPlain } from "../gate.mjs";
import { Program, output, run } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const work = process.env.INTEROP_WORK;
const greeting = "Websocket Send: Hello World";

const upgrade = [
  ...["--header", "Connection: Upgrade"],
  ...["--header", "Upgrade: websocket"],
  ...["--header", "Sec-WebSocket-Version: 13"],
  ...["--header", "Sec-WebSocket-Key: MlRAR6bQZi07587UD4H8oA=="],
];

export default () =>
  suite("hello", async () => {
    const folder = await freshFolder("hello");
    const ca = await makeCertificate(folder, "certs");
    const backend = await startBackend();
    const gate = await startGate(folder, tlsAndPlain + everythingTo(backend.port), 2);
    const [tls, plain] = gate.ports;

    await scenario("curl over http", () => getsHello(`http://127.0.0.1:${plain}/`));
    await scenario("curl -k over https", () => getsHello(`https://127.0.0.1:${tls}/`, "-k"));
    await scenario("curl over https with the CA", () => getsHello(`https://127.0.0.1:${tls}/`, "--cacert", ca));
    await scenario("curl over https by name with the CA", () => getsHello(`https://localhost:${tls}/`, "--cacert", ca));
    await scenario("curl does not trust the certificate without the CA", () => distrusts(`https://127.0.0.1:${tls}/`));
    await scenario("handshake by curl over http", () => shakesHands(`http://127.0.0.1:${plain}/`));
    await scenario("handshake by curl over https", () => shakesHands(`https://127.0.0.1:${tls}/`, "--cacert", ca));
    await scenario("wscat over ws", () => echoes(`ws://127.0.0.1:${plain}`));
    await scenario("wscat -n over wss", () => echoes(`wss://127.0.0.1:${tls}`, "-n"));
    await scenario("wscat over wss with the CA", () => echoes(`wss://localhost:${tls}`, "--ca", ca));
    await scenario("wsgate ends in order", () => gate.end());
    await backend.program.end();
  });

/** The example backend, on a port of its own choice. */
async function startBackend() {
  const env = { ...process.env, PORT: "0", HOST: "127.0.0.1" };
  const program = new Program("node-backend", "node", [join(work, "node-backend", "server.js")], { env });
  const [, port] = await program.saw(/listening on (\d+)\n/);
  return { program, port };
}

async function getsHello(url, ...options) {
  const answer = await output("curl", ["-sS", "-i", "--max-time", "10", ...options, url]);
  contains(answer, /^HTTP\/1\.1 200 OK\r\n/, "answer");
  equal(answer.split("\r\n\r\n")[1], "Http Message: Hello World", "body");
}

async function distrusts(url) {
  const { code } = await run("curl", ["-sS", "--max-time", "10", url]);
  equal(code, 60, "exit code of curl");
}

/** curl knows nothing of frames: it prints what comes after the 101 until its time is up, which is exit code 28. */
async function shakesHands(url, ...options) {
  const args = ["-sS", "-i", "--http1.1", "--no-buffer", "--max-time", "2", ...upgrade, ...options, url];
  const { code, output: answer } = await run("curl", args);
  equal(code, 28, "exit code of curl");
  const [head, frames] = answer.split("\r\n\r\n");
  contains(head, /^HTTP\/1\.1 101 Switching Protocols\r\n/, "answer");
  contains(head, /\r\nUpgrade: websocket(\r\n|$)/i, "answer");
  contains(head, /\r\nConnection:[^\r]*\bupgrade\b/i, "answer");
  contains(head, /\r\nSec-WebSocket-Accept: iURIl3uIT\+tsPMmZ0x1IVH7EL98=(\r\n|$)/, "answer");
  contains(frames, greeting, "what follows the 101");
}

async function echoes(url, ...options) {
  const wscat = new Program("wscat", join(work, "node_modules/.bin/wscat"), [...options, "--connect", url]);
  try {
    await wscat.saw(new RegExp(greeting));
    wscat.say("over there");
    await wscat.saw(/over there\n/);
    wscat.child.stdin.end();
    equal(await wscat.result(5), 0, "exit code of wscat");
  } finally {
    await wscat.end();
  }
}
