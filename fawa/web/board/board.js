// The board's page: joins the picture, the pen, the toolbar and the connection.

import { createBoard } from "../home.js";
import { forgetBoard, noteBoard, profile, write } from "../store.js";
import { $, announce, copy, openDialog, qrAddress, saveAs } from "../ui.js";
import { isOnlyHere } from "../words.js";
import { Paper } from "./canvas.js";
import { Cursors } from "./cursors.js";
import { svgOf } from "./export.js";
import { Claims } from "./identity.js";
import { listenToKeys } from "./keys.js";
import { Link } from "./link.js";
import { Pen } from "./pen.js";
import { Picture, foresee } from "./picture.js";
import { announceState, showConnection, showNotice, showPeople } from "./status.js";
import { Stroke } from "./strokes.js";
import { Tools } from "./tools.js";
import { UndoStack } from "./undo.js";
import { fit, pan, zoom } from "./view.js";

const REST = 120; // milliseconds without movement after which the rest of a line is sent

export class BoardPage {
  constructor() {
    this._code = "";
    this._link = null;
    this._claims = new Claims();
    this._paper = new Paper($("paper"), $("paper-top"), $("paper-tip"));
    this._picture = new Picture();
    this._undo = new UndoStack();
    this._tools = new Tools();
    this._cursors = new Cursors($("cursor-layer"), $("key-pen"));
    this._hidden = ""; // which runs were left out when the paper was painted
    this._todo = ""; // what the next frame paints: "preview", or "repaint" for everything
    this._shown = { first: 0, last: 0, hidden: "" }; // pending events that the preview has
    this._stroke = null;
    this._samples = [];
    this._frame = 0;
    this._rest = 0;
    this._view = fit({ width: 1, height: 1 });
    this._fitted = true;
    this._pen = new Pen($("stage"), () => this._view, this._penHandlers());
    this._listen();
    new ResizeObserver(() => this._resized()).observe($("stage"));
    setInterval(() => this._second(), 1000);
  }

  enter(code) {
    if (code === this._code) return;
    this.leave();
    this._code = code;
    $("board-code").textContent = code;
    this._undo = new UndoStack();
    this._picture.reset([]);
    this._paint("repaint");
    this._fit();
    this._link = new Link(code, profile(), this._claims, {
      snapshot: (strokes) => this._onSnapshot(strokes),
      events: (events) => this._onEvents(events),
      pending: () => this._onPending(),
      people: () => showPeople(this._session),
      cursors: () => this._showCursors(),
      state: () => this._onState(),
    });
    this._link.open();
  }

  leave() {
    if (!this._code) return;
    this._endStroke();
    this._code = "";
    this._link.close();
    this._link = null;
    $("notice").hidden = true;
  }

  get _session() {
    return this._link?.session;
  }

  // The connection tells

  _onSnapshot(strokes) {
    this._picture.reset(strokes);
    this._paint("repaint");
  }

  _onEvents(events) {
    for (const event of events) {
      const todo = this._picture.apply(event);
      if (event.type === "clear") this._undo.clear();
      if (todo === "redraw") this._paint("repaint");
      // While one's own wish to clear is on its way the paper is blank already.
      else if (todo === "draw" && this._todo !== "repaint" && this._hidden !== "all") this._paper.draw(event);
    }
    this._showUndo();
  }

  _onPending() {
    this._paint("preview");
  }

  _onState() {
    const session = this._session;
    if (session.state === "live") noteBoard(this._code);
    if (session.ending === "gone") forgetBoard(this._code);
    this._undo.nextStroke = Math.max(this._undo.nextStroke, this._link.nextStroke);
    // Another connection may have numbered what is pending anew.
    this._shown.first = 0;
    this._paint("preview");
    this._showStatus();
    announceState(session);
  }

  // What is seen

  /** Paint with the next frame, however much happens until then. */
  _paint(todo) {
    if (!this._todo) requestAnimationFrame(() => this._paintNow());
    if (this._todo !== "repaint") this._todo = todo;
  }

