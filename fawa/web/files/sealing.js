// Files sealed for those who have the secret (protocols/sealed.md). Pure but for WebCrypto.

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

const MAGIC = encoder.encode("fawa sealed v1\r\n");
const SECRET_BYTES = 32;
const SALT_BYTES = 16;
const HEADER = MAGIC.length + SALT_BYTES;
const CHUNK = 64 * 1024;
const TAG = 16;
const MAX_NAME = 1024;

/** The name of every sealed file at the server. */
export const SEALED_NAME = "sealed.fawa";

/** What was to be opened is no sealed file, was cut off or altered, or the secret is another file's. */
export class SealError extends Error {}

/** Browsers seal only on pages that nobody could have altered on their way: https, or this machine. */
export function canSeal() {
  return globalThis.crypto?.subtle !== undefined;
}

export function newSecret() {
  return crypto.getRandomValues(new Uint8Array(SECRET_BYTES));
}

export function writeSecret(secret) {
  return btoa(String.fromCharCode(...secret)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** @throws {SealError} it is none */
export function readSecret(text) {
  if (!/^[A-Za-z0-9_-]{43}$/.test(text)) {
    throw new SealError("the link is not whole: the secret at its end has 43 letters, digits, - and _");
  }
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

/**
 * Seal a file.
 * @param {Blob} file
 * @yields {Uint8Array} what to send, in order
 */
export async function* seal(file, name, secret, salt = crypto.getRandomValues(new Uint8Array(SALT_BYTES))) {
  const encoded = encoder.encode(name);
  if (encoded.length > MAX_NAME) throw new SealError(`the name has more than ${MAX_NAME} bytes`);
  const key = await chunkKey(secret, salt, "encrypt");
  const preface = new Uint8Array(2 + encoded.length);
  new DataView(preface.buffer).setUint16(0, encoded.length);
  preface.set(encoded, 2);
  yield concat(MAGIC, salt);
  const chunks = Math.ceil((preface.length + file.size) / CHUNK);
  for (let number = 0; number < chunks; number += 1) {
    const start = number * CHUNK - preface.length;
    const content = await file.slice(Math.max(0, start), start + CHUNK).arrayBuffer();
    const plain = number === 0 ? concat(preface, new Uint8Array(content)) : content;
    const iv = nonce(number, number === chunks - 1);
    yield new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv }, key, plain));
  }
}

/** Opens a sealed file as it comes in. */
export class Opener {
  constructor(secret) {
    this._secret = secret;
    this._key = null;
    this._pieces = [];
    this._gathered = 0;
    this._number = 0;
    /** The file's, once the first chunk has been opened. */
    this.name = null;
  }

  /**
   * Take bytes.
   * @returns {Promise<Uint8Array[]>} what they open, which may be nothing yet, and only `finish` tells whether all
   * @throws {SealError}
   */
  async feed(data) {
    this._pieces.push(data);
    this._gathered += data.length;
    if (!this._key) {
      if (this._gathered < HEADER) return [];
      const header = this._take(HEADER);
      if (MAGIC.some((byte, at) => header[at] !== byte)) throw new SealError("this is no file sealed by fawa");
      this._key = await chunkKey(this._secret, header.subarray(MAGIC.length), "decrypt");
    }
    const opened = [];
    // A chunk that nothing follows may be the last.
    while (this._gathered > CHUNK + TAG) opened.push(await this._open(this._take(CHUNK + TAG), false));
    return opened;
  }

  /** Say that no more comes. */
  async finish() {
    if (!this._key) throw new SealError("this is no file sealed by fawa");
    return this._open(this._take(this._gathered), true);
  }

  async _open(chunk, last) {
    let plain;
    try {
      const iv = nonce(this._number, last);
      plain = new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, this._key, chunk));
    } catch {
      const first = this._number === 0;
      throw new SealError(first ? "the link has another file's secret" : "the file was cut off or altered");
    }
    this._number += 1;
    if (this.name !== null) return plain;
    const end = plain.length < 2 ? Infinity : 2 + new DataView(plain.buffer).getUint16(0);
    if (end > plain.length) throw new SealError("the sealed file has no name");
    try {
      this.name = decoder.decode(plain.subarray(2, end));
    } catch {
      throw new SealError("the sealed file's name is not UTF-8");
    }
    return plain.subarray(end);
  }

  /** Take the next `count` bytes, of those gathered. */
  _take(count) {
    const taken = new Uint8Array(count);
    let filled = 0;
    while (filled < count) {
      const piece = this._pieces[0];
      const part = piece.subarray(0, count - filled);
      taken.set(part, filled);
      filled += part.length;
      if (part.length === piece.length) this._pieces.shift();
      else this._pieces[0] = piece.subarray(part.length);
    }
    this._gathered -= count;
    return taken;
  }
}

async function chunkKey(secret, salt, use) {
  const material = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveKey"]);
  const how = { name: "HKDF", hash: "SHA-256", salt, info: MAGIC };
  return crypto.subtle.deriveKey(how, material, { name: "AES-GCM", length: 256 }, false, [use]);
}

function nonce(number, last) {
  const iv = new Uint8Array(12);
  // Numbers beyond 2^53 are no question: neither are files of 2^69 bytes.
  const view = new DataView(iv.buffer);
  view.setUint32(3, Math.floor(number / 2 ** 32));
  view.setUint32(7, number % 2 ** 32);
  iv[11] = last ? 1 : 0;
  return iv;
}

function concat(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
