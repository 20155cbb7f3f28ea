// The session as conversations: what happens goes in, and what it does comes out.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Session } from "../../fawa/web/board/session.js";

const LIMITS = { message: 65_536, events: 256, rate: 2000, ping: 25 };
const ME = { client_id: "AAAAAAA1", token: "secret" };

function draw(x, more = {}) {
  return { type: "draw", color: "#000000", size: 3, prev_x: x, prev_y: 0, curr_x: x + 1, curr_y: 0, ...more };
}

/** A session and what it asked for: documents in `sent`, everything else in `asked`. */
class Talk {
  constructor(options = {}) {
    this.session = new Session({ name: "Ada", color: "#123456", random: () => 1, ...options });
    this.now = 1000;
    this.sent = [];
    this.asked = [];
  }

  do(actions) {
    this.sent = [];
    this.asked = [];
    for (const action of actions) {
      if (action.do === "send") this.sent.push(JSON.parse(action.text));
      else this.asked.push(action);
    }
    return this;
  }

  start() {
    return this.do(this.session.start(this.now));
  }

  open() {
    return this.do(this.session.opened(this.now));
  }

  get(document) {
    return this.do(this.session.received(JSON.stringify(document), this.now));
  }

  close(code, retryAfter) {
    return this.do(this.session.closed(code, this.now, retryAfter));
  }

  draw(...events) {
    return this.do(this.session.draw(events));
  }

  tick(ms = 0) {
    this.now += ms;
    return this.do(this.session.tick(this.now));
  }

  hello(more = {}) {
    return this.get({
      hello: { ...ME, code: "ABC123", epoch: "E1", seq: 0, op: 0, recovered: false, limits: LIMITS, read_only: false, ...more },
    });
  }

  snapshot(seq = 0, strokes = []) {
    return this.get({ snapshot: { seq, first: true, last: true, strokes } });
  }

  /** On the board, which is empty. */
  join() {
    this.start();
    this.open();
    this.hello();
    return this.snapshot();
  }

  did(what) {
    return this.asked.filter((action) => action.do === what);
  }
}

test("it says hello as somebody new, and is told who it is", () => {
  const talk = new Talk().start();
  assert.deepEqual(talk.did("connect").length, 1);
  talk.open();
  assert.deepEqual(talk.sent, [{ hello: { name: "Ada", color: "#123456" } }]);
  talk.hello();
  assert.equal(talk.session.clientId, ME.client_id);
  assert.equal(talk.did("remember").length, 1);
  talk.snapshot(7, [{ type: "draw", points: [0, 0, 1, 1] }]);
  assert.deepEqual(talk.did("snapshot"), [{ do: "snapshot", strokes: [{ type: "draw", points: [0, 0, 1, 1] }] }]);
  assert.equal(talk.session.seq, 7);
});

test("a snapshot in parts is shown once it is whole", () => {
  const talk = new Talk().start().open().hello({ seq: 9 });
  talk.get({ snapshot: { seq: 9, first: true, last: false, strokes: [{ type: "draw", points: [1] }] } });
  assert.deepEqual(talk.asked, []);
  talk.get({ snapshot: { seq: 9, first: false, last: true, strokes: [{ type: "draw", points: [2] }] } });
  assert.deepEqual(talk.did("snapshot")[0].strokes.map(({ points }) => points), [[1], [2]]);
});

test("a connection that breaks inside a snapshot leaves what was seen before", () => {
  const talk = new Talk().join();
  talk.get({ event: { ...draw(1), seq: 1, client_id: "B" } });
  talk.get({ snapshot: { seq: 50, first: true, last: false, strokes: [] } });
  talk.close(1006);
  assert.equal(talk.session.seq, 1);
  assert.equal(talk.session.epoch, "E1");
});

test("events come through once and in order", () => {
  const talk = new Talk().join();
  talk.get({ event: { ...draw(1), seq: 1, client_id: "B" } });
  assert.equal(talk.did("events").length, 1);
  talk.get({ event: { ...draw(1), seq: 1, client_id: "B" } });
  assert.deepEqual(talk.asked, []);
});

