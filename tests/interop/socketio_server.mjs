// A Socket.IO server:  node socketio_server.mjs NAME PORT
//
// It prints each request of a client that has a name, and the end of its session. The client's message comes back with the
// server's own name.

import { createServer } from "node:http";
import { Server } from "socket.io";

const [, , name, port] = process.argv;
const http = createServer((_, response) => response.writeHead(404).end());
const io = new Server(http);
// Only now, as it takes those that were there before out of its way.
http.prependListener("request", tell);
http.prependListener("upgrade", tell);
io.on("connection", (socket) => {
  socket.on("say", (said, answer) => answer(`${name}: ${said}`));
  socket.conn.on("close", () => console.log(`${socket.handshake.query.client} left`));
});
http.listen(Number(port), "127.0.0.1", () => console.log(`listening on ${http.address().port}`));

function tell(request) {
  const query = new URL(request.url, "http://server").searchParams;
  if (query.has("client")) console.log(`${query.get("client")} ${query.get("transport")} ${request.method}`);
}
