// The conversation with a board (protocols/whiteboard.md, wire v2) as a pure state machine.
//
// It knows no socket, clock or chance. What happens goes in by a method, with the time in milliseconds of any
// steady clock; what is to be done comes back as a list of actions, to be performed in order:
//
//   {do: "connect"}                open a connection; tell `opened` or `closed`
//   {do: "send", text}             send a document
//   {do: "hang up"}                close the connection; nothing more is heard of it
//   {do: "snapshot", strokes}      throw away what is drawn and draw these
//   {do: "events", events}         these happened on the board, in order
//   {do: "pending"}                what waits to be taken by the board changed
//   {do: "people"} {do: "cursors"} {do: "state"}      the properties of those names changed
//   {do: "remember"}               `identity` changed
//
// After each call the shell arranges that `tick` is called at `wakeAt`.

const GREETING_DEADLINE = 10_000;
const PONG_DEADLINE = 8_000;
const PROBE_DEADLINE = 3_000;
const CURSOR_INTERVAL = 33;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;
const PAUSE_WHEN_FULL = 20_000;
// A connection that held this long was a good one: the next pauses start small again.
const GOOD_CONNECTION = 10_000;
// What may be drawn without a connection; some minutes of drawing without a pause.
const MOST_PENDING = 50_000;
// What may wait in the browser's own send buffer; the rest waits here, where it can be sent anew.
const MOST_UNSENT = 256 * 1024;

const DEFAULT_LIMITS = { message: 65_536, events: 256, rate: 0, ping: 25 };

/** Why a board is over for this page, by close code. */
const ENDINGS = new Map([
  [1002, "misunderstood"],
  [1003, "misunderstood"],
  [1007, "misunderstood"],
  [1009, "misunderstood"],
  [4400, "misunderstood"],
  [4401, "misunderstood"],
  [4404, "gone"],
  [4409, "elsewhere"],
]);

export class Session {
  /**
   * @param {object} options
   * @param {string} options.name shown to others
   * @param {string} options.color of the cursor
   * @param {?{client_id: string, token: string}} options.identity from an earlier session on this board
   * @param {Array<{op: number, event: object}>} [options.pending] what that session had not got through
   * @param {() => number} options.random from 0 up to 1
   */
  constructor({ name, color, identity = null, pending = [], random }) {
    this.name = name;
    this.color = color;
    this.identity = identity;
    this.limits = DEFAULT_LIMITS;
    this.readOnly = false;
    this.readOnlyReason = "";
    /** @type {Map<string, {client_id: string, name: string, color: string}>} */
    this.people = new Map();
    /** @type {Map<string, {x: number, y: number}>} */
    this.cursors = new Map();
    /** Events that the board has not taken yet, oldest first. */
    this.pending = pending;
    /** "idle", "connecting", "greeting", "live", "waiting" (until `retryAt`) or "over" (because of `ending`). */
    this.state = "idle";
    this.retryAt = Infinity;
    this.ending = "";
    /** The close code that a pause or an end began with. */
    this.code = 0;
    this.epoch = "";
    this.seq = 0;
    this.wakeAt = Infinity;
    this._random = random;
    this._nextOp = (pending.at(-1)?.op ?? 0) + 1;
    this._sentOp = 0;
    this._resentFrom = 0;
    this._batches = new Map();
    this._snapshot = null;
    this._attempts = 0;
    this._drainPause = 0;
    this._deadline = Infinity;
    this._pingAt = Infinity;
    this._pings = 0;
    this._liveSince = 0;
    this._cursor = null;
    this._cursorAt = 0;
  }

  get clientId() {
    return this.identity?.client_id ?? "";
  }

  /** Whether something waits here that a connection could take. */
  get hasUnsent() {
    return this.state === "live" && !this.readOnly && (this.pending.at(-1)?.op ?? 0) > this._sentOp;
  }

  /** Whether so much waits for a connection that nothing more is taken. */
  get isFull() {
    return this.pending.length >= MOST_PENDING;
  }

