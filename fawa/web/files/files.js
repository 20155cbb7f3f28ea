// Sending files and fetching them by key.

import { RpcError, errorOf, unary } from "../connectrpc.js";
import { text } from "../protobuf.js";
import { $, announce, copy, icon, make, qrAddress, saveAs } from "../ui.js";
import { countdown, failureInWords, sizeInWords } from "../words.js";
import { receive } from "./receive.js";
import { Broken, sendResuming } from "./resuming.js";
import { Opener, SEALED_NAME, SealError, canSeal, newSecret, readSecret, seal, writeSecret } from "./sealing.js";
import { CONTENT_TYPE, SEND_FILE, Speed, readAnswer, requestBody } from "./upload.js";

const KEY_WORDS = "for a new link, here or by “fawa receive”";
const GET_LINK = "file.v1.FileService/GetDownloadURL";
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const BATCH = 8 * 1024 * 1024; // bytes that are held in memory before the browser gets them to keep

export function startFiles() {
  const drop = $("drop");
  const input = $("file-input");
  // One after the other: together they would only share the same line.
  let queue = Promise.resolve();
  const send = (files) => {
    for (const file of files) {
      const card = new UploadCard(file, { sealed: $("seal").checked, once: $("once").checked });
      $("uploads").prepend(card.element);
      queue = queue.then(() => card.run());
    }
  };

  input.addEventListener("change", () => {
    send(input.files);
    input.value = "";
  });
  const section = $("files");
  section.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  section.addEventListener("dragleave", (event) => {
    if (!section.contains(event.relatedTarget)) drop.classList.remove("over");
  });
  section.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    send(event.dataTransfer.files);
  });
  window.addEventListener("beforeunload", (event) => {
    if (UploadCard.underWay) event.preventDefault();
  });

  $("receive-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("receive-key").value.trim().toLowerCase();
    if (linked.secret && key === linked.key) openSealed(key, linked.secret);
    else fetchByKey(key);
  });
  if (!canSeal()) {
    $("seal").disabled = true;
    $("seal-words").textContent = "Encrypting needs https, or a server on this machine";
  }

  let linked = { key: "", secret: "" };
  return {
    /**
     * @param {string} key of a file, from the address
     * @param {string} secret what opens it, if it is sealed
     */
    show(key, secret) {
      linked = { key, secret };
      if (key) $("receive-key").value = key;
      if (secret) $("receive-done").textContent = "This file is encrypted. It is opened here, in your browser.";
    },
  };
}

async function fetchByKey(key) {
  const trouble = $("receive-trouble");
  const done = $("receive-done");
  trouble.hidden = true;
  done.textContent = "";
  try {
    if (!key) throw new RpcError("invalid_argument", "no key was given; type the one that came with the file");
    const { url, filename, fileExpiresAt } = await unary(GET_LINK, { randomkey: key });
    const link = make("a", { href: url, download: filename });
    document.body.append(link);
    link.click();
    link.remove();
    const until = fileExpiresAt ? ` The server keeps it until ${clock.format(Number(fileExpiresAt))}.` : "";
    done.textContent = `Downloading ${filename}.${until}`;
  } catch (error) {
    trouble.textContent = failureInWords(error);
    trouble.hidden = false;
  }
}

/** Receive a sealed file, open it, and let the browser save it. */
async function openSealed(key, written) {
  const trouble = $("receive-trouble");
  const done = $("receive-done");
  trouble.hidden = true;
  try {
    if (!canSeal()) throw new SealError("opening needs https, or a server on this machine");
    const opener = new Opener(readSecret(written));
    const kept = new Kept();
    let total = 0;
    let got = 0;
    for await (const { size, data } of receive(key)) {
      if (data === undefined) {
        total = size;
        continue;
      }
      got += data.length;
      for (const piece of await opener.feed(data)) kept.add(piece);
      done.textContent = `Opening: ${sizeInWords(got)} of ${sizeInWords(total)}`;
    }
    kept.add(await opener.finish());
    saveAs(kept.blob(), opener.name.split(/[/\\]/).pop() || "download");
    done.textContent = `Opened ${opener.name}.`;
  } catch (error) {
    done.textContent = "";
    trouble.textContent = error instanceof SealError ? `It does not open: ${error.message}.` : failureInWords(error);
    trouble.hidden = false;
  }
}

/** Bytes for a blob, which the browser keeps on disk where they are many. */
class Kept {
  constructor() {
    this._blobs = [];
    this._pieces = [];
    this._size = 0;
  }

