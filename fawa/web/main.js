// The page: which section is in sight, by the address after `#`.

import { BoardPage } from "./board/board.js";
import { startFiles } from "./files/files.js";
import { startGreeting } from "./greet.js";
import { startHome } from "./home.js";
import { startTheme } from "./theme.js";
import { $, prepareDialogs } from "./ui.js";
import { codeIn } from "./words.js";

const TITLES = { home: "fawa", board: "Board", files: "Files", greet: "Greeting" };

startTheme();
prepareDialogs();
const board = new BoardPage();
const home = startHome();
const files = startFiles();
startGreeting();

let shown = "";

function route() {
  const path = decodeURI(location.hash.replace(/^#\/?/, ""));
  const code = path.startsWith("board/") ? codeIn(path) : null;
  const [first, rest = "", secret = ""] = path.split("/", 3);
  const section = code ? "board" : first === "files" || first === "greet" ? first : "home";
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close("closed");
  for (const name of Object.keys(TITLES)) $(name).hidden = name !== section;
  $("bar-board").hidden = section !== "board";
  document.body.dataset.section = section;
  document.title = section === "home" ? "fawa" : `${code ?? TITLES[section]} · fawa`;
  for (const link of document.querySelectorAll(".sections a")) {
    const target = link.getAttribute("href").slice(2);
    const current = target === section || (target === "" && (section === "home" || section === "board"));
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (code) board.enter(code);
  else board.leave();
  if (section === "home") home.show(path.startsWith("board/") ? path : "");
  if (section === "files") files.show(rest, secret);
  if (shown && shown !== section) $("main").focus({ preventScroll: true });
  shown = section;
}

window.addEventListener("hashchange", route);
route();