  _paintNow() {
    const pending = this._session?.pending ?? [];
    const { segments, hides, hidden } = this._foreseen();
    if (this._todo === "repaint" || hidden !== this._hidden) {
      this._hidden = hidden;
      this._paper.repaint(this._picture.segments(hides));
    }
    this._todo = "";
    const [first, last] = [pending[0]?.op ?? 0, pending.at(-1)?.op ?? 0];
    const before = this._shown;
    this._shown = { first, last, hidden };
    if (first && first === before.first && hidden === before.hidden && segments.length === pending.length) {
      const fresh = pending.slice(pending.findLastIndex(({ op }) => op <= before.last) + 1);
      this._paper.preview(fresh.map(({ event }) => event), { more: true });
    } else {
      this._paper.preview(segments);
    }
    this._paper.showTip(this._stroke?.tail ?? []);
  }

  _foreseen() {
    return foresee(this._session?.pending ?? [], this._session?.clientId ?? "");
  }

  _showCursors() {
    if (this._session) this._cursors.show(this._session.cursors, this._session.people, this._view);
    this._cursors.showKeyPen(this._pen.keyPoint, this._view);
  }

  _showUndo() {
    $("undo-button").disabled = !this._undo.canUndo;
    $("redo-button").disabled = !this._undo.canRedo;
  }

  _showStatus() {
    showConnection(this._session, this._link.connection);
    showNotice(this._session, {
      retry: () => this._link.retry(),
      save: () => openDialog($("export-dialog")),
      reload: () => location.reload(),
      renew: () => this._renew(),
    });
  }

  _second() {
    if (this._session) this._showStatus();
  }

  _stageSize() {
    const { clientWidth, clientHeight } = $("stage");
    return { width: clientWidth, height: clientHeight };
  }

  _margin() {
    return this._stageSize().width < 700 ? 8 : 20;
  }

  _setView(view) {
    this._view = view;
    $("sheet").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    const whole = fit(this._stageSize(), this._margin()).scale;
    this._fitted = Math.abs(view.scale - whole) < 1e-6;
    $("fit-button").hidden = this._fitted;
    this._showCursors();
  }

  _fit() {
    this._setView(fit(this._stageSize(), this._margin()));
  }

  _resized() {
    if (!$("stage").clientWidth) return;
    if (this._fitted) this._fit();
    else this._setView(pan(this._view, 0, 0, this._stageSize(), this._margin()));
  }

  // The pen

  _penHandlers() {
    return {
      begin: (point, usesPressure) => this._begin(point, usesPressure),
      move: (points) => {
        if (!this._stroke) return;
        this._samples.push(...points);
        this._soon();
      },
      end: () => this._endStroke(),
      cancel: () => this._cancelStroke(),
      hover: (point) => {
        if (point) this._link?.moveCursor(point);
        this._cursors.showKeyPen(this._pen.keyPoint, this._view);
      },
      pan: (dx, dy) => this._setView(pan(this._view, dx, dy, this._stageSize(), this._margin())),
      zoom: (factor, point) => this._setView(zoom(this._view, factor, point, this._stageSize(), this._margin())),
    };
  }

  _begin(point, usesPressure) {
    this._endStroke();
    if (!this._session || this._session.state === "over" || this._session.isFull) return;
    const stroke = this._undo.begin();
    this._link.nextStroke = this._undo.nextStroke;
    this._stroke = new Stroke({ ...this._tools.brush, stroke, pressure: usesPressure });
    this._samples = [point];
    this._soon();
  }

  /** One draw for each picture the screen shows, however often the pointer tells. */
  _soon() {
    if (this._frame) return;
    this._frame = requestAnimationFrame(() => this._flush());
    clearTimeout(this._rest);
    this._rest = setTimeout(() => {
      if (this._stroke) this._give(this._stroke.settle(Date.now()));
    }, REST);
  }

  _flush() {
    cancelAnimationFrame(this._frame);
    this._frame = 0;
    if (!this._stroke) return;
    const events = this._stroke.add(this._samples, Date.now());
    this._samples = [];
    this._give(events);
  }

  _give(events) {
    this._undo.record(events);
    if (events.length) this._link.draw(events);
    this._paint("preview");
  }

  _endStroke() {
    clearTimeout(this._rest);
    if (!this._stroke) return;
    this._flush();
    const events = this._stroke.end(Date.now());
    this._stroke = null;
    this._give(events);
    this._showUndo();
  }

