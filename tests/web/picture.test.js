// What a board shows, what can be taken back, where things are, and the picture as a file.

import assert from "node:assert/strict";
import { test } from "node:test";

import { svgOf } from "../../fawa/web/board/export.js";
import { meaningOf } from "../../fawa/web/board/keys.js";
import { Picture, foresee } from "../../fawa/web/board/picture.js";
import { UndoStack } from "../../fawa/web/board/undo.js";
import { BOARD, fit, pan, toBoard, toStage, zoom } from "../../fawa/web/board/view.js";

function draw(x, more = {}) {
  const place = { prev_x: x, prev_y: 0, curr_x: x + 1, curr_y: 0 };
  return { type: "draw", client_id: "ME", stroke: 1, color: "#000000", size: 3, ...place, ...more };
}

const ends = (picture, hides) => [...picture.segments(hides)].map(({ curr_x }) => curr_x);

test("segments stay in their order, and those that go on in one stroke are one run", () => {
  const picture = new Picture();
  for (const event of [draw(0), draw(1), draw(9), draw(10, { client_id: "B" }), draw(11)]) {
    assert.equal(picture.apply(event), "draw");
  }
  assert.deepEqual(ends(picture), [1, 2, 10, 11, 12]);
  assert.deepEqual(picture.runs.map(({ points }) => points.length), [6, 4, 4, 4]);
});

test("a snapshot and the events it stands for show the same segments", () => {
  const [live, late] = [new Picture(), new Picture()];
  for (const event of [draw(0), draw(1), draw(2, { size: 4 })]) live.apply(event);
  const common = { type: "draw", client_id: "ME", stroke: 1, color: "#000000" };
  late.reset([
    { ...common, size: 3, points: [0, 0, 1, 0, 2, 0] },
    { ...common, size: 4, points: [2, 0, 3, 0] },
    { ...common, type: "sticker", points: [5, 5] },
  ]);
  assert.deepEqual([...late.segments()], [...live.segments()]);
});

test("undo takes away the stroke of its sender alone", () => {
  const picture = new Picture();
  for (const event of [draw(0), draw(5, { client_id: "B" }), draw(8, { stroke: 2 })]) picture.apply(event);
  assert.equal(picture.apply({ type: "undo", client_id: "ME", stroke: 1 }), "redraw");
  assert.deepEqual(ends(picture), [6, 9]);
  assert.equal(picture.apply({ type: "undo", client_id: "ME", stroke: 1 }), "");
  // What carries no number is no stroke.
  picture.apply(draw(20, { stroke: 0 }));
  assert.equal(picture.apply({ type: "undo", client_id: "ME", stroke: 0 }), "");
});

test("clear wipes, ping and what is unknown do nothing", () => {
  const picture = new Picture();
  picture.apply(draw(0));
  assert.equal(picture.apply({ type: "ping" }), "");
  assert.equal(picture.apply({ type: "sticker", color: "red" }), "");
  assert.equal(picture.apply({ type: "clear" }), "redraw");
  assert.deepEqual(ends(picture), []);
});

test("what is pending is foreseen", () => {
  const picture = new Picture();
  for (const event of [draw(0), draw(5, { stroke: 2 }), draw(7, { client_id: "B" })]) picture.apply(event);
  const pending = (...events) => events.map((event, index) => ({ op: index + 1, event }));

  let seen = foresee(pending(draw(20, { stroke: 3 })), "ME");
  assert.deepEqual([seen.segments.length, seen.hidden], [1, ""]);
  assert.deepEqual(ends(picture, seen.hides), [1, 6, 8]);

  seen = foresee(pending({ type: "undo", stroke: 1 }, draw(20, { stroke: 3 }), { type: "undo", stroke: 3 }), "ME");
  assert.deepEqual(seen.segments, []);
  assert.deepEqual(ends(picture, seen.hides), [6, 8]);

  seen = foresee(pending(draw(19), { type: "clear" }, draw(20)), "ME");
  assert.deepEqual(seen.segments.map(({ curr_x }) => curr_x), [21]);
  assert.deepEqual(ends(picture, seen.hides), []);
  assert.equal(seen.hidden, "all");
});

