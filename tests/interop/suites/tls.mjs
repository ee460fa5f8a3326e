// openssl s_client on wsgate's TLS: versions, certificates by name, and the protocol (ALPN).

import { freshFolder, makeCertificate, startGate } from "../gate.mjs";
import { run } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const config = `
[[listener]]
address = "127.0.0.1:0"
tls.certificates = [
  { cert = "first/server.crt", key = "first/server.key" },
  { cert = "second/server.crt", key = "second/server.key" },
]

[[listener]]
address = "127.0.0.1:0"
tls = { cert = "first/server.crt", key = "first/server.key", min_version = "1.3" }

[[route]]
respond = { status = 200, body = "hello" }
`;

/** Lets openssl offer what it would by itself no longer offer. */
const oldOnes = ["-cipher", "ALL:@SECLEVEL=0"];

export default () =>
  suite("tls", async () => {
    const folder = await freshFolder("tls");
    await makeCertificate(folder, "first", "first.test");
    await makeCertificate(folder, "second", "second.test");
    const gate = await startGate(folder, config, 2);
    const [both, newest] = gate.ports;

    await versions(both, newest);
    await names(folder, both);
    await protocols(both);

    await gate.end();
  });

async function versions(both, newest) {
  for (const [name, option] of [["1.0", "-tls1"], ["1.1", "-tls1_1"]]) {
    await scenario(`openssl: TLS ${name} is refused`, () => isRefused(both, "(protocol version|handshake failure)", option, ...oldOnes));
  }
  for (const [name, option] of [["1.2", "-tls1_2"], ["1.3", "-tls1_3"]]) {
    await scenario(`openssl: TLS ${name} is spoken`, () => speaks(both, `TLSv${name}`, option));
  }
  await scenario("openssl: the newest is preferred", () => speaks(both, "TLSv1.3"));
  await scenario("openssl: TLS 1.2 is refused with min_version 1.3", () =>
    isRefused(newest, "protocol version", "-tls1_2"),
  );
  await scenario("openssl: TLS 1.3 is spoken with min_version 1.3", () => speaks(newest, "TLSv1.3"));
}

async function names(folder, port) {
  const shows = (name, ...options) => isShown(folder, port, name, ...options);
  await scenario("openssl: SNI chooses the first certificate", () => shows("first", "-servername", "first.test"));
  await scenario("openssl: SNI chooses the second certificate", () => shows("second", "-servername", "second.test"));
  await scenario("openssl: SNI is matched in any case", () => shows("second", "-servername", "SECOND.test"));
  await scenario("openssl: an unknown SNI gets the first", () => shows("first", "-servername", "third.test"));
  await scenario("openssl: no SNI gets the first", () => shows("first", "-noservername"));
}

async function protocols(port) {
  const chosen = async (expected, ...options) => contains((await connects(port, ...options)).output, expected, "output");
  await scenario("openssl: ALPN http/1.1 is chosen", () => chosen("ALPN protocol: http/1.1", "-alpn", "http/1.1"));
  await scenario("openssl: ALPN http/1.1 is chosen behind h2", () =>
    chosen("ALPN protocol: http/1.1", "-alpn", "h2,http/1.1"),
  );
  await scenario("openssl: no ALPN is fine", () => chosen("No ALPN negotiated"));
  await scenario("openssl: ALPN h2 alone is refused", () => isRefused(port, "no application protocol", "-alpn", "h2"));
}

function connects(port, ...options) {
  return run("openssl", ["s_client", "-connect", `127.0.0.1:${port}`, ...options], { limit: 10 });
}

async function speaks(port, version, ...options) {
  const { code, output } = await connects(port, ...options);
  equal(code, 0, "exit code of openssl");
  contains(output, new RegExp(`New, ${version}, |Protocol *: ${version}\\b`), "output");
}

/** The refusal is an alert that says why. */
async function isRefused(port, alert, ...options) {
  const { code, output } = await connects(port, ...options);
  equal(code, 1, "exit code of openssl");
  contains(output, new RegExp(`alert ${alert}`), "output");
}

/** The certificate of this folder is shown, and its CA vouches for it. */
async function isShown(folder, port, name, ...options) {
  const trust = ["-CAfile", `${folder}/${name}/ca.crt`, "-verify_hostname", `${name}.test`, "-verify_return_error"];
  const { code, output } = await connects(port, ...trust, ...options);
  equal(code, 0, `exit code of openssl (${output.trim().split("\n").at(-1)})`);
  contains(output, "Verify return code: 0 (ok)", "output");
}
