// Who this tab is on a board, kept in the tab's session storage so that a reload is the same participant.
//
// A duplicated tab begins with a copy of that storage. Two tabs cannot be one participant, so a tab asks the others
// first whether one of them is; the one that was there goes on.

const PATIENCE = 150; // milliseconds that other tabs have to answer

const keyOf = (code) => `fawa.board.${code}`;

/** @returns {?{client_id: string, token: string, nextStroke: number, pending: object[]}} */
export function recall(code) {
  try {
    return JSON.parse(sessionStorage.getItem(keyOf(code)));
  } catch {
    return null;
  }
}

/** Keep a value; returns whether there was room for it. Without storage a reload is somebody new, that is all. */
export function remember(code, value) {
  try {
    if (value) sessionStorage.setItem(keyOf(code), JSON.stringify(value));
    else sessionStorage.removeItem(keyOf(code));
    return true;
  } catch {
    return false;
  }
}

/** Answers other tabs that ask for an identity which is in use here. */
export class Claims {
  constructor() {
    this.current = null;
    this._channel = "BroadcastChannel" in window ? new BroadcastChannel("fawa.boards") : null;
    if (this._channel) {
      this._channel.onmessage = ({ data }) => {
        if (data.ask && data.ask === this.current) this._channel.postMessage({ taken: data.ask });
        if (data.taken) this._onTaken?.(data.taken);
      };
    }
  }

  /** Whether another tab is this participant already. */
  async isTaken(clientId) {
    if (!this._channel) return false;
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), PATIENCE);
      this._onTaken = (taken) => {
        if (taken !== clientId) return;
        clearTimeout(timer);
        resolve(true);
      };
      this._channel.postMessage({ ask: clientId });
    });
  }
}
