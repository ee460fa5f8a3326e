// The corpus of malformed and ambiguous messages, sent to wsgate, nginx and HAProxy. wsgate must do what each case says; what
// the others do is told for comparison.

import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";

import { readCorpus } from "../corpus.mjs";
import { question, reply, startCorpusBackend } from "../corpus_backend.mjs";
import { freshFolder, startGate } from "../gate.mjs";
import { response, statusOf } from "../messages.mjs";
import { equal, scenario, suite } from "../scenarios.mjs";
import { startServer, versionOf } from "../servers.mjs";

const corpus = join(process.env.INTEROP_WORK, "corpus");
const others = ["nginx", "haproxy"];
/** So many of each server, with as many backends, share the cases. */
const lanes = 4;
/** For what must come, in milliseconds. */
const patience = 10_000;
/** Whoever has answered, or has not, and is silent for so long, says nothing more. */
const silence = { answered: 150, unanswered: 500 };
/** For all cases with one server, in seconds. */
const limit = 240;

/** Sends the cases of all subjects, or of those that are named; `prints` the table of them all, too. */
export default ({ prints = false, subjects = [] } = {}) =>
  suite("strictness", async () => {
    const cases = await readCorpus(corpus, subjects);
    const outcomes = new Map();
    const send = async (name) => outcomes.set(name, await playAll(name, cases));
    const sent = (name) => scenario(`${name} is sent ${cases.length} cases`, () => send(name), limit);
    await Promise.all(["wsgate", ...others].map(sent));
    await playAgain(cases, outcomes.get("wsgate"));
    await judge(cases, outcomes.get("wsgate"));
    if (prints) printTable(cases, outcomes);
    console.log(`# strictness: ${cases.length} cases`);
    for (const name of others) {
      const found = differences(cases, outcomes.get("wsgate"), outcomes.get(name));
      const counts = Object.entries(found).map(([what, names]) => `${what} in ${names.length}`);
      console.log(`# ${await versionOf(name)} ${counts.join(", ")}`);
      if (prints) printDifferences(found);
    }
  });

/** Starts a wsgate: how to connect to it, and how to end it. */
async function startOwn(folder, backend) {
  const config = await readFile(join(corpus, "wsgate.toml"), "utf8");
  const gate = await startGate(folder, config.replace("${BACKEND}", backend), 2);
  const dial = ({ listener }) => ({ host: "127.0.0.1", port: gate.ports[listener === "underscores" ? 1 : 0] });
  return { dial, isJudged: true, end: () => gate.end() };
}

async function startOther(name, folder, backend) {
  const { program, socket } = await startServer(name, folder, backend);
  return { dial: () => ({ path: socket }), isJudged: false, end: () => program.end() };
}

/** Plays all cases with servers of a kind: the outcomes by name. */
async function playAll(name, cases) {
  const outcomes = new Map();
  const lane = async (place) => {
    const folder = await freshFolder(join("strictness", `${name}-${place}`));
    const backend = await startCorpusBackend();
    const server = await (name === "wsgate" ? startOwn : startOther.bind(undefined, name))(folder, backend.address);
    for (const its of cases.filter((_, index) => index % lanes === place)) {
      outcomes.set(its.name, await play(its, server, backend));
    }
    await backend.end();
    await server.end();
  };
  await Promise.all(Array.from({ length: lanes }, (_, place) => lane(place)));
  return outcomes;
}

/**
 * What came late of one case may have been counted for the next of its lane: those that did not come out have a gate and a
 * backend of their own, and that counts.
 */
async function playAgain(cases, outcomes) {
  for (const its of cases.filter((its) => !isAsTold(its, outcomes.get(its.name)))) {
    console.log(`# ${its.name} once more`);
    outcomes.set(its.name, (await playAll("wsgate", [its])).get(its.name));
  }
}

async function play(its, server, backend) {
  backend.begin(its.backend);
  const client = new Client(its, server.dial(its));
  await (server.isJudged ? client.playAsExpected() : client.playUntilSilence());
  client.socket.destroy();
  return outcome(its, client, backend);
}

/** The client of a case. */
class Client {
  constructor(its, address) {
    this.its = its;
    this.received = "";
    this.closed = false;
    this.changed = new EventTarget();
    this.socket = connect({ ...address, allowHalfOpen: true });
    this.socket.setEncoding("latin1").setNoDelay(true);
    this.socket.on("error", () => {});
    this.socket.on("data", (bytes) => this.#change(() => (this.received += bytes)));
    for (const event of ["end", "close"]) this.socket.on(event, () => this.#change(() => (this.closed = true)));
    this.socket.write(its.client.bytes);
    if (its.client.ends) this.socket.end();
  }

  #change(change) {
    change();
    this.changed.dispatchEvent(new Event("change"));
  }

  /** Resolves at the next change, or after so many milliseconds; to whether there was one. */
  #next(milliseconds) {
    return new Promise((resolve) => {
      const done = (changed) => {
        clearTimeout(timer);
        this.changed.removeEventListener("change", onChange);
        resolve(changed);
      };
      const onChange = () => done(true);
      const timer = setTimeout(done, milliseconds, false);
      this.changed.addEventListener("change", onChange);
    });
  }

  /** Waits for the answers that the case expects, or for the end of the connection if it expects that. */
  async playAsExpected() {
    const { statuses, then } = this.its;
    const staysOpen = then === "open" || then === "tunnel";
    await this.#until(() => staysOpen && this.#wholeAnswers() >= statuses.length);
    if (then === "tunnel") {
      this.socket.write(question, "latin1");
      await this.#until(() => this.received.endsWith(reply));
    }
  }

