// Which part of the board is in sight: board pixels to pixels of the stage and back. Pure.

export const BOARD = { width: 1600, height: 1000 };

const MOST_ZOOM = 8;

/** The whole board, in the middle of a stage of this size. */
export function fit(stage, margin = 0) {
  const room = { width: Math.max(1, stage.width - 2 * margin), height: Math.max(1, stage.height - 2 * margin) };
  const scale = Math.min(room.width / BOARD.width, room.height / BOARD.height);
  return {
    scale,
    x: (stage.width - BOARD.width * scale) / 2,
    y: (stage.height - BOARD.height * scale) / 2,
  };
}

/** Closer by `factor`, with what is at `point` of the stage staying there. */
export function zoom(view, factor, point, stage, margin = 0) {
  const least = fit(stage, margin).scale;
  const scale = Math.min(MOST_ZOOM, Math.max(least, view.scale * factor));
  const ratio = scale / view.scale;
  const x = point.x - (point.x - view.x) * ratio;
  const y = point.y - (point.y - view.y) * ratio;
  return inside({ scale, x, y }, stage, margin);
}

export function pan(view, dx, dy, stage, margin = 0) {
  return inside({ ...view, x: view.x + dx, y: view.y + dy }, stage, margin);
}

/** Where a point of the stage lies on the board. */
export function toBoard(view, { x, y }) {
  return { x: (x - view.x) / view.scale, y: (y - view.y) / view.scale };
}

/** Where a point of the board lies on the stage. */
export function toStage(view, { x, y }) {
  return { x: view.x + x * view.scale, y: view.y + y * view.scale };
}

/** Keep the stage covered as far as the board can cover it. */
function inside({ scale, x, y }, stage, margin) {
  return {
    scale,
    x: within(x, BOARD.width * scale, stage.width, margin),
    y: within(y, BOARD.height * scale, stage.height, margin),
  };
}

function within(offset, length, room, margin) {
  if (length <= room - 2 * margin) return (room - length) / 2;
  return Math.min(margin, Math.max(room - margin - length, offset));
}
