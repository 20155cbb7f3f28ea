// A crowd that calls, draws and shares files, to run against a fawad that has just been installed:
//
//   k6 run -e FAWA_SERVER=https://fawa.example bench/k6/load.js
//
// 200 users come over a minute and stay for three. Each has somebody's pace: it thinks between what it does.
//   -e QUICK=1   a few users for a few seconds, and only errors count: to see that everything works at all
//   --insecure-skip-tls-verify   for a certificate that nobody vouches for
//
// It leaves files of 64 KiB behind (about 400 MB in all), which fawad removes by itself (setting file.ttl).
// gRPC needs a proxy, if there is one, that passes HTTP/2 on.

import { check, sleep } from 'k6';
import { randomBytes, sha256 } from 'k6/crypto';
import encoding from 'k6/encoding';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';
import grpc from 'k6/net/grpc';
import { WebSocket } from 'k6/experimental/websockets';

const SERVER = (__ENV.FAWA_SERVER || 'http://127.0.0.1:8080').replace(/\/$/, '');
const QUICK = Boolean(__ENV.QUICK);

// Users of each kind, 200 in all; people who look at one board draw together.
const USERS = { grpc_calls: 60, connect_calls: 60, boards: 50, files: 30 };
const ON_A_BOARD = 10;
// Events that somebody draws in one visit, and milliseconds between them.
const STROKES = QUICK ? 5 : 40;
const PAUSE = 250;
// Milliseconds after which an event that has not come back counts as lost, and a connection that is not there.
const PATIENCE = QUICK ? 60_000 : 10_000;
const FILE = 64 * 1024;

const users = (kind) => (QUICK ? 2 : USERS[kind]);
const stages = (kind) =>
  QUICK
    ? [{ duration: '2s', target: users(kind) }]
    : [
        { duration: '1m', target: users(kind) },
        { duration: '3m', target: users(kind) },
      ];
const scenario = (kind) => ({
  executor: 'ramping-vus',
  exec: kind,
  startVUs: QUICK ? users(kind) : 0,
  stages: stages(kind),
  gracefulStop: QUICK ? '2m' : '30s',
});

const FAST = QUICK ? [] : ['p(95)<50', 'p(99)<150'];
const BOARD = QUICK ? [] : ['p(95)<100', 'p(99)<250'];

export const options = {
  scenarios: Object.fromEntries(Object.keys(USERS).map((kind) => [kind, scenario(kind)])),
  thresholds: {
    checks: ['rate==1'],
    faults: ['count==0'],
    // Nothing is fine where nothing happened.
    'checks{scenario:grpc_calls}': ['rate==1'],
    'checks{scenario:connect_calls}': ['rate==1'],
    files_uploaded: ['count>0'],
    strokes_seen: ['count>0'],
    http_req_failed: ['rate==0'],
    // Without a condition in the quick form: there they only make the summary show the figure.
    'grpc_req_duration{scenario:grpc_calls}': FAST,
    'http_req_duration{scenario:connect_calls}': FAST,
    board_echo: BOARD,
  },
  summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max'],
};

// From drawing an event to seeing it come back, in milliseconds.
const boardEcho = new Trend('board_echo', true);
// What went wrong that is no HTTP status: each is logged with its reason.
const faults = new Counter('faults');
const uploaded = new Counter('files_uploaded');
const seen = new Counter('strokes_seen');

function fault(text) {
  faults.add(1);
  console.error(text);
}

// k6 itself goes on after an exception, and calls the run a success.
function counted(act) {
  return (...given) => {
    try {
      act(...given);
    } catch (error) {
      fault(`${exec.scenario.name}: ${error.stack || error}`);
      sleep(1);
    }
  };
}

const think = () => sleep(0.5 + Math.random());

export function setup() {
  const answer = http.get(`${SERVER}/health`);
  if (answer.status !== 200) {
    exec.test.abort(`${SERVER}/health answers ${answer.status} ${answer.error}: is this a fawad?`);
  }
  const codes = [];
  for (let made = 0; made < Math.ceil(users('boards') / ON_A_BOARD); made++) {
    codes.push(http.post(`${SERVER}/create`).json('code'));
  }
  return { codes };
}

// Calls

const client = new grpc.Client();
client.load(['../../protocols'], 'greet/v1/greet.proto');
let connected = false;

export const grpc_calls = counted(() => {
  if (!connected) {
    const plaintext = SERVER.startsWith('http://');
    const { host, port } = authority();
    client.connect(`${host}:${port}`, { plaintext, timeout: PATIENCE });
    connected = true;
  }
  const name = `user ${exec.vu.idInTest}`;
  const answer = client.invoke('greet.v1.GreetService/SayHello', { name });
  check(answer, {
    'gRPC greets': (got) => got.status === grpc.StatusOK && got.message.resp === `Hello, ${name}!`,
  }) || console.error(`SayHello over gRPC: ${JSON.stringify(answer)}`);
  think();
});

function authority() {
  const [, scheme, host, port] = SERVER.match(/^(https?):\/\/(\[[^\]]*\]|[^:/]+)(?::(\d+))?$/) || [];
  if (!host) {
    exec.test.abort(`FAWA_SERVER is to be scheme://host or scheme://host:port, not ${SERVER}`);
  }
  return { host, port: port || (scheme === 'https' ? 443 : 80) };
}

export const connect_calls = counted(() => {
  const name = `user ${exec.vu.idInTest}`;
  const answer = call('greet.v1.GreetService/SayHello', { name });
  check(answer, {
    'Connect greets': (got) => got.status === 200 && got.json('resp') === `Hello, ${name}!`,
  }) || console.error(`SayHello over Connect: ${answer.status} ${answer.error} ${answer.body}`);
  think();
});