test("a gap in the events brings it back to ask for what is missing", () => {
  const talk = new Talk().join();
  talk.get({ event: { ...draw(1), seq: 1, client_id: "B" } });
  talk.get({ event: { ...draw(1), seq: 3, client_id: "B" } });
  assert.deepEqual(talk.did("events"), []);
  assert.deepEqual(talk.asked.map((action) => action.do).slice(0, 2), ["hang up", "state"]);
  talk.tick(60_000).open();
  assert.deepEqual(talk.sent[0].hello.resume, { ...ME, epoch: "E1", seq: 1 });
});

test("draws are numbered, and forgotten when the board has taken them", () => {
  const talk = new Talk().join();
  talk.draw(draw(1), draw(2));
  assert.deepEqual(talk.sent, [{ draw: { op: 1, events: [draw(1), draw(2)] } }]);
  talk.draw(draw(3));
  assert.equal(talk.sent[0].draw.op, 3);
  talk.get({ event: { ...draw(1), seq: 1, op: 1, client_id: ME.client_id } });
  assert.deepEqual(talk.session.pending.map(({ op }) => op), [2, 3]);
  talk.get({ ack: { op: 3 } });
  assert.deepEqual(talk.session.pending, []);
});

test("somebody else's numbers acknowledge nothing", () => {
  const talk = new Talk().join();
  talk.draw(draw(1));
  talk.get({ event: { ...draw(1), seq: 1, op: 1, client_id: "BBBBBBB1" } });
  assert.equal(talk.session.pending.length, 1);
});

test("what is drawn without a connection is sent on return, once", () => {
  const talk = new Talk().join();
  talk.draw(draw(1), draw(2));
  talk.close(1006);
  talk.draw(draw(3));
  assert.deepEqual(talk.sent, []);
  talk.tick(60_000).open();
  assert.deepEqual(talk.sent[0].hello.resume, { ...ME, epoch: "E1", seq: 0 });
  // The board had taken the first one; its echo was lost and comes with what was missed.
  talk.hello({ recovered: true, op: 1, seq: 1 });
  assert.deepEqual(talk.sent, [{ draw: { op: 2, events: [draw(2), draw(3)] } }]);
  talk.get({ event: { ...draw(1), seq: 1, op: 1, client_id: ME.client_id } });
  assert.equal(talk.did("events").length, 1);
  assert.deepEqual(talk.session.pending.map(({ op }) => op), [2, 3]);
});

test("where the board knows it no more, what is pending is sent by whom it is now", () => {
  const talk = new Talk().join();
  talk.draw(draw(1));
  talk.get({ ack: { op: 1 } });
  talk.close(1006);
  talk.draw(draw(2));
  talk.tick(60_000).open();
  talk.hello({ client_id: "NEWNEW12", token: "other", epoch: "E2" });
  assert.deepEqual(talk.sent, [{ draw: { op: 1, events: [draw(2)] } }]);
  talk.draw(draw(3));
  assert.equal(talk.sent[0].draw.op, 2);
});

test("after a reload it goes on counting", () => {
  const talk = new Talk({ identity: ME, pending: [{ op: 8, event: draw(8) }] }).start().open();
  assert.deepEqual(talk.sent[0].hello.resume, { ...ME, epoch: "", seq: 0 });
  talk.hello({ op: 7 });
  assert.deepEqual(talk.sent, [{ draw: { op: 8, events: [draw(8)] } }]);
  talk.draw(draw(9));
  assert.equal(talk.sent[0].draw.op, 9);
});

test("a draw keeps to the limits of events and of bytes", () => {
  const talk = new Talk().start().open().hello({ limits: { ...LIMITS, events: 3 } });
  talk.draw(draw(1), draw(2), draw(3), draw(4));
  assert.deepEqual(talk.sent.map((one) => [one.draw.op, one.draw.events.length]), [[1, 3], [4, 1]]);

  const narrow = new Talk().start().open().hello({ limits: { ...LIMITS, message: 500 } });
  narrow.draw(...Array.from({ length: 40 }, (_, x) => draw(x, { color: "äöü" })));
  assert.ok(narrow.sent.length > 6);
  for (const document of narrow.sent) assert.ok(Buffer.byteLength(JSON.stringify(document)) <= 500);
  assert.equal(narrow.sent.flatMap((one) => one.draw.events).length, 40);
});

