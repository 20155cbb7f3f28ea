// A file as the body of one `file.v1.FileService/SendFile` call. Pure but for Blob.
//
// The body is a Blob put together from headers and slices of the file; the browser reads the slices from disk when
// it sends them, so memory stays flat however large the file is.

import { END_OF_STREAM, EnvelopeReader, RpcError, envelopeHeader, errorOf } from "../connectrpc.js";
import { bytesField, bytesHeader, concat, decode, integerField, text, textField } from "../protobuf.js";

export const SEND_FILE = "file.v1.FileService/SendFile";
export const CONTENT_TYPE = "application/connect+proto";

const CHUNK = 1024 * 1024;

/**
 * @param {File} file
 * @param {{once?: boolean}} terms `once`: the first complete download is the last
 */
export function requestBody(file, { once = false } = {}, chunk = CHUNK) {
  const size = file.size > 0 ? integerField(2, file.size) : new Uint8Array();
  const terms = once ? bytesField(7, integerField(2, 1)) : new Uint8Array();
  const info = bytesField(1, concat(textField(1, file.name), size, terms));
  const parts = [envelopeHeader(info.length), info];
  for (let start = 0; start < file.size; start += chunk) {
    const piece = file.slice(start, Math.min(start + chunk, file.size));
    const header = bytesHeader(2, piece.size);
    parts.push(envelopeHeader(header.length + piece.size), header, piece);
  }
  return new Blob(parts);
}

/**
 * Read the answer.
 * @param {Uint8Array} bytes of the whole response
 * @returns {{key: string, message: string, expiresAt: number}} `expiresAt` in Unix milliseconds, 0 when not told
 * @throws {RpcError} the file was not taken
 */
export function readAnswer(bytes) {
  let answer = null;
  for (const { flags, data } of new EnvelopeReader().feed(bytes)) {
    if (flags & END_OF_STREAM) {
      const error = errorOf(JSON.parse(text(data)).error);
      if (error) throw error;
      if (!answer) throw new RpcError("internal", "the server gave no key");
      return answer;
    }
    const fields = decode(data);
    answer = { key: text(fields.get(3)), message: text(fields.get(2)), expiresAt: fields.get(4) ?? 0 };
  }
  throw new RpcError("unavailable", "the answer broke off before its end");
}

/** Bytes per second over the last few seconds. */
export class Speed {
  constructor(span = 3000) {
    this._span = span;
    this._marks = [];
  }

  /** @returns {number} the speed, 0 while it cannot be told */
  mark(bytes, now) {
    this._marks.push({ bytes, now });
    while (this._marks.length > 2 && this._marks[0].now < now - this._span) this._marks.shift();
    const first = this._marks[0];
    return now > first.now ? ((bytes - first.bytes) * 1000) / (now - first.now) : 0;
  }
}