  add(piece) {
    this._pieces.push(piece);
    this._size += piece.length;
    if (this._size >= BATCH) this._flush();
  }

  blob() {
    this._flush();
    return new Blob(this._blobs);
  }

  _flush() {
    this._blobs.push(new Blob(this._pieces));
    this._pieces = [];
    this._size = 0;
  }
}

/** One file on its way, and what it became. */
class UploadCard {
  static underWay = 0;

  /**
   * @param {File} file
   * @param {{sealed: boolean, once: boolean}} wish `once`: the first complete download is the last
   */
  constructor(file, wish) {
    this._file = file;
    this._wish = wish;
    this._secret = wish.sealed ? newSecret() : null;
    this._request = null;
    this._stopped = this._sealing = false;
    this._wake = () => {};
    this._state = make("p", { className: "card-state" }, `${sizeInWords(file.size)} · waiting`);
    this._bar = make("progress", { max: Math.max(1, file.size), value: 0 });
    this._bar.setAttribute("aria-label", `Progress of ${file.name}`);
    this._cancel = make("button", { className: "plain small", type: "button" }, "Cancel");
    this._cancel.addEventListener("click", () => this._stop());
    const head = make(
      "div",
      { className: "card-head" },
      icon("file"),
      make("div", { className: "card-words" }, make("h3", {}, file.name), this._state),
      this._cancel,
    );
    this._body = make("div", { className: "card-body", hidden: true });
    this.element = make("li", { className: "card" }, head, this._bar, this._body);
  }

  /** Send it; ends when it has got somewhere or will not. */
  async run() {
    if (this._stopped) return;
    UploadCard.underWay += 1;
    try {
      const answer = await this._send(this._secret ? await this._seal() : this._file);
      if (this._secret) {
        const page = new URL(`#/files/${answer.key}/${writeSecret(this._secret)}`, document.baseURI);
        this._succeed(answer, page.href, 0);
        return;
      }
      const { url, expiresAt } = await unary(GET_LINK, { randomkey: answer.key });
      this._succeed(answer, url, Number(expiresAt ?? 0));
    } catch (error) {
      this._fail(error);
    } finally {
      UploadCard.underWay -= 1;
    }
  }

  async _seal() {
    const { name, size } = this._file;
    const kept = new Kept();
    let done = 0;
    this._sealing = true;
    for await (const piece of seal(this._file, name, this._secret)) {
      if (this._stopped) throw new RpcError("canceled", "cancelled");
      kept.add(piece);
      done += piece.length;
      this._bar.value = Math.min(size, done);
      this._state.textContent = `encrypting ${sizeInWords(Math.min(size, done))} of ${sizeInWords(size)}`;
    }
    return new File([kept.blob()], SEALED_NAME);
  }

  /** @param {File} file what to send: the card's, or it sealed */
  async _send(file) {
    const { size } = file;
    this._bar.max = Math.max(1, size);
    const speed = new Speed();
    const progress = (sent) => {
      const rate = speed.mark(sent, performance.now());
      this._bar.value = sent;
      const pace = rate > 0 ? ` · ${sizeInWords(rate)}/s · ${countdown(((size - sent) / rate) * 1000)} left` : "";
      this._state.textContent = `${sizeInWords(sent)} of ${sizeInWords(size)}${pace}`;
    };
    const send = (...request) => this._ask(...request);
    const pause = (milliseconds) => this._pause(milliseconds);
    const answer = await sendResuming(file, { send, pause, progress }, this._wish);
    return answer ?? this._sendAtOnce(file, progress);
  }

  /** To a server that keeps nothing of what is interrupted. */
  async _sendAtOnce(file, progress) {
    const { name } = this._file;
    const { size } = file;
    const body = requestBody(file, this._wish);
    const headers = { "content-type": CONTENT_TYPE, "connect-protocol-version": "1" };
    try {
      const sent = (bytes) => progress(Math.min(size, (bytes / body.size) * size));
      const { status, bytes } = await this._ask("POST", SEND_FILE, headers, body, sent);
      if (status !== 200) throw new RpcError("unknown", `the server answered HTTP ${status}`);
      return readAnswer(bytes);
    } catch (error) {
      if (error instanceof RpcError) throw error;
      if (!(error instanceof Broken)) throw errorOf({ code: "internal", message: error.message });
      const why = `the connection broke while ${name} was sent; it may also be larger than the server takes`;
      throw new RpcError("unavailable", why);
    }
  }

