// Pointers on the stage: one finger or pen draws, two fingers move the board, and so do arrow keys.

import { BOARD, toBoard } from "./view.js";

const KEY_STEP = 8;

/**
 * Watches the stage and tells what is meant.
 *
 * `on` has: begin(point, usesPressure), move(points), end(), cancel(), hover(point), pan(dx, dy),
 * zoom(factor, stagePoint); points are {x, y, pressure} in board pixels.
 */
export class Pen {
  constructor(stage, getView, on) {
    this._stage = stage;
    this._getView = getView;
    this._on = on;
    this._drawing = null; // id of the pointer that draws
    this._touches = new Map(); // fingers on the stage, by id
    this._panning = null; // last place of the pointer that moves the board
    this._space = false;
    /** Where arrow keys have moved the pen to; null while they are not in use. */
    this.keyPoint = null;
    this._keyDown = false;
    stage.addEventListener("pointerdown", (event) => this._down(event));
    stage.addEventListener("pointermove", (event) => this._move(event));
    stage.addEventListener("pointerup", (event) => this._up(event));
    stage.addEventListener("pointercancel", (event) => this._up(event, true));
    stage.addEventListener("lostpointercapture", (event) => this._up(event));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
    stage.addEventListener("keydown", (event) => this._key(event));
    stage.addEventListener("blur", () => this._liftKey());
  }

  _local({ clientX, clientY }) {
    const box = this._stage.getBoundingClientRect();
    return { x: clientX - box.left, y: clientY - box.top };
  }

  _point(event) {
    return { ...toBoard(this._getView(), this._local(event)), pressure: event.pressure || 0.5 };
  }

  _down(event) {
    this._stage.focus({ preventScroll: true });
    this._liftKey();
    this._hideKeyPoint();
    if (event.pointerType === "touch") {
      this._touches.set(event.pointerId, this._local(event));
      if (this._touches.size > 1) {
        // The first finger did not mean to draw.
        if (this._drawing !== null) {
          this._drawing = null;
          this._on.cancel();
        }
        this._stage.setPointerCapture(event.pointerId);
        return;
      }
    }
    if (event.button === 1) {
      this._panning = { id: event.pointerId, ...this._local(event) };
      this._stage.setPointerCapture(event.pointerId);
      event.preventDefault();
      return;
    }
    if (event.button !== 0 || this._drawing !== null) return;
    event.preventDefault();
    this._stage.setPointerCapture(event.pointerId);
    this._drawing = event.pointerId;
    this._on.begin(this._point(event), event.pointerType === "pen");
  }

  _move(event) {
    if (this._touches.has(event.pointerId) && this._touches.size > 1) {
      this._pinch(event);
      return;
    }
    if (this._panning?.id === event.pointerId) {
      const now = this._local(event);
      this._on.pan(now.x - this._panning.x, now.y - this._panning.y);
      this._panning = { id: event.pointerId, ...now };
      return;
    }
    if (event.pointerId === this._drawing) {
      const samples = event.getCoalescedEvents?.() ?? [];
      this._on.move((samples.length ? samples : [event]).map((sample) => this._point(sample)));
    }
    this._on.hover(this._point(event));
  }

  _up(event, cancelled = false) {
    this._touches.delete(event.pointerId);
    if (this._panning?.id === event.pointerId) this._panning = null;
    if (event.pointerId !== this._drawing) return;
    this._drawing = null;
    if (cancelled) this._on.cancel();
    else this._on.end();
  }

  /** Two fingers: the board follows their middle, and their distance is its size. */
  _pinch(event) {
    const before = [...this._touches.values()].slice(0, 2);
    this._touches.set(event.pointerId, this._local(event));
    const after = [...this._touches.values()].slice(0, 2);
    const middle = ([a, b]) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
    const spread = ([a, b]) => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    const [from, to] = [middle(before), middle(after)];
    this._on.pan(to.x - from.x, to.y - from.y);
    this._on.zoom(spread(after) / spread(before), to);
  }

  _wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1;
    if (event.ctrlKey || event.metaKey) {
      this._on.zoom(Math.exp(-event.deltaY * unit * 0.01), this._local(event));
    } else {
      this._on.pan(-event.deltaX * unit, -event.deltaY * unit);
    }
  }

  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step) {
      event.preventDefault();
      const length = event.shiftKey ? 1 : KEY_STEP;
      const from = this.keyPoint ?? { x: BOARD.width / 2, y: BOARD.height / 2 };
      this.keyPoint = {
        x: Math.min(BOARD.width, Math.max(0, from.x + step[0] * length)),
        y: Math.min(BOARD.height, Math.max(0, from.y + step[1] * length)),
      };
      if (this._keyDown) this._on.move([this.keyPoint]);
      this._on.hover(this.keyPoint);
    } else if (event.key === " " && !event.repeat) {
      event.preventDefault();
      this.keyPoint ??= { x: BOARD.width / 2, y: BOARD.height / 2 };
      if (this._keyDown) this._liftKey();
      else {
        this._keyDown = true;
        this._on.begin(this.keyPoint, false);
      }
      this._on.hover(this.keyPoint);
    } else if (event.key === "Escape") {
      this._liftKey();
      this._hideKeyPoint();
    }
  }

  _liftKey() {
    if (!this._keyDown) return;
    this._keyDown = false;
    this._on.end();
  }

  _hideKeyPoint() {
    if (!this.keyPoint) return;
    this.keyPoint = null;
    this._on.hover(null);
  }
}
