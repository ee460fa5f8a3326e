// The manifests of examples/kubernetes: they are YAML, and wsgate takes the configuration that they hold.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { command, freshFolder, homeIn, makeCertificate } from "../gate.mjs";
import { output, run } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const work = process.env.INTEROP_WORK;
const wsgate = process.env.WSGATE;
const tokens = { WSGATE_ADMIN_TOKEN: "0123456789abcdef0123456789abcdef", WSGATE_METRICS_TOKEN: "fedcba9876543210fedcba9876543210" };

export default () =>
  suite("kubernetes", async () => {
    const folder = await freshFolder("kubernetes");
    await makeCertificate(folder, "certs");
    const documents = [];
    await scenario("the manifests are YAML of the kinds that they should be", async () => {
      documents.push(...(await manifests("wsgate.yaml")), ...(await manifests("scaling.yaml")));
      const kinds = documents.map(({ kind }) => kind).join(" ");
      equal(kinds, "ConfigMap Deployment Service PodDisruptionBudget HorizontalPodAutoscaler", "kinds");
    });
    const config = documents[0].data["proxy.toml"];
    await scenario("wsgate takes the configuration", () => takes(folder, config));
    await scenario("without a token it takes it not", async () => {
      const { code, output: said } = await command(folder, "check", "-c", "proxy.toml");
      equal(code, 2, "exit code");
      contains(said, "WSGATE_ADMIN_TOKEN", "output");
    });
    await scenario("the pod has time for the delay and the grace", () => {
      const seconds = (key) => Number(new RegExp(`${key} = "(\\d+)s"`).exec(config)[1]);
      const { terminationGracePeriodSeconds } = documents[1].spec.template.spec;
      const needed = seconds("shutdown_delay") + seconds("shutdown_grace");
      if (!(terminationGracePeriodSeconds > needed)) throw new Error(`${terminationGracePeriodSeconds} s for ${needed} s`);
    });
    await scenario("the ports of probes and Services are those of the listeners", () => {
      const [container] = documents[1].spec.template.spec.containers;
      for (const { containerPort } of container.ports) contains(config, `0.0.0.0:${containerPort}"`, "the configuration");
      const names = container.ports.map(({ name }) => name);
      const used = documents[2].spec.ports.map(({ targetPort }) => targetPort);
      const probed = ["startupProbe", "readinessProbe", "livenessProbe"].map((probe) => container[probe].httpGet.port);
      for (const name of [...used, ...probed]) equal(names.includes(name), true, `whether there is a port ${name}`);
    });
  });

async function manifests(name) {
  const program = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
  const input = await readFile(join(work, "kubernetes", name), "utf8");
  return JSON.parse(await output(join(work, "venv/bin/python"), ["-c", program], { input }));
}

async function takes(folder, config) {
  const here = config.replaceAll("/etc/wsgate-tls/tls.", join(folder, "certs/server."));
  await writeFile(join(folder, "proxy.toml"), here);
  const { code, output: said } = await run(wsgate, ["check", "-c", "proxy.toml"], {
    cwd: folder,
    env: { ...homeIn(folder), ...tokens },
  });
  equal(code, 0, `exit code with "${said}"`);
  if (said.includes("warning")) throw new Error(`check warns: ${said}`);
}
