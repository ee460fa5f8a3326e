// A DNS server with one name, whose address can be changed.

import { createSocket } from "node:dgram";
import { once } from "node:events";

const typeA = 1;
const codes = { found: 0, failure: 2, absent: 3 };

/** A server at port 53 of a loopback address. Throws if this port can't be had. */
export async function startDnsServer(address, name) {
  const socket = createSocket("udp4");
  const server = new DnsServer(socket, name);
  socket.on("message", (query, peer) => {
    const answer = server.answer(query);
    if (answer) socket.send(answer, peer.port, peer.address);
  });
  socket.bind(53, address);
  await once(socket, "listening");
  return server;
}

class DnsServer {
  constructor(socket, name) {
    this.socket = socket;
    this.name = name;
    this.asked = 0;
    /** The addresses that the name has; or `"failure"`, `"silence"`. */
    this.says = [];
  }

  /** The answer to a query that has one question, as RFC 1035 has it; no record is ever to be kept. */
  answer(query) {
    this.asked += 1;
    if (this.says === "silence") return undefined;
    const { name, type, end } = question(query);
    const known = name === this.name;
    const addresses = Array.isArray(this.says) && known && type === typeA ? this.says : [];
    const head = Buffer.from(query.subarray(0, 12));
    head.writeUInt16BE(0x8180 | this.#code(known), 2);
    [1, addresses.length, 0, 0].forEach((count, place) => head.writeUInt16BE(count, 4 + 2 * place));
    return Buffer.concat([head, query.subarray(12, end), ...addresses.map(record)]);
  }

  #code(known) {
    if (this.says === "failure") return codes.failure;
    return known ? codes.found : codes.absent;
  }

  async end() {
    this.socket.close();
    await once(this.socket, "close");
  }
}

function question(query) {
  const labels = [];
  let at = 12;
  while (query[at] !== 0) {
    labels.push(query.toString("latin1", at + 1, at + 1 + query[at]));
    at += 1 + query[at];
  }
  return { name: labels.join(".").toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 };
}

/** An A record of the name in the question, with a TTL of 0. */
function record(address) {
  return Buffer.from([0xc0, 12, 0, typeA, 0, 1, 0, 0, 0, 0, 0, 4, ...address.split(".").map(Number)]);
}
