// HTTP/1.1 messages off the wire, as strict ends read them. Bytes are strings of a character each.

/** The request at the start of `bytes`, when it is there as a whole: its head, its body and its length. */
export function request(bytes) {
  const head = readHead(bytes);
  return head && whole(head, bodyOf(head, bytes) ?? { body: "", length: 0 });
}

/**
 * The response at the start of `bytes`, when it is there as a whole; `toHead` if it answers a HEAD. A body that the end of
 * the stream ends is whole if it has `ended`.
 */
export function response(bytes, toHead, ended) {
  const head = readHead(bytes);
  if (head === undefined) return undefined;
  const status = statusOf(head);
  if (toHead || status < 200 || status === 204 || status === 304) return whole(head, { body: "", length: 0 });
  const rest = bytes.slice(head.length);
  return whole(head, bodyOf(head, bytes) ?? (ended ? { body: rest, length: rest.length } : incomplete));
}

export function statusOf(head) {
  return Number(head.start.split(" ")[1]);
}

/** The value of a header; the lines are joined if there are several. */
export function valueOf(head, name) {
  const values = head.lines.filter(([its]) => its.toLowerCase() === name).map(([, value]) => value);
  return values.length > 0 ? values.join(", ") : undefined;
}

function readHead(bytes) {
  const end = bytes.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [start, ...lines] = bytes.slice(0, end).split("\r\n");
  const split = (line) => [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1).trim()];
  return { start, lines: lines.map(split), length: end + 4 };
}

const incomplete = { length: Infinity };

function whole(head, { body, length }) {
  return length === Infinity ? undefined : { head, body, length: head.length + length };
}

/** The body that the head announces, or `incomplete`; nothing if it announces none. */
function bodyOf(head, bytes) {
  const rest = bytes.slice(head.length);
  if (/^chunked$/i.test(valueOf(head, "transfer-encoding"))) return chunks(rest);
  const announced = valueOf(head, "content-length");
  if (!/^\d+$/.test(announced)) return undefined;
  const length = Number(announced);
  return rest.length < length ? incomplete : { body: rest.slice(0, length), length };
}

/** The data of a chunked body, and its length with the trailers. */
function chunks(bytes) {
  let body = "";
  let at = 0;
  for (;;) {
    const size = /^([0-9a-f]+)(?:;[^\r\n]*)?\r\n/i.exec(bytes.slice(at, at + 1000));
    if (size === null) return incomplete;
    at += size[0].length;
    const length = Number.parseInt(size[1], 16);
    if (length === 0) break;
    if (bytes.slice(at + length, at + length + 2) !== "\r\n") return incomplete;
    body += bytes.slice(at, at + length);
    at += length + 2;
  }
  for (;;) {
    const end = bytes.indexOf("\r\n", at);
    if (end < 0) return incomplete;
    const isLast = end === at;
    at = end + 2;
    if (isLast) return { body, length: at };
  }
}
