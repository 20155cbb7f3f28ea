// A board as a file: SVG from its runs. (PNG is the canvas itself.) Pure.

import { BOARD } from "./view.js";

const COLOR = /^(#[0-9a-f]{3,8}|[a-z]+|[a-z]+\([-0-9a-z.,%/ ]+\))$/i;

export function svgOf(runs) {
  const lines = runs.map(({ color, size, points }) => {
    const stroke = COLOR.test(color) ? color : "#000000";
    const width = Math.min(1000, Math.max(1, size || 1));
    return `<polyline stroke="${stroke}" stroke-width="${width}" points="${points.join(" ")}"/>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${BOARD.width} ${BOARD.height}"` +
      ` width="${BOARD.width}" height="${BOARD.height}">`,
    '<rect width="100%" height="100%" fill="#ffffff"/>',
    '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
    ...lines,
    "</g>",
    "</svg>",
    "",
  ].join("\n");
}
