// SPDX-License-Identifier: Apache-2.0
// The timeline: a voice's waveform and pitch with bars, beats and chords, which can be corrected and played.
// `mount` fills a component of the page; its value is {vocal, seconds, pitch, sheet, selection} (listening.py). The
// user's changes are written back into it, and the next generation follows them.

import {
  allBeats,
  barsOf,
  doubleTempo,
  filledChords,
  halfTempo,
  likelyChords,
  metreOf,
  moveBeats,
  moveHalfBeat,
  parseChord,
  placeOf,
  pretty,
  readSheet,
  sameKey,
  sectionsOf,
  setChord,
  setDownbeat,
  setKey,
  setMetre,
  setSection,
  spell,
  tappedBeats,
  tempoOf,
  withBeats,
  written,
} from "./sheet.js";
import { blank, desk, drawWave, mark } from "./desk.js";
import { context, outline, startClicks } from "./sound.js";

// narrower spans of the lists over the lanes have no name and cannot be pressed until one zooms in (px)
const LEAST_PIXELS = 24;
// the narrowest intro or outro that is named (px)
const LEAST_LABELLED = 48;
const ZOOM = 1.5;
// wider lanes are not zoomed in (px per second)
const MOST_SCALE = 300;
const LEAST_TAPS = 4;
const DRAG_PIXELS = 5;
// chords with a lower probability than this, relative to the runner-up, are drawn pale
const SURE = 0.6;
// tempi (beats a minute) that can be halved, and doubled: up to the fastest that a lead sheet may state
const LEAST_HALVED = 60;
const MOST_DOUBLED = 185;

export function mount(element, props, watch, trigger) {
  const timeline = new Timeline(element.querySelector(".hafm-timeline"), props, trigger);
  watch("value", () => timeline.show());
  timeline.show();
}

class Timeline {
  constructor(root, props, trigger) {
    Object.assign(this, {
      root,
      props,
      trigger,
      past: [],
      edits: 0,
      doubts: {},
      nudged: null,
      answered: null,
      selection: null,
      taps: null,
      unset: new Set(),
      zoom: 1,
      clicks: false,
    });
    this.find = (selector) => root.querySelector(selector);
    this.find(".sung").prepend(desk.voice);
    this.find(".sung").after(desk.stems);
    for (const kind of ["click", "change", "input", "keydown"])
      root.addEventListener(kind, (event) => this[kind](event));
    document.addEventListener("keydown", (event) => this.shortcut(event));
    this.find("[data-do=tap]").addEventListener("pointerdown", (event) => this.tap(event));
    this.find(".lane").addEventListener("pointerdown", (event) => this.grab(event));
    new ResizeObserver(() => desk.draw()).observe(this.find(".strip"));
    this.find("dialog").addEventListener("click", ({ target }) => target.closest("dialog").close());
    desk.grid = (paint, height) => this.drawGrid(paint, height);
    desk.sheet = this;
    desk.join(this);
    desk.follow();
  }

  /** Sets a text only if it changes: screen readers would repeat it otherwise. */
  write(selector, text) {
    const found = this.find(selector);
    if (found.textContent !== text) found.textContent = text;
  }

  get seconds() {
    return this.value?.seconds ?? 0;
  }

  /** Shows what Python has sent. */
  show() {
    const value = this.props.value;
    this.refuse(value?.wrong && { message: value.wrong });
    if (value?.again || value?.asked !== undefined) this.answered?.();
    if (value?.again && this.value) return this.send(); // keep the earlier estimate
    // estimates that were asked for of a voice that was here before
    if (value?.asked !== undefined && this.value && value.vocal !== this.value.vocal) return this.send();
    mark("full", Boolean(value?.vocal));
    if (!value?.vocal) {
      if (this.value) {
        desk.stop();
        this.value = desk.vocal = null;
        this.write(".summary", "");
      }
      return;
    }
    const same = this.value?.vocal === value.vocal;
    if (same && (value.edits ?? this.edits) !== this.edits) return this.send(); // keep what was edited meanwhile
    if (!same) this.past = [];
    // the key has been changed already: it is undone together with the chords that follow it
    else if (value.asked !== "key") this.remember();
    if (!same || value.seconds !== this.seconds) this.selection = null;
    this.value = JSON.parse(JSON.stringify(value));
    const { sheet, set, choices, others, unsure = [], other_key } = this.value;
    const chords = sheet.estimated?.includes("chords") ? [] : (sheet.chords ?? []);
    this.sheet = { ...sheet, set: set ?? chords.map(([start, stop]) => [start, stop, "set"]) };
    this.doubts = { choices, others, unsure, other_key };
    if (!same) this.outline = null;
    if (desk.vocal !== value.vocal) {
      // the band of an example may already be playing
      desk.stop();
      desk.seek(-Infinity);
    }
    desk.vocal = value.vocal;
    outline(value.vocal).then(
      (drawn) => {
        this.outline = drawn;
        desk.draw();
      },
      (error) => this.refuse(error),
    );
    desk.refresh();
  }

