// All suites, one after the other; those that are named, if any are.

import { endAll, endAllOnSignals } from "./programs.mjs";
import { close } from "./scenarios.mjs";
import browser from "./suites/browser.mjs";
import commandLine from "./suites/command_line.mjs";
import hello from "./suites/hello.mjs";
import kubernetes from "./suites/kubernetes.mjs";
import logs from "./suites/logs.mjs";
import metrics from "./suites/metrics.mjs";
import mutualTls from "./suites/mutual_tls.mjs";
import names from "./suites/names.mjs";
import node from "./suites/node.mjs";
import debianPackage from "./suites/package.mjs";
import python from "./suites/python.mjs";
import slow from "./suites/slow.mjs";
import socketio from "./suites/socketio.mjs";
import strictness from "./suites/strictness.mjs";
import tls from "./suites/tls.mjs";
import tlsPosture from "./suites/tls_posture.mjs";

const proxies = { tls, tls_posture: tlsPosture, mutual_tls: mutualTls, names, slow, strictness };
const operations = { metrics, logs, package: debianPackage, kubernetes };
const suites = { hello, command_line: commandLine, ...proxies, ...operations, node, socketio, python, browser };
const chosen = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(suites);
const unknown = chosen.filter((name) => !Object.hasOwn(suites, name));
if (unknown.length > 0) {
  console.error(`no suite is called ${unknown.join(", ")}; there are ${Object.keys(suites).join(", ")}`);
  process.exit(2);
}

endAllOnSignals();
for (const name of chosen) {
  await suites[name]();
  await endAll();
}
process.exit(close() ? 0 : 1);
