// A file on its way by tus 1.0.0 (protocols/uploads.md): where the line breaks, it goes on from there. Pure: what
// sends a request and what waits come in as arguments.

import { RpcError } from "../connectrpc.js";

/** Milliseconds before each further try while nothing of the file gets through. */
export const PAUSES = [250, 500, 1000, 2000, 4000, 8000, 15000, 30000];

const VERSION = { "tus-resumable": "1.0.0" };

/** A request that got no answer. */
export class Broken extends Error {}

/**
 * Send a file.
 *
 * @param {File} file
 * @param {object} by
 * @param {(method: string, path: string, headers: object, body?: Blob, sent?: (bytes: number) => void) =>
 *   Promise<{status: number, field: (name: string) => string | null, text: string}>} by.send sends a request and
 *   tells how much of its body is sent; throws `Broken`
 * @param {(milliseconds: number) => Promise<void>} by.pause waits
 * @param {(bytes: number) => void} by.progress hears how much of the file is sent
 * @param {{once?: boolean}} terms `once`: the first complete download is the last
 * @returns {Promise<{key: string, expiresAt: number} | null>} `expiresAt` in Unix milliseconds; null where the server
 *   keeps no interrupted uploads
 * @throws {RpcError} the file was not taken, or `send` said that it is canceled
 */
export async function sendResuming(file, { send, pause, progress }, terms = {}) {
  const upload = { place: null }; // where it is, once it is begun
  try {
    return await goOn(file, upload, { send, pause, progress }, terms);
  } catch (error) {
    // Nobody will go on with it, and the server need not keep it for that; if this does not get through, it expires.
    if (error.code === "canceled" && upload.place) send("DELETE", upload.place, VERSION).catch(() => {});
    throw error;
  }
}

async function goOn(file, upload, { send, pause, progress }, terms) {
  let offset = 0; // where it goes on, null where that is to be asked
  let furthest = 0;
  let failures = 0;
  for (;;) {
    let answer = null;
    try {
      if (upload.place === null) answer = await begin(file, send, terms);
      else if (offset === null) answer = await send("HEAD", upload.place, VERSION);
      else answer = await append(file, offset, upload.place, send, progress);
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
    }
    if (upload.place === null && (answer?.status === 404 || answer?.status === 405)) return null;
    if (answer !== null && answer.status < 300) {
      const key = answer.field("fawa-key");
      if (key) return { key, expiresAt: Number(answer.field("fawa-expires") ?? 0) };
      upload.place ??= placeOf(answer);
      offset = Number(answer.field("upload-offset") ?? 0);
      progress(offset);
      if (offset > furthest) failures = 0;
      furthest = Math.max(furthest, offset);
      continue;
    }
    if (answer !== null && !mayGoOn(answer.status)) throw refusal(answer);
    if (failures === PAUSES.length) {
      throw new RpcError("unavailable", answer?.text || `the connection broke while ${file.name} was sent`);
    }
    offset = null;
    await pause(PAUSES[failures++]);
  }
}

function begin(file, send, { once = false }) {
  const name = btoa(String.fromCharCode(...new TextEncoder().encode(file.name)));
  const headers = { ...VERSION, "upload-length": `${file.size}`, "upload-metadata": `filename ${name}` };
  if (once) headers["fawa-max-downloads"] = "1";
  return send("POST", "uploads", headers);
}

function append(file, offset, place, send, progress) {
  const headers = { ...VERSION, "content-type": "application/offset+octet-stream", "upload-offset": `${offset}` };
  return send("PATCH", place, headers, file.slice(offset), (sent) => progress(offset + sent));
}

/** Where an upload is, as seen from the page: behind a proxy `Location` may name another host or path. */
function placeOf(answer) {
  return `uploads/${answer.field("location").split("/").pop()}`;
}

/** Whether another try may do better: another request was in the way, or the server is away or too busy. */
function mayGoOn(status) {
  return [408, 409, 429].includes(status) || (status >= 500 && status !== 507);
}

function refusal({ status, text }) {
  const code = status === 413 || status === 507 ? "resource_exhausted" : "unknown";
  return new RpcError(code, text.trim() || `the server answered HTTP ${status}`);
}
