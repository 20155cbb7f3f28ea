// A file that goes on where the line broke, between the page's client and a server made of a few lines.

import assert from "node:assert/strict";
import { test } from "node:test";

import { RpcError } from "../../fawa/web/connectrpc.js";
import { Broken, PAUSES, sendResuming } from "../../fawa/web/files/resuming.js";

const DATA = Array.from({ length: 1000 }, (_, place) => String.fromCharCode(97 + (place % 26))).join("");

function file(text = DATA, name = "Zoë.txt") {
  return Object.assign(new Blob([text]), { name });
}

/** A server that does what `events` say, one for each request, and then all that it is asked. */
class Server {
  constructor(...events) {
    this.events = events;
    this.asked = [];
    this.stored = "";
    this.size = null;
    this.name = null;
    this.paused = [];
    this.told = [];
  }

  send = async (method, path, headers, body, sent) => {
    this.asked.push(`${method} ${path} ${headers["upload-offset"] ?? ""}`.trim());
    assert.equal(headers["tus-resumable"], "1.0.0");
    const event = this.events.shift() ?? {};
    if (event.status) return this.answer(event.status, {}, event.text);
    if (event.broken === "before") throw new Broken();
    if (method === "POST") {
      this.mostDownloads = headers["fawa-max-downloads"];
      this.size = Number(headers["upload-length"]);
      this.name = Buffer.from(headers["upload-metadata"].split(" ")[1], "base64").toString();
    }
    if (method === "PATCH") {
      assert.equal(headers["content-type"], "application/offset+octet-stream");
      assert.equal(Number(headers["upload-offset"]), this.stored.length);
      const text = await body.text();
      this.stored += text.slice(0, event.takes ?? text.length);
      sent(Math.min(text.length, event.takes ?? text.length));
      if (event.takes !== undefined) throw new Broken();
    }
    if (event.broken === "after") throw new Broken();
    const whole = this.stored.length === this.size ? { "fawa-key": "abc", "fawa-expires": "1763901500250" } : {};
    const location = method === "POST" ? { location: "https://elsewhere.example/fawa/uploads/id" } : {};
    return this.answer(method === "POST" ? 201 : 204, { "upload-offset": `${this.stored.length}`, ...location, ...whole });
  };

  answer(status, fields, text = "") {
    return { status, text, field: (name) => fields[name] ?? null };
  }

  run(what = file(), terms = {}) {
    return sendResuming(what, {
      send: this.send,
      pause: async (milliseconds) => this.paused.push(milliseconds),
      progress: (bytes) => this.told.push(bytes),
    }, terms);
  }
}

const DONE = { key: "abc", expiresAt: 1763901500250 };

test("a file on a good line takes two requests", async () => {
  const server = new Server();
  assert.deepEqual(await server.run(), DONE);
  assert.deepEqual(server.asked, ["POST uploads", "PATCH uploads/id 0"]);
  assert.deepEqual([server.stored, server.name, server.paused], [DATA, "Zoë.txt", []]);
  assert.equal(server.told.at(-1), 1000);
  assert.equal(server.mostDownloads, undefined);
});

test("a file that may be downloaded once, also where its beginning is made again", async () => {
  const server = new Server({ broken: "before" });
  assert.deepEqual(await server.run(file(), { once: true }), DONE);
  assert.equal(server.mostDownloads, "1");
});

test("an empty file takes one", async () => {
  const server = new Server();
  assert.deepEqual(await server.run(file("")), DONE);
  assert.deepEqual(server.asked, ["POST uploads"]);
});

test("where the line breaks the server is asked, and the file goes on", async () => {
  const server = new Server({}, { takes: 300 }, {}, { takes: 0 }, {}, { takes: 600 });
  assert.deepEqual(await server.run(), DONE);
  assert.equal(server.stored, DATA);
  assert.deepEqual(server.asked, [
    "POST uploads",
    "PATCH uploads/id 0",
    "HEAD uploads/id",
    "PATCH uploads/id 300",
    "HEAD uploads/id",
    "PATCH uploads/id 300",
    "HEAD uploads/id",
    "PATCH uploads/id 900",
  ]);
  // Patience grows while nothing gets through, and is new after something has.
  assert.deepEqual(server.paused, [PAUSES[0], PAUSES[0], PAUSES[1]]);
});

test("an answer that was lost is asked for", async () => {
  const server = new Server({}, { broken: "after" });
  assert.deepEqual(await server.run(), DONE);
  assert.deepEqual(server.asked.slice(1), ["PATCH uploads/id 0", "HEAD uploads/id"]);
});

test("a beginning that was lost is made again", async () => {
  const server = new Server({ broken: "before" }, { broken: "after" });
  assert.deepEqual(await server.run(), DONE);
  assert.deepEqual(server.asked, ["POST uploads", "POST uploads", "POST uploads", "PATCH uploads/id 0"]);
});

test("a server that is busy or away is tried again", async () => {
  const away = [408, 409, 429, 500, 502, 503].map((status) => ({ status }));
  const server = new Server({}, ...away);
  assert.deepEqual(await server.run(), DONE);
  assert.deepEqual(server.paused, PAUSES.slice(0, 6));
});

test("patience has an end", async () => {
  const server = new Server({}, { takes: 10 }, ...PAUSES.map(() => ({ broken: "before" })));
  await assert.rejects(server.run(), (error) => error instanceof RpcError && error.code === "unavailable");
  assert.deepEqual(server.paused, PAUSES);
});

for (const [status, code] of [
  [400, "unknown"],
  [404, "unknown"],
  [410, "unknown"],
  [413, "resource_exhausted"],
  [507, "resource_exhausted"],
]) {
  test(`${status} is the end, in the server's words`, async () => {
    const server = new Server({}, { status, text: "why not\n" });
    await assert.rejects(server.run(), (error) => error.code === code && error.message === "why not");
  });
}

test("a server that keeps no interrupted uploads", async () => {
  for (const status of [404, 405]) assert.equal(await new Server({ status }).run(), null);
});

test("what is cancelled is taken back", async () => {
  const server = new Server();
  const cancelled = new RpcError("canceled", "cancelled");
  const send = async (method, ...rest) => {
    const answer = await server.send(method, ...rest);
    if (method === "PATCH") throw cancelled;
    if (method === "DELETE") throw new Broken();
    return answer;
  };
  await assert.rejects(sendResuming(file(), { send, pause: server.pause, progress: () => {} }), cancelled);
  assert.deepEqual(server.asked, ["POST uploads", "PATCH uploads/id 0", "DELETE uploads/id"]);
});
