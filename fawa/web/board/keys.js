// Keys that work anywhere on the board's page, but not while somebody types or a dialog is open.

/** @param {object} on handlers by what is meant */
export function listenToKeys(on) {
  window.addEventListener("keydown", (event) => {
    if (document.body.dataset.section !== "board" || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input:not([type=radio]), textarea") || event.altKey) return;
    const meaning = meaningOf(event);
    if (!meaning) return;
    event.preventDefault();
    on[meaning[0]](...meaning.slice(1));
  });
}

/** Exported for tests: what a key means, as a handler's name and its arguments. */
export function meaningOf({ key, ctrlKey, metaKey, shiftKey }) {
  const command = ctrlKey || metaKey;
  const letter = key.toLowerCase();
  if (command) {
    if (letter === "z") return [shiftKey ? "redo" : "undo"];
    if (letter === "y") return ["redo"];
    return null;
  }
  if (letter === "p") return ["tool", "pen"];
  if (letter === "e") return ["tool", "eraser"];
  if (letter === "s") return ["save"];
  if (/^[1-8]$/.test(key)) return ["color", Number(key) - 1];
  if (key === "[") return ["size", -1];
  if (key === "]") return ["size", 1];
  if (key === "+" || key === "=") return ["zoom", 1.25];
  if (key === "-") return ["zoom", 0.8];
  if (key === "0") return ["fit"];
  if (key === "?") return ["help"];
  return null;
}
