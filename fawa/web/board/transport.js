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
 * @param {{opened: () => void, received: (text: string) => void, closed: (code: number) => void}} on
 * @returns {Connection}
 */
export function openWebSocket(code, on) {
  const url = new URL(`ws/canva?code=${encodeURIComponent(code)}`, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  const socket = new WebSocket(url, "fawa.v2");
  socket.onopen = () => on.opened();
  socket.onmessage = ({ data }) => on.received(data);
  socket.onclose = ({ code: closeCode }) => on.closed(closeCode);
  return {
    name: "WebSocket",
    why: "It is what this page and the server both speak.",
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
