import { Connection, Log, byId, parsed, showError } from "./connection.js";

const log = new Log(byId("log"));
let me = "";

const connection = new Connection("/chat", {
  protocols: ["chat", "superchat"],
  needs: [byId("send")],
  onOpen(socket) {
    byId("protocol").textContent = socket.protocol ? `, speaking ${socket.protocol}` : "";
  },
  onMessage(data) {
    const said = parsed(data);
    if (said.error) showError(said.error);
    if (typeof said.you === "string") welcome(said.you);
    else if (typeof said.missed === "number") log.add("event", `You missed ${said.missed} messages.`);
    else if (typeof said.id === "string") hear(said);
  },
  onClose(_code, text) {
    log.add("event", text);
  },
});

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = byId("message");
  if (!input.value.trim()) return;
  showError("");
  connection.send(JSON.stringify({ id: me, message: input.value }));
  input.value = "";
  input.focus();
});

function welcome(id) {
  me = id;
  byId("me").textContent = id;
  log.add("event", `You joined as ${id}.`);
}

function hear({ id, message }) {
  const mine = id === me;
  const entry = log.add(mine ? "out" : "in", String(message), mine ? `${id} (you)` : id);
  entry.dataset.id = id;
}
