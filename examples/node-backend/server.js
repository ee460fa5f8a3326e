// HTTP and WebSocket on one port: the backend that wsgate is first tried against.
//
//   PORT     port to listen on (default 8081; 0 takes a free one and prints it)
//   HOST     address to listen on (default: all of them)
//   MAX_MESSAGE  largest message in bytes that is taken (default 32 MiB)

import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const closeGraceMs = 3000;
const shownCharacters = 200;
const port = wholeNumber("PORT", 8081, 65535);
const maxMessage = wholeNumber("MAX_MESSAGE", 32 * 1024 * 1024, 2 ** 31 - 1);

const http = createServer((request, response) => {
  log(`${request.method} ${quoted(request.url)}`);
  response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
  response.end("Http Message: Hello World");
});

const sockets = new WebSocketServer({ server: http, maxPayload: maxMessage });
let clients = 0;

sockets.on("connection", (socket, request) => {
  clients += 1;
  const client = `client ${clients}`;
  log(`${client} opened ${quoted(request.url)}`);

  socket.on("message", (data, isBinary) => {
    log(`${client} sent ${isBinary ? `${data.length} bytes` : quoted(data.toString())}`);
    socket.send(data, { binary: isBinary });
  });
  socket.on("error", (error) => log(`${client} failed: ${quoted(error.message)}`));
  socket.on("close", (code, reason) => log(`${client} closed with ${code} ${quoted(reason.toString())}`));

  socket.send("Websocket Send: Hello World");
});

http.on("error", (error) => {
  console.error(`cannot listen on port ${port}: ${error.message}`);
  process.exit(1);
});
http.listen({ port, host: process.env.HOST || undefined }, () => {
  console.log(`listening on ${http.address().port}`);
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => shutDown(signal));
}

// Takes nothing new, says goodbye to every socket, and cuts those that have not answered in time. Node then ends
// by itself, because nothing is left to wait for.
function shutDown(signal) {
  log(`${signal}: closing ${sockets.clients.size} sockets`);
  sockets.close();
  http.close();
  http.closeIdleConnections();
  for (const socket of sockets.clients) socket.close(1001, "going away");
  setTimeout(() => {
    for (const socket of sockets.clients) socket.terminate();
    http.closeAllConnections();
  }, closeGraceMs).unref();
}

function wholeNumber(name, fallback, most) {
  const given = process.env[name];
  if (given === undefined || given === "") return fallback;
  const value = Number(given);
  if (/^\d+$/.test(given) && value <= most) return value;
  console.error(`${name} must be a whole number up to ${most}, not ${quoted(given)}`);
  process.exit(2);
}

// One line whatever a client sends: control characters are escaped, and long texts are cut.
function quoted(text) {
  const shown = text.length > shownCharacters ? `${text.slice(0, shownCharacters)}…` : text;
  return JSON.stringify(shown).replace(/[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, escaped);
}

function escaped(character) {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function log(line) {
  console.log(`${new Date().toISOString()} ${line}`);
}
