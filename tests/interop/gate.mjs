// The one place where a wsgate is started, awaited and ended.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { Program, output, run } from "./programs.mjs";
import { equal } from "./scenarios.mjs";

const wsgate = process.env.WSGATE;
const work = process.env.INTEROP_WORK;

/** A folder of its own for a suite. */
export async function freshFolder(name) {
  const folder = join(work, "suites", name);
  await mkdir(folder, { recursive: true });
  return folder;
}

/** The environment of a user whose home is `folder`. */
export function homeIn(folder) {
  const { XDG_DATA_HOME, XDG_CONFIG_HOME, ...env } = process.env;
  return { ...env, HOME: folder };
}

/** Runs a wsgate command to its end in `folder`: its exit code and what it printed. */
export function command(folder, ...args) {
  return run(wsgate, args, { cwd: folder, env: homeIn(folder) });
}

/** Makes a server certificate by `wsgate cert` for `names` in `folder`/`into`: the CA's path. */
export async function makeCertificate(folder, into, ...names) {
  await output(wsgate, ["cert", "--dir", into, ...names], { cwd: folder, env: homeIn(folder) });
  return join(folder, into, "ca.crt");
}

/** The two listeners of the short form, with the certificate that `makeCertificate` made in `certs`. */
export const tlsAndPlain = `
[[listener]]
address = "127.0.0.1:0"
tls = { cert = "certs/server.crt", key = "certs/server.key" }

[[listener]]
address = "127.0.0.1:0"
`;

/** The rest of the short form: everything goes to a backend on `port`, by these further keys. */
export function everythingTo(port, keys = "") {
  return `
[upstream.websocket]
servers = ["127.0.0.1:${port}"]${keys && `\n${keys}`}

[[route]]
upstream = "websocket"
`;
}

/**
 * Starts wsgate by a configuration that listens on `listeners` addresses with port 0, and waits for the ports. Its drain is
 * not spread over time. `within` is a command that runs it, if there is one, by the arguments that are put behind.
 */
export async function startGate(folder, config, listeners, within) {
  await writeFile(join(folder, "proxy.toml"), `${config}\n[server]\ndrain_spread = "0s"\n`);
  return startWith(folder, ["run", "-c", "proxy.toml"], listeners, within);
}

/** Starts wsgate with these arguments, and waits until it has said where its listeners are. */
export async function startWith(folder, args, listeners, within = []) {
  const [first, ...rest] = [...within, wsgate, ...args];
  const program = new Program("wsgate", first, rest, { cwd: folder, env: homeIn(folder) });
  const gate = new Gate(program);
  const place = /listening\b.*?127\.0\.0\.1:(\d+)/g;
  await program.saw(new RegExp(`(?:${place.source}[^]*?){${listeners}}\n`));
  gate.ports = [...program.output.matchAll(place)].map((match) => Number(match[1]));
  return gate;
}

/** A wsgate that serves. */
class Gate {
  constructor(program) {
    this.program = program;
  }

  /** Waits for a line of the log that matches. */
  logged(pattern, options) {
    return this.program.saw(pattern, options);
  }

  /** Ends it as an operator does; it must end in order. */
  async end(limit = 30) {
    equal(await this.program.end("SIGTERM", limit), 0, "exit code of wsgate after SIGTERM");
  }
}
