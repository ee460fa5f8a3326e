// The list of what was tried: a line for each scenario, and the sum at the end.

import { runningNow } from "./programs.mjs";

const shownLines = 15;
let passed = 0;
let failed = 0;

/** Runs one scenario; `limit` is in seconds. What it throws is why it failed. */
export async function scenario(name, body, limit = 30) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done in ${limit} s`)), limit * 1000);
  });
  try {
    await Promise.race([body(), late]);
    passed += 1;
    console.log(`ok - ${name}`);
  } catch (error) {
    report(name, error);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs a suite; if what its scenarios stand on fails, that counts as one failure. */
export async function suite(name, body) {
  const began = performance.now();
  try {
    await body();
  } catch (error) {
    report(name, error);
  }
  console.log(`# ${name}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
}

/** Prints the closing line. Resolves to whether all passed. */
export function close() {
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0;
}

export function equal(actual, expected, what) {
  if (actual !== expected) throw new Error(`${what} is ${shown(actual)}, not ${shown(expected)}`);
}

export function contains(text, part, what) {
  const found = part instanceof RegExp ? part.test(text) : text.includes(part);
  if (!found) throw new Error(`${what} lacks ${part}: ${shown(text)}`);
}

function report(name, error) {
  failed += 1;
  console.log(`not ok - ${name}: ${String(error.message).replace(/\s*\n\s*/g, " | ")}`);
  for (const program of runningNow()) {
    const lines = program.output.trim().split("\n").slice(-shownLines);
    console.log([`# ${program.name} printed last:`, ...lines].join("\n#   "));
  }
}

function shown(value) {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
