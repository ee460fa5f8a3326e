// The cases of tests/corpus, in the format that its README.md describes. tests/it/corpus checks that they are well written.

import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";

/** All cases of the corpus in `folder`, by subject and name; only those of `subjects`, if any are named. */
export async function readCorpus(folder, subjects) {
  const entries = await readdir(folder, { withFileTypes: true });
  const all = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  const unknown = subjects.filter((subject) => !all.includes(subject));
  if (unknown.length > 0) throw new Error(`no subject is called ${unknown.join(", ")}; there are ${all.join(", ")}`);
  const cases = [];
  for (const subject of (subjects.length > 0 ? subjects : all).sort()) {
    for (const file of (await readdir(join(folder, subject))).sort()) {
      const text = await readFile(join(folder, subject, file), "utf8");
      cases.push({ subject, name: `${subject}/${file.replace(/\.txt$/, "")}`, ...parse(text) });
    }
  }
  return cases;
}

function parse(text) {
  const [fields, ...sections] = text.split(/^== /m);
  const all = (key) => [...fields.matchAll(new RegExp(`^${key}: (.*)$`, "gm"))].map((match) => match[1]);
  const reaches = all("backend");
  return {
    listener: all("listener")[0],
    statuses: all("answer").map((answer) => answer.split(" ")[0]).filter((status) => status !== "none"),
    then: all("then")[0],
    reachesNothing: reaches.includes("nothing"),
    requests: reaches.filter((request) => request !== "nothing" && request !== "part"),
    neverAtBackend: all("backend never sees").map((escaped) => unescape(escaped).toLowerCase()),
    client: script("client", sections),
    backend: script("backend", sections),
  };
}

/** What a side sends, as bytes, and whether it then ends. */
function script(side, sections) {
  const section = sections.find((text) => text.startsWith(side));
  if (section === undefined) return undefined;
  const [title, ...lines] = section.split("\n");
  return { bytes: Buffer.from(unescape(lines.join("")), "latin1"), ends: title.endsWith(", then ends") };
}

const plain = { r: "\r", n: "\n", t: "\t", 0: "\0", "\\": "\\" };

/** The bytes that a text stands for, a character each. */
function unescape(text) {
  return text.replace(/\\(?:x(..)|\{(\d+)\*([^}]*)\}|(.))/g, (_, hex, times, repeated, letter) => {
    if (hex !== undefined) return String.fromCharCode(Number.parseInt(hex, 16));
    if (times !== undefined) return unescape(repeated).repeat(Number(times));
    return plain[letter];
  });
}
