// Taking back one's own strokes, and putting them there again. Pure.

const MOST = 200; // strokes that are remembered

export class UndoStack {
  constructor(nextStroke = 1) {
    /** The number of the next stroke. */
    this.nextStroke = nextStroke;
    this._done = [];
    this._undone = [];
  }

  get canUndo() {
    return this._done.length > 0;
  }

  get canRedo() {
    return this._undone.length > 0;
  }

  /** A new stroke begins; returns its number. */
  begin() {
    this._undone = [];
    return this._push([]);
  }

  /** These segments of the newest stroke were sent. */
  record(events) {
    this._done.at(-1)?.events.push(...events);
  }

  /** Return the events that take the newest stroke back. */
  undo() {
    const last = this._done.pop();
    if (!last) return [];
    this._undone.push(last.events);
    return [{ type: "undo", stroke: last.stroke }];
  }

  /** Return the events that draw the stroke taken back last, as a new one. */
  redo() {
    const events = this._undone.pop();
    if (!events) return [];
    const again = [];
    const stroke = this._push(again);
    for (const event of events) again.push({ ...event, stroke });
    return [...again];
  }

  /** What was taken back last is not to come again. */
  forgetUndone() {
    this._undone.pop();
  }

  /** The board was cleared: there is nothing to take back. */
  clear() {
    this._done = [];
    this._undone = [];
  }

  _push(events) {
    const stroke = this.nextStroke++;
    this._done.push({ stroke, events });
    if (this._done.length > MOST) this._done.shift();
    return stroke;
  }
}
