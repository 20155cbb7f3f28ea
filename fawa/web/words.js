// Numbers and errors in words. Pure.

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

export function sizeInWords(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${unit === 0 && bytes === 1 ? "byte" : UNITS[unit]}`;
}

/** "4:05" or "1:02:03", never less than is left. */
export function countdown(milliseconds) {
  const seconds = Math.max(0, Math.ceil(milliseconds / 1000));
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

/** What to tell people about a call that failed. */
export function failureInWords({ code, message }) {
  switch (code) {
    case "unavailable":
      return `The server cannot be reached or is busy. Check the connection and try again. (${message})`;
    case "not_found": {
      const gone = "it has expired, or may not be downloaded again";
      return `There is no file under this key. Check it for typing errors; if it is right, the file is gone: ${gone}.`;
    }
    case "resource_exhausted":
      return `The server will not take it: ${message}.`;
    case "deadline_exceeded":
      return "It took too long and was given up. Try again, over a better connection if there is one.";
    case "unimplemented":
      return "This server does not offer that.";
    default:
      return `It failed: ${message}.`;
  }
}

/** What a whiteboard's code may look like when people type or paste it: "abc 123", a link. Null: none is in it. */
export function codeIn(text) {
  const linked = /board\/([A-Za-z0-9]{6})\b/.exec(text);
  const code = (linked ? linked[1] : text.replace(/[\s-]/g, "")).toUpperCase();
  return /^[A-Z0-9]{6}$/.test(code) ? code : null;
}

/** Whether a link of this host leads anywhere from another device. */
export function isOnlyHere(hostname) {
  return /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname) || hostname.endsWith(".localhost");
}
