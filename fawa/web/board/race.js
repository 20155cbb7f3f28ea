// Which transport a board is reached by: WebTransport if it comes in time, else WebSocket. Pure.
//
// What happens goes in with the time in milliseconds; what is to be done comes back:
//
//   {do: "open", what}        begin to connect by "WebTransport" or "WebSocket"; tell `opened` or `failed`
//   {do: "close", what}       give that attempt up
//   {do: "use", what, why}    this is the connection; the race is over
//   {do: "lost"}              neither could be had
//
// `tick` is to be called at `wakeAt`.

// How long WebTransport has for itself, and how long WebSocket waits for it once it is there itself.
const HEAD_START = 300;
const GRACE = 700;

export class Race {
  /** @param {string} whyNot why WebTransport is not to be tried, or "" */
  constructor(whyNot = "") {
    this.wakeAt = Infinity;
    /** No answer came by WebTransport in time: a firewall may keep UDP out. */
    this.timedOut = false;
    this._why = whyNot;
    this._state = { WebTransport: whyNot ? "failed" : "idle", WebSocket: "idle" };
    this._began = 0;
    this._over = false;
  }

  start(now) {
    this._began = now;
    if (this._state.WebTransport === "failed") return this._open("WebSocket");
    this.wakeAt = now + HEAD_START;
    return this._open("WebTransport");
  }

  opened(what, now) {
    if (this._over) return [{ do: "close", what }];
    this._state[what] = "open";
    if (what === "WebTransport") {
      const others = this._state.WebSocket === "idle" ? [] : [{ do: "close", what: "WebSocket" }];
      return [...others, ...this._use(what, "It is the faster of the two that this page and the server speak.")];
    }
    if (this._state.WebTransport === "failed") return this._use(what, this._why);
    this.wakeAt = now + GRACE;
    return [];
  }

  /** @param {string} reason in words that complete "because" */
  failed(what, reason, now) {
    if (this._over) return [];
    this._state[what] = "failed";
    if (what === "WebTransport") {
      this._why = `WebTransport could not be had: ${reason}.`;
      if (this._state.WebSocket === "open") return this._use("WebSocket", this._why);
      if (this._state.WebSocket === "idle") return this._open("WebSocket");
    }
    if (this._state.WebTransport === "failed" && this._state.WebSocket === "failed") {
      this._end();
      return [{ do: "lost" }];
    }
    // Without WebSocket there is nothing to wait for but WebTransport, and for that not for ever.
    if (what === "WebSocket") this.wakeAt = now + GRACE;
    return [];
  }

  tick(now) {
    if (this._over || now < this.wakeAt) return [];
    this.wakeAt = Infinity;
    if (this._state.WebSocket === "idle") return this._open("WebSocket");
    const seconds = ((now - this._began) / 1000).toFixed(1);
    this.timedOut = true;
    return [
      { do: "close", what: "WebTransport" },
      ...this.failed("WebTransport", `UDP did not answer within ${seconds} s`, now),
    ];
  }

  _open(what) {
    this._state[what] = "opening";
    return [{ do: "open", what }];
  }

  _use(what, why) {
    this._end();
    return [{ do: "use", what, why }];
  }

  _end() {
    this._over = true;
    this.wakeAt = Infinity;
  }
}
