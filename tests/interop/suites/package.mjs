// Debian's package: installed on this machine, served by what it installed, reloaded, rotated and removed again.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { freshFolder } from "../gate.mjs";
import { Program, output, run } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const file = process.env.WSGATE_PACKAGE;
const config = "/etc/wsgate/proxy.toml";
const program = "/usr/bin/wsgate";
/** Where the packaged configuration listens, and where this suite makes it listen. */
const packagedAddress = '"0.0.0.0:80"';
const triedAddress = '"127.0.0.1:0"';
/** How the version ends of a package that tests/interop/run built. */
const ownRevision = "~interop";
/** What `systemd-analyze security` may give the unit at most; less is better. */
const mostExposed = 2.0;
/** What the unit gives it: the user, and one capability. */
const asService = [
  "--reuid=wsgate",
  "--regid=wsgate",
  "--init-groups",
  "--no-new-privs",
  ...["--inh-caps", "--ambient-caps", "--bounding-set"].map((set) => `${set}=-all,+net_bind_service`),
];

export default () =>
  suite("package", async () => {
    const folder = await freshFolder("package");
    await removeLeftover();
    // A run that is told to stop leaves nothing installed.
    process.on("exit", purge);
    await scenario("it holds the program, its pages, completions, unit and configuration", holdsAll);
    await scenario("it installs", () => output("apt-get", ["install", "-y", "--no-install-recommends", file], { limit: 120 }), 130);
    try {
      await installed(folder);
    } finally {
      await scenario("removed, it leaves the configuration alone; purged, nothing", removes, 60);
      process.off("exit", purge);
    }
  });

/** Purges what a run that was cut short left installed. Throws if what is installed is somebody's own. */
async function removeLeftover() {
  const { code, output: version } = await run("dpkg-query", ["--show", "--showformat=${Version}", "wsgate"]);
  if (code !== 0 || version === "") return;
  if (!(await isLeftover(version))) {
    throw new Error(`wsgate ${version} is installed on this machine: run dpkg --purge wsgate if nobody needs it, or the other suites alone`);
  }
  console.log(`# purging wsgate ${version}, which an earlier run left installed`);
  for (const id of runsAs()) process.kill(id, "SIGKILL");
  await until(() => runsAs().length === 0);
  const { status, output: said } = purge();
  if (status !== 0) throw new Error(`dpkg --purge wsgate ended with ${status}: ${said}`);
}

/**
 * Whether the package that is installed with this version came from this suite: by the version, or by the configuration. What
 * has the plain version may be of an older tree; it is nobody's own if it does not run and its configuration is as packaged.
 */
async function isLeftover(version) {
  if (version.endsWith(ownRevision)) return true;
  if (existsSync(config) && readFileSync(config, "utf8").includes(triedAddress)) return true;
  const built = (await output("dpkg-deb", ["--field", file, "Version"])).trim();
  if (`${version}${ownRevision}` !== built || runsAs().length > 0) return false;
  return (await output("dpkg", ["--verify", "wsgate"])) === "";
}

/** The processes that run the installed program. */
function runsAs() {
  const runs = (id) => {
    try {
      return readlinkSync(`/proc/${id}/exe`).startsWith(program);
    } catch {
      return false;
    }
  };
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name) && runs(name)).map(Number);
}

/** Purges the package, in whatever state it is. */
function purge() {
  const { status, output: said } = spawnSync("dpkg", ["--purge", "--force-remove-reinstreq", "wsgate"], { encoding: "utf8" });
  return { status, output: String(said?.join("")) };
}

async function holdsAll() {
  const held = await output("dpkg-deb", ["--contents", file]);
  const paths = [
    "usr/bin/wsgate",
    "usr/share/man/man1/wsgate.1.gz",
    "usr/share/man/man1/wsgate-run.1.gz",
    "usr/share/bash-completion/completions/wsgate",
    "usr/share/zsh/vendor-completions/_wsgate",
    "usr/share/fish/vendor_completions.d/wsgate.fish",
    "usr/lib/systemd/system/wsgate.service",
    "etc/wsgate/proxy.toml",
    "etc/logrotate.d/wsgate",
  ];
  for (const path of paths) contains(held, `./${path}\n`, "the package");
}

