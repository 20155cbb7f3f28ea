// Content of a file, as one `file.v1.FileService/ReceiveFile` call brings it.

import { exchange } from "../connectrpc.js";
import { decode, textField } from "../protobuf.js";

/**
 * Receive a file, piece by piece.
 * @yields {{size: number} | {data: Uint8Array}} the size first
 * @throws {RpcError}
 */
export async function* receive(key, options) {
  const request = textField(1, key);
  const method = "file.v1.FileService/ReceiveFile";
  for await (const message of exchange(method, "application/connect+proto", [request], options)) {
    const fields = decode(message);
    const data = fields.get(3);
    yield data === undefined ? { size: fields.get(2) ?? 0 } : { data };
  }
}