  /** A second finger came, or the system took the pointer: the line was not meant. */
  _cancelStroke() {
    if (!this._stroke) return;
    this._endStroke();
    this._link.draw(this._undo.undo());
    this._undo.forgetUndone();
    this._showUndo();
  }

  // Commands

  _listen() {
    const undo = () => this._act(this._undo.undo());
    const redo = () => {
      this._act(this._undo.redo());
      if (this._link) this._link.nextStroke = this._undo.nextStroke;
    };
    const save = () => openDialog($("export-dialog"));
    $("undo-button").addEventListener("click", undo);
    $("redo-button").addEventListener("click", redo);
    $("export-button").addEventListener("click", save);
    $("export-png").addEventListener("click", () => this._savePng());
    $("export-svg").addEventListener("click", () => this._saveSvg());
    $("fit-button").addEventListener("click", () => this._fit());
    $("help-button").addEventListener("click", () => openDialog($("help-dialog")));
    $("share-button").addEventListener("click", () => this._share());
    $("share-copy").addEventListener("click", () => copy($("share-link"), $("share-copy")));
    $("people-button").addEventListener("click", () => this._openPeople());
    $("profile-form").addEventListener("submit", () => this._saveProfile());
    $("link-button").addEventListener("click", () => openDialog($("link-dialog")));
    $("retry-button").addEventListener("click", () => this._link?.retry());
    $("clear-button").addEventListener("click", () => {
      $("clear-dialog").returnValue = "";
      openDialog($("clear-dialog"));
    });
    $("clear-dialog").addEventListener("close", () => {
      if ($("clear-dialog").returnValue === "clear") this._act([{ type: "clear", time: Date.now() }]);
    });
    const center = () => {
      const { width, height } = this._stageSize();
      return { x: width / 2, y: height / 2 };
    };
    listenToKeys({
      undo,
      redo,
      save,
      tool: (tool) => this._tools.use(tool),
      color: (index) => this._tools.useColor(index),
      size: (step) => this._tools.stepSize(step),
      zoom: (factor) => this._setView(zoom(this._view, factor, center(), this._stageSize(), this._margin())),
      fit: () => this._fit(),
      help: () => openDialog($("help-dialog")),
    });
  }

  _act(events) {
    this._endStroke();
    this._link?.draw(events);
    this._showUndo();
  }

  _share() {
    const link = new URL(`#/board/${this._code}`, document.baseURI).href;
    $("share-code").textContent = this._code;
    $("share-link").value = link;
    if ($("share-qr").src !== qrAddress(link)) $("share-qr").src = qrAddress(link);
    $("share-hint").hidden = !isOnlyHere(location.hostname);
    openDialog($("share-dialog"));
  }

  _openPeople() {
    const { name, color } = profile();
    $("profile-name").value = name;
    $("profile-color").value = color;
    openDialog($("people-dialog"));
  }

  _saveProfile() {
    // Half a character, as cutting off may leave, is no text that can be sent.
    const name = $("profile-name").value.replace(/\p{Surrogate}/gu, "").trim();
    const next = { name, color: $("profile-color").value };
    write("profile", next);
    this._link?.setProfile(next.name, next.color);
  }

  _savePng() {
    $("export-dialog").close();
    this._paintNow();
    const name = `board-${this._code}.png`;
    this._paper.flattened().toBlob((blob) => saveAs(blob, name), "image/png");
    announce(`Saved ${name}`);
  }

  _saveSvg() {
    $("export-dialog").close();
    const { segments, hides } = this._foreseen();
    const shown = new Picture();
    shown.runs = this._picture.runs.filter((run) => !hides(run)).map((run) => ({ ...run, points: [...run.points] }));
    for (const segment of segments) shown.apply(segment);
    const name = `board-${this._code}.svg`;
    saveAs(new Blob([svgOf(shown.runs)], { type: "image/svg+xml" }), name);
    announce(`Saved ${name}`);
  }

  /** A new board in place of one that is gone. */
  async _renew() {
    try {
      location.hash = `#/board/${await createBoard()}`;
    } catch (error) {
      $("notice-text").textContent = error.message;
    }
  }
}
