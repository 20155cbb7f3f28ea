// The greeting: four kinds of call, and what goes and comes, as it happens.

import { stream, unary } from "./connectrpc.js";
import { $, make } from "./ui.js";
import { failureInWords } from "./words.js";

const SERVICE = "greet.v1.GreetService";
const MOST_LINES = 200;

/** The calls: what goes, and how an answer reads. */
const MODES = {
  unary: { method: "SayHello", all: false, answer: ({ resp }) => resp },
  server: { method: "GreetStream", all: false, answer: ({ part }) => part },
  client: { method: "GreetClientStream", all: true, answer: ({ summary }) => summary },
  bidi: { method: "GreetBidiStream", all: true, answer: ({ echo }) => echo },
};

export function startGreeting() {
  const log = $("console");
  let running = null;

  const line = (kind, text, since) => {
    const time = since === undefined ? "" : `${(performance.now() - since).toFixed(0)} ms`;
    const entry = make("p", { className: `line ${kind}` }, make("span", { className: "line-time" }, time));
    entry.append(make("span", { className: "line-text" }, text));
    log.append(entry);
    while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
    log.scrollTop = log.scrollHeight;
  };

  const call = async (mode) => {
    running?.abort();
    const { signal } = (running = new AbortController());
    const { method, all, answer } = MODES[mode];
    const names = $("greet-names")
      .value.split(",")
      .map((name) => name.trim())
      .filter(Boolean);
    const messages = (all ? names : [names[0] ?? ""]).map((name) => ({ name }));
    const since = performance.now();
    line("call", `${SERVICE}/${method}`);
    for (const { name } of messages) line("sent", name || "(no name)", since);
    try {
      if (mode === "unary") {
        line("received", answer(await unary(`${SERVICE}/${method}`, messages[0], { signal })), since);
      } else {
        for await (const message of stream(`${SERVICE}/${method}`, messages, { signal })) {
          line("received", answer(message) ?? "", since);
        }
      }
      line("end", "ok", since);
    } catch (error) {
      if (error.name !== "AbortError") line("failed", failureInWords(error), since);
    }
  };

  $("greet-form").addEventListener("submit", (event) => {
    event.preventDefault();
    call(event.submitter?.value || "unary");
  });
}