  /** A new lead sheet by the user, which can be undone. */
  edit(sheet) {
    this.remember();
    this.set(sheet);
  }

  /** Keeps the lead sheet and its doubts for undo. */
  remember() {
    this.past.push({ sheet: this.sheet, doubts: this.doubts });
  }

  undo() {
    const { sheet, doubts } = this.past.pop();
    this.doubts = doubts;
    this.set(sheet);
  }

  set(sheet) {
    this.refuse(null);
    this.edits += 1;
    this.sheet = sheet;
    this.send();
    desk.refresh();
  }

  /** Sends the lead sheet and the selection that generation follows. */
  send() {
    const selection = this.selection && [this.selection.start, this.selection.stop];
    this.props.value = { ...this.value, ...this.written(), selection, edits: this.edits };
  }

  /** The lead sheet as the server knows it, and the spans of the chords that the user has set. */
  written() {
    const { set = [], ...sheet } = this.sheet ?? {};
    return { sheet, set };
  }

  /** Asks the server for estimates that suit a change: {again: "key"}, or {again: "tempo", tempo}. */
  ask(ask) {
    this.props.value = { ...this.props.value, ask };
    // a band that is asked for meanwhile waits for the answer
    this.settled = new Promise((answered) => {
      this.answered = answered;
    });
    document.querySelector("#listen").click();
  }

  /** Whether an estimate may well be wrong. */
  isUnsure(name) {
    return Boolean(this.sheet.estimated?.includes(name) && this.doubts.unsure?.includes(name));
  }

  refuse(error) {
    this.find(".wrong").textContent = error ? (error.message ?? String(error)) : "";
  }

  draw() {
    this.find(".selection").hidden = !this.selection;
    mark("selected", Boolean(this.selection));
    if (!this.value) return;
    const head = parseFloat(getComputedStyle(this.root).getPropertyValue("--hafm-head")) || 0;
    const room = this.find(".strip").clientWidth - head;
    desk.scale = Math.max(room / desk.length, Number(this.styled("--hafm-second"))) * this.zoom;
    [desk.head, desk.span] = [head, this.selection];
    const { style } = this.find(".lane");
    style.width = `${head + desk.length * desk.scale}px`;
    style.setProperty("--hafm-intro", `${-desk.begin * desk.scale}px`);
    this.drawSummary();
    this.drawSections();
    this.drawBars();
    this.drawChords();
    this.drawCanvas();
    this.drawEditor();
  }