  #wholeAnswers() {
    const { statuses, isCut } = this.answers();
    return statuses.length - Number(isCut);
  }

  /** Waits until `isDone`, or the connection ends. */
  async #until(isDone) {
    const deadline = performance.now() + patience;
    while (!isDone() && !this.closed && performance.now() < deadline) await this.#next(deadline - performance.now());
  }

  async playUntilSilence() {
    await this.#silence();
    if (this.answers().statuses.at(-1) === "101" && !this.closed) {
      this.socket.write(question, "latin1");
      await this.#silence();
    }
  }

  async #silence() {
    const length = () => (this.answers().statuses.length > 0 ? silence.answered : silence.unanswered);
    while (!this.closed && (await this.#next(length())));
  }

  /** The statuses of the answers so far, and whether the last of them is not whole. */
  answers() {
    const statuses = [];
    let rest = this.received;
    let toHead = this.its.client.bytes.toString("latin1").startsWith("HEAD ");
    while (rest !== "") {
      const answer = response(rest, toHead, this.closed);
      const status = rest.startsWith("HTTP/1.") ? rest.slice(9, 12) : "0.9";
      if (answer === undefined) return { statuses: [...statuses, status], isCut: true };
      statuses.push(status);
      if (status === "101") break;
      toHead &&= statusOf(answer.head) < 200;
      rest = rest.slice(answer.length);
    }
    return { statuses, isCut: false };
  }
}

/** What came of a case. */
function outcome(its, client, backend) {
  const { statuses } = client.answers();
  const bytes = backend.bytes.toLowerCase();
  return {
    statuses,
    then: becameOf(client),
    requests: backend.requests,
    reached: backend.bytes !== "",
    leaks: its.neverAtBackend.some((text) => bytes.includes(text)),
    isOutOfStep: !its.backend && backend.requests.length > statuses.length,
  };
}

/** Node takes a reset for an end where it comes with the last bytes, so nothing is said of how a connection closed. */
function becameOf({ closed, received }) {
  if (closed) return "closed";
  return received.endsWith(reply) ? "tunnel" : "open";
}

/** wsgate has done what the cases say. */
async function judge(cases, outcomes) {
  for (const subject of new Set(cases.map((its) => its.subject))) {
    const own = cases.filter((its) => its.subject === subject);
    await scenario(`wsgate does what ${own.length} cases of ${subject} say`, () => {
      for (const its of own) judgeOne(its, outcomes.get(its.name));
    });
  }
}

function isAsTold(its, outcome) {
  try {
    judgeOne(its, outcome);
    return true;
  } catch {
    return false;
  }
}

function judgeOne(its, { statuses, then, requests, reached, leaks }) {
  equal(statuses.join(), its.statuses.join(), `${its.name}: the statuses`);
  equal(then, its.then.replace(/^(cut|tunnel ends.*)$/, "closed"), `${its.name}: what became of the connection`);
  equal(requests.join(), its.requests.join(), `${its.name}: what reached the backend`);
  equal(leaks, false, `${its.name}: whether it leaks`);
  if (its.reachesNothing) equal(reached, false, `${its.name}: whether a byte reached the backend`);
}

/** `400 -`: the statuses, and what reached the backend. */
function shown({ statuses, requests, reached, leaks }) {
  const none = reached ? "part" : "-";
  return `${statuses.join() || "none"} ${requests.length || none}${leaks ? "!" : ""}`;
}

function printTable(cases, outcomes) {
  const names = ["wsgate", ...others];
  console.log("#");
  console.log("# The statuses of the answers, and what reached the backend: `-` nothing, `part` of a request, or so many requests;");
  console.log("# `!` marks text that wsgate keeps from it.");
  console.log(`# ${"case".padEnd(60)}${names.map((name) => name.padEnd(18)).join("")}`);
  for (const { name } of cases) {
    const columns = names.map((server) => shown(outcomes.get(server).get(name)).padEnd(18));
    console.log(`# ${name.padEnd(60)}${columns.join("")}`.trimEnd());
  }
}

/** How another server differs from wsgate. */
function differences(cases, ours, theirs) {
  const kinds = cases.map((its) => [its.name, compare(its, ours.get(its.name), theirs.get(its.name))]);
  const of = (kind) => kinds.filter(([, its]) => its === kind).map(([name]) => name);
  const having = (what) => cases.map(({ name }) => name).filter((name) => theirs.get(name)[what]);
  return {
    "answers as wsgate": of("same"),
    "passes what wsgate refuses": of("passes"),
    "refuses what wsgate passes": of("refuses"),
    "answers otherwise": of("otherwise"),
    "brings text to the backend that wsgate keeps from it": having("leaks"),
    "has the backend see more requests than it answers": having("isOutOfStep"),
  };
}

function printDifferences(found) {
  for (const [what, names] of Object.entries(found).slice(1)) {
    console.log(`#   ${what}: ${names.length}`);
    const bySubject = {};
    for (const name of names) {
      const [subject, title] = name.split("/");
      (bySubject[subject] ??= []).push(title);
    }
    for (const [subject, titles] of Object.entries(bySubject)) console.log(`#     ${subject}: ${titles.join(" ")}`);
  }
}

/** Of requests it counts what reached the backend, of responses what reached the client. */
function compare(its, ours, theirs) {
  const passed = ({ statuses, requests }) => (its.backend ? Number(!statuses.includes("502")) : requests.length);
  if (passed(theirs) > passed(ours)) return "passes";
  if (passed(theirs) < passed(ours)) return "refuses";
  return theirs.statuses.join() === ours.statuses.join() ? "same" : "otherwise";
}
