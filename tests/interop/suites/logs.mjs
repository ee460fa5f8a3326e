// logrotate turns the access log over while requests come: no record is lost, and none is written twice.

import { readFile, readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { freshFolder, startGate } from "../gate.mjs";
import { output } from "../programs.mjs";
import { equal, scenario, suite } from "../scenarios.mjs";

const turns = 5;

const config = `
[log]
format = "json"
access = "access.log"

[[listener]]
address = "127.0.0.1:0"

[[route]]
respond = { status = 204 }
`;

export default () =>
  suite("logs", async () => {
    const folder = await freshFolder("logs");
    const gate = await startGate(folder, config, 1);
    await scenario("logrotate turns the access log over under load", async () => {
      const load = startLoad(`http://127.0.0.1:${gate.ports[0]}`);
      for (let turn = 1; turn <= turns; turn += 1) {
        await load.reaches(turn * 100);
        await rotate(folder, gate.program.child.pid);
        await gate.logged(new RegExp(`(?:access log reopened[^]*?){${turn}}`));
      }
      await load.reaches((turns + 1) * 100);
      const asked = await load.end();
      await gate.end();
      const files = (await readdir(folder)).filter((name) => name.startsWith("access.log"));
      equal(files.length, turns + 1, "number of files");
      const records = (await Promise.all(files.map((name) => readFile(join(folder, name), "utf8")))).join("");
      const targets = records.trim().split("\n").map((line) => JSON.parse(line).target);
      equal(targets.length, asked, "number of records");
      equal(new Set(targets).size, asked, "number of different records");
      equal((await stat(join(folder, "access.log"))).mode & 0o137, 0, "permissions of others");
    });
  });

/** Requests, four at a time, each for a path of its own. */
function startLoad(url) {
  let [asked, answered, goesOn] = [0, 0, true];
  const ask = async () => {
    while (goesOn) {
      asked += 1;
      const { status } = await fetch(`${url}/${asked}`, { signal: AbortSignal.timeout(10_000) });
      equal(status, 204, "status");
      answered += 1;
    }
  };
  const workers = Promise.all([ask(), ask(), ask(), ask()]);
  const reaches = async (count) => {
    while (answered < count) {
      const step = new Promise((resolve) => setImmediate(resolve));
      await Promise.race([step, workers]);
    }
  };
  const end = async () => {
    goesOn = false;
    await workers;
    return asked;
  };
  return { reaches, end };
}

/** What logrotate does once a day, done now. */
async function rotate(folder, process) {
  const rules = `"${join(folder, "access.log")}" {
    rotate 20
    missingok
    nocreate
    postrotate
        kill -USR1 ${process}
    endscript
}
`;
  await writeFile(join(folder, "rotate.conf"), rules, { mode: 0o600 });
  await output("logrotate", ["--force", "--state", join(folder, "state"), join(folder, "rotate.conf")]);
}
