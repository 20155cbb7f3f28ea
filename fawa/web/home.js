// The start: a new board, or one that others have made.

import { recentBoards } from "./store.js";
import { $, make } from "./ui.js";
import { codeIn } from "./words.js";

/**
 * Ask the server for a new board.
 * @returns {Promise<string>} its code
 * @throws {Error} whose message tells people what is wrong and what to do
 */
export async function createBoard() {
  let response;
  try {
    response = await fetch(new URL("create", document.baseURI), { method: "POST" });
  } catch {
    throw new Error("The server cannot be reached. Check the connection and try again.");
  }
  if (response.ok) return (await response.json()).code;
  if (response.status === 404) throw new Error("This server has no whiteboard: it runs without that service.");
  if (response.status === 429) {
    const seconds = Number(response.headers.get("retry-after")) || 60;
    throw new Error(`That were many boards. The server makes another one in ${seconds} seconds.`);
  }
  if (response.status === 503) throw new Error("The server has no room for another board. Try again later.");
  throw new Error(`The server answered ${response.status}. Try again later.`);
}

export function startHome() {
  const trouble = $("home-trouble");
  const complain = (text) => {
    trouble.textContent = text;
    trouble.hidden = !text;
  };

  $("create-button").addEventListener("click", async () => {
    complain("");
    $("create-button").disabled = true;
    try {
      location.hash = `#/board/${await createBoard()}`;
    } catch (error) {
      complain(error.message);
    } finally {
      $("create-button").disabled = false;
    }
  });

  $("join-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const code = codeIn($("join-code").value);
    if (code) {
      complain("");
      $("join-code").value = "";
      location.hash = `#/board/${code}`;
    } else {
      complain("A code has six letters and digits, such as K7Q2ZD. Type it, or paste the link.");
      $("join-code").focus();
    }
  });

  return {
    /** @param {string} wrong an address that names no board */
    show(wrong) {
      complain(wrong ? "This link names no board: the code in it has to have six letters and digits." : "");
      const boards = recentBoards();
      $("recent").hidden = boards.length === 0;
      $("recent-list").replaceChildren(
        ...boards.map((code) => make("li", {}, make("a", { href: `#/board/${code}`, className: "chip" }, code))),
      );
    },
  };
}
