// Prometheus's promtool over what examples/prometheus has for it.

import { join } from "node:path";

import { output } from "../programs.mjs";
import { contains, scenario, suite } from "../scenarios.mjs";

const folder = join(process.env.INTEROP_WORK, "prometheus");

export default () =>
  suite("metrics", async () => {
    await scenario("promtool takes the alerts", async () => {
      contains(await output("promtool", ["check", "rules", join(folder, "alerts.yml")]), /SUCCESS: \d+ rules found/, "promtool");
    });
    await scenario("promtool takes the configuration that scrapes", async () => {
      contains(await output("promtool", ["check", "config", join(folder, "prometheus.yml")]), /is valid/, "promtool");
    });
  });
