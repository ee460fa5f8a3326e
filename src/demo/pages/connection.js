// One WebSocket that comes back by itself, and the part of the page that tells how it is.

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15_000;
const STEADY_MS = 5_000;

// What a close code means to a person (RFC 6455 §7.4.1).
const MEANING = {
  1000: "closed normally",
  1001: "the server is going away",
  1002: "protocol error",
  1003: "unacceptable data",
  1006: "no Close frame came",
  1007: "invalid text",
  1008: "policy violated",
  1009: "message too large",
  1011: "error in the server",
  1012: "the server restarts",
  1013: "try again later",
};

export const byId = (id) => document.getElementById(id);

/** The WebSocket address of `path` on the page's own host, as safe as the page itself. */
export function addressOf(path) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return `${scheme}//${location.host}${path}`;
}

export class Connection {
  /**
   * @param path where the socket is on this host
   * @param options.protocols subprotocols to offer
   * @param options.onOpen called with the WebSocket when it is open
   * @param options.onMessage called with the data of each message
   * @param options.onClose called with the code and a text when an open WebSocket has closed
   * @param options.needs buttons that work only while the WebSocket is open
   */
  constructor(path, { protocols = [], onOpen, onMessage, onClose, needs = [] }) {
    Object.assign(this, { address: addressOf(path), protocols, onOpen, onMessage, onClose, needs });
    this.delay = FIRST_DELAY_MS;
    byId("address").textContent = this.address;
    byId("reconnect").addEventListener("click", () => this.connectNow());
    byId("disconnect").addEventListener("click", () => this.disconnect());
    addEventListener("online", () => this.timer && this.connectNow());
    addEventListener("pagehide", () => this.disconnect());
    addEventListener("pageshow", (event) => event.persisted && this.connectNow());
    this.connect();
  }

  send(data) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(data);
  }

  connectNow() {
    this.delay = FIRST_DELAY_MS;
    this.connect();
  }

  disconnect() {
    this.stopWaiting();
    this.wanted = false;
    if (this.socket) this.socket.close(1000);
    else this.show(false, "Disconnected.");
  }

  connect() {
    this.stopWaiting();
    this.wanted = true;
    if (this.socket) return;
    this.show(false, "Connecting…");
    const socket = new WebSocket(this.address, this.protocols);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let opened = 0;
    socket.addEventListener("open", () => {
      opened = performance.now();
      this.show(true, socket.protocol ? `Subprotocol ${socket.protocol}.` : "");
      this.onOpen?.(socket);
    });
    socket.addEventListener("message", (event) => this.onMessage(event.data));
    socket.addEventListener("close", (event) => this.closed(event, opened));
  }

  closed(event, opened) {
    this.socket = undefined;
    const meaning = event.reason || MEANING[event.code] || "no reason was given";
    const text = opened ? `Closed with code ${event.code}: ${meaning}.` : `No connection (code ${event.code}).`;
    if (opened) this.onClose?.(event.code, text);
    // Only a connection that lasted starts the delays again, or one that is cut at once would be tried in a tight loop.
    if (opened && performance.now() - opened > STEADY_MS) this.delay = FIRST_DELAY_MS;
    if (this.wanted) this.wait(text);
    else this.show(false, text);
  }

  wait(text) {
    const delay = this.delay * (0.75 + Math.random() / 2);
    this.delay = Math.min(this.delay * 2, LONGEST_DELAY_MS);
    this.show(false, `${text} Next try in ${(delay / 1000).toFixed(1)} s.`);
    this.timer = setTimeout(() => this.connect(), delay);
  }

  stopWaiting() {
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  show(open, detail) {
    const state = byId("state");
    const text = open ? "open" : "closed";
    if (state.textContent !== text) state.textContent = text;
    state.className = `state ${text}`;
    byId("detail").textContent = detail;
    byId("reconnect").disabled = open;
    byId("disconnect").disabled = !open && !this.wanted;
    byId("disconnect").textContent = !open && this.wanted ? "Stop trying" : "Disconnect";
    for (const button of this.needs) button.disabled = !open;
  }
}

/** A list that follows its end unless the reader has scrolled up, and forgets its oldest entries. */
export class Log {
  constructor(list, most = 200) {
    Object.assign(this, { list, most });
  }

  /** Adds an entry of a kind (its class), with `text` and a small `note`, as text only. */
  add(kind, text, note = "") {
    const { list } = this;
    const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
    const entry = document.createElement("li");
    entry.className = kind;
    entry.append(element("span", "text", text), element("small", "note", note));
    list.append(entry);
    while (list.childElementCount > this.most) list.firstElementChild.remove();
    if (follows) list.scrollTop = list.scrollHeight;
    return entry;
  }
}

export function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** What `data` says as JSON; an object with `error` if it is no JSON object. */
export function parsed(data) {
  try {
    const value = JSON.parse(data);
    if (value && typeof value === "object") return value;
  } catch {
    // Told below.
  }
  return { error: "The server sent what this page does not understand." };
}

export function showError(text) {
  const place = byId("error");
  place.textContent = text;
  place.hidden = !text;
}