test("a full connection is not filled further", () => {
  const talk = new Talk().join();
  talk.do(talk.session.draw([draw(1)], 1024 * 1024));
  assert.deepEqual(talk.sent, []);
  assert.ok(talk.session.hasUnsent);
  talk.do(talk.session.pump(0));
  assert.equal(talk.sent.length, 1);
  assert.ok(!talk.session.hasUnsent);
});

test("what waits for a connection is bounded, and goes when there is one", () => {
  const talk = new Talk().start();
  const events = Array.from({ length: 1000 }, (_, x) => draw(x));
  for (let count = 0; count < 60; count += 1) talk.draw(...events);
  assert.ok(talk.session.isFull);
  assert.equal(talk.session.pending.length, 50_000);
  talk.open().hello();
  let sent = talk.sent.flatMap((one) => one.draw.events).length;
  while (talk.session.hasUnsent) sent += talk.do(talk.session.pump(0)).sent.flatMap((one) => one.draw.events).length;
  assert.equal(sent, 50_000);
  talk.get({ ack: { op: 50_000 } });
  assert.ok(!talk.session.isFull);
});

test("a draw that was refused is dropped, the others go over a new connection", () => {
  const talk = new Talk().join();
  talk.draw(draw(1), draw(2));
  talk.draw(draw(3));
  talk.get({ error: { code: "bad_field", message: "size", op: 1 } });
  assert.equal(talk.did("hang up").length, 1);
  talk.tick(60_000).open().hello({ recovered: true, op: 0 });
  assert.deepEqual(talk.sent, [{ draw: { op: 3, events: [draw(3)] } }]);
});

test("told that something is missing before a draw, it begins anew at what was taken", () => {
  const talk = new Talk().join();
  talk.draw(draw(1));
  talk.draw(draw(2));
  talk.get({ error: { code: "out_of_order", message: "event 1", op: 2 } });
  talk.get({ error: { code: "out_of_order", message: "event 1", op: 3 } });
  talk.tick(60_000).open().hello({ recovered: true, op: 0 });
  assert.deepEqual(talk.sent, [{ draw: { op: 1, events: [draw(1), draw(2)] } }]);
});

test("a board that takes nothing gets what was drawn once it does", () => {
  const talk = new Talk().join();
  talk.draw(draw(1));
  talk.get({ error: { code: "read_only", message: "away", op: 1 } });
  assert.ok(talk.session.readOnly);
  talk.draw(draw(2));
  assert.deepEqual(talk.sent, []);
  talk.get({ status: { read_only: false, reason: "" } });
  assert.deepEqual(talk.sent, [{ draw: { op: 1, events: [draw(1), draw(2)] } }]);
});

test("cursors go out at most every 33 milliseconds, the newest", () => {
  const talk = new Talk().join();
  talk.do(talk.session.moveCursor(1.4, 1, talk.now));
  assert.deepEqual(talk.sent, [{ cursor: { x: 1, y: 1 } }]);
  talk.do(talk.session.moveCursor(2, 2, talk.now));
  talk.do(talk.session.moveCursor(3, 3, talk.now));
  assert.deepEqual(talk.sent, []);
  assert.equal(talk.session.wakeAt, talk.now + 33);
  talk.tick(33);
  assert.deepEqual(talk.sent, [{ cursor: { x: 3, y: 3 } }]);
});

