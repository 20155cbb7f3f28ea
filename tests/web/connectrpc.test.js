// Connect's envelopes, as much protobuf as the page needs, and a file as the body of one call.

import assert from "node:assert/strict";
import { test } from "node:test";

import { END_OF_STREAM, EnvelopeReader, RpcError, envelopeHeader } from "../../fawa/web/connectrpc.js";
import { Speed, readAnswer, requestBody } from "../../fawa/web/files/upload.js";
import { bytesField, concat, decode, integerField, text, textField, varint } from "../../fawa/web/protobuf.js";

const encode = (value) => new TextEncoder().encode(value);
const envelope = (data, flags = 0) => concat(envelopeHeader(data.length, flags), data);

const MESSAGES = [encode("one"), new Uint8Array(), encode("three".repeat(1000))];
const STREAM = concat(...MESSAGES.map((data) => envelope(data)), envelope(encode("{}"), END_OF_STREAM));

/** Feed the stream in pieces; return what came out. */
function read(pieces) {
  const reader = new EnvelopeReader();
  const whole = pieces.flatMap((piece) => reader.feed(piece).map(({ flags, data }) => [flags, text(data)]));
  assert.ok(reader.isBetweenMessages);
  return whole;
}

const EXPECTED = [...MESSAGES.map((data) => [0, text(data)]), [END_OF_STREAM, "{}"]];

test("envelopes are read whole, byte by byte, and however they are torn", () => {
  assert.deepEqual(read([STREAM]), EXPECTED);
  assert.deepEqual(read([...STREAM].map((byte) => Uint8Array.of(byte))), EXPECTED);
  let seed = 11;
  for (let round = 0; round < 200; round += 1) {
    const pieces = [];
    for (let place = 0; place < STREAM.length; ) {
      seed = (seed * 48_271) % 2_147_483_647;
      const length = 1 + (seed % 900);
      pieces.push(STREAM.subarray(place, place + length));
      place += length;
    }
    assert.deepEqual(read(pieces), EXPECTED);
  }
});

test("a message that is announced too large is not waited for", () => {
  assert.throws(() => new EnvelopeReader().feed(envelopeHeader(2 ** 32 - 1)), RpcError);
});

test("a stream that is cut off is known to be", () => {
  const reader = new EnvelopeReader();
  reader.feed(STREAM.subarray(0, STREAM.length - 1));
  assert.ok(!reader.isBetweenMessages);
});

// Encodings as protobuf's own documentation has them.
for (const [value, bytes] of [
  [0, [0]],
  [1, [1]],
  [150, [0x96, 0x01]],
  [300, [0xac, 0x02]],
  [2 ** 32, [0x80, 0x80, 0x80, 0x80, 0x10]],
  [Number.MAX_SAFE_INTEGER, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]],
]) {
  test(`the varint of ${value}`, () => {
    assert.deepEqual(varint(value), bytes);
    assert.equal(decode(integerField(2, value)).get(2), value);
  });
}

test("a message is read, what is unknown in it is passed over", () => {
  const fixed = Uint8Array.of(0x49, 1, 2, 3, 4, 5, 6, 7, 8, 0x55, 1, 2, 3, 4);
  const fields = decode(concat(fixed, textField(3, "schlüssel"), integerField(4, 7), bytesField(15, Uint8Array.of(1))));
  assert.equal(text(fields.get(3)), "schlüssel");
  assert.equal(fields.get(4), 7);
});

test("what is no message is refused", () => {
  for (const bytes of [[0x0a, 5, 1], [0x08], [0x0b], [0x08, ...Array(11).fill(0xff)], [0x49, 1]]) {
    assert.throws(() => decode(Uint8Array.from(bytes)), RangeError, String(bytes));
  }
});

for (const size of [0, 1, 9, 10, 11, 1000]) {
  test(`a file of ${size} bytes as messages`, async () => {
    const content = Uint8Array.from({ length: size }, (_, index) => index % 251);
    const file = Object.assign(new Blob([content]), { name: "bericht ä.txt" });
    const body = new Uint8Array(await requestBody(file, {}, 10).arrayBuffer());
    const [first, ...rest] = new EnvelopeReader().feed(body);
    const info = decode(decode(first.data).get(1));
    assert.equal(text(info.get(1)), "bericht ä.txt");
    assert.equal(info.get(2) ?? 0, size);
    assert.equal(info.get(7), undefined);
    const chunks = rest.map(({ data }) => decode(data).get(2));
    assert.ok(chunks.every((chunk) => chunk.length > 0 && chunk.length <= 10));
    assert.deepEqual(concat(...chunks), content);
  });
}

test("a file that may be downloaded once", async () => {
  const file = Object.assign(new Blob(["a"]), { name: "a" });
  const [first] = new EnvelopeReader().feed(new Uint8Array(await requestBody(file, { once: true }).arrayBuffer()));
  // Terms.max_downloads is 1.
  assert.deepEqual(decode(decode(first.data).get(1)).get(7), Uint8Array.from([0x10, 1]));
});

test("the answer to a file", () => {
  const message = concat(integerField(1, 1), textField(2, "kept"), textField(3, "k3y"), integerField(4, 1_800_000_000_123));
  const end = envelope(encode("{}"), END_OF_STREAM);
  assert.deepEqual(readAnswer(concat(envelope(message), end)), {
    key: "k3y",
    message: "kept",
    expiresAt: 1_800_000_000_123,
  });
  const old = concat(integerField(1, 1), textField(3, "k3y"));
  assert.equal(readAnswer(concat(envelope(old), end)).expiresAt, 0);
});

test("the answer that a file was not taken", () => {
  const error = JSON.stringify({ error: { code: "resource_exhausted", message: "no room" } });
  const refused = (bytes) => {
    try {
      readAnswer(bytes);
    } catch (caught) {
      return [caught.code, caught.message];
    }
    return null;
  };
  assert.deepEqual(refused(envelope(encode(error), END_OF_STREAM)), ["resource_exhausted", "no room"]);
  assert.equal(refused(envelope(encode("{}"), END_OF_STREAM))[0], "internal");
  assert.equal(refused(new Uint8Array())[0], "unavailable");
});

test("speed is that of the last seconds", () => {
  const speed = new Speed(3000);
  assert.equal(speed.mark(0, 0), 0);
  assert.equal(speed.mark(1000, 1000), 1000);
  for (let second = 2; second <= 20; second += 1) speed.mark(1000 + (second - 1) * 5000, second * 1000);
  assert.equal(speed.mark(1000 + 20 * 5000, 21_000), 5000);
});
