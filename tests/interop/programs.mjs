// Programs that the scenarios start. Every wait has a deadline, and none outlives the run.

import { spawn } from "node:child_process";
import { setTimeout as after } from "node:timers/promises";

const seconds = 1000;
const running = new Set();
let stopping = false;

/** A program that was started and runs beside the scenarios. */
export class Program {
  constructor(name, command, args, options) {
    if (stopping) throw new Error("the run was told to stop");
    this.name = name;
    this.output = "";
    this.changed = new EventTarget();
    this.child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => this.#add(text));
    }
    // A program that ended takes no input; its exit is what is looked at.
    this.child.stdin.on("error", () => {});
    this.ended = new Promise((resolve) => {
      const end = (how) => {
        running.delete(this);
        this.exit = how;
        this.#add("");
        resolve(how);
      };
      this.child.once("error", (error) => end(error.message));
      this.child.once("close", (code, signal) => end(signal ?? code));
    });
    running.add(this);
  }

  #add(text) {
    this.output += text;
    this.changed.dispatchEvent(new Event("change"));
  }

  /**
   * The first match of `pattern` in the output from offset `from` on. Throws when the program ends without it, or
   * `limit` seconds have passed.
   */
  async saw(pattern, { limit = 10, from = 0 } = {}) {
    const found = () => pattern.exec(this.output.slice(from));
    const deadline = AbortSignal.timeout(limit * seconds);
    while (!found()) {
      if (this.exit !== undefined) throw new Error(`${this.name} ended (${this.exit}) without ${pattern}: ${this.tail()}`);
      if (deadline.aborted) throw new Error(`${this.name} did not print ${pattern} in ${limit} s: ${this.tail()}`);
      await nextEvent(this.changed, "change", deadline);
    }
    return found();
  }

  /** Writes a line to the program's input. */
  say(line) {
    this.child.stdin.write(`${line}\n`);
  }

  /** Sends `signal`, and resolves to the exit code, or to the signal that ended it. Cuts it after `limit` seconds. */
  async end(signal = "SIGTERM", limit = 10) {
    if (this.exit === undefined) this.child.kill(signal);
    return this.result(limit);
  }

  /** Resolves to the exit code, or to the signal that ended the program. Cuts it after `limit` seconds. */
  async result(limit) {
    const late = Symbol("late");
    const waiting = new AbortController();
    const timer = after(limit * seconds, late, { signal: waiting.signal }).catch(() => late);
    const how = await Promise.race([this.ended, timer]);
    waiting.abort();
    if (how !== late) return how;
    this.child.kill("SIGKILL");
    await this.ended;
    throw new Error(`${this.name} did not end in ${limit} s: ${this.tail()}`);
  }

  /** The last lines that it printed, as one line. */
  tail(lines = 4) {
    return this.output.trim().split("\n").slice(-lines).join(" | ");
  }
}

/** Runs a program to its end; its input is `input`, and its output and exit code are the result. */
export async function run(command, args, { input = "", limit = 20, ...options } = {}) {
  const program = new Program(command, command, args, options);
  program.child.stdin.end(input);
  const code = await program.result(limit);
  return { code, output: program.output };
}

/** As `run`, for a program that must end with 0: its output. */
export async function output(command, args, options) {
  const { code, output } = await run(command, args, options);
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code}: ${output.trim()}`);
  return output;
}

/** Ends every program that is left. */
export async function endAll() {
  await Promise.allSettled([...running].map((program) => program.end("SIGTERM", 5)));
}

/** A run that is told to stop leaves none behind either. */
export function endAllOnSignals() {
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.once(signal, async () => {
      stopping = true;
      await endAll();
      process.exit(1);
    });
  }
}

/** What runs now, for the report of a failure. */
export function runningNow() {
  return [...running];
}

function nextEvent(target, name, signal) {
  return new Promise((resolve) => {
    const done = () => {
      target.removeEventListener(name, done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    target.addEventListener(name, done);
    signal.addEventListener("abort", done);
  });
}