  drawSummary() {
    const { sheet } = this;
    const tempo = tempoOf(sheet);
    const how = (name) => {
      if (!sheet.estimated?.includes(name)) return "given";
      return this.isUnsure(name) ? "estimated, unsure" : "estimated";
    };
    const parts = [
      tempo ? `${Math.round(tempo * 10) / 10} beats per minute (${how("beats")})` : "No beats (tap along)",
    ];
    if (sheet.chords?.length) parts.push(`chords (${how("chords")})`);
    if (typeof sheet.style === "string")
      parts.push(`${sheet.style} (${how("style")}) unless you choose a style`);
    const keys = this.find("[data-set=key]");
    const own = sheet.key && [...keys.options].find(({ value }) => value && sameKey(value, sheet.key));
    if (own) parts.push(`${own.text} (${how("key")})`);
    this.write(".summary", `${parts.join(", ")}. The band follows what is shown here.`);
    this.write(
      ".tempo",
      tempo ? `${Math.round(tempo)} bpm${this.isUnsure("beats") ? " ?" : ""}` : "no beats",
    );
    // of a voice of a second, one beat would be left, which is no tempo
    const halves = tempo >= LEAST_HALVED && halfTempo(sheet).beats.length > 1;
    const able = {
      half: halves,
      double: tempo && tempo <= MOST_DOUBLED,
      earlier: tempo,
      later: tempo,
      downbeat: tempo,
    };
    for (const [name, on] of Object.entries(able)) this.find(`[data-do=${name}]`).disabled = !on;
    this.find("[data-set=nudge]").disabled = !tempo;
    const bpm = this.find("[data-set=bpm]");
    if (bpm !== document.activeElement) bpm.value = tempo ? String(Math.round(tempo * 10) / 10) : "";
    this.drawDoubts();
    const [other, shown] = [{ beats: this.doubts.others }, sheet].map((each) => Math.round(tempoOf(each)));
    // out of sight but in its place, so that no button moves under a finger
    Object.assign(this.find("[data-do=other]"), {
      hidden: !other,
      disabled: other === shown,
      textContent: `Or is it ${other} bpm?`,
    });
    this.find("[data-do=undo]").disabled = !this.past.length;
    this.find("[data-set=metre]").value = String(metreOf(sheet));
    keys.value = own?.value ?? "";
    Object.assign(this.find("[data-set=position]"), { min: String(desk.begin), max: String(desk.seconds) });
  }

  /** Question marks beside metre and key, as on chords. */
  drawDoubts() {
    const names = { beats_per_bar: "The metre is unsure", key: "The key is unsure" };
    const { other_key: other } = this.doubts;
    const option =
      other && [...this.find("[data-set=key]").options].find(({ value }) => value && sameKey(value, other));
    if (option) names.key += `; it may be ${option.text}`;
    for (const [name, title] of Object.entries(names)) {
      const sign = this.find(`[data-doubt=${name}]`);
      Object.assign(sign, { title, ariaLabel: title, hidden: !this.isUnsure(name) });
    }
    this.write(".remark", (this.value.remarks ?? []).join(" "));
  }

  drawSections() {
    const sections = sectionsOf(this.sheet);
    this.find(".form").hidden = !sections.length;
    this.fillList(".sections", sections, ({ start, name, energy }, button) => {
      const title = [name, energy].filter(Boolean).join(", ");
      const ariaLabel = `${title}, from ${placeOf(this.sheet, this.value.seconds, start)}`;
      Object.assign(button, { title, ariaLabel, textContent: title });
    });
  }

  drawBars() {
    this.fillList(".bars", barsOf(this.sheet, this.value.seconds), ({ number }, button) => {
      [button.textContent, button.ariaLabel] =
        number < 1 ? ["↑", "Upbeat"] : [String(number), `Bar ${number}`];
    });
    this.drawAround("intro", desk.begin, 0);
    this.drawAround("outro", this.value.seconds, desk.seconds);
  }

  /** The bars before or after the voice, which have no numbers and no chords of the lead sheet. */
  drawAround(name, start, stop) {
    const label = this.find(`.${name}`);
    const wide = (stop - start) * desk.scale;
    label.hidden = wide < LEAST_LABELLED;
    Object.assign(label.style, {
      left: `${desk.head + (start - desk.begin) * desk.scale}px`,
      width: `${wide}px`,
    });
  }

  drawChords() {
    const { sheet, value } = this;
    this.fillList(
      ".chords",
      filledChords(sheet, value.seconds).map(([start, stop, label]) => ({ start, stop, label })),
      ({ start, label }, button) => {
        const name = pretty(written(label));
        button.textContent = name;
        const [, , , likely = 1, next = "N"] = this.choiceOf(start, label) ?? [];
        button.title = likely < SURE ? `${name}, or ${pretty(spell(next, sheet.key))}?` : name;
        button.ariaLabel = `${name === "–" ? "no chord" : name}, ${placeOf(sheet, value.seconds, start)}${likely < SURE ? ", unsure" : ""}`;
        button.classList.toggle("root", name !== "–");
        button.classList.toggle("unsure", likely < SURE);
      },
    );
  }

  /** The listener's details of an estimated chord: [start, stop, label, probability, runner-up]. */
  choiceOf(start, label) {
    const same = (own) => spell(own, this.sheet.key) === spell(label, this.sheet.key);
    return this.doubts.choices?.find(([from, to, own]) => same(own) && from < start + 0.02 && start < to);
  }

