// Light or dark: the system's, until somebody chooses.

import { read, write } from "./store.js";
import { $, announce, icon } from "./ui.js";

const system = window.matchMedia("(prefers-color-scheme: dark)");

export function startTheme() {
  const button = $("theme-button");
  const show = () => {
    const theme = read("theme", null) ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    const other = theme === "dark" ? "light" : "dark";
    button.replaceChildren(icon(other === "dark" ? "moon" : "sun"));
    button.setAttribute("aria-label", `Switch to the ${other} theme`);
    button.title = `Switch to the ${other} theme`;
  };
  system.addEventListener("change", show);
  button.addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    // What the system would choose anyway need not be remembered: it may change its mind in the evening.
    write("theme", (theme === "dark") === system.matches ? null : theme);
    show();
    announce(`${theme} theme`);
  });
  show();
}
