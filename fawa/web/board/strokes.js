// From what a pointer does to segments that the board takes: whole numbers, few, and smooth. Pure.
//
// The sender smooths, so that every client, of any wire, shows the same curve by drawing plain segments with
// round caps. The samples of a pointer are thinned and averaged, joined by quadratic curves through their midpoints,
// and the curves are cut into segments as long as they stay within a fraction of a pixel of the curve: long
// segments also hide that coordinates are whole.

const MIN_STEP = 1.5; // board pixels between samples that count
const SMOOTHING = 0.5; // weight of a new sample that is near; 1 does not smooth
const FAR = 40; // board pixels from the one before at which a sample needs no smoothing: no hand trembles so far
const CORNER = Math.cos(Math.PI / 4); // a sharper turn than this between long steps is meant
const CORNER_STEP = 8; // board pixels of a long step
const FLATNESS = 0.1; // board pixels a piece may leave the curve by
const TOLERANCE = 0.2; // board pixels that samples may lie beside a segment that replaces them
const LONGEST = 40; // board pixels of a segment, so that others are never far behind

/** The width at a pen's pressure (0 to 1): half of the size when it only touches, one and a half at the most. */
export function sizeAt(size, pressure) {
  return Math.max(1, Math.round(size * (0.5 + pressure)));
}

/** One stroke under way. Samples go in by `add`; segments that are settled come out. */
export class Stroke {
  /**
   * @param {object} options
   * @param {string} options.color
   * @param {number} options.size board pixels
   * @param {number} options.stroke its number
   * @param {boolean} [options.pressure] whether samples tell a pressure that widens it
   */
  constructor({ color, size, stroke, pressure = false }) {
    this.color = color;
    this.size = size;
    this.stroke = stroke;
    this.pressure = pressure;
    this._raw = null; // last sample as it came
    this._smooth = null; // last sample averaged
    this._middle = null; // where the curve has got to
    this._anchor = null; // end of the last segment given out
    this._exact = null; // the same before it was rounded: straightness is judged without that error
    this._window = []; // points of the curve after it
    this._drawn = false;
  }

  /** Take samples `{x, y, pressure}` in board pixels; returns the events that are settled by them. */
  add(samples, time = 0) {
    const events = [];
    for (const sample of samples) this._sample(sample, events, time);
    return events;
  }

  /** Give out what is still held back, without ending: the pointer rests. */
  settle(time = 0) {
    const events = [];
    if (this._window.length) this._emit(this._window.at(-1), events, time);
    return events;
  }

  /** The pointer is up: returns the rest, a dot when it never moved. */
  end(time = 0) {
    const events = [];
    if (!this._anchor) return events;
    if (this._raw && distance(this._raw, this._middle) > 0) {
      this._curveTo(this._smooth, { ...this._raw, size: this._smooth.size }, events, time);
    }
    if (this._window.length) this._emit(this._window.at(-1), events, time);
    if (!this._drawn) events.push(this._segment(this._anchor, this._anchor, this._anchor.size, time));
    return events;
  }

  /** What has been drawn by hand but not given out: segments to show until it is. */
  get tail() {
    if (!this._anchor) return [];
    const points = [this._anchor, ...this._window, this._raw].map(rounded);
    return points.slice(1).map((point, index) => this._segment(points[index], point, this._smooth.size, 0));
  }

  _sample({ x, y, pressure = 0.5 }, events, time) {
    const raw = { x, y };
    if (!this._anchor) {
      const first = { x, y, size: this.pressure ? sizeAt(this.size, pressure) : this.size };
      this._raw = raw;
      this._smooth = first;
      this._middle = first;
      this._anchor = rounded(first);
      this._exact = first;
      this._pressure = pressure;
      return;
    }
    this._raw = raw;
    if (distance(raw, this._smooth) < MIN_STEP) return;
    this._pressure += (pressure - this._pressure) * 0.3;
    const weight = Math.min(1, SMOOTHING + (distance(raw, this._smooth) / FAR) * (1 - SMOOTHING));
    const next = {
      x: this._smooth.x + (x - this._smooth.x) * weight,
      y: this._smooth.y + (y - this._smooth.y) * weight,
      size: this.pressure ? sizeAt(this.size, this._pressure) : this.size,
    };
    if (isCorner(this._middle, this._smooth, next)) this._curveTo(this._smooth, this._smooth, events, time);
    const middle = { x: (this._smooth.x + next.x) / 2, y: (this._smooth.y + next.y) / 2, size: next.size };
    this._curveTo(this._smooth, middle, events, time);
    this._smooth = next;
  }

  /** Go from where the curve is to `end`, bent towards `control`. */
  _curveTo(control, end, events, time) {
    const start = this._middle;
    const bend = Math.hypot(start.x - 2 * control.x + end.x, start.y - 2 * control.y + end.y) / 4;
    const pieces = Math.max(1, Math.ceil(Math.sqrt(bend / FLATNESS)));
    for (let piece = 1; piece <= pieces; piece += 1) {
      const t = piece / pieces;
      const [a, b, c] = [(1 - t) ** 2, 2 * t * (1 - t), t ** 2];
      this._point(
        {
          x: a * start.x + b * control.x + c * end.x,
          y: a * start.y + b * control.y + c * end.y,
          size: end.size,
        },
        events,
        time,
      );
    }
    this._middle = end;
  }

  /** One more point of the curve: hold it back while one segment can stand for all that is held back. */
  _point(point, events, time) {
    const held = this._window;
    if (held.length) {
      const straight =
        held.at(-1).size === point.size &&
        distance(this._exact, point) <= LONGEST &&
        held.every((one) => beside(one, this._exact, point) <= TOLERANCE);
      if (!straight) this._emit(held.at(-1), events, time);
    }
    this._window.push(point);
  }

  _emit(point, events, time) {
    const end = rounded(point);
    this._window = [];
    this._exact = point;
    if (end.x === this._anchor.x && end.y === this._anchor.y) return;
    events.push(this._segment(this._anchor, end, point.size, time));
    this._anchor = end;
    this._drawn = true;
  }

  _segment(from, to, size, time) {
    return {
      type: "draw",
      color: this.color,
      size,
      prev_x: from.x,
      prev_y: from.y,
      curr_x: to.x,
      curr_y: to.y,
      time,
      stroke: this.stroke,
    };
  }
}

function rounded(point) {
  return { ...point, x: Math.round(point.x), y: Math.round(point.y) };
}

function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}

/** Whether somebody who went from `a` by `b` to `c` turned there on purpose. */
function isCorner(a, b, c) {
  const [first, second] = [distance(a, b), distance(b, c)];
  if (first < CORNER_STEP / 2 || second < CORNER_STEP) return false;
  return ((b.x - a.x) * (c.x - b.x) + (b.y - a.y) * (c.y - b.y)) / (first * second) < CORNER;
}

/** How far `point` lies from the segment `a`–`b`. */
function beside(point, a, b) {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const square = dx * dx + dy * dy;
  const along = square ? ((point.x - a.x) * dx + (point.y - a.y) * dy) / square : 0;
  const t = Math.min(1, Math.max(0, along));
  return Math.hypot(point.x - a.x - t * dx, point.y - a.y - t * dy);
}