  // What the page does

  /** Join, or try again at once. */
  start(now) {
    if (this.state !== "idle" && this.state !== "waiting") return [];
    return this._done(this._connect(now));
  }

  /** Join anew where another tab has taken over: as somebody else, with what was still pending. */
  restart(now) {
    if (this.state !== "over") return [];
    this.identity = null;
    this.epoch = "";
    this.seq = 0;
    this._attempts = 0;
    return this._done([{ do: "remember" }, ...this._connect(now)]);
  }

  /** Leave for good. */
  leave() {
    const actions = this._hangUp();
    this._move("over", "left");
    return this._done(actions);
  }

  /** Put events on the board, now or once there is a connection. */
  draw(events, buffered = 0) {
    if (this.isFull) return this._done([{ do: "state" }]);
    for (const event of events) this.pending.push({ op: this._nextOp++, event });
    return this._done([{ do: "pending" }, ...this._pump(buffered)]);
  }

  /** Send what could not be sent before; `buffered` bytes wait in the connection. */
  pump(buffered = 0) {
    return this._done(this._pump(buffered));
  }

  moveCursor(x, y, now) {
    this._cursor = { x: Math.round(x), y: Math.round(y) };
    return this._done(this._sendCursor(now));
  }

  setProfile(name, color) {
    this.name = name;
    this.color = color;
    return this._done(this.state === "live" ? [send({ profile: { name, color } })] : []);
  }

  /** Something says that the connection may be gone: find out soon. */
  probe(now) {
    if (this.state === "waiting") return this._done(this._connect(now));
    if (this.state !== "live") return [];
    const actions = this._ping(now, PROBE_DEADLINE);
    return this._done(actions);
  }

  tick(now) {
    if (this.state === "waiting" && now >= this.retryAt) return this._done(this._connect(now));
    if (now >= this._deadline) return this._done([...this._hangUp(), ...this._pause(now)]);
    const actions = [];
    if (this.state === "live") {
      if (now >= this._pingAt) actions.push(...this._ping(now, PONG_DEADLINE));
      actions.push(...this._sendCursor(now));
    }
    return this._done(actions);
  }

  // What the connection does

  opened(now) {
    this._move("greeting");
    this._deadline = now + GREETING_DEADLINE;
    const hello = { name: this.name, color: this.color };
    if (this.identity) {
      const { client_id, token } = this.identity;
      hello.resume = { client_id, token, epoch: this.epoch, seq: this.seq };
    }
    return this._done([{ do: "state" }, send({ hello })]);
  }

  /**
   * The connection ended, or could not be made.
   * @param {number} code of the WebSocket; 4404 also where joining was answered 404
   * @param {number} [retryAfter] milliseconds that the server asks for
   */
  closed(code, now, retryAfter = 0) {
    if (this.state === "over") return [];
    this.code = code;
    this._forgetConnection();
    const ending = ENDINGS.get(code);
    if (ending) {
      this._move("over", ending);
      if (ending === "gone") this.identity = null;
      return this._done([{ do: "state" }, { do: "remember" }]);
    }
    return this._done(this._pause(now, retryAfter));
  }

  received(text, now) {
    let document;
    try {
      document = JSON.parse(text);
    } catch {
      return this._done([...this._hangUp(), ...this._pause(now)]);
    }
    if (this.state === "live") {
      this._pingAt = now + this.limits.ping * 1000;
      this._deadline = Infinity;
    }
    const [kind, value] = Object.entries(document ?? {})[0] ?? [];
    const handler = HANDLERS[kind];
    return handler ? this._done(handler.call(this, value, now)) : [];
  }

  // Documents

