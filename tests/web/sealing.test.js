// Sealed files: the vectors of protocols/sealed.json, and what is altered or cut off.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Opener, SealError, newSecret, readSecret, seal, writeSecret } from "../../fawa/web/files/sealing.js";

const { vectors } = JSON.parse(readFileSync(new URL("../../protocols/sealed.json", import.meta.url), "utf8"));

const content = (size) => Uint8Array.from({ length: size }, (_, at) => (at * 7) % 251);
const hex = (text) => new Uint8Array(Buffer.from(text, "hex"));

async function sealed(plain, name, secret, salt) {
  const pieces = [];
  for await (const piece of seal(new Blob([plain]), name, secret, salt)) pieces.push(piece);
  return new Uint8Array(Buffer.concat(pieces));
}

async function opened(data, secret, step) {
  const opener = new Opener(secret);
  const pieces = [];
  for (let at = 0; at < data.length; at += step) pieces.push(...(await opener.feed(data.subarray(at, at + step))));
  pieces.push(await opener.finish());
  return { name: opener.name, plain: new Uint8Array(Buffer.concat(pieces)) };
}

for (const vector of vectors) {
  test(vector.title, async () => {
    const [secret, plain] = [readSecret(vector.secret), content(vector.size)];
    assert.equal(writeSecret(secret), vector.secret);
    const data = await sealed(plain, vector.name, secret, hex(vector.salt));
    assert.equal(data.length, vector.sealed_size);
    assert.equal(createHash("sha256").update(data).digest("hex"), vector.sealed_sha256);
    if (vector.sealed) assert.equal(Buffer.from(data).toString("hex"), vector.sealed);
    for (const step of [7, 65_552, 1_000_000]) {
      const { name, plain: got } = await opened(data, secret, step);
      assert.equal(name, vector.name);
      assert.deepEqual(got, plain);
    }
  });
}

test("what is altered, cut off, longer or of another secret is not opened", async () => {
  const secret = newSecret();
  const data = await sealed(content(140_000), "a", secret);
  assert.equal((await opened(data, secret, 50_000)).plain.length, 140_000);
  const altered = data.slice();
  altered[70_000] ^= 1;
  const longer = new Uint8Array([...data, 0]);
  const cut = [data.subarray(0, 32), data.subarray(0, 32 + 65_552), data.subarray(0, -1), data.subarray(0, 10)];
  for (const bad of [altered, longer, ...cut]) await assert.rejects(opened(bad, secret, 50_000), SealError);
  await assert.rejects(opened(data, newSecret(), 50_000), /another file's secret/);
  await assert.rejects(opened(content(200), secret, 50_000), /no file sealed by fawa/);
});

test("secrets in links", () => {
  for (const text of ["", "abc", "+".repeat(43), "A".repeat(44)]) assert.throws(() => readSecret(text), SealError);
});

test("a name too long", async () => {
  await assert.rejects(sealed(content(1), "x".repeat(1025), newSecret()), /more than 1024 bytes/);
});
