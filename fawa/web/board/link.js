// Runs a session: performs its actions, tells it what happens, and keeps its time.

import { recall, remember } from "./identity.js";
import { Reach } from "./reach.js";
import { Session } from "./session.js";
import { knock } from "./transport.js";

const PUMP_INTERVAL = 100;

export class Link {
  /**
   * @param {string} code of the board
   * @param {{name: string, color: string}} profile
   * @param {import("./identity.js").Claims} claims
   * @param {object} on handlers: snapshot(strokes), events(events), pending(), people(), cursors(), state()
   */
  constructor(code, profile, claims, on) {
    this.code = code;
    this.connection = null;
    this.nextStroke = 1;
    this._profile = profile;
    this._claims = claims;
    this._on = on;
    this._timer = 0;
    this._pump = 0;
    this._knocking = null;
    this._reach = new Reach();
    this._listeners = new AbortController();
  }

  async open() {
    const known = recall(this.code);
    // Drawn before there was ever a connection: nobody yet, but with something to say.
    const taken = known?.client_id && (await this._claims.isTaken(known.client_id));
    if (this._listeners.signal.aborted) return;
    const identity = known?.client_id && !taken ? { client_id: known.client_id, token: known.token } : null;
    this.nextStroke = known?.nextStroke ?? 1;
    this.session = new Session({
      ...this._profile,
      identity,
      pending: taken ? [] : (known?.pending ?? []),
      random: Math.random,
    });
    this._on.pending();
    const { signal } = this._listeners;
    // What browsers say about the network is a hint: a server on this machine is there without one.
    window.addEventListener("offline", () => this._run((now) => this.session.probe(now)), { signal });
    window.addEventListener(
      "online",
      () => {
        this._reach.forget();
        this._run((now) => this.session.probe(now));
      },
      { signal },
    );
    window.addEventListener("pagehide", () => this._save(true), { signal });
    document.addEventListener(
      "visibilitychange",
      () => {
        if (document.visibilityState === "visible") this._run((now) => this.session.probe(now));
      },
      { signal },
    );
    this._run((now) => this.session.start(now));
  }

  close() {
    this._listeners.abort();
    if (this.session) {
      this._save(true);
      this._run(() => this.session.leave());
    }
    clearTimeout(this._timer);
    clearTimeout(this._pump);
    this._claims.current = null;
  }

  retry() {
    this._run((now) => (this.session.state === "over" ? this.session.restart(now) : this.session.start(now)));
  }

  draw(events) {
    if (events.length) this._run(() => this.session.draw(events, this.connection?.buffered ?? 0));
  }

  moveCursor({ x, y }) {
    this._run((now) => this.session.moveCursor(x, y, now));
  }

  setProfile(name, color) {
    this._profile = { name, color };
    this._run(() => this.session.setProfile(name, color));
  }

  /** Keep who we are, and with `whole` also what the board has not taken. */
  _save(whole = false) {
    const { identity, pending } = this.session;
    const known = identity && { ...identity, nextStroke: this.nextStroke, pending: [] };
    if (!whole || !pending.length || !remember(this.code, { ...known, pending })) remember(this.code, known);
  }

  _run(step) {
    if (!this.session) return;
    for (const action of step(performance.now())) this._perform(action);
    clearTimeout(this._timer);
    const { wakeAt } = this.session;
    if (wakeAt < Infinity) {
      const wait = Math.max(0, wakeAt - performance.now());
      this._timer = setTimeout(() => this._run((now) => this.session.tick(now)), wait);
    }
    clearTimeout(this._pump);
    if (this.session.hasUnsent) {
      this._pump = setTimeout(
        () => this._run(() => this.session.pump(this.connection?.buffered ?? 0)),
        PUMP_INTERVAL,
      );
    }
  }

  _perform(action) {
    switch (action.do) {
      case "connect":
        this._connect();
        break;
      case "hang up":
        this._hangUp();
        break;
      case "send":
        this.connection?.send(action.text);
        break;
      case "snapshot":
        this._on.snapshot(action.strokes);
        break;
      case "events":
        this._on.events(action.events);
        break;
      case "remember":
        this._claims.current = this.session.clientId;
        this._save();
        break;
      default:
        this._on[action.do]();
    }
  }

  async _connect() {
    this._hangUp();
    const knocking = (this._knocking = new AbortController());
    const { status, retryAfter } = await knock(this.code, knocking.signal);
    if (knocking.signal.aborted) return;
    if (status !== 200) {
      const code = status === 404 || status === 400 ? 4404 : 1006;
      this._run((now) => this.session.closed(code, now, retryAfter));
      return;
    }
    const on = {
      opened: (connection) => {
        this.connection = connection;
        this._run((now) => this.session.opened(now));
      },
      received: (text) => this._run((now) => this.session.received(text, now)),
      closed: (code) => {
        this.connection = null;
        this._run((now) => this.session.closed(code, now));
      },
    };
    await this._reach.open(this.code, on, knocking.signal);
  }

  _hangUp() {
    this._knocking?.abort();
    this.connection?.close();
    this.connection = null;
  }
}
