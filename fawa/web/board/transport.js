// How a board is reached. A transport opens a connection that sends and receives whole documents as text.

/** Whether the board is there: a WebSocket that is refused does not tell a page why. */
export async function knock(code, signal) {
  try {
    const response = await fetch(new URL(`join?code=${encodeURIComponent(code)}`, document.baseURI), { signal });
    const retryAfter = Number(response.headers.get("retry-after") ?? 0) * 1000;
    return { status: response.status, retryAfter };
  } catch {
    return { status: 0, retryAfter: 0 };
  }
}

/**
 * @typedef {object} Connection
 * @property {string} name of the transport, for people
 * @property {string} why this one is in use
 * @property {(text: string) => void} send
 * @property {() => void} close after which nothing is told any more
 * @property {number} buffered bytes that wait to be sent
 */

/**
 * @param {string} code of the board
 * @param {{opened: () => void, received: (text: string) => void,
 *   closed: (code: number, reason: string) => void}} on reason completes "because"
 * @returns {Connection}
 */
export function openWebSocket(code, on) {
  const url = new URL(`ws/canva?code=${encodeURIComponent(code)}`, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  const socket = new WebSocket(url, "fawa.v2");
  socket.onopen = () => on.opened();
  socket.onmessage = ({ data }) => on.received(data);
  socket.onclose = ({ code: closeCode }) => on.closed(closeCode, "the connection was refused");
  return {
    name: "WebSocket",
    why: "",
    send: (text) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
    },
    close: () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    },
    get buffered() {
      return socket.bufferedAmount;
    },
  };
}

/** Why this browser cannot use WebTransport here, or "". */
export function whyNoWebTransport() {
  if (!window.isSecureContext) return "Browsers have WebTransport only for pages that came over HTTPS or from this machine.";
  return typeof WebTransport === "undefined" ? "This browser has no WebTransport." : "";
}

/** Where the server offers WebTransport: {port, path, hashes}, or null. */
export async function fetchOffer(signal) {
  try {
    const response = await fetch(new URL(".well-known/fawa/webtransport", document.baseURI), { signal });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

// What may come without an end of line, and what a datagram holds on any path.
const LONGEST_LINE = 16 * 1024 * 1024;
const LARGEST_DATAGRAM = 1000;

/**
 * One stream with a document in each line; cursors as datagrams.
 * @param {string} code of the board
 * @param {{port: number, path: string, hashes: string[]}} offer
 * @param {{opened: () => void, received: (text: string) => void,
 *   closed: (code: number, reason: string) => void}} on
 * @returns {Connection}
 */
export function openWebTransport(code, offer, on) {
  // A name of this machine may mean IPv6 first, where fawa does not listen unless told to.
  const url = new URL(offer.path, document.baseURI);
  if (url.hostname === "localhost") url.hostname = "127.0.0.1";
  url.protocol = "https:";
  url.port = offer.port;
  url.search = new URLSearchParams({ code });
  const options = { protocols: ["fawa.v2"] };
  if (offer.hashes.length) options.serverCertificateHashes = offer.hashes.map(pin);
  let heard = true;
  let writer = null;
  let cursors = null;
  let waiting = 0;
  const encoder = new TextEncoder();
  let transport;

  const end = (closeCode, reason) => {
    if (!heard) return;
    heard = false;
    on.closed(closeCode, reason);
  };
  const close = () => {
    heard = false;
    try {
      transport?.close({ closeCode: 1000, reason: "" });
    } catch {
      // It was over already.
    }
  };

  const begin = async () => {
    transport = new WebTransport(url, options);
    transport.closed.then(
      // Without a code of ours it is as if the line had been cut.
      ({ closeCode }) => end(closeCode || 1006, "the session was closed"),
      (error) => end(1006, wordsOf(error)),
    );
    await transport.ready;
    if (transport.protocol !== "fawa.v2") throw new Error("the server speaks another protocol");
    const stream = await transport.createBidirectionalStream();
    writer = stream.writable.getWriter();
    cursors = (transport.datagrams.createWritable?.() ?? transport.datagrams.writable).getWriter();
    if (!heard) return;
    on.opened();
    readDatagrams(transport.datagrams.readable.getReader());
    await readLines(stream.readable.getReader());
  };

  const tell = (text) => {
    if (heard) on.received(text);
  };
  const readLines = async (reader) => {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      if (rest.length > LONGEST_LINE) throw new Error("a line is too long");
      for (const text of lines) tell(text);
    }
  };
  const readDatagrams = async (reader) => {
    try {
      const decoder = new TextDecoder();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const text = decoder.decode(value);
        if (text.startsWith('{"cursors":')) tell(text);
      }
    } catch {
      // The session tells how it ended.
    }
  };

  begin().catch((error) => {
    // What the server closed it with comes first, if it comes.
    setTimeout(() => {
      end(1006, wordsOf(error));
      close();
    }, 50);
  });

  return {
    name: "WebTransport",
    why: "",
    send: (text) => {
      if (!writer || !heard) return;
      const bytes = encoder.encode(`${text}\n`);
      if (bytes.length <= LARGEST_DATAGRAM && text.startsWith('{"cursor":')) {
        if (cursors.desiredSize > 0) cursors.write(bytes.subarray(0, -1)).catch(() => {});
        return;
      }
      waiting += bytes.length;
      writer.write(bytes).then(
        () => (waiting -= bytes.length),
        () => (waiting -= bytes.length),
      );
    },
    close,
    get buffered() {
      return waiting;
    },
  };
}

function pin(hash) {
  return { algorithm: "sha-256", value: Uint8Array.from(atob(hash), (character) => character.charCodeAt(0)) };
}

function wordsOf(error) {
  return (error?.message || "the connection failed").replace(/\.$/, "");
}
