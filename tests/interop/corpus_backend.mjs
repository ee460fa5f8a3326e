// A backend that keeps all that reaches it, and answers by a case's script.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";

import { request, valueOf } from "./messages.mjs";

const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/** What a client says in a tunnel that it takes to be open, and what the backend answers: two frames of text. */
export const question = "\x81\x85\0\0\0\0open?";
export const reply = "\x81\x05open!";

/** A backend on a free port. */
export async function startCorpusBackend() {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return new CorpusBackend(server);
}

class CorpusBackend {
  #sockets = new Set();

  constructor(server) {
    this.server = server;
    this.address = `127.0.0.1:${server.address().port}`;
    this.begin(undefined);
    server.on("connection", (socket) => this.#serve(socket));
  }

  /** Forgets what came, and answers the next request by `script`, if there is one. It comes on a connection of its own. */
  begin(script) {
    this.#destroyAll();
    this.script = script;
    this.bytes = "";
    this.requests = [];
  }

  #serve(socket) {
    this.#sockets.add(socket);
    socket.setEncoding("latin1").setNoDelay(true);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    const connection = { socket, waiting: "", isTunnel: false };
    socket.on("data", (bytes) => this.#take(connection, bytes));
  }

  #take(connection, bytes) {
    this.bytes += bytes;
    connection.waiting += bytes;
    while (!connection.isTunnel) {
      const message = request(connection.waiting);
      if (message === undefined) return;
      connection.waiting = connection.waiting.slice(message.length);
      this.requests.push(summary(message));
      this.#answer(connection, message);
    }
    if (connection.waiting.endsWith(question)) connection.socket.write(reply, "latin1");
  }

  #answer(connection, message) {
    const usual = { bytes: Buffer.from(usualAnswer(message), "latin1"), ends: false };
    const { bytes, ends } = this.script ?? usual;
    this.script = undefined;
    connection.isTunnel = isOffer(message) && bytes.includes("HTTP/1.1 101 ");
    connection.socket.write(bytes);
    if (ends) connection.socket.end();
  }

  #destroyAll() {
    for (const socket of this.#sockets) socket.destroy();
  }

  async end() {
    this.#destroyAll();
    this.server.close();
    await once(this.server, "close");
  }
}

/** `POST /upload "hello"` */
function summary({ head, body }) {
  const start = head.start.replace(/ HTTP\/1\.[01]$/, "");
  return body === "" ? start : `${start} "${escaped(body)}"`;
}

const letters = { "\r": "\\r", "\n": "\\n", "\t": "\\t", "\\": "\\\\", '"': '\\"', "'": "\\'" };

function escaped(bytes) {
  const hex = (byte) => `\\x${byte.charCodeAt(0).toString(16).padStart(2, "0")}`;
  return bytes.replace(/[^ !#-&(-[\]-~]/g, (byte) => letters[byte] ?? hex(byte));
}

function isOffer({ head }) {
  const has = (name, token) => (valueOf(head, name) ?? "").toLowerCase().split(/[ \t]*,[ \t]*/).includes(token);
  return head.start.startsWith("GET ") && has("upgrade", "websocket") && has("connection", "upgrade");
}

/** As a good WebSocket server answers: 101 to a good offer, 400 or 426 to another, 200 to everything else. */
function usualAnswer(message) {
  const { head } = message;
  const nothing = "Content-Length: 0\r\n\r\n";
  if (!isOffer(message)) {
    return `HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n${head.start.startsWith("HEAD ") ? "" : "ok"}`;
  }
  const key = valueOf(head, "sec-websocket-key") ?? "";
  if (!/^[A-Za-z0-9+/]{22}==$/.test(key)) return `HTTP/1.1 400 Bad Request\r\n${nothing}`;
  if (valueOf(head, "sec-websocket-version") !== "13") {
    return `HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\n${nothing}`;
  }
  const accept = createHash("sha1").update(key + guid).digest("base64");
  const lines = ["Upgrade: websocket", "Connection: Upgrade", `Sec-WebSocket-Accept: ${accept}`];
  return `HTTP/1.1 101 Switching Protocols\r\n${lines.join("\r\n")}\r\n\r\n`;
}
