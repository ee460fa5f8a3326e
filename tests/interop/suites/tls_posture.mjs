// sslyze and testssl.sh on wsgate's TLS: what an auditor would run.

import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { freshFolder, startGate } from "../gate.mjs";
import { output, run } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const sslyze = join(process.env.INTEROP_WORK, "venv", "bin", "sslyze");

const listener = (keys) => `
[[listener]]
address = "127.0.0.1:0"
tls = { cert = "server.crt", key = "server.key", hsts = "730d"${keys} }
`;

const config = `${listener("")}${listener(', min_version = "1.3"')}
[[route]]
respond = { status = 200, body = "hello" }
`;

/** What testssl.sh finds and wsgate is not to blame for, by testssl's name of it. */
const exceptions = {
  engine_problem: "the openssl that testssl.sh runs has no GOST",
  cert_revocation: "the certificate is of a CA that was made for this test and has no list of what it revoked",
  DNS_CAArecord: "localhost has no records",
  security_headers: "the headers of answers are the backend's, but for Strict-Transport-Security",
};

export default () =>
  suite("tls_posture", async () => {
    const folder = await freshFolder("tls_posture");
    await makeShortLivedCertificate(folder);
    const gate = await startGate(folder, config, 2);
    const [both, newest] = gate.ports;

    await scenario("sslyze: Mozilla's intermediate profile", () => complies(folder, both, "intermediate"), 90);
    await scenario("sslyze: Mozilla's modern profile, with min_version 1.3", () => complies(folder, newest, "modern"), 90);
    await scenario("testssl.sh: no finding that wsgate could avoid", () => isClean(folder, both), 470);

    await gate.end();
  });

/** One that lives 80 days, as Mozilla's modern profile wants it; those for development live longer. */
async function makeShortLivedCertificate(folder) {
  const openssl = (...args) => output("openssl", args, { cwd: folder });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  await writeFile(
    join(folder, "ext"),
    "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n" +
      "extendedKeyUsage=serverAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
  );
  const ofCa = ["-subj", "/CN=posture", "-days", "90", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
  await openssl("req", "-x509", ...newKey, "-keyout", "ca.key", "-out", "ca.crt", ...ofCa);
  await openssl("req", ...newKey, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost");
  const sign = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "80", "-extfile", "ext"];
  await openssl("x509", "-req", "-in", "server.csr", ...sign, "-out", "server.crt");
}

/** It ends with 0 if all that the profile asks for is there, and nothing more. */
async function complies(folder, port, profile) {
  const args = [`--mozilla_config=${profile}`, `--certinfo_ca_file=${join(folder, "ca.crt")}`, `localhost:${port}`];
  const { code, output: report } = await run(sslyze, args, { limit: 80 });
  const verdict = report.slice(report.indexOf("COMPLIANCE"));
  equal(code, 0, `exit code of sslyze (${verdict.trim().replace(/\s+/g, " ")})`);
  contains(verdict, "OK - Compliant", "the verdict");
}

async function isClean(folder, port) {
  let findings = await examine(folder, port);
  // A check that testssl.sh could not make, as happens to it on a busy machine, is no finding: it has a second try.
  const couldNot = ({ id, severity }) => severity === "WARN" && !Object.hasOwn(exceptions, id);
  if (findings.some(couldNot)) findings = await examine(folder, port);
  const named = (id) => findings.find((finding) => finding.id === id)?.finding ?? "nothing";
  // It got through: these are from the first, a middle and the last part of its work.
  contains(named("TLS1_3"), "offered", "what testssl.sh says of TLS 1.3");
  contains(named("HSTS_time"), "730 days", "what testssl.sh says of HSTS");
  contains(named("RC4"), "not vulnerable", "what testssl.sh says of RC4");
  const bad = findings.filter(({ id, severity }) => !["OK", "INFO"].includes(severity) && !Object.hasOwn(exceptions, id));
  equal(bad.map(({ id, severity, finding }) => `${severity} ${id}: ${finding}`).join("; "), "", "findings of testssl.sh");
}

/** What testssl.sh finds. */
async function examine(folder, port) {
  const report = join(folder, "testssl.json");
  await rm(report, { force: true });
  const quiet = ["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1"];
  const checks = ["--protocols", "--std", "--server-preference", "--pfs", "--server-defaults", "--headers", "--vulnerable"];
  const args = [...quiet, ...checks, "--add-ca", join(folder, "ca.crt"), "--jsonfile", report, `localhost:${port}`];
  await run("testssl", args, { limit: 230, cwd: folder });
  return JSON.parse(await readFile(report, "utf8"));
}