  /** Buttons over the lane, with one tab stop for all; elements are reused, so the focus stays. Narrow ones are seen, but cannot be pressed. */
  fillList(selector, spans, fill) {
    const list = this.find(selector);
    const focused = list.contains(document.activeElement) ? document.activeElement.parentElement : null;
    const place = focused ? Number(focused.dataset.start) : null;
    while (list.children.length > spans.length) list.lastChild.remove();
    while (list.children.length < spans.length)
      list.insertAdjacentHTML("beforeend", "<li><button type='button'></button></li>");
    for (const [at, span] of spans.entries()) {
      const item = list.children[at];
      Object.assign(item.dataset, { start: span.start, stop: span.stop });
      const left = span.start * desk.scale;
      const wide = Math.max((span.stop - span.start) * desk.scale - 2, 1);
      Object.assign(item.style, { left: `${left}px`, width: `${wide}px` });
      const ariaPressed = String(this.isSelected(span.start, span.stop));
      fill(span, Object.assign(item.firstChild, { tabIndex: -1, ariaPressed }));
      item.inert = wide < LEAST_PIXELS;
      if (item.inert) item.firstChild.textContent = "";
    }
    const items = [...list.children].filter((item) => !item.inert);
    const selected = items.find((item) => item.firstChild.getAttribute("aria-pressed") === "true");
    const stop =
      (place !== null && items.findLast((item) => Number(item.dataset.start) <= place + 0.02)) ||
      selected ||
      items[0];
    if (!stop) return;
    stop.firstChild.tabIndex = 0;
    if (focused) stop.firstChild.focus({ preventScroll: true });
  }

  isSelected(start, stop) {
    return (
      Boolean(this.selection) && start >= this.selection.start - 0.02 && stop <= this.selection.stop + 0.02
    );
  }

  /** A value of the style sheet. */
  styled(name) {
    return getComputedStyle(this.root).getPropertyValue(name).trim();
  }

  drawCanvas() {
    const [paint, height] = blank(this.find(".sung canvas"));
    this.drawGrid(paint, height);
    if (this.outline)
      drawWave(paint, this.outline, 0, height, this.outline.loudest, this.styled("--hafm-wave"));
    this.drawPitch(paint, height, this.styled("--hafm-accent"));
  }

  /** The background of every lane: the selection, bars and beats. */
  drawGrid(paint, height) {
    const { selection, sheet } = this;
    if (selection) {
      paint.fillStyle = this.styled("--hafm-selected");
      paint.fillRect(
        selection.start * desk.scale,
        0,
        (selection.stop - selection.start) * desk.scale,
        height,
      );
    }
    for (const [beat, place] of allBeats(sheet, desk.begin, desk.seconds)) {
      paint.fillStyle = this.styled(place ? "--hafm-beat" : "--hafm-bar");
      paint.fillRect(beat * desk.scale, 0, 1, height);
    }
  }

  drawPitch(paint, height, colour) {
    const { pitch = [], seconds } = this.value;
    const sung = pitch.filter((note) => note !== null);
    if (!sung.length) return;
    const [low, high] = [Math.min(...sung) - 2, Math.max(...sung) + 2];
    paint.strokeStyle = colour;
    paint.lineWidth = 2;
    paint.beginPath();
    let before = null;
    for (const [at, note] of pitch.entries()) {
      const [x, y] = [
        (at / pitch.length) * seconds * desk.scale,
        height - ((note - low) / (high - low)) * height,
      ];
      // leaps of a third or more between two values are not connected
      if (note !== null)
        before !== null && Math.abs(note - before) < 3 ? paint.lineTo(x, y) : paint.moveTo(x, y);
      before = note;
    }
    paint.stroke();
  }