  _onHello(hello, now) {
    const same = hello.client_id === this.identity?.client_id;
    this.identity = { client_id: hello.client_id, token: hello.token };
    this.limits = { ...DEFAULT_LIMITS, ...hello.limits };
    this.readOnly = hello.read_only === true;
    this._batches.clear();
    this._resentFrom = 0;
    if (same) {
      this.pending = this.pending.filter(({ op }) => op > hello.op);
      this._nextOp = Math.max(this._nextOp, hello.op + 1);
      this._sentOp = hello.op;
    } else {
      // Somebody new: what was pending is theirs now, counted from 1.
      this.pending = this.pending.map(({ event }, index) => ({ op: index + 1, event }));
      this._nextOp = this.pending.length + 1;
      this._sentOp = 0;
    }
    this._snapshot = hello.recovered ? null : { epoch: hello.epoch, strokes: [] };
    this.people.clear();
    this.cursors.clear();
    this._move("live");
    this._liveSince = now;
    this._drainPause = 0;
    this._deadline = Infinity;
    this._pingAt = now + this.limits.ping * 1000;
    const told = ["remember", "state", "people", "cursors", "pending"].map((what) => ({ do: what }));
    return [...told, ...this._pump(0)];
  }

  _onSnapshot({ seq, first, last, strokes }) {
    if (first) this._snapshot = { epoch: this._snapshot?.epoch ?? this.epoch, strokes: [] };
    if (!this._snapshot) return [];
    this._snapshot.strokes.push(...strokes);
    if (!last) return [];
    const whole = this._snapshot;
    this._snapshot = null;
    this.epoch = whole.epoch;
    this.seq = seq;
    return [{ do: "snapshot", strokes: whole.strokes }];
  }

  _onEvent(event, now) {
    if (event.seq <= this.seq) return [];
    if (this._snapshot || event.seq > this.seq + 1) {
      // Something is missing. Coming back with what we have seen brings it.
      return [...this._hangUp(), ...this._pause(now)];
    }
    this.seq = event.seq;
    const actions = [{ do: "events", events: [event] }];
    if (event.client_id === this.clientId && event.op) actions.push(...this._taken(event.op));
    return actions;
  }

  _onAck({ op }) {
    return this._taken(op);
  }

  _onPresence({ all, here, gone }) {
    if (all) {
      this.people.clear();
      this.cursors.clear();
    }
    // One who has gone and come back is in both.
    for (const id of gone ?? []) {
      this.people.delete(id);
      this.cursors.delete(id);
    }
    for (const person of here ?? []) this.people.set(person.client_id, person);
    return [{ do: "people" }, { do: "cursors" }];
  }

  _onCursors(cursors) {
    for (const { client_id, x, y } of cursors) {
      if (client_id !== this.clientId) this.cursors.set(client_id, { x, y });
    }
    return [{ do: "cursors" }];
  }

  _onStatus({ read_only, reason }) {
    this.readOnly = read_only;
    this._resentFrom = 0;
    this.readOnlyReason = reason ?? "";
    return [{ do: "state" }, ...this._pump(0)];
  }

  _onError({ code, op }, now) {
    if (!op) return [];
    if (code === "read_only") {
      // Nothing of it was taken: it waits here until the board takes events again.
      this.readOnly = true;
      this._sentOp = Math.min(this._sentOp, op - 1);
      return [{ do: "state" }];
    }
    const first = this.pending[0]?.op ?? op;
    if (code === "out_of_order" && first < op) {
      // Once for each missing event: the same answer to what was on its way asks for nothing more.
      if (this._resentFrom === first) return [];
      this._resentFrom = first;
      this._sentOp = first - 1;
      return this._pump(0);
    }
    if (code !== "out_of_order") {
      // The board will never take it.
      const last = this._batches.get(op) ?? op;
      this.pending = this.pending.filter((item) => item.op < op || item.op > last);
    }
    // A new connection begins at what the board has taken, and need not know what was left out.
    return [{ do: "pending" }, ...this._hangUp(), ...this._pause(now)];
  }

  _onDrain({ retry_after_ms }) {
    this._drainPause = retry_after_ms;
    return [];
  }

  // Parts