test("people come and go, and their cursors with them", () => {
  const talk = new Talk().join();
  talk.get({ presence: { all: true, here: [{ client_id: "B", name: "Bo", color: "red" }, ME], gone: [] } });
  talk.get({ cursors: [{ client_id: "B", x: 1, y: 2 }, { client_id: ME.client_id, x: 5, y: 5 }] });
  assert.deepEqual([...talk.session.cursors.keys()], ["B"]);
  talk.get({ presence: { all: false, here: [], gone: ["B"] } });
  assert.deepEqual([...talk.session.people.keys()], [ME.client_id]);
  assert.equal(talk.session.cursors.size, 0);
});

test("a connection that says nothing is asked, and given up", () => {
  const talk = new Talk().join();
  assert.equal(talk.session.wakeAt, talk.now + 25_000);
  talk.tick(25_000);
  assert.deepEqual(talk.sent, [{ ping: 1 }]);
  talk.get({ pong: 1 });
  talk.tick(25_000);
  assert.deepEqual(talk.sent, [{ ping: 2 }]);
  talk.tick(8_000);
  assert.equal(talk.asked[0].do, "hang up");
  assert.equal(talk.session.state, "waiting");
});

test("a hint that the network is gone is checked", () => {
  const talk = new Talk().join();
  talk.do(talk.session.probe(talk.now));
  assert.deepEqual(talk.sent, [{ ping: 1 }]);
  talk.tick(3_000);
  assert.equal(talk.session.state, "waiting");
  talk.do(talk.session.probe(talk.now));
  assert.equal(talk.did("connect").length, 1);
});

test("pauses grow, have chance in them, and shrink after a good connection", () => {
  const talk = new Talk().start();
  const pauses = [];
  for (let attempt = 0; attempt < 8; attempt += 1) {
    talk.close(1006);
    pauses.push(talk.session.retryAt - talk.now);
    talk.tick(pauses.at(-1));
    assert.equal(talk.did("connect").length, 1);
  }
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
  talk.open().hello().snapshot();
  talk.now += 10_000;
  talk.close(1006);
  assert.equal(talk.session.retryAt - talk.now, 500);

  const lucky = new Talk({ random: () => 0 }).start().close(1006);
  assert.equal(lucky.session.retryAt - lucky.now, 250);
});

test("a server that goes away says for how long", () => {
  const talk = new Talk().join();
  talk.get({ drain: { retry_after_ms: 4321 } });
  talk.close(1012);
  assert.equal(talk.session.retryAt - talk.now, 4321);
});

for (const [code, ending] of [
  [4404, "gone"],
  [4409, "elsewhere"],
  [4400, "misunderstood"],
  [1009, "misunderstood"],
]) {
  test(`a connection closed with ${code} is over: ${ending}`, () => {
    const talk = new Talk().join().close(code);
    assert.equal(talk.session.state, "over");
    assert.equal(talk.session.ending, ending);
    assert.equal(talk.session.wakeAt, Infinity);
    assert.deepEqual(talk.start().asked, []);
  });
}

test("taken over by another tab, it can join as somebody else", () => {
  const talk = new Talk().join();
  talk.draw(draw(1));
  talk.close(4409);
  talk.do(talk.session.restart(talk.now));
  talk.open();
  assert.equal(talk.sent[0].hello.resume, undefined);
  talk.hello({ client_id: "NEWNEW12" });
  assert.equal(talk.sent[0].draw.op, 1);
});

test("no answer to hello in time is a connection that failed", () => {
  const talk = new Talk().start().open().tick(10_000);
  assert.deepEqual(talk.asked.map((action) => action.do), ["hang up", "state", "cursors"]);
});

test("documents that it does not know are passed over, nonsense ends the connection", () => {
  const talk = new Talk().join();
  assert.deepEqual(talk.get({ weather: "fine" }).asked, []);
  talk.do(talk.session.received("{", talk.now));
  assert.equal(talk.session.state, "waiting");
});

