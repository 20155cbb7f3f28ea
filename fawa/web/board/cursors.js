// Others' cursors over the board, and the pen that arrow keys move.

import { toStage } from "./view.js";

const SVG = "http://www.w3.org/2000/svg";

export class Cursors {
  constructor(layer, keyPen) {
    this._layer = layer;
    this._keyPen = keyPen;
    this._marks = new Map();
  }

  /** Show cursors `{x, y}` by client id, with the names and colours of `people`. */
  show(cursors, people, view) {
    for (const [id, mark] of this._marks) {
      if (!cursors.has(id)) {
        mark.element.remove();
        this._marks.delete(id);
      }
    }
    for (const [id, point] of cursors) {
      let mark = this._marks.get(id);
      if (!mark) {
        mark = makeMark();
        this._marks.set(id, mark);
        this._layer.append(mark.element);
      }
      const { name = "", color = "" } = people.get(id) ?? {};
      mark.name.textContent = name || "Guest";
      mark.element.style.setProperty("--person", "");
      mark.element.style.setProperty("--person", CSS.supports("color", color) ? color : "#6b675f");
      place(mark.element, point, view);
    }
  }

  showKeyPen(point, view) {
    this._keyPen.hidden = !point;
    if (point) place(this._keyPen, point, view);
  }
}

function place(element, point, view) {
  const { x, y } = toStage(view, point);
  element.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
}

function makeMark() {
  const element = document.createElement("div");
  element.className = "cursor";
  const arrow = document.createElementNS(SVG, "svg");
  arrow.setAttribute("viewBox", "0 0 20 20");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", "M2 2l5.6 14.6 2.3-6.1 6.3-2.2z");
  arrow.append(path);
  const name = document.createElement("span");
  element.append(arrow, name);
  return { element, name };
}
