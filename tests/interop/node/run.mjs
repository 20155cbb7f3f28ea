// Speaks with the daemon through Connect's JavaScript transports, all at once, and prints what was said: a JSON
// object by transport, then by scenario.
//
//   node run.mjs URL DESCRIPTORS
//
// DESCRIPTORS is a file with a FileDescriptorSet (protoc --descriptor_set_out). Python asserts on what is
// printed; here nothing is judged.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";

const [baseUrl, descriptors] = process.argv.slice(2);
const gzip = { sendCompression: node.compressionGzip, compressMinBytes: 64 };

const transports = {
  "node connect h1": () => node.createConnectTransport({ baseUrl, httpVersion: "1.1" }),
  "node connect h1 json": () => node.createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
  "node connect h1 get": () => node.createConnectTransport({ baseUrl, httpVersion: "1.1", useHttpGet: true }),
  "node connect h2": () => node.createConnectTransport({ baseUrl, httpVersion: "2" }),
  "node connect h2 json": () => node.createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: false }),
  "node connect h2 gzip": () => node.createConnectTransport({ baseUrl, httpVersion: "2", ...gzip }),
  "node grpc h2": () => node.createGrpcTransport({ baseUrl }),
  "node grpc h2 gzip": () => node.createGrpcTransport({ baseUrl, ...gzip }),
  "node grpcweb h1": () => node.createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
  "node grpcweb h2": () => node.createGrpcWebTransport({ baseUrl, httpVersion: "2" }),
  "web connect": () => web.createConnectTransport({ baseUrl, useBinaryFormat: true }),
  "web connect json": () => web.createConnectTransport({ baseUrl }),
  "web connect get": () => web.createConnectTransport({ baseUrl, useHttpGet: true, useBinaryFormat: true }),
  "web grpcweb": () => web.createGrpcWebTransport({ baseUrl }),
};

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const names = ["Ada", "", "Zoë", "李雷", "שלום", "🦊 fox"];

async function* each(messages) {
  for (const message of messages) yield message;
}

async function all(stream, pick) {
  const picked = [];
  for await (const message of stream) picked.push(pick(message));
  return picked;
}

const sha256 = (pieces) => pieces.reduce((hash, piece) => hash.update(piece), createHash("sha256")).digest("hex");

/** The name of the code a call fails with, or what it unexpectedly answered. */
async function failure(call) {
  try {
    return { answered: await call() };
  } catch (error) {
    return error instanceof ConnectError ? { code: Code[error.code], message: error.rawMessage } : { thrown: `${error}` };
  }
}

const receive = (file, randomkey) => all(file.receiveFile({ randomkey }), (message) => message);

// What every transport can do.
const scenarios = (greet, file) => ({
  unary: () =>
    Promise.all(
      names.map(async (name) => {
        let version = null;
        const { resp } = await greet.sayHello({ name }, { onHeader: (headers) => (version = headers.get("greet-version")) });
        return { resp, version };
      }),
    ),
  serverStream: () => Promise.all(names.map((name) => all(greet.greetStream({ name }), (message) => message.part))),
  errors: async () => ({
    unknownKey: await failure(() => file.getDownloadURL({ randomkey: "nobody" })),
    emptyKey: await failure(() => file.getDownloadURL({})),
    unknownFile: await failure(() => receive(file, "nobody")),
  }),
  metadata: async () => {
    const headers = new Headers({ "x-plain": "a", "x-raw-bin": "AP8" });
    return (await greet.sayHello({ name: "Ada" }, { headers })).resp;
  },
});

// A message beyond the limit; a GET would have it in the request line, which has a limit of its own.
const large = (greet) => ({
  tooLarge: () => failure(() => greet.sayHello({ name: "x".repeat(4 * 1024 * 1024 + 1) })),
  afterwards: async () => (await greet.sayHello({ name: "Bob" })).resp,
});

// What fetch cannot do: a request body that streams.
const streaming = (greet, file) => ({
  clientStream: async () => (await greet.greetClientStream(each(names.map((name) => ({ name }))))).summary,
  bidi: () => all(greet.greetBidiStream(each(names.map((name) => ({ name })))), (message) => message.echo),
  file: async () => {
    const pieces = Array.from({ length: 40 }, (_, n) => Buffer.alloc(50_001, n));
    const size = BigInt(40 * 50_001);
    const requests = [
      { payload: { case: "info", value: { name: "Zoë.bin", size } } },
      ...pieces.map((value) => ({ payload: { case: "chunkData", value } })),
    ];
    const { success, randomkey } = await file.sendFile(each(requests));
    const [first, ...rest] = await receive(file, randomkey);
    const link = await file.getDownloadURL({ randomkey });
    return {
      success,
      filename: first.filename,
      size: Number(first.payload.value),
      sent: sha256(pieces),
      received: sha256(rest.map((message) => message.payload.value)),
      linkName: link.filename,
      linked: sha256([Buffer.from(await (await fetch(link.url)).arrayBuffer())]),
    };
  },
  lateInfo: () => failure(() => file.sendFile(each([{ payload: { case: "chunkData", value: new Uint8Array(1) } }]))),
  deadline: () =>
    failure(() => {
      const never = (async function* () {
        yield { name: "Ada" };
        await new Promise(() => {});
      })();
      return all(greet.greetBidiStream(never, { timeoutMs: 300 }), (message) => message.echo);
    }),
  cancellation: async () => {
    const giveUp = new AbortController();
    const heard = [];
    const endless = (async function* () {
      yield { name: "Ada" };
      await new Promise(() => {});
    })();
    const ended = await failure(async () => {
      for await (const message of greet.greetBidiStream(endless, { signal: giveUp.signal })) {
        heard.push(message.echo);
        giveUp.abort();
      }
    });
    return { heard, ended };
  },
});

// Only over HTTP/2 can both sides take turns: over HTTP/1.1 an answer may wait for the end of the request.
const taking = (greet) => ({
  turns: async () => {
    const heard = [];
    let next;
    const said = (async function* () {
      for (const name of names) {
        const answered = new Promise((resolve) => (next = resolve));
        yield { name };
        await answered;
      }
    })();
    for await (const message of greet.greetBidiStream(said)) {
      heard.push(message.echo);
      next();
    }
    return heard;
  },
});

async function converse(style) {
  const transport = transports[style]();
  const greet = createClient(registry.getService("greet.v1.GreetService"), transport);
  const file = createClient(registry.getService("file.v1.FileService"), transport);
  const chosen = {
    ...scenarios(greet, file),
    ...(style.endsWith("get") ? {} : large(greet)),
    ...(style.startsWith("node") ? streaming(greet, file) : {}),
    ...(style.includes("h2") ? taking(greet) : {}),
  };
  const results = {};
  for (const [name, scenario] of Object.entries(chosen)) {
    try {
      results[name] = await scenario();
    } catch (error) {
      results[name] = { failed: `${error}`, stack: error.stack };
    }
  }
  return [style, results];
}

const said = await Promise.all(Object.keys(transports).map(converse));
process.stdout.write(JSON.stringify(Object.fromEntries(said)), () => process.exit(0));