async function installed(folder) {
  await scenario("the service has a user of its own, who alone reads the configuration", async () => {
    contains(await output("id", ["wsgate"]), "(wsgate)", "id");
    equal(await output("stat", ["-c", "%U:%G %a", config]), "root:wsgate 640\n", "who may read the configuration");
    equal((await asUser("check", "-c", config)).code, 0, "exit code of check");
    const { code } = await run("setpriv", ["--reuid=nobody", "--clear-groups", "cat", config]);
    equal(code, 1, "exit code of another user's cat");
  });
  await scenario("the unit is sound, and exposes little", hardened);
  await scenario("bash takes the completions", () => output("bash", ["-n", "/usr/share/bash-completion/completions/wsgate"]));
  const service = await serve();
  const url = `http://127.0.0.1:${service.port}/`;
  await scenario("it serves, and is healthy", async () => {
    contains(await text(url), "wsgate is installed", "answer");
    equal((await asUser("status", "--health", "-c", config)).code, 0, "exit code of status --health");
    const { code, output: said } = await asUser("status", "-c", config);
    equal(code, 0, "exit code of status");
    contains(said, ", ready", "status");
    contains(said, `127.0.0.1:${service.port}`, "status");
  });
  await scenario("it is reloaded, and a broken file leaves it as it is", () => reloads(url));
  await scenario("logrotate and SIGUSR1 lose no record", () => rotates(folder, url, service));
  await scenario("SIGTERM ends it in order", async () => equal(await service.end("SIGTERM", 30), 0, "exit code"));
}

/** Runs the installed program as the service's user. */
function asUser(...args) {
  return run("setpriv", ["--reuid=wsgate", "--regid=wsgate", "--init-groups", program, ...args]);
}

async function hardened() {
  const unit = "/usr/lib/systemd/system/wsgate.service";
  const said = await output("systemd-analyze", ["security", "--offline=true", unit]);
  const [, figure] = /exposure level for wsgate\.service: ([\d.]+)/.exec(said) ?? [];
  console.log(`# systemd-analyze security: ${figure}`);
  if (!(Number(figure) <= mostExposed)) throw new Error(`systemd-analyze security gives ${figure}`);
  const { code, output: faults } = await run("systemd-analyze", ["verify", "--man=no", unit]);
  equal(code, 0, `exit code of systemd-analyze verify, which says ${faults}`);
}

/** Starts what the unit starts, on a port that is free. */
async function serve() {
  const packaged = await readFile(config, "utf8");
  contains(packaged, packagedAddress, "the packaged configuration");
  await writeFile(config, packaged.replace(packagedAddress, triedAddress));
  await output("install", ["-d", "-o", "wsgate", "-g", "wsgate", "-m", "0750", "/run/wsgate"]);
  const service = new Program("the service", "setpriv", [...asService, program, "run", "-c", config], { cwd: "/etc/wsgate" });
  const [, port] = await service.saw(/listening\b.*?127\.0\.0\.1:(\d+)/);
  service.port = Number(port);
  await service.saw(/admin listening/);
  return service;
}

async function text(url) {
  const response = await fetch(url, { signal: AbortSignal.timeout(5000) });
  return response.text();
}

async function reloads(url) {
  const before = await readFile(config, "utf8");
  await writeFile(config, before.replace("wsgate is installed.", "Reloaded."));
  const { code, output: said } = await asUser("reload", "-c", config);
  equal(code, 0, `exit code of reload, which says ${said}`);
  contains(await text(url), "Reloaded.", "answer");
  await writeFile(config, `${before}\n[[route]]\nupstrem = "nobody"\n`);
  const refused = await asUser("reload", "-c", config);
  equal(refused.code, 2, "exit code of reload with a broken file");
  contains(refused.output, "upstrem", "what reload says");
  contains(await text(url), "Reloaded.", "answer");
  await writeFile(config, before);
  equal((await asUser("reload", "-c", config)).code, 0, "exit code of the last reload");
}

async function rotates(folder, url, service) {
  const log = "/var/log/wsgate/access.log";
  const records = async (name) => (existsSync(name) ? (await readFile(name, "utf8")).trim().split("\n").length : 0);
  await text(`${url}before`);
  await until(async () => (await readFile(log, "utf8")).includes("/before"));
  const before = await records(log);
  await output("logrotate", ["--force", "--state", join(folder, "state"), "/etc/logrotate.d/wsgate"]);
  service.child.kill("SIGUSR1");
  await until(() => existsSync(log));
  await text(`${url}after`);
  await until(async () => (await readFile(log, "utf8")).includes("/after"));
  equal(await records(`${log}.1`), before, "records in the old file");
  equal(await records(log), 1, "records in the new file");
}

/** Waits until `holds`, as long as the scenario has time. */
async function until(holds) {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function removes() {
  await output("dpkg", ["--remove", "wsgate"], { limit: 60 });
  equal(existsSync(program), false, "whether the program is there");
  equal(existsSync(config), true, "whether the configuration is there");
  await output("dpkg", ["--purge", "wsgate"], { limit: 60 });
  for (const path of ["/etc/wsgate", "/var/log/wsgate", "/var/lib/wsgate", "/etc/logrotate.d/wsgate"]) {
    equal(existsSync(path), false, `whether ${path} is there`);
  }
  equal((await run("id", ["wsgate"])).code, 1, "exit code of id");
}
