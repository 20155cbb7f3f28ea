"""Questions to a page about what can be seen on it, as JavaScript."""

from __future__ import annotations

#: Contrast (WCAG 2.1, 1.4.3) of every piece of text in sight, as "text: ratio" where it is below AA.
LOW_CONTRAST = """() => {
  const channel = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, :disabled")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(parse(style.color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) low.push(`${element.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""


#: Controls in sight that a screen reader could not name.
NAMELESS = """() => [...document.querySelectorAll("button, a, input")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !one.ariaLabel && !one.innerText.trim())
  .filter((one) => ![...(one.labels ?? [])].some((label) => label.innerText.trim()))
  .map((one) => one.outerHTML)"""
