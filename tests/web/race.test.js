// Which transport wins, and what is said of the other.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Race } from "../../fawa/web/board/race.js";

const words = (actions) => actions.map(({ do: deed, what = "" }) => `${deed} ${what}`.trim());

test("WebTransport in time is used, and nothing else is tried", () => {
  const race = new Race();
  assert.deepEqual(words(race.start(0)), ["open WebTransport"]);
  assert.deepEqual(words(race.opened("WebTransport", 50)), ["use WebTransport"]);
  assert.equal(race.wakeAt, Infinity);
  assert.deepEqual(race.tick(10_000), []);
});

test("WebSocket starts after a while, and gives way", () => {
  const race = new Race();
  race.start(0);
  assert.equal(race.wakeAt, 300);
  assert.deepEqual(race.tick(299), []);
  assert.deepEqual(words(race.tick(300)), ["open WebSocket"]);
  assert.deepEqual(words(race.opened("WebSocket", 320)), []);
  assert.deepEqual(words(race.opened("WebTransport", 400)), ["close WebSocket", "use WebTransport"]);
  assert.deepEqual(words(race.opened("WebSocket", 401)), ["close WebSocket"]);
});

test("UDP that does not answer", () => {
  const race = new Race();
  race.start(0);
  race.tick(300);
  race.opened("WebSocket", 320);
  assert.equal(race.wakeAt, 1020);
  const actions = race.tick(1020);
  assert.deepEqual(words(actions), ["close WebTransport", "use WebSocket"]);
  assert.equal(actions[1].why, "WebTransport could not be had: UDP did not answer within 1.0 s.");
  assert.ok(race.timedOut);
  assert.deepEqual(race.failed("WebTransport", "late", 1021), []);
});

test("WebTransport that fails at once", () => {
  const race = new Race();
  race.start(0);
  assert.deepEqual(words(race.failed("WebTransport", "it was refused", 20)), ["open WebSocket"]);
  const [use] = race.opened("WebSocket", 40);
  assert.deepEqual([use.do, use.why], ["use", "WebTransport could not be had: it was refused."]);
  assert.ok(!race.timedOut);
});

test("WebTransport that is not to be tried", () => {
  const race = new Race("This browser has none.");
  assert.deepEqual(words(race.start(0)), ["open WebSocket"]);
  assert.deepEqual(race.opened("WebSocket", 9), [{ do: "use", what: "WebSocket", why: "This browser has none." }]);
});

test("neither", () => {
  const race = new Race();
  race.start(0);
  race.failed("WebTransport", "no", 1);
  assert.deepEqual(words(race.failed("WebSocket", "no", 2)), ["lost"]);
  const other = new Race();
  other.start(0);
  other.tick(300);
  assert.deepEqual(other.failed("WebSocket", "no", 310), []);
  assert.deepEqual(words(other.tick(1010)), ["close WebTransport", "lost"]);
});

test("WebTransport fails while WebSocket waits for it", () => {
  const race = new Race();
  race.start(0);
  race.tick(300);
  race.opened("WebSocket", 310);
  assert.deepEqual(words(race.failed("WebTransport", "no", 320)), ["use WebSocket"]);
});