  _connect(now) {
    this._move("connecting");
    this._deadline = now + GREETING_DEADLINE;
    return [{ do: "state" }, { do: "connect" }];
  }

  _pump(buffered) {
    if (this.state !== "live" || this.readOnly) return [];
    const actions = [];
    let room = MOST_UNSENT - buffered;
    let batch = [];
    let size = 64;
    const flush = () => {
      if (!batch.length) return;
      const op = batch[0].op;
      this._batches.set(op, batch.at(-1).op);
      actions.push(send({ draw: { op, events: batch.map(({ event }) => event) } }));
      this._sentOp = batch.at(-1).op;
      room -= size;
      batch = [];
      size = 64;
    };
    let next = this.pending.length;
    while (next > 0 && this.pending[next - 1].op > this._sentOp) next -= 1;
    for (const item of this.pending.slice(next)) {
      const length = byteLength(item.event) + 1;
      const gap = batch.length && batch.at(-1).op + 1 !== item.op;
      if (gap || batch.length >= this.limits.events || size + length > this.limits.message) flush();
      if (room <= 0) break;
      batch.push(item);
      size += length;
    }
    if (room > 0) flush();
    return actions;
  }

  _taken(op) {
    for (const first of this._batches.keys()) if (first <= op) this._batches.delete(first);
    // Oldest first, so what was taken is at the front.
    let count = 0;
    while (count < this.pending.length && this.pending[count].op <= op) count += 1;
    this.pending.splice(0, count);
    return count ? [{ do: "pending" }] : [];
  }

  _sendCursor(now) {
    if (!this._cursor || this.state !== "live" || now < this._cursorAt) return [];
    const cursor = this._cursor;
    this._cursor = null;
    this._cursorAt = now + CURSOR_INTERVAL;
    return [send({ cursor })];
  }

  _ping(now, patience) {
    this._pingAt = Infinity;
    this._deadline = Math.min(this._deadline, now + patience);
    return [send({ ping: ++this._pings })];
  }

  _pause(now, retryAfter = 0) {
    if (this._liveSince && now - this._liveSince >= GOOD_CONNECTION) this._attempts = 0;
    this._liveSince = 0;
    let pause;
    if (this._drainPause || retryAfter) pause = this._drainPause || retryAfter;
    else if (this.code === 4413) pause = PAUSE_WHEN_FULL;
    else pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this._attempts);
    // Half of it by chance, so that those who lost a server together do not come back together.
    if (!this._drainPause) pause *= 0.5 + this._random() / 2;
    this._attempts += 1;
    this._drainPause = 0;
    this._move("waiting");
    this.retryAt = now + pause;
    return [{ do: "state" }, { do: "cursors" }];
  }

  _hangUp() {
    this._forgetConnection();
    this.code = 1006;
    return [{ do: "hang up" }];
  }

  _forgetConnection() {
    this._snapshot = null;
    this._batches.clear();
    this._deadline = Infinity;
    this._pingAt = Infinity;
    this.cursors.clear();
  }

  _move(state, ending = "") {
    this.state = state;
    this.ending = ending;
    this.retryAt = Infinity;
  }

  _done(actions) {
    const cursorAt = this._cursor && this.state === "live" ? this._cursorAt : Infinity;
    this.wakeAt = Math.min(this.retryAt, this._deadline, this._pingAt, cursorAt);
    return actions;
  }
}

const HANDLERS = {
  hello: Session.prototype._onHello,
  snapshot: Session.prototype._onSnapshot,
  event: Session.prototype._onEvent,
  ack: Session.prototype._onAck,
  presence: Session.prototype._onPresence,
  cursors: Session.prototype._onCursors,
  status: Session.prototype._onStatus,
  error: Session.prototype._onError,
  drain: Session.prototype._onDrain,
};

function send(document) {
  return { do: "send", text: JSON.stringify(document) };
}

const encoder = new TextEncoder();

function byteLength(event) {
  return encoder.encode(JSON.stringify(event)).length;
}
