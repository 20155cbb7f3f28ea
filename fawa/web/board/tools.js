// The toolbar: what the pen draws with.

import { $, make } from "../ui.js";

const COLORS = [
  ["#1a1a1a", "Black"],
  ["#c62f1d", "Red"],
  ["#e58a00", "Orange"],
  ["#2d8a3e", "Green"],
  ["#1769c2", "Blue"],
  ["#7a3fb5", "Purple"],
  ["#d6438a", "Pink"],
  ["#8a5a2b", "Brown"],
];
const SIZES = [
  [3, "Fine"],
  [6, "Medium"],
  [14, "Thick"],
  [32, "Very thick"],
];
const ERASER = "#ffffff"; // the paper's colour
const ERASER_FACTOR = 3;

export class Tools {
  constructor() {
    $("color-group").append(
      ...COLORS.map(([color, name], index) => {
        const swatch = make("span", { className: "swatch" });
        swatch.style.setProperty("--swatch", color);
        return choice("color", color, `${name} (${index + 1})`, name, swatch, index === 0);
      }),
    );
    $("size-group").append(
      ...SIZES.map(([size, name], index) => {
        const dot = make("span", { className: "dot" });
        dot.style.setProperty("--dot", `${4 + index * 5}px`);
        return choice("size", size, name, name, dot, index === 1);
      }),
    );
    // Who chooses a colour wants to draw with it.
    $("color-group").addEventListener("change", () => this.use("pen"));
  }

  get tool() {
    return picked("tool");
  }

  /** What a stroke begins with. */
  get brush() {
    const size = Number(picked("size"));
    return this.tool === "eraser"
      ? { color: ERASER, size: size * ERASER_FACTOR }
      : { color: picked("color"), size };
  }

  use(tool) {
    pick("tool", tool);
  }

  useColor(index) {
    if (COLORS[index]) {
      pick("color", COLORS[index][0]);
      this.use("pen");
    }
  }

  stepSize(step) {
    const at = SIZES.findIndex(([size]) => String(size) === picked("size")) + step;
    if (SIZES[at]) pick("size", SIZES[at][0]);
  }
}

function choice(group, value, title, name, picture, checked) {
  const input = make("input", { type: "radio", name: group, value, checked });
  return make(
    "label",
    { className: "tool", title },
    input,
    picture,
    make("span", { className: "visually-hidden" }, name),
  );
}

function picked(group) {
  return document.querySelector(`input[name="${group}"]:checked`).value;
}

function pick(group, value) {
  document.querySelector(`input[name="${group}"][value="${value}"]`).checked = true;
}
