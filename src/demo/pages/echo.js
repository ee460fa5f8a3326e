import { Connection, Log, byId } from "./connection.js";

const SHOWN_CHARACTERS = 500;
const SHOWN_BYTES = 32;

const log = new Log(byId("log"));
// When each message that has not come back was sent. An echo keeps the order.
let sent = [];
let greeted = false;

const connection = new Connection("/", {
  needs: [byId("send")],
  onOpen() {
    sent = [];
    greeted = false;
  },
  onMessage(data) {
    const text = typeof data === "string" ? shortened(data) : bytesShown(new Uint8Array(data));
    // The first message is the greeting, which answers nothing, however soon something was sent.
    const began = greeted ? sent.shift() : undefined;
    greeted = true;
    if (began === undefined) log.add("in", text, "received");
    else log.add("in", text, `back after ${(performance.now() - began).toFixed(1)} ms`);
  },
  onClose(_code, text) {
    log.add("event", text);
  },
});

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = byId("message");
  const bytes = byId("binary").checked ? new TextEncoder().encode(input.value) : undefined;
  sent.push(performance.now());
  log.add("out", bytes ? bytesShown(bytes) : shortened(input.value), "sent");
  connection.send(bytes ?? input.value);
  input.select();
});

function shortened(text) {
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}… (${text.length} characters)` : text;
}

function bytesShown(bytes) {
  const hex = Array.from(bytes.subarray(0, SHOWN_BYTES), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return `${bytes.length} bytes: ${hex}${bytes.length > SHOWN_BYTES ? " …" : ""}`;
}
