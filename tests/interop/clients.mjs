// What an npm ws client tries with an echo server. Each takes the server's address and the options of a client.

import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import WebSocket from "ws";

import { equal } from "./scenarios.mjs";

const largeMessage = 16 * 1024 * 1024;

/** An open client, and an iterator over its messages. */
async function open(url, options, subprotocols = []) {
  const socket = new WebSocket(url, subprotocols, { maxPayload: 2 * largeMessage, ...options });
  const messages = [];
  let wake = () => {};
  socket.on("message", (data, isBinary) => {
    messages.push({ data, isBinary });
    wake();
  });
  let failed;
  const closed = new Promise((resolve) => socket.once("close", (code, reason) => resolve({ code, reason: reason.toString() })));
  closed.then(({ code }) => {
    failed ??= new Error(`closed with ${code}`);
    wake();
  });
  socket.on("error", (error) => (failed = error));
  const next = async () => {
    while (messages.length === 0) {
      if (failed) throw failed;
      await new Promise((resolve) => (wake = resolve));
    }
    return messages.shift();
  };
  await once(socket, "open");
  return { socket, next, closed };
}

/** Closes it, and checks that the server answered in kind. */
async function finish({ socket, closed }) {
  socket.close(1000, "done");
  equal((await closed).code, 1000, "close code of the answer");
}

async function echoed(client, data) {
  client.socket.send(data);
  const { data: back, isBinary } = await client.next();
  equal(isBinary, typeof data !== "string", "kind of the echo (binary)");
  if (!back.equals(Buffer.from(data))) throw new Error(`echo of ${data.length} bytes differs (${back.length} bytes)`);
}

/** A kilobyte of text, compressed by both sides; a message below the threshold of compression between. */
export async function compresses(url, options) {
  const client = await open(url, options);
  equal(client.socket.extensions, "permessage-deflate", "extensions");
  await echoed(client, "wsgate ".repeat(2000));
  await echoed(client, "short");
  await echoed(client, "wsgate ".repeat(2000));
  await finish(client);
}

/** 16 MB each way, first as they are, then compressed. */
export async function sendsLarge(url, options) {
  for (const perMessageDeflate of [false, true]) {
    const client = await open(url, { ...options, perMessageDeflate });
    await echoed(client, randomBytes(largeMessage));
    await echoed(client, "0123456789abcdef".repeat(largeMessage / 16));
    await finish(client);
  }
}

/** A message in fragments with a ping between them comes back whole. */
export async function sendsFragments(url, options) {
  const client = await open(url, { ...options, perMessageDeflate: false });
  const parts = ["frag", "", "mented ", "x".repeat(70_000), " end"];
  const pong = once(client.socket, "pong");
  for (const [at, part] of parts.entries()) {
    client.socket.send(part, { fin: at === parts.length - 1 });
    if (at === 1) client.socket.ping("between");
  }
  equal((await client.next()).data.toString(), parts.join(""), "message");
  equal((await pong)[0].toString(), "between", "payload of the pong");
  await finish(client);
}

/** Messages come back in order. */
export async function sendsMany(url, options, count = 1000) {
  const client = await open(url, options);
  for (let at = 0; at < count; at += 1) client.socket.send(`message ${at}`);
  for (let at = 0; at < count; at += 1) equal((await client.next()).data.toString(), `message ${at}`, "message");
  await finish(client);
}

/** So many clients at once, all open before the first sends; each has its own messages back. */
export async function comeTogether(url, options, count = 300) {
  const clients = await Promise.all(Array.from({ length: count }, () => open(url, options)));
  await Promise.all(
    clients.map(async (client, who) => {
      for (let at = 0; at < 10; at += 1) await echoed(client, `${who} sends ${at}`);
    }),
  );
  await Promise.all(clients.map(finish));
}

/** The server takes the one that it knows of those that are offered. */
export async function offersSubprotocols(url, options) {
  const client = await open(url, options, ["graphql-transport-ws", "superchat", "chat"]);
  equal(client.socket.protocol, "superchat", "subprotocol");
  await finish(client);
}

/** What the client closes with arrives at the server, and comes back. */
export async function closesWith(url, options, server, code, reason) {
  const { id, named } = name(url);
  const client = await open(named, options);
  await echoed(client, "before");
  client.socket.close(code, reason);
  same(await client.closed, { code, reason }, "what the client sees");
  same(await server.endOf(id), { code, reason }, "what the server sees");
}

/** What the server closes with arrives. */
export async function isClosedWith(url, options, code, reason) {
  const path = `${url.replace(/echo$/, "close")}?code=${code}&reason=${encodeURIComponent(reason)}`;
  const client = await open(path, options);
  same(await client.closed, { code, reason }, "what the client sees");
}

/** A client that vanishes is not a client that said goodbye (rule T3). */
export async function vanishes(url, options, server) {
  const { id, named } = name(url);
  const client = await open(named, options);
  await echoed(client, "before");
  client.socket.terminate();
  same(await server.endOf(id), { code: 1006, reason: "" }, "what the server sees");
}

/** A ping of each side reaches the other, and its pong comes back. */
export async function pings(url, options, server) {
  const { id, named } = name(url);
  const client = await open(named, options);
  const far = await server.socketOf(id);
  for (const [from, to] of [[client.socket, far], [far, client.socket]]) {
    const heard = Promise.all([once(to, "ping"), once(from, "pong")]);
    from.ping("are you there?");
    for (const [payload] of await heard) equal(payload.toString(), "are you there?", "payload");
  }
  await finish(client);
}

/** A server that vanishes has not said goodbye either. */
export async function isLeft(url, options, server) {
  const { id, named } = name(url);
  const client = await open(named, options);
  (await server.socketOf(id)).terminate();
  same(await client.closed, { code: 1006, reason: "" }, "what the client sees");
}

/** The address with a name for the connection, by which the server knows it. */
function name(url) {
  const id = randomUUID();
  return { id, named: `${url}?id=${id}` };
}

function same(actual, expected, what) {
  equal(JSON.stringify(actual), JSON.stringify(expected), what);
}