test("a board and its guest agree in the end, however often the connection breaks", () => {
  // A server in a few lines: it takes what it is sent unless the connection breaks before or after.
  let seed = 7;
  const chance = () => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647;
  const talk = new Talk({ random: chance }).start();
  const log = [];
  const seen = [];
  let taken = 0;
  let drawn = 0;
  let breaks = 0;
  const deliver = (actions) => {
    talk.do(actions);
    for (const { events } of talk.did("events")) seen.push(...events.map(({ curr_x }) => curr_x));
    for (const { strokes } of talk.did("snapshot")) {
      seen.length = 0;
      seen.push(...strokes.map(({ points }) => points[2]));
    }
    return talk.sent;
  };
  const tell = (document) => deliver(talk.session.received(JSON.stringify(document), talk.now));
  const serve = (documents) => {
    const waiting = [...documents];
    while (waiting.length && talk.session.state !== "waiting") {
      const [[kind, value]] = Object.entries(waiting.shift());
      if (kind === "hello") {
        const { epoch, seq } = value.resume ?? { epoch: "", seq: 0 };
        const recovered = epoch === "E1" && chance() < 0.7;
        const hello = { ...ME, code: "C", epoch: "E1", seq: log.length, op: taken, recovered, limits: LIMITS };
        waiting.push(...tell({ hello }));
        const strokes = log.map((event) => ({ type: "draw", points: [0, 0, event.curr_x, 0] }));
        if (recovered) for (const event of log.slice(seq)) tell({ event });
        else tell({ snapshot: { seq: log.length, first: true, last: true, strokes } });
      } else if (kind === "draw") {
        if (chance() < 0.2) {
          breaks += 1;
          deliver(talk.session.closed(1006, talk.now));
          return;
        }
        for (const [index, event] of value.events.entries()) {
          if (value.op + index <= taken) continue;
          taken = value.op + index;
          log.push({ ...event, seq: log.length + 1, op: taken, client_id: ME.client_id });
        }
        const silent = chance() < 0.2;
        if (silent) {
          breaks += 1;
          deliver(talk.session.closed(1006, talk.now));
          return;
        }
        for (const event of log.slice(talk.session.seq)) tell({ event });
      }
    }
  };
  for (let step = 0; step < 500 || talk.session.pending.length; step += 1) {
    assert.ok(step < 5000, "it never settles");
    if (step < 500) serve(deliver(talk.session.draw([draw(drawn++)])));
    if (talk.session.state === "waiting") {
      talk.now = talk.session.retryAt;
      deliver(talk.session.tick(talk.now));
      serve(deliver(talk.session.opened(talk.now)));
    } else if (talk.session.state === "connecting") serve(deliver(talk.session.opened(talk.now)));
  }
  const wanted = Array.from({ length: drawn }, (_, x) => x + 1);
  assert.ok(breaks > 50, `only ${breaks} breaks`);
  assert.deepEqual(log.map(({ curr_x }) => curr_x), wanted);
  assert.deepEqual(seen, wanted);
});

test("what is out of order is sent again from the oldest that was not taken, once", () => {
  const talk = new Talk();
  talk.start();
  talk.open();
  talk.hello();
  talk.draw(draw(1));
  talk.draw(draw(2));
  talk.draw(draw(3));
  talk.get({ error: { code: "out_of_order", message: "1 is missing", op: 2 } });
  assert.deepEqual(talk.sent, [{ draw: { op: 1, events: [draw(1), draw(2), draw(3)] } }]);
  talk.get({ error: { code: "out_of_order", message: "1 is missing", op: 3 } });
  assert.deepEqual(talk.sent, []);
  assert.equal(talk.session.state, "live");
});

test("one who has gone and come back is here, and all forgets cursors", () => {
  const talk = new Talk();
  talk.start();
  talk.open();
  talk.hello();
  const bo = { client_id: "BBBBBBB2", name: "Bo", color: "#2196f3" };
  talk.get({ presence: { all: false, here: [bo], gone: [bo.client_id] } });
  assert.deepEqual([...talk.session.people.values()], [bo]);
  talk.get({ cursors: [{ client_id: bo.client_id, x: 1, y: 2 }] });
  talk.get({ presence: { all: true, here: [], gone: [] } });
  assert.equal(talk.session.people.size, 0);
  assert.equal(talk.session.cursors.size, 0);
});