  drawEditor() {
    const { selection, sheet, value } = this;
    const [start, stop, label] = (selection &&
      filledChords(sheet, value.seconds).find(([, stop]) => stop > selection.start + 0.02)) || [0, 0, ""];
    const next = selection?.stop < stop + 0.02 ? this.choiceOf(start, label)?.[4] : null;
    const instead = this.find(".next");
    const likely = next ? spell(next, sheet.key) : "";
    Object.assign(instead, {
      hidden: !this.doubts.choices?.length,
      disabled: !next,
      textContent: next ? `${pretty(likely)} instead` : "",
    });
    instead.dataset.likely = likely;
    this.write(".chosen", selection ? `Selected: ${this.selectionName()}` : "");
    const input = this.find("[data-set=chord]");
    const group = this.find(".likely");
    if (group.dataset.key !== String(sheet.key)) {
      group.innerHTML = [...likelyChords(sheet.key), "N"]
        .map(
          (each) =>
            `<button type="button" data-likely="${each}">${each === "N" ? "none" : pretty(each)}</button>`,
        )
        .join("");
      group.dataset.key = String(sheet.key);
    }
    // what is typed for these bars stays until it is set
    if (this.editing !== selection) this.unset.clear();
    if (!this.unset.has("chord")) input.value = selection && label !== "N" ? written(label) : "";
    if (!this.unset.has("section")) this.drawSectionEditor();
    this.editing = selection;
  }

  drawSectionEditor() {
    const { selection, sheet, value } = this;
    const { name = "", energy = "" } =
      sectionsOf(sheet).find(({ stop }) => selection && stop > selection.start + 0.02) ?? {};
    const [text, select] = [this.find("[data-set=section]"), this.find("[data-set=energy]")];
    const energies = ["", ...(value.energies ?? [])];
    if (select.options.length !== energies.length)
      select.replaceChildren(...energies.map((each) => new Option(each || "automatic", each)));
    [text.value, select.value] = [name, energies.includes(energy) ? energy : ""];
    // hidden for models without energies
    this.find(".energies").hidden = energies.length === 1;
  }

  selectionName() {
    const { start, stop } = this.selection;
    const bars = barsOf(this.sheet, this.value.seconds)
      .filter((bar) => this.isSelected(bar.start, bar.stop))
      .map(({ number }) => number);
    if (!bars.length) return placeOf(this.sheet, this.value.seconds, start);
    const name =
      bars.length > 1
        ? `bars ${Math.max(bars[0], 1)} to ${bars.at(-1)}`
        : bars[0] < 1
          ? "the upbeat"
          : `bar ${bars[0]}`;
    return `${name} (${[start, stop].map((second) => (second - desk.begin).toFixed(1)).join(" to ")} s)`;
  }

  click(event) {
    const button = event.target.closest("button");
    const dragged = this.dragged;
    this.dragged = false;
    if (dragged) return;
    // what is typed replaces the tempo
    if (event.target.dataset.set === "bpm") event.target.select();
    if (event.target.tagName === "CANVAS") desk.seek(event.offsetX / desk.scale + desk.begin);
    if (!button) return;
    this.refuse(null);
    const item = button.parentElement;
    if (item.tagName === "LI")
      this.select(Number(item.dataset.start), Number(item.dataset.stop), event.shiftKey);
    else if (button.dataset.likely) this.putChord(button.dataset.likely);
    else if (button.dataset.do) this.act(button.dataset.do);
  }

  act(name) {
    const { sheet } = this;
    const next =
      this.selection && barsOf(sheet, this.seconds).find(({ start }) => start > this.selection.stop - 0.02);
    const beats = {
      half: () => halfTempo(sheet),
      double: () => doubleTempo(sheet),
      earlier: () => moveHalfBeat(sheet, -1, this.seconds),
      later: () => moveHalfBeat(sheet, 1, this.seconds),
      other: () => withBeats(sheet, this.doubts.others, this.seconds),
      downbeat: () => setDownbeat(sheet, desk.position),
    };
    if (beats[name]) this.tryTo(() => this.edit(beats[name]()));
    else if (name === "play") desk.toggle();
    else if (name === "loop") {
      desk.loops = this.press(name, !desk.loops);
      desk.refresh();
    } else if (name === "clicks") {
      this.clicks = this.press(name, !this.clicks);
      desk.refresh();
    } else if (name === "out" || (name === "in" && desk.scale < MOST_SCALE)) {
      this.zoom = Math.max(this.zoom * (name === "in" ? ZOOM : 1 / ZOOM), 1);
      desk.draw();
      this.find(".strip").scrollLeft =
        (desk.position - desk.begin) * desk.scale - (this.find(".strip").clientWidth - desk.head) / 2;
    } else if (name === "unselect") this.mark(null);
    else if (name === "further" && next) this.select(next.start, next.stop, true);
    else if (name === "keys") this.find("dialog").showModal();
    else if (name === "all")
      this.find("[data-do=all]").ariaExpanded = String(this.find(".transport").toggleAttribute("data-all"));
    else if (name === "chord") this.putChord(this.find("[data-set=chord]").value);
    else if (name === "section") this.putSection();
    else if (name === "taps") this.useTaps();
    else if (name === "tempo") this.putTempo();
    else if (name === "undo" && this.past.length) this.undo();
  }

