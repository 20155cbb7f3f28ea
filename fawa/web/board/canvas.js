// Draws segments on the paper: one at a time and always in the same way, so that all who have seen the same
// events have the same pixels, whether they were there or came later.

import { BOARD } from "./view.js";

const WIDEST = 1000;

export class Paper {
  /**
   * @param {HTMLCanvasElement} base what the board has taken
   * @param {HTMLCanvasElement} top what it has not taken yet
   * @param {HTMLCanvasElement} tip the end of the line under way, which is not settled
   */
  constructor(base, top, tip) {
    for (const canvas of [base, top, tip]) {
      canvas.width = BOARD.width;
      canvas.height = BOARD.height;
    }
    this.canvas = base;
    // Without the graphics card: its rounding differs between machines, and between a window and the next.
    this._base = base.getContext("2d", { alpha: false, willReadFrequently: true });
    this._top = top.getContext("2d", { willReadFrequently: true });
    this._tip = tip.getContext("2d", { willReadFrequently: true });
    this._tipIsEmpty = true;
    this.repaint([]);
  }

  draw(segment) {
    drawSegment(this._base, segment);
  }

  repaint(segments) {
    this._base.fillStyle = "#ffffff";
    this._base.fillRect(0, 0, BOARD.width, BOARD.height);
    for (const segment of segments) drawSegment(this._base, segment);
  }

  /** Show what the board has not taken, in place of what was shown before, or on top of it. */
  preview(segments, { more = false } = {}) {
    if (!more) this._top.clearRect(0, 0, BOARD.width, BOARD.height);
    for (const segment of segments) drawSegment(this._top, segment);
  }

  /** Show the end of the line under way. */
  showTip(segments) {
    if (this._tipIsEmpty && !segments.length) return;
    this._tip.clearRect(0, 0, BOARD.width, BOARD.height);
    for (const segment of segments) drawSegment(this._tip, segment);
    this._tipIsEmpty = !segments.length;
  }

  /** Everything in sight, as a canvas of its own. */
  flattened() {
    const copy = document.createElement("canvas");
    copy.width = BOARD.width;
    copy.height = BOARD.height;
    const context = copy.getContext("2d", { alpha: false });
    context.drawImage(this.canvas, 0, 0);
    context.drawImage(this._top.canvas, 0, 0);
    context.drawImage(this._tip.canvas, 0, 0);
    return copy;
  }
}

function drawSegment(context, { color, size, prev_x = 0, prev_y = 0, curr_x = 0, curr_y = 0 }) {
  // What is no colour is passed over by the canvas, which then keeps the one before.
  context.strokeStyle = "#000000";
  context.strokeStyle = color;
  context.lineWidth = widthOf(size);
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(prev_x, prev_y);
  // A segment without length has no caps everywhere; one of a thousandth of a pixel is a dot.
  context.lineTo(curr_x + (prev_x === curr_x && prev_y === curr_y ? 0.001 : 0), curr_y);
  context.stroke();
}

/** The width a segment is drawn with, whatever it says. */
export function widthOf(size) {
  return Math.min(WIDEST, Math.max(1, size || 1));
}
