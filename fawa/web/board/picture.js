// What a board shows: the segments that can be seen, in their order. Pure.

/** A run is consecutive segments of one stroke: `points` is [x0, y0, x1, y1, …], drawn one segment at a time. */
export class Picture {
  constructor() {
    /** @type {Array<{client_id: string, stroke: number, color: string, size: number, points: number[]}>} */
    this.runs = [];
  }

  /** Begin anew from the strokes of a snapshot. */
  reset(strokes) {
    this.runs = [];
    for (const { type, client_id = "", stroke = 0, color = "", size = 0, points } of strokes) {
      if (type === "draw") this.runs.push({ client_id, stroke, color, size, points: [...points] });
    }
  }

  /**
   * Take one event. Returns what to do about it: "draw" this segment on top, "redraw" everything, or "" for
   * nothing.
   */
  apply(event) {
    switch (event.type) {
      case "draw":
        this._add(event);
        return "draw";
      case "clear":
        this.runs = [];
        return "redraw";
      case "undo": {
        const before = this.runs.length;
        this.runs = this.runs.filter((run) => !isStroke(run, event.client_id, event.stroke));
        return this.runs.length < before ? "redraw" : "";
      }
      default:
        return "";
    }
  }

  /** Iterate over all segments, but those that `hides` says true of. */
  *segments(hides = () => false) {
    for (const run of this.runs) {
      if (hides(run)) continue;
      const { color, size, points } = run;
      for (let i = 0; i + 3 < points.length; i += 2) {
        yield {
          color,
          size,
          prev_x: points[i],
          prev_y: points[i + 1],
          curr_x: points[i + 2],
          curr_y: points[i + 3],
        };
      }
    }
  }

  _add({ client_id = "", stroke = 0, color = "", size = 0, prev_x = 0, prev_y = 0, curr_x = 0, curr_y = 0 }) {
    const last = this.runs.at(-1);
    if (
      last &&
      last.client_id === client_id &&
      last.stroke === stroke &&
      last.color === color &&
      last.size === size &&
      last.points.at(-2) === prev_x &&
      last.points.at(-1) === prev_y
    ) {
      last.points.push(curr_x, curr_y);
    } else {
      this.runs.push({ client_id, stroke, color, size, points: [prev_x, prev_y, curr_x, curr_y] });
    }
  }
}

/** Segments that carry no stroke number belong to no stroke that could be taken back. */
function isStroke(run, clientId, stroke) {
  return stroke > 0 && run.stroke === stroke && run.client_id === clientId;
}

/**
 * What one's own events that the board has not taken yet make of the picture, so that they show at once.
 * @returns {{segments: object[], hides: (run: object) => boolean, hidden: string}} segments go on top; runs that
 *   `hides` are not to be seen; `hidden` names which, to tell whether that changed.
 */
export function foresee(pending, clientId) {
  let segments = [];
  let cleared = false;
  const undone = new Set();
  for (const { event } of pending) {
    if (event.type === "draw") segments.push(event);
    else if (event.type === "clear") {
      segments = [];
      cleared = true;
    } else if (event.type === "undo") {
      segments = segments.filter(({ stroke }) => stroke !== event.stroke);
      undone.add(event.stroke);
    }
  }
  const hides = cleared ? () => true : (run) => run.client_id === clientId && undone.has(run.stroke);
  return { segments, hides, hidden: cleared ? "all" : [...undone].join() };
}