  /** This timeline, once it shows the voice that is played. */
  shown() {
    if (this.value?.vocal !== desk.vocal)
      throw new Error("The chords of this voice are on their way; try again in a moment.");
    return this;
  }

  /** The key as it is written: “F major”; "" without one. */
  get keyName() {
    const keys = this.find("[data-set=key]");
    return keys.value && keys.selectedOptions[0].text;
  }

  press(name, on) {
    this.find(`[data-do=${name}]`).setAttribute("aria-pressed", String(on));
    return on;
  }

  tryTo(change) {
    try {
      change();
    } catch (error) {
      this.refuse(error);
    }
  }

  change(event) {
    const {
      value,
      dataset: { set },
    } = event.target;
    if (set === "metre") this.edit(setMetre(this.sheet, Number(value)));
    else if (set === "key" && value) {
      this.edit(setKey(this.sheet, value));
      this.ask({ again: "key" });
    } else if (set === "position") desk.seek(Number(value));
    else if (set === "nudge") {
      this.nudged = null;
      event.target.value = "0";
    }
  }

  input({
    target: {
      value,
      dataset: { set },
    },
  }) {
    if (set === "chord") this.unset.add("chord");
    else if (set === "section" || set === "energy") this.unset.add("section");
    else if (set === "nudge") this.nudge(Number(value));
  }

  /** Moves the beats while they are dragged, by so many seconds from where they were; one undo takes all of it back. */
  nudge(by) {
    if (!this.nudged) {
      this.nudged = this.sheet;
      this.remember();
    }
    this.set(moveBeats(this.nudged, by, this.seconds));
  }

  /** Beats at the tempo that is typed, found by the server. */
  putTempo() {
    const field = this.find("[data-set=bpm]");
    if (!field.value) return;
    this.ask({ again: "tempo", tempo: Number(field.value) });
    field.blur();
  }

  keydown(event) {
    const item = event.target.closest("li");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const { set } = event.target.dataset;
    if (event.key === "Enter" && ["chord", "section", "bpm"].includes(set)) {
      event.preventDefault();
      this.act(set === "bpm" ? "tempo" : set);
    } else if (event.target.dataset.do === "tap" && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      if (!event.repeat) this.tap(event);
    } else if (item && step) {
      event.preventDefault();
      const items = [...item.parentElement.children].filter(({ inert }) => !inert);
      const next = items[items.indexOf(item) + step];
      if (!next) return;
      item.firstChild.tabIndex = -1;
      next.firstChild.tabIndex = 0;
      next.firstChild.focus();
      if (event.shiftKey) this.select(Number(next.dataset.start), Number(next.dataset.stop), true);
    } else if (event.key === "Escape" && this.selection) this.mark(null);
  }

  /** Keyboard shortcuts of the page, except in text fields and where keys have another function; ? lists them. */
  shortcut(event) {
    const { target, shiftKey, ctrlKey, metaKey, altKey } = event;
    const key = event.key.toLowerCase();
    if (
      event.defaultPrevented ||
      target.closest("dialog, textarea, input:not([type=range], [type=radio], [type=checkbox])")
    )
      return;
    const presses = target.closest("button, input, select, summary, a, [role=option]");
    const arrows = target.closest("input, select, li, [role=listbox]");
    const plain = {
      // playing the song into a recording is never what was meant
      " ": presses ? null : () => (desk.recorder?.running ? desk.recorder.end() : desk.toggle()),
      escape: this.selection && (() => this.mark(null)),
      arrowright: arrows ? null : () => this.step(1, shiftKey),
      arrowleft: arrows ? null : () => this.step(-1, shiftKey),
      m: () => desk.mixer.toggle("muted", target),
      s: () => desk.mixer.toggle("solo", target),
    };
    const act =
      ctrlKey || metaKey
        ? key === "z" && !shiftKey && (() => this.act("undo"))
        : (plain[key] ?? ("1234".includes(key) && (() => desk.mixer.choose(Number(key) - 1))));
    if (key === "?") this.act("keys");
    else if (this.value && act && !altKey && (ctrlKey || metaKey || target.tagName !== "SELECT")) act();
    else return;
    event.preventDefault();
  }

