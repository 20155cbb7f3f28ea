// Who is here and how the connection is, in the bar, in a notice, and in dialogs.

import { $, announce, make } from "../ui.js";
import { countdown } from "../words.js";

const FACES = 4;

const CLOSE_WORDS = new Map([
  [1006, "the server cannot be reached"],
  [1011, "the server had a fault"],
  [1012, "the server is restarting"],
  [4408, "this connection was too slow"],
  [4413, "the board has as many guests as it may"],
]);

const ENDINGS = {
  gone: "This board is gone: nobody was on it for a while, or the code is wrong. What you see can still be saved.",
  elsewhere: "This board is open in another tab as the same guest. That one goes on.",
  misunderstood: "This page and the server do not understand each other. Reload the page; if that does not help, the server is of another version.",
};

/** Initials for a name: two at the most. */
function initials(name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  return words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join("") || "·";
}

function face(person) {
  const element = make("span", { className: "face", title: person.name || "Guest" }, initials(person.name));
  if (CSS.supports("color", person.color)) element.style.setProperty("--person", person.color);
  return element;
}

export function showPeople(session) {
  const me = session.clientId;
  const people = [...session.people.values()];
  people.sort((a, b) => (b.client_id === me) - (a.client_id === me) || a.client_id.localeCompare(b.client_id));
  const faces = people.slice(0, people.length > FACES + 1 ? FACES : FACES + 1).map(face);
  if (people.length > faces.length) {
    faces.push(make("span", { className: "face more" }, `+${people.length - faces.length}`));
  }
  $("avatars").replaceChildren(...faces);
  $("people-button").setAttribute("aria-label", `Who is here: ${people.length}`);
  $("people-list").replaceChildren(
    ...people.map((person) => {
      const name = person.name || "Guest without a name";
      return make("li", {}, face(person), make("span", {}, name), person.client_id === me ? make("em", {}, "you") : "");
    }),
  );
}

/** The connection in the bar and its dialog; called again each second while there is something to count. */
export function showConnection(session, connection) {
  const [lamp, word] = wordFor(session);
  $("lamp").dataset.lamp = lamp;
  $("link-word").textContent = word;
  $("link-button").setAttribute("aria-label", `Connection: ${word}`);
  const waiting = session.pending.length;
  const facts = [
    ["State", word],
    ["Transport", connection ? connection.name : "none"],
    ["Why", connection ? connection.why : (CLOSE_WORDS.get(session.code) ?? "there is no connection")],
    ["Not sent yet", waiting === 1 ? "1 segment" : `${waiting} segments`],
  ];
  $("link-facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  $("retry-button").hidden = session.state !== "waiting";
}

function wordFor(session) {
  switch (session.state) {
    case "live":
      return session.readOnly ? ["amber", "Read only"] : ["green", "Live"];
    case "waiting":
      return ["amber", `Again in ${countdown(session.retryAt - performance.now())}`];
    case "over":
      return ["red", "Ended"];
    default:
      return ["amber", "Connecting"];
  }
}

/**
 * The notice over the board.
 * @param {object} session
 * @param {Record<string, () => void>} actions what its buttons do
 */
export function showNotice(session, actions) {
  const { text, buttons } = noticeFor(session);
  $("notice").hidden = !text;
  $("notice").dataset.ending = session.ending;
  if (!text) return;
  $("notice-text").textContent = text;
  const labels = buttons.map(([label]) => label).join();
  if ($("notice-actions").dataset.labels === labels) return;
  $("notice-actions").dataset.labels = labels;
  $("notice-actions").replaceChildren(
    ...buttons.map(([label, action], index) => {
      const button = make("button", { className: index ? "plain small" : "primary small", type: "button" }, label);
      button.addEventListener("click", actions[action]);
      return button;
    }),
  );
}

function noticeFor(session) {
  if (session.state === "waiting") {
    const why = CLOSE_WORDS.get(session.code) ?? "the connection was lost";
    const time = countdown(session.retryAt - performance.now());
    const kept = session.isFull ? "Nothing more can be kept until then." : "What you draw is kept and sent then.";
    return {
      text: `${why[0].toUpperCase()}${why.slice(1)}. Trying again in ${time}. ${kept}`,
      buttons: [["Try now", "retry"]],
    };
  }
  if (session.state === "over" && ENDINGS[session.ending]) {
    const save = ["Save the picture", "save"];
    const buttons = {
      gone: [["New board", "renew"], save],
      elsewhere: [["Join here as well", "retry"]],
      misunderstood: [["Reload", "reload"], save],
    };
    return { text: ENDINGS[session.ending], buttons: buttons[session.ending] };
  }
  if (session.state === "live" && session.readOnly) {
    const reason = session.readOnlyReason ? ` (${session.readOnlyReason})` : "";
    return { text: `The board takes nothing at the moment${reason}. What you draw is kept and sent then.`, buttons: [] };
  }
  return { text: "", buttons: [] };
}

/** Say changes of the connection aloud, without the seconds. */
export function announceState(session) {
  const words = {
    live: session.readOnly ? "The board is read only" : "Connected",
    waiting: "Connection lost, trying again",
    over: ENDINGS[session.ending] ?? "",
  };
  if (words[session.state]) announce(words[session.state]);
}
