// Small helpers for the page's parts.

export const $ = (id) => document.getElementById(id);

/** Make an element with properties, and children that are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Tell people who do not see the change. */
export function announce(text) {
  $("live").textContent = text;
}

/** Open a dialog that also closes by a click beside it. */
export function openDialog(dialog) {
  if (!dialog.open) dialog.showModal();
}

export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    const close = make("button", { className: "quiet round close", type: "button" });
    close.setAttribute("aria-label", "Close");
    close.append(icon("close"));
    close.addEventListener("click", () => dialog.close("closed"));
    dialog.append(close);
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close("closed");
    });
  }
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Copy a field's text, also where the page is not of a secure origin, as on a LAN. */
export async function copy(field, button) {
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    document.execCommand("copy");
  } // `navigator.clipboard` itself is missing there, which ends up here too
  const before = button.textContent;
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => (button.textContent = before), 1500);
}

/** Let the browser save a blob as a file. */
export function saveAs(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function qrAddress(text) {
  return new URL(`qr.svg?text=${encodeURIComponent(text)}`, document.baseURI).href;
}