function call(method, message) {
  return http.post(`${SERVER}/${method}`, JSON.stringify(message), {
    headers: { 'content-type': 'application/json' },
    tags: { name: method },
  });
}

// Boards, in wire v2 (protocols/whiteboard.md)

export const boards = counted(({ codes }) => {
  const code = codes[exec.vu.idInTest % codes.length];
  const socket = new WebSocket(`${SERVER.replace(/^http/, 'ws')}/ws/canva?code=${code}`, ['fawa.v2']);
  const sent = new Map(); // by op: when
  let [me, op, seq, over] = [null, 0, 0, false];
  let drawing = null;
  let waiting = null;

  // Leave for good, with what went wrong if something did.
  const leave = (why) => {
    if (!over) {
      over = true;
      clearInterval(drawing);
      clearTimeout(waiting);
      if (why) {
        fault(`board ${code}, after ${op} strokes, ${sent.size} of them not seen: ${why}`);
      }
      socket.close();
    }
  };
  const draw = () => {
    op += 1;
    sent.set(op, Date.now());
    const [x, y] = [Math.floor(Math.random() * 1600), Math.floor(Math.random() * 900)];
    const event = { type: 'draw', color: '#c2410c', size: 4, prev_x: x, prev_y: y, curr_x: x + 5, curr_y: y + 5 };
    socket.send(JSON.stringify({ draw: { op, events: [event] } }));
    if (op === STROKES) {
      clearInterval(drawing);
    }
  };
  const hear = (event) => {
    if (event.seq !== seq + 1) {
      leave(`event ${event.seq} came after ${seq}`);
    }
    seq = event.seq;
    if (event.client_id === me && sent.has(event.op)) {
      boardEcho.add(Date.now() - sent.get(event.op));
      seen.add(1);
      sent.delete(event.op);
      if (op === STROKES && sent.size === 0) {
        leave();
      }
    }
  };

  socket.onopen = () => socket.send(JSON.stringify({ hello: { name: `user ${exec.vu.idInTest}` } }));
  socket.onmessage = counted(({ data }) => {
    const document = JSON.parse(data);
    if (document.hello) {
      me = document.hello.client_id;
      drawing = setInterval(draw, PAUSE);
      waiting = setTimeout(() => leave('too late'), STROKES * PAUSE + PATIENCE);
    } else if (document.event) {
      hear(document.event);
    } else if (document.snapshot) {
      seq = document.snapshot.seq;
    } else if (document.error) {
      leave(`${document.error.code} ${document.error.message}`);
    }
  });
  socket.onerror = ({ error }) => leave(error);
  socket.onclose = () => leave('it was closed');
});

// Files

// Made once for each user: k6 takes longer for it than fawad for the file.
let mine = null;

function make_file() {
  const content = randomBytes(FILE);
  const body = concat(
    envelope({ info: { name: `k6-${exec.vu.idInTest}.bin`, size: FILE } }),
    envelope({ chunkData: encoding.b64encode(content) }),
  );
  return { digest: sha256(content, 'hex'), body: body.buffer };
}

export const files = counted(() => {
  mine = mine || make_file();
  const key = upload(mine.body);
  if (key) {
    uploaded.add(1);
    const link = call('file.v1.FileService/GetDownloadURL', { randomkey: key });
    const url = link.status === 200 ? link.json('url') : null;
    check(link, { 'there is a link': () => Boolean(url) });
    if (url) {
      const got = http.get(url, { responseType: 'binary', tags: { name: 'link' } });
      check(got, {
        'the link has what was sent': ({ status, body }) => status === 200 && sha256(body, 'hex') === mine.digest,
      }) || console.error(`${url}: ${got.status} ${got.error}`);
    }
  }
  think();
});

// Send a file with a client stream of Connect, which is one POST (https://connectrpc.com/docs/protocol).
function upload(body) {
  const answer = http.post(`${SERVER}/file.v1.FileService/SendFile`, body, {
    headers: { 'content-type': 'application/connect+json' },
    responseType: 'binary',
    tags: { name: 'file.v1.FileService/SendFile' },
  });
  const messages = answer.status === 200 ? messages_of(new Uint8Array(answer.body)) : [];
  const [message, end] = messages;
  const fine = messages.length === 2 && message.success && !end.error;
  check(answer, { 'a file is taken': () => fine }) ||
    console.error(`SendFile: ${answer.status} ${answer.error} ${JSON.stringify(messages)}`);
  return fine ? message.randomkey : null;
}

// A message with its prefix: one octet of flags, four of length.
function envelope(message) {
  const text = encode(JSON.stringify(message));
  const octets = new Uint8Array(5 + text.length);
  new DataView(octets.buffer).setUint32(1, text.length);
  octets.set(text, 5);
  return octets;
}

function messages_of(octets) {
  const found = [];
  for (let at = 0; at + 5 <= octets.length; ) {
    const size = new DataView(octets.buffer, octets.byteOffset + at + 1).getUint32(0);
    found.push(JSON.parse(String.fromCharCode(...octets.subarray(at + 5, at + 5 + size))));
    at += 5 + size;
  }
  return found;
}

function concat(...parts) {
  const octets = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    octets.set(part, at);
    at += part.length;
  }
  return octets;
}

// k6 has no TextEncoder; everything here is ASCII.
function encode(text) {
  return Uint8Array.from(Array.from(text), (character) => character.charCodeAt(0));
}
