// The Connect protocol over fetch: unary calls and streams of JSON messages (connectrpc.com/docs/protocol).
//
// A browser sends the whole request before it reads the answer, so a bidirectional stream is half-duplex here.

export const END_OF_STREAM = 2;

const COMPRESSED = 1;
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const MOST = 16 * 1024 * 1024; // bytes of one message that are believed

/** A call that failed, with Connect's code and the server's words. */
export class RpcError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "RpcError";
    this.code = code;
  }
}

/** What stands before a message of `length` bytes in a stream. */
export function envelopeHeader(length, flags = 0) {
  const header = new Uint8Array(5);
  header[0] = flags;
  new DataView(header.buffer).setUint32(1, length);
  return header;
}

/** Cuts a stream of bytes, however it is torn, into `{flags, data}`. */
export class EnvelopeReader {
  constructor() {
    this._rest = new Uint8Array();
  }

  /**
   * @returns {Array<{flags: number, data: Uint8Array}>} what is whole now
   * @throws {RpcError} a message is too large to be one
   */
  feed(bytes) {
    const all = new Uint8Array(this._rest.length + bytes.length);
    all.set(this._rest);
    all.set(bytes, this._rest.length);
    const view = new DataView(all.buffer);
    const whole = [];
    let place = 0;
    while (place + 5 <= all.length) {
      const length = view.getUint32(place + 1);
      if (length > MOST) throw new RpcError("internal", `the server announced a message of ${length} bytes`);
      if (place + 5 + length > all.length) break;
      whole.push({ flags: all[place], data: all.subarray(place + 5, place + 5 + length) });
      place += 5 + length;
    }
    this._rest = all.subarray(place);
    return whole;
  }

  get isBetweenMessages() {
    return this._rest.length === 0;
  }
}

/** The error in a JSON body or end of stream, null when it tells of success. */
export function errorOf(error) {
  return error ? new RpcError(error.code ?? "unknown", error.message || "the server gave no reason") : null;
}

function address(method) {
  return new URL(method, document.baseURI);
}

/** Call a method with one message and one answer. */
export async function unary(method, message, { signal } = {}) {
  const response = await reach(method, {
    method: "POST",
    headers: { "content-type": "application/json", "connect-protocol-version": "1" },
    body: JSON.stringify(message),
    signal,
  });
  if (response.ok) return response.json();
  throw errorOf(await response.json().catch(() => ({ code: "unknown", message: `HTTP ${response.status}` })));
}

/**
 * Send messages, then read the answers as they come, in JSON.
 * @returns {AsyncGenerator<object>}
 */
export async function* stream(method, messages, options) {
  const encoded = messages.map((message) => encoder.encode(JSON.stringify(message)));
  for await (const data of exchange(method, "application/connect+json", encoded, options)) {
    yield JSON.parse(decoder.decode(data));
  }
}

/**
 * The same with messages that are encoded already, and answers as they are.
 * @returns {AsyncGenerator<Uint8Array>}
 */
export async function* exchange(method, contentType, messages, { signal } = {}) {
  const response = await reach(method, {
    method: "POST",
    headers: { "content-type": contentType, "connect-protocol-version": "1" },
    body: new Blob(messages.flatMap((data) => [envelopeHeader(data.length), data])),
    signal,
  });
  if (!response.ok) throw new RpcError("unknown", `the server answered HTTP ${response.status}`);
  const reader = new EnvelopeReader();
  const pieces = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await pieces.read();
      if (done) throw new RpcError("unavailable", "the answer broke off before its end");
      for (const { flags, data } of reader.feed(value)) {
        if (flags & COMPRESSED) throw new RpcError("internal", "the server compressed without being asked");
        if (flags & END_OF_STREAM) {
          const error = errorOf(JSON.parse(decoder.decode(data)).error);
          if (error) throw error;
          return;
        }
        yield data;
      }
    }
  } finally {
    pieces.cancel().catch(() => {});
  }
}

async function reach(method, options) {
  try {
    return await fetch(address(method), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RpcError("unavailable", "the server cannot be reached");
  }
}
