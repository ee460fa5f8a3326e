// What wsgate, nginx and HAProxy make of the corpus, as a table: strictness.mjs [SUBJECT...]

import { endAll, endAllOnSignals } from "./programs.mjs";
import { close } from "./scenarios.mjs";
import strictness from "./suites/strictness.mjs";

endAllOnSignals();
await strictness({ prints: true, subjects: process.argv.slice(2) });
await endAll();
process.exit(close() ? 0 : 1);
