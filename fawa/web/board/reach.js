// Reaches a board: runs the race between the transports and hands over the one that won.

import { Race } from "./race.js";
import { fetchOffer, openWebSocket, openWebTransport, whyNoWebTransport } from "./transport.js";

// How long a network that did not answer over UDP is not asked again.
const MEMORY = 5 * 60_000;

export class Reach {
  constructor() {
    this._blockedUntil = 0;
    this._blockedWhy = "";
  }

  /** The network has changed: what was learned of the one before counts no more. */
  forget() {
    this._blockedUntil = 0;
  }

  /**
   * Connect to a board. After `opened` has been told with the connection, `received` and `closed` are; where none
   * could be had, only `closed` is.
   * @param {string} code of the board
   * @param {{opened: (connection: import("./transport.js").Connection) => void,
   *   received: (text: string) => void, closed: (code: number) => void}} on
   * @param {AbortSignal} signal gives it up; nothing is told any more
   */
  async open(code, on, signal) {
    let whyNot = whyNoWebTransport();
    if (!whyNot && performance.now() < this._blockedUntil) whyNot = this._blockedWhy;
    let offer = null;
    if (!whyNot) {
      offer = await fetchOffer(signal);
      if (!offer) whyNot = "The server offers no WebTransport.";
    }
    if (signal.aborted) return;

    const race = new Race(whyNot);
    const runners = {};
    let winner = "";
    let timer = 0;
    const run = (actions) => {
      for (const action of actions) perform(action);
      clearTimeout(timer);
      if (race.wakeAt < Infinity) {
        timer = setTimeout(() => run(race.tick(performance.now())), Math.max(0, race.wakeAt - performance.now()));
      }
    };
    const hear = (what) => ({
      opened: () => run(race.opened(what, performance.now())),
      received: (text) => what === winner && on.received(text),
      closed: (closeCode, reason) => {
        if (what === winner) on.closed(closeCode);
        else run(race.failed(what, reason, performance.now()));
      },
    });
    const perform = ({ do: deed, what, why }) => {
      if (deed === "open") {
        runners[what] = what === "WebSocket" ? openWebSocket(code, hear(what)) : openWebTransport(code, offer, hear(what));
      } else if (deed === "close") {
        runners[what]?.close();
      } else if (deed === "lost") {
        on.closed(1006);
      } else {
        winner = what;
        if (race.timedOut) {
          this._blockedUntil = performance.now() + MEMORY;
          this._blockedWhy = why;
        }
        runners[what].why = why;
        on.opened(runners[what]);
      }
    };
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      for (const one of Object.values(runners)) one.close();
    });
    run(race.start(performance.now()));
  }
}