  /** Moves to the next or the previous beat, or bar. */
  step(by, bars) {
    const beats = allBeats(this.sheet, desk.begin, desk.seconds).filter(([, place]) => !bars || place === 0);
    const places = [desk.begin, 0, ...beats.map(([second]) => second), desk.seconds];
    // during playback, the previous beat is the one before the beat just heard
    const near = desk.playing && by < 0 ? 0.3 : 0.03;
    const found = places.filter((place) => (place - desk.position) * by > near);
    if (found.length) desk.seek(by > 0 ? Math.min(...found) : Math.max(...found));
  }

  select(start, stop, extend) {
    const old = extend && this.selection;
    this.mark(old ? { start: Math.min(old.start, start), stop: Math.max(old.stop, stop) } : { start, stop });
    if (!desk.playing) desk.seek(this.selection.start);
  }

  /** Selects {start, stop} (s), or nothing. */
  mark(selection) {
    if (!selection && this.find(".selection").contains(document.activeElement))
      this.find(".bars [tabindex='0']")?.focus();
    this.selection = selection;
    this.send();
    desk.draw();
  }

  putChord(label) {
    const [{ start, stop }, all] = [this.selection, label.replace(/^[\s|]+|[\s|]+$/g, "").split(/[\s|]+/)],
      each = (stop - start) / all.length;
    const put = (sheet, one, at) =>
      setChord(sheet, start + at * each, start + (at + 1) * each, parseChord(one) ? one : "N");
    this.unset.delete("chord");
    this.tryTo(() => this.edit(all.reduce(put, this.sheet)));
  }

  putSection() {
    const { start, stop } = this.selection;
    const [name, energy] = ["section", "energy"].map((each) => this.find(`[data-set=${each}]`).value.trim());
    this.unset.delete("section");
    this.tryTo(() => this.edit(setSection(this.sheet, start, stop, name, energy)));
  }

  /** Selects bars by dragging with the mouse; touch scrolls. */
  grab(event) {
    const { target } = event;
    const left = this.find(".lane").getBoundingClientRect().left + desk.head - desk.begin * desk.scale;
    if (target.closest(".head, .voice") || event.pointerType === "touch" || event.button) return;
    const second = ({ clientX }) => (clientX - left) / desk.scale;
    const listening = new AbortController();
    const on = (name, act) => window.addEventListener(name, act, { signal: listening.signal });
    this.dragged = false;
    on("pointermove", (moved) => {
      this.dragged ||= Math.abs(moved.clientX - event.clientX) > DRAG_PIXELS;
      if (!this.dragged) return;
      if (event.altKey && this.sheet.beats) return this.nudge(second(moved) - second(event));
      this.drag(second(event), second(moved));
      desk.draw();
    });
    on("pointercancel", () => listening.abort());
    on("pointerup", () => {
      listening.abort();
      if (this.nudged) this.nudged = null;
      else if (this.dragged && this.selection) this.select(this.selection.start, this.selection.stop);
    });
  }

  /** Selects the bars between two seconds, or just that span if there are no bars. */
  drag(one, other) {
    const [from, to] = [Math.min(one, other), Math.max(one, other)].map((second) =>
      Math.min(Math.max(second, 0), this.seconds),
    );
    const bars = barsOf(this.sheet, this.seconds).filter(({ start, stop }) => start < to && stop > from);
    this.selection = from < to ? { start: bars[0]?.start ?? from, stop: bars.at(-1)?.stop ?? to } : null;
  }

  /** Called by the desk: starts the clicks. */
  start(out, zero, from) {
    if (this.value && this.clicks)
      startClicks(out, allBeats(this.sheet, desk.begin, desk.seconds), zero, from);
  }

