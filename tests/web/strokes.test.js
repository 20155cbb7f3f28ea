// From pointers to segments.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Stroke, sizeAt } from "../../fawa/web/board/strokes.js";

const INT32 = 2 ** 31;

function stroke(more = {}) {
  return new Stroke({ color: "#c62f1d", size: 6, stroke: 4, ...more });
}

function circle(count, radius = 200) {
  return Array.from({ length: count }, (_, index) => {
    const angle = (2 * Math.PI * index) / (count - 1);
    return { x: 800 + radius * Math.cos(angle), y: 500 + radius * Math.sin(angle) };
  });
}

/** Draw samples, so many at a time. */
function drawn(line, samples, batch = 4) {
  const events = [];
  for (let start = 0; start < samples.length; start += batch) events.push(...line.add(samples.slice(start, start + batch)));
  return [...events, ...line.end()];
}

function isConnected(events) {
  return events.every(
    (event, index) =>
      index === 0 || (event.prev_x === events[index - 1].curr_x && event.prev_y === events[index - 1].curr_y),
  );
}

function turns(events) {
  const angles = events.map((event) => Math.atan2(event.curr_y - event.prev_y, event.curr_x - event.prev_x));
  return angles.slice(1).map((angle, index) => {
    const turn = Math.abs(angle - angles[index]);
    return Math.min(turn, 2 * Math.PI - turn);
  });
}

test("a touch is a dot", () => {
  const line = stroke();
  assert.deepEqual(line.add([{ x: 10.4, y: 20.6 }]), []);
  assert.deepEqual(line.end(7), [
    { type: "draw", color: "#c62f1d", size: 6, prev_x: 10, prev_y: 21, curr_x: 10, curr_y: 21, time: 7, stroke: 4 },
  ]);
});

test("a line begins and ends where the pointer did", () => {
  const events = drawn(stroke(), [{ x: 0, y: 0 }, { x: 30, y: 12 }, { x: 90, y: 40 }, { x: 151, y: 77 }]);
  assert.deepEqual([events[0].prev_x, events[0].prev_y], [0, 0]);
  assert.deepEqual([events.at(-1).curr_x, events.at(-1).curr_y], [151, 77]);
});

for (const count of [20, 60, 400, 4000]) {
  test(`a circle of ${count} samples is whole numbers, connected, round and few`, () => {
    const events = drawn(stroke(), circle(count));
    for (const event of events) {
      for (const key of ["size", "prev_x", "prev_y", "curr_x", "curr_y", "stroke", "time"]) {
        assert.ok(Number.isInteger(event[key]) && Math.abs(event[key]) < INT32, key);
      }
      const off = Math.abs(Math.hypot(event.curr_x - 800, event.curr_y - 500) - 200);
      assert.ok(off < (count === 20 ? 12 : 3), `${off} px off the circle`);
    }
    assert.ok(isConnected(events));
    assert.ok(events.length < 160, `${events.length} segments`);
    // No corner that an eye would see.
    const corners = turns(events).filter((turn) => turn > 0.25);
    assert.equal(corners.length, 0, `${corners.length} corners`);
  });
}

test("a straight line is a few long segments, however many samples it has", () => {
  const samples = Array.from({ length: 1000 }, (_, index) => ({ x: index, y: index / 2 }));
  const events = drawn(stroke(), samples);
  assert.ok(events.length < 60, `${events.length} segments`);
});

test("a corner stays one", () => {
  const way = [];
  for (let x = 0; x <= 400; x += 40) way.push({ x, y: 0 });
  for (let y = 40; y <= 400; y += 40) way.push({ x: 400, y });
  const corners = drawn(stroke(), way).filter((event) => Math.hypot(event.curr_x - 400, event.curr_y) < 5);
  assert.ok(corners.length > 0);
});

test("how samples are batched changes nothing", () => {
  const samples = circle(300);
  assert.deepEqual(drawn(stroke(), samples, 1), drawn(stroke(), samples, 300));
});

test("the tail reaches from what was given out to the pointer", () => {
  const line = stroke();
  const events = line.add(circle(60).slice(0, 20));
  const { tail } = line;
  assert.ok(isConnected([...events, ...tail]));
  const last = circle(60)[19];
  assert.deepEqual([tail.at(-1).curr_x, tail.at(-1).curr_y], [Math.round(last.x), Math.round(last.y)]);
});

test("a pointer that rests lets go of what was held back", () => {
  const line = stroke();
  const events = line.add(circle(60).slice(0, 20));
  const rest = line.settle();
  assert.ok(rest.length > 0);
  assert.ok(isConnected([...events, ...rest, ...line.end()]));
  assert.deepEqual(stroke().settle(), []);
});

test("pressure widens the line, and only where it is told", () => {
  const press = (index) => index / 100;
  const samples = Array.from({ length: 101 }, (_, index) => ({ x: index * 4, y: 0, pressure: press(index) }));
  const sizes = drawn(stroke({ size: 12, pressure: true }), samples).map(({ size }) => size);
  assert.equal(sizes[0], 6);
  assert.ok(sizes.at(-1) > 14);
  assert.deepEqual([...sizes].sort((a, b) => a - b), sizes);
  assert.deepEqual(new Set(drawn(stroke({ size: 12 }), samples).map(({ size }) => size)), new Set([12]));
  assert.equal(sizeAt(12, 0.5), 12);
  assert.equal(sizeAt(1, 0), 1);
});
