// nginx and HAProxy, each on a unix socket of its own.

import { readFile, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";

import { Program, output } from "./programs.mjs";

const work = process.env.INTEROP_WORK;
const servers = {
  nginx: { config: "nginx.conf", args: (folder, path) => ["-p", folder, "-e", "stderr", "-c", path] },
  haproxy: { config: "haproxy.cfg", args: (_, path) => ["-f", path, "-db"] },
};
const env = { ...process.env, LD_LIBRARY_PATH: process.env.SERVER_LIBRARIES ?? "" };

/** `nginx 1.22.1` */
export async function versionOf(name) {
  const [version] = /\d[\d.]+\d/.exec(await output(name, ["-v"], { env }));
  return `${name} ${version}`;
}

/** Starts the server of that name before `backend`, by its configuration in the folder `servers`. */
export async function startServer(name, folder, backend) {
  const { config, args } = servers[name];
  const socket = join(folder, `${name}.sock`);
  const text = await readFile(join(work, "servers", config), "utf8");
  const path = join(folder, config);
  const values = { FOLDER: folder, SOCKET: socket, BACKEND: backend };
  await writeFile(path, text.replace(/^(?!#).*$/gm, (line) => line.replace(/FOLDER|SOCKET|BACKEND/, (word) => values[word])));
  const program = new Program(name, name, args(folder, path), { cwd: folder, env });
  await listens(program, socket);
  return { program, socket };
}

async function listens(program, path) {
  for (let tries = 0; tries < 100 && program.exit === undefined; tries += 1) {
    const socket = connect(path);
    const connected = await new Promise((resolve) => {
      socket.once("connect", () => resolve(true));
      socket.once("error", () => resolve(false));
    });
    socket.destroy();
    if (connected) return;
    await after(100);
  }
  throw new Error(`${program.name} does not listen: ${program.tail()}`);
}