test("undo and redo go back and forth, redo as a new stroke", () => {
  const undo = new UndoStack(5);
  assert.equal(undo.begin(), 5);
  undo.record([draw(0, { stroke: 5 })]);
  assert.equal(undo.begin(), 6);
  undo.record([draw(3, { stroke: 6 })]);
  assert.deepEqual(undo.undo(), [{ type: "undo", stroke: 6 }]);
  assert.deepEqual(undo.redo(), [draw(3, { stroke: 7 })]);
  assert.deepEqual(undo.undo(), [{ type: "undo", stroke: 7 }]);
  assert.deepEqual(undo.undo(), [{ type: "undo", stroke: 5 }]);
  assert.deepEqual(undo.undo(), []);
  assert.ok(undo.canRedo);
  undo.begin();
  assert.ok(!undo.canRedo);
  assert.deepEqual(undo.redo(), []);
  undo.clear();
  assert.ok(!undo.canUndo);
});

test("undo remembers a bounded number of strokes", () => {
  const undo = new UndoStack();
  for (let stroke = 0; stroke < 1000; stroke += 1) undo.begin();
  let count = 0;
  while (undo.undo().length) count += 1;
  assert.equal(count, 200);
});

for (const stage of [
  { width: 1280, height: 680 },
  { width: 390, height: 700 },
  { width: 800, height: 100 },
]) {
  test(`the board fits a stage of ${stage.width} × ${stage.height}, and stays in sight when zoomed and moved`, () => {
    let view = fit(stage, 10);
    assert.ok(BOARD.width * view.scale <= stage.width - 20 + 1e-9);
    assert.ok(BOARD.height * view.scale <= stage.height - 20 + 1e-9);
    const point = { x: 50, y: 60 };
    const before = toBoard(view, point);
    view = zoom(view, 2, point, stage, 10);
    const back = toStage(view, toBoard(view, point));
    assert.ok(Math.hypot(back.x - point.x, back.y - point.y) < 1e-9);
    assert.ok(before.x <= BOARD.width);
    view = pan(view, 1e6, -1e6, stage, 10);
    assert.ok(view.x <= stage.width && view.x + BOARD.width * view.scale >= 0);
    assert.ok(view.y <= stage.height && view.y + BOARD.height * view.scale >= 0);
    view = zoom(view, 1e-6, point, stage, 10);
    assert.ok(Math.abs(view.scale - fit(stage, 10).scale) < 1e-12);
    assert.equal(zoom(view, 1e6, point, stage, 10).scale, 8);
  });
}

test("zooming keeps what is under the pointer where it is", () => {
  const stage = { width: 1600, height: 1000 };
  const view = zoom(fit(stage), 2, { x: 800, y: 500 }, stage);
  const [point, closer] = [{ x: 700, y: 450 }, zoom(view, 1.5, { x: 700, y: 450 }, stage)];
  assert.deepEqual(toBoard(closer, point), toBoard(view, point));
});

test("an SVG has every run, and nothing that is not a colour", () => {
  const svg = svgOf([
    { color: "#ff0000", size: 3, points: [0, 0, 1, 1] },
    { color: 'red"/><script>alert(1)</script>', size: 0, points: [5, 5, 5, 5] },
    { color: "rgb(1 2 3 / 50%)", size: 9999, points: [5, 5, 6, 6] },
  ]);
  assert.match(svg, /<polyline stroke="#ff0000" stroke-width="3" points="0 0 1 1"\/>/);
  assert.match(svg, /<polyline stroke="#000000" stroke-width="1" points="5 5 5 5"\/>/);
  assert.match(svg, /<polyline stroke="rgb\(1 2 3 \/ 50%\)" stroke-width="1000" points="5 5 6 6"\/>/);
  assert.ok(!svg.includes("script"));
});

test("keys mean what the list of keys says", () => {
  const key = (name, more = {}) => meaningOf({ key: name, ctrlKey: false, metaKey: false, shiftKey: false, ...more });
  assert.deepEqual(key("z", { ctrlKey: true }), ["undo"]);
  assert.deepEqual(key("Z", { metaKey: true, shiftKey: true }), ["redo"]);
  assert.deepEqual(key("y", { ctrlKey: true }), ["redo"]);
  assert.deepEqual(key("E"), ["tool", "eraser"]);
  assert.deepEqual(key("8"), ["color", 7]);
  assert.deepEqual(key("["), ["size", -1]);
  assert.deepEqual(key("?", { shiftKey: true }), ["help"]);
  for (const free of ["9", "a", "Enter", "Tab", " "]) assert.equal(key(free), null);
  assert.equal(key("p", { ctrlKey: true }), null);
});