  /** Moves the playhead, which the lanes follow during playback. */
  follow(position) {
    const sounds = desk.playing || desk.waits;
    const play = this.find("[data-do=play]");
    const [sign, name] = sounds ? ["■", "Stop"] : ["▶", "Play"];
    if (play.ariaLabel !== name) Object.assign(play, { textContent: sign, ariaLabel: name });
    const range = this.find("[data-set=position]");
    if (!range.matches(":active")) range.value = String(position); // a drag is not overruled
    const second = position - desk.begin,
      x = second * desk.scale;
    range.setAttribute("aria-valuetext", desk.waits && !desk.playing ? "Loading" : `${second.toFixed(1)} s`);
    this.write(
      ".clock",
      desk.waits && !desk.playing ? "Loading …" : `${clock(second)} / ${clock(desk.length)}`,
    );
    this.find(".playhead").style.transform = `translateX(${(desk.head ?? 0) + x}px)`;
    const strip = this.find(".strip"),
      room = strip.clientWidth - (desk.head ?? 0);
    const hidden = x < strip.scrollLeft || x > strip.scrollLeft + 0.9 * room;
    this.away = hidden && (this.away || strip.scrollLeft !== this.left);
    if (hidden && desk.playing && !this.away) strip.scrollLeft = x - 0.1 * room; // unless the user has scrolled away
    this.left = strip.scrollLeft;
  }

  /** The first tap starts playback; each further one is a beat. */
  tap(event) {
    event.preventDefault();
    event.target.focus();
    if (this.taps?.length >= LEAST_TAPS && !desk.playing && desk.position <= desk.begin) return; // a tap after the end does not erase the taps
    const late = (performance.now() - event.timeStamp) / 1000;
    if (!this.taps || !desk.playing) {
      this.taps = [];
      this.clicks = this.press("clicks", false);
      desk.play();
    } else if (context().state === "running") this.tapAt(desk.position - late);
    this.write("[data-do=tap]", this.taps.length ? `Tap (${this.taps.length})` : "Tap on every beat");
    this.find("[data-do=taps]").disabled = this.taps.length < LEAST_TAPS;
  }

  /** Adds a tap at a second; before the last one, after a seek or at the start of a loop, tapping begins anew. */
  tapAt(second) {
    if (second < this.taps.at(-1)) this.taps = [];
    this.taps.push(second);
  }

  useTaps() {
    desk.stop();
    const taps = this.taps.filter((tap, at) => at === 0 || tap - this.taps[at - 1] > 0.15);
    this.taps = null;
    this.write("[data-do=tap]", "Tap along");
    this.find("[data-do=taps]").disabled = true;
    this.find("[data-do=tap]").focus();
    if (taps.length < LEAST_TAPS)
      this.refuse(new Error(`There are only ${taps.length} taps; tap at least ${LEAST_TAPS} beats.`));
    else this.tryTo(() => this.edit(tappedBeats(this.sheet, taps, this.seconds)));
  }

  /** Saves the lead sheet in a format; the browser prints the chart, on paper or as PDF. */
  save(format) {
    if (format === "print") return this.print();
    this.send();
    this.props.value = { ...this.props.value, ask: { format } };
    this.trigger("submit");
  }

  /** Prints title, key, tempo, and the chords bar by bar. */
  print() {
    const { sheet, seconds } = this;
    this.write(
      ".chart h1",
      desk.vocal
        .split("/")
        .at(-1)
        .replace(/\.\w+$/, "")
        .replaceAll("_", " "),
    );
    this.write(
      ".chart p",
      `${this.find("[data-set=key]").selectedOptions[0].text}, ${this.find(".tempo").textContent}, ${metreOf(sheet)}/4`,
    );
    const within =
      ({ start, stop }) =>
      ([from, to]) =>
        from < stop - 0.02 && to > start + 0.02;
    this.find(".chart ol").replaceChildren(
      ...barsOf(sheet, seconds)
        .filter(({ number }) => number > 0)
        .map((bar) => {
          const chords = filledChords(sheet, seconds)
            .filter(within(bar))
            .map(([, , label]) => pretty(written(label)));
          const item = Object.assign(document.createElement("li"), { textContent: chords.join(" ") });
          item.dataset.section = (sheet.form ?? []).find(within(bar))?.[2] ?? "";
          return item;
        }),
    );
    window.print();
  }

  /** Opens a lead sheet from a file. */
  async open(file) {
    const text = await file.text();
    this.tryTo(() => {
      const sheet = readSheet(text);
      const set = sheet.estimated?.includes("chords")
        ? []
        : (sheet.chords ?? []).map(([start, stop]) => [start, stop, "set"]);
      this.edit({ ...sheet, set });
    });
  }
}

/** Seconds as minutes, seconds and tenths. */
const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${((Math.floor(seconds * 10 + 0.01) / 10) % 60).toFixed(1).padStart(4, "0")}`;
