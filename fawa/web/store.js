// What the browser remembers of its user: theme, name, cursor colour, boards.

const CURSOR_COLORS = ["#b3261e", "#a35200", "#2e6b34", "#17574f", "#1a5fb4", "#5b3fa8", "#9c2a6b", "#6b4a2b"];
const FIRST = ["Quiet", "Brave", "Merry", "Swift", "Gentle", "Curious", "Sunny", "Clever", "Patient", "Bold"];
const SECOND = ["Otter", "Heron", "Lynx", "Wren", "Badger", "Dolphin", "Fox", "Puffin", "Hare", "Owl"];
const MOST_BOARDS = 5;

export function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`fawa.${key}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function write(key, value) {
  try {
    localStorage.setItem(`fawa.${key}`, JSON.stringify(value));
  } catch {
    // Storage may be full or forbidden; then nothing is remembered.
  }
}

const oneOf = (list) => list[Math.floor(Math.random() * list.length)];

/** The name and cursor colour shown to others; made up at the first visit. */
export function profile() {
  const known = read("profile", null);
  if (known?.color) return known;
  const fresh = { name: `${oneOf(FIRST)} ${oneOf(SECOND)}`, color: oneOf(CURSOR_COLORS) };
  write("profile", fresh);
  return fresh;
}

export function recentBoards() {
  return read("boards", []);
}

export function noteBoard(code) {
  write("boards", [code, ...recentBoards().filter((one) => one !== code)].slice(0, MOST_BOARDS));
}

export function forgetBoard(code) {
  write(
    "boards",
    recentBoards().filter((one) => one !== code),
  );
}
