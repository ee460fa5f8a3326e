// An echo server on npm ws. By its path a client asks for more:
//
//   /echo                    every message comes back
//   /close?code=C&reason=R   the server closes with that
//
// `id=NAME` in the query names a connection, so that a scenario can ask how the server saw it.
// Of the subprotocols that are offered it takes `superchat` alone.

import { createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { once } from "node:events";
import { WebSocketServer } from "ws";

const largestMessage = 64 * 1024 * 1024;

/** A server, on a free port unless one is given; with a certificate and its key it speaks TLS. */
export async function startEchoServer(identity, { host = "127.0.0.1", port = 0 } = {}) {
  const refuse = (_, response) => response.writeHead(404).end();
  const http = identity ? createSecureServer(identity, refuse) : createServer(refuse);
  const sockets = new WebSocketServer({
    server: http,
    maxPayload: largestMessage,
    perMessageDeflate: true,
    handleProtocols: (offered) => offered.has("superchat") && "superchat",
  });
  const server = new EchoServer(http, sockets);
  sockets.on("connection", (socket, request) => server.serve(socket, new URL(request.url, "ws://server")));
  http.listen(port, host);
  await once(http, "listening");
  server.port = http.address().port;
  return server;
}

class EchoServer {
  constructor(http, sockets) {
    this.http = http;
    this.sockets = sockets;
    this.visits = new Map();
  }

  serve(socket, { pathname, searchParams }) {
    const visit = this.#visit(searchParams.get("id"));
    visit.began(socket);
    socket.on("error", () => {});
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
    socket.on("close", (code, reason) => visit.ended({ code, reason: reason.toString() }));
    if (pathname === "/close") socket.close(Number(searchParams.get("code")), searchParams.get("reason"));
  }

  /** The close code and reason with which the connection of this id ended, when it has. */
  endOf(id) {
    return this.#visit(id).end;
  }

  /** The socket of the connection of this id, when it is open. */
  socketOf(id) {
    return this.#visit(id).socket;
  }

  #visit(id) {
    if (!this.visits.has(id)) {
      const visit = {};
      visit.socket = new Promise((resolve) => (visit.began = resolve));
      visit.end = new Promise((resolve) => (visit.ended = resolve));
      this.visits.set(id, visit);
    }
    return this.visits.get(id);
  }

  async end() {
    for (const socket of this.sockets.clients) socket.terminate();
    this.http.closeAllConnections();
    this.http.close();
    await once(this.http, "close");
  }
}