  /** Send one request and return its answer; `sent` hears how much of the body has left. */
  _ask(method, path, headers, body = null, sent = () => {}) {
    // fetch tells no progress of an upload; XMLHttpRequest does.
    const request = new XMLHttpRequest();
    request.upload.addEventListener("progress", ({ loaded }) => sent(loaded));
    return new Promise((resolve, reject) => {
      const cancelled = () => reject(new RpcError("canceled", "cancelled"));
      if (this._stopped && method !== "DELETE") return cancelled();
      request.addEventListener("load", () => {
        const bytes = new Uint8Array(request.response);
        const field = (name) => request.getResponseHeader(name);
        resolve({ status: request.status, field, bytes, text: text(bytes) });
      });
      request.addEventListener("error", () => reject(new Broken()));
      request.addEventListener("abort", cancelled);
      request.open(method, new URL(path, document.baseURI));
      request.responseType = "arraybuffer";
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.send(body);
      this._request = request;
    });
  }

  /** Wait before the next try, at most until the browser says that it is online again. */
  _pause(milliseconds) {
    this._state.textContent = "the connection broke · going on as soon as it is back";
    return new Promise((resolve) => {
      this._wake = resolve;
      setTimeout(resolve, milliseconds);
      window.addEventListener("online", resolve, { once: true });
    });
  }

  _stop() {
    this._stopped = true;
    if (this._request) {
      this._request.abort();
      this._wake();
    } else if (!this._sealing) {
      this._fail(new RpcError("canceled", "cancelled"));
    }
  }

  _succeed({ key, expiresAt }, url, linkExpiresAt) {
    const { name, size } = this._file;
    this._bar.hidden = true;
    this._cancel.remove();
    this.element.classList.add("done");
    const fate = this._wish.once ? " It is gone after its first download." : "";
    announce(`${name} is sent${this._secret ? ", encrypted." : `. Its key is ${key}.`}${fate}`);
    const link = make("input", { readOnly: true, value: url });
    link.setAttribute("aria-label", `Link to ${name}`);
    const keyField = make("input", { readOnly: true, value: key, className: "mono" });
    keyField.setAttribute("aria-label", `Key of ${name}`);
    const sealedWords = "opens it in a browser, or by “fawa receive”";
    const linkTime = make("span", { className: "fine" }, this._secret ? sealedWords : "");
    const fields = make(
      "div",
      { className: "card-fields" },
      labelled("Link", link, linkTime),
      ...(this._secret ? [] : [labelled("Key", keyField, make("span", { className: "fine" }, KEY_WORDS))]),
    );
    this._body.append(fields);
    if (!this._secret) {
      // The server draws it, and must not learn a secret.
      this._body.append(make("img", { className: "qr", src: qrAddress(url), alt: `QR code of the link to ${name}` }));
    }
    this._body.hidden = false;

    const show = () => {
      const now = Date.now();
      const gone = expiresAt && now >= expiresAt;
      const left = `until ${clock.format(expiresAt)}, ${countdown(expiresAt - now)} left`;
      const time = !expiresAt ? "" : gone ? " · expired: the server has forgotten it" : ` · kept ${left}`;
      const downloads = this._wish.once && !gone ? " · gone after its first download" : "";
      this._state.textContent = `${sizeInWords(size)}${time}${downloads}`;
      if (linkExpiresAt) {
        const works = `works until ${clock.format(linkExpiresAt)}, ${countdown(linkExpiresAt - now)} left`;
        linkTime.textContent = now < linkExpiresAt ? works : "is over; the key makes a new one";
      }
      this.element.classList.toggle("expired", Boolean(gone));
      if (gone || !this.element.isConnected) clearInterval(timer);
    };
    const timer = setInterval(show, 1000);
    show();
  }

  _fail(error) {
    const cancelled = error.code === "canceled";
    this._bar.hidden = true;
    this._cancel.remove();
    this.element.classList.add(cancelled ? "cancelled" : "failed");
    this._state.textContent = cancelled ? "cancelled" : failureInWords(error);
    announce(`${this._file.name}: ${this._state.textContent}`);
    if (cancelled) return;
    const again = make("button", { className: "plain small", type: "button" }, "Try again");
    again.addEventListener("click", () => {
      const card = new UploadCard(this._file, this._wish);
      this.element.replaceWith(card.element);
      card.run();
    });
    this.element.querySelector(".card-head").append(again);
  }
}

function labelled(label, field, note) {
  const button = make("button", { className: "plain small", type: "button" }, "Copy");
  button.addEventListener("click", () => copy(field, button));
  const head = make("div", { className: "field-head" }, make("span", { className: "field-name" }, label), note);
  return make("div", { className: "field" }, head, make("div", { className: "copy" }, field, button));
}
