// The timeline: a voice's waveform and pitch with bars, beats and chords, which can be corrected and played.
//
// `mount` fills a component of the page; its value is {vocal, seconds, pitch, sheet, selection} (listening.py). What a
// person changes is written back into it, and the next generation follows it.

import {
  allKeys, barsOf, beatInBar, doubleTempo, filledChords, halfTempo, likelyChords, metreOf, moveBeat, nearestBeat,
  parseChord, placeOf, pretty, readSheet, sameKey, sectionsOf, setChord, setDownbeat, setKey, setMetre, setSection, shiftHalfBeat,
  spell, tappedBeats, tempoOf,
} from "./sheet.js";
import { Player, context, load, startBuffer, startSheet } from "./sound.js";

const PIXELS_A_SECOND = 56;
const NUDGE_SECONDS = 0.01;
const LEAST_TAPS = 4;
const GRAB_PIXELS = 5;
const HEIGHT = 120;

const EMPTY = "Once there is a voice, its beats and chords appear here.";

const TEMPLATE = `
  <p class="empty" role="status"></p>
  <div class="full" hidden>
    <p class="summary" role="status"></p>
    <div class="row" role="group" aria-label="Listen to beats and chords">
      <button data-do="play" class="strong">Play</button>
      <label><input type="checkbox" data-hear="voice" checked> Voice</label>
      <label><input type="checkbox" data-hear="clicks" checked> Metronome</label>
      <label><input type="checkbox" data-hear="chords" checked> Plain chords</label>
      <label class="wide">Position <input type="range" data-set="position" min="0" step="0.1" value="0"
        aria-description="Alt and an arrow key move the nearest beat by 10 ms"></label>
    </div>
    <div class="strip"><div class="lane">
      <ol class="sections" aria-label="Sections"></ol>
      <ol class="bars" aria-label="Bars"></ol>
      <canvas aria-hidden="true" title="Drag a beat to move it"></canvas>
      <ol class="chords" aria-label="Chords"></ol>
      <div class="head" aria-hidden="true"></div>
    </div></div>
    <div class="row editor" role="group" aria-label="Change what is selected">
      <span class="chosen" aria-live="polite"></span>
      <label>Chord <input type="text" data-set="chord" size="7" autocomplete="off" spellcheck="false"></label>
      <button data-do="chord">Set</button>
      <span class="likely" role="group" aria-label="Likely chords"></span>
    </div>
    <div class="row" role="group" aria-label="Section of the selected bars">
      <label>Section <input type="text" data-set="section" size="9" maxlength="40" placeholder="Verse" autocomplete="off"></label>
      <label class="energies">Energy <select data-set="energy" aria-label="Energy of the section"></select></label>
      <button data-do="section">Set section</button>
    </div>
    <p class="wrong" role="alert"></p>
    <div class="row" role="group" aria-label="Correct the beats">
      <button data-do="half">Half tempo</button>
      <button data-do="double">Double tempo</button>
      <button data-do="shift">Half a beat later</button>
      <button data-do="tap">Tap along</button>
      <button data-do="taps" hidden>Use the taps</button>
    </div>
    <div class="row" role="group" aria-label="Metre, key and file">
      <label>Metre <select data-set="metre" aria-label="Metre"><option value="3">3/4</option><option value="4">4/4</option></select></label>
      <label>Key <select data-set="key" aria-label="Key"></select></label>
      <button data-do="downbeat">A bar begins here</button>
      <button data-do="undo">Undo</button>
      <button data-do="redo">Redo</button>
      <button data-do="save">Save lead sheet</button>
      <select data-set="format" aria-label="Format of the lead sheet"><option value="json">JSON</option>
        <option value="midi">MIDI</option><option value="musicxml">MusicXML</option></select>
      <button data-do="load">Load lead sheet</button>
      <input type="file" accept=".json,application/json" aria-label="Lead sheet file" hidden>
    </div>
  </div>`;

export function mount(element, props, watch, trigger) {
  const timeline = new Timeline(element.querySelector(".hafm-timeline"), props, trigger);
  watch("value", () => timeline.show());
  timeline.show();
}

class Timeline extends Player {
  constructor(root, props, trigger) {
    super(root, props, trigger);
    Object.assign(this, { past: [], future: [], selection: null, taps: null });
    root.innerHTML = TEMPLATE;
    root.addEventListener("click", (event) => this.clicked(event));
    root.addEventListener("change", (event) => this.changed(event));
    root.addEventListener("keydown", (event) => this.pressed(event));
    this.find("[data-do=tap]").addEventListener("pointerdown", (event) => this.tap(event));
    this.find("canvas").addEventListener("pointerdown", (event) => this.grab(event));
    this.find("canvas").addEventListener("pointermove", ({ target, offsetX }) => {
      target.style.cursor = this.beatUnder(offsetX) < 0 ? "" : "ew-resize";
    });
    this.find("canvas").addEventListener("click", (event) => this.dragged || this.seek(event.offsetX / this.scale));
    new ResizeObserver(() => this.value && this.draw()).observe(this.find(".strip"));
  }

  /** What Python has sent. */
  show() {
    const value = this.props.value;
    const there = Boolean(value?.vocal);
    this.write(".empty", value?.wrong ?? EMPTY);
    this.find(".full").hidden = !there;
    this.find(".empty").hidden = there;
    this.transport.stop();
    if (!there) { this.value = null; return; }
    const same = this.value?.vocal === value.vocal;
    this.value = JSON.parse(JSON.stringify(value));
    [this.past, this.future, this.selection] = [same ? [...this.past, this.sheet] : [], [], null];
    this.sheet = this.value.sheet;
    this.transport.began = 0;
    this.peaks = null;
    this.buffer = load(value.vocal);
    this.buffer.then((buffer) => { this.showWave(buffer.getChannelData(0)); }, (error) => this.refuse(error));
    this.draw();
  }

  /** A new lead sheet by a person's hand, which can be undone. */
  edit(sheet) {
    this.past.push(this.sheet);
    this.future = [];
    this.set(sheet);
  }

  set(sheet) {
    this.sheet = sheet;
    this.send();
    const playing = this.transport.playing;
    if (playing) this.play(this.transport.position);
    this.draw();
  }

  /** What generating goes by. */
  send() {
    const selection = this.selection && [this.selection.start, this.selection.stop];
    this.props.value = { ...this.value, sheet: this.sheet, selection };
  }

  refuse(error) { this.find(".wrong").textContent = error ? error.message ?? String(error) : ""; }

  // drawing

  draw() {
    const { seconds } = this.value;
    const width = Math.max(this.find(".strip").clientWidth, Math.ceil(seconds * PIXELS_A_SECOND));
    this.scale = width / seconds;
    this.find(".lane").style.width = `${width}px`;
    this.drawSummary();
    this.drawSections();
    this.drawBars();
    this.drawChords();
    this.drawCanvas(width);
    this.drawEditor();
    this.follow();
  }

  drawSummary() {
    const { sheet } = this;
    const tempo = tempoOf(sheet);
    const how = (name) => ((sheet.estimated ?? []).includes(name) ? "estimated" : "given");
    const parts = [tempo ? `${Math.round(tempo * 10) / 10} beats per minute (${how("beats")})` : "No beats (tap along)"];
    if (sheet.chords?.length) parts.push(`chords (${how("chords")})`);
    if (typeof sheet.style === "string") parts.push(`${sheet.style} (${how("style")})`);
    // spelled as its chords are
    const [tonic, mode] = (sheet.key ? allKeys().find((key) => sameKey(key, sheet.key)) : "").split(":");
    if (tonic) parts.push(`${pretty(tonic)} ${mode === "min" ? "minor" : "major"} (${how("key")})`);
    this.write(".summary", `${parts.join(", ")}. The band follows what is shown here.`);
    for (const name of ["half", "double", "shift", "downbeat"]) this.find(`[data-do=${name}]`).disabled = !tempo;
    this.find("[data-do=undo]").disabled = !this.past.length;
    this.find("[data-do=redo]").disabled = !this.future.length;
    this.find("[data-set=metre]").value = String(metreOf(sheet));
    const keys = this.find("[data-set=key]");
    if (!keys.options.length) for (const key of ["", ...allKeys()]) {
      const [tonic, mode] = key.split(":");
      keys.add(new Option(key ? `${pretty(tonic)} ${mode === "min" ? "minor" : "major"}` : "unknown", key));
    }
    keys.value = sheet.key ? [...keys.options].find(({ value }) => value && sameKey(value, sheet.key)).value : "";
    this.find("[data-set=position]").max = String(this.value.seconds);
  }

  drawSections() {
    const sections = sectionsOf(this.sheet);
    this.find(".sections").hidden = !sections.length;
    this.fillList(".sections", sections, ({ start, stop, name, energy }, button) => {
      button.textContent = [name, energy].filter(Boolean).join(", ");
      button.title = button.textContent;
      button.setAttribute("aria-label", `${button.textContent}, from ${placeOf(this.sheet, this.value.seconds, start)}`);
      button.setAttribute("aria-pressed", String(this.isSelected(start, stop)));
    });
  }

  drawBars() {
    this.fillList(".bars", barsOf(this.sheet, this.value.seconds), ({ number, start, stop }, button) => {
      button.textContent = number < 1 ? "↑" : String(number);
      button.setAttribute("aria-label", number < 1 ? "Upbeat" : `Bar ${number}`);
      button.setAttribute("aria-pressed", String(this.isSelected(start, stop)));
    });
  }

  drawChords() {
    const { sheet, value } = this;
    this.fillList(".chords", filledChords(sheet, value.seconds).map(([start, stop, label]) => ({ start, stop, label })),
      ({ start, stop, label }, button) => {
        const name = pretty(spell(label, sheet.key));
        button.textContent = name;
        button.title = name;
        button.setAttribute("aria-label", `${name === "–" ? "no chord" : name}, ${placeOf(sheet, value.seconds, start)}`);
        button.setAttribute("aria-pressed", String(this.isSelected(start, stop)));
        button.classList.toggle("root", name !== "–");
      });
  }

  /** Buttons over the lane, one tab stop for all; the elements stay, and so does the focus. */
  fillList(selector, spans, fill) {
    const list = this.find(selector);
    const focused = list.contains(document.activeElement) ? document.activeElement.parentElement : null;
    const place = focused ? Number(focused.dataset.start) : null;
    while (list.children.length > spans.length) list.lastChild.remove();
    while (list.children.length < spans.length) {
      const item = document.createElement("li");
      item.append(document.createElement("button"));
      list.append(item);
    }
    for (const [at, span] of spans.entries()) {
      const item = list.children[at];
      Object.assign(item.dataset, { start: span.start, stop: span.stop });
      item.style.left = `${span.start * this.scale}px`;
      item.style.width = `${(span.stop - span.start) * this.scale - 2}px`;
      item.firstChild.type = "button";
      item.firstChild.tabIndex = -1;
      fill(span, item.firstChild);
    }
    const items = [...list.children];
    const selected = items.find((item) => item.firstChild.getAttribute("aria-pressed") === "true");
    const stop = (place !== null && items.findLast((item) => Number(item.dataset.start) <= place + 0.02)) || selected || items[0];
    if (!stop) return;
    stop.firstChild.tabIndex = 0;
    if (focused) stop.firstChild.focus({ preventScroll: true });
  }

  isSelected(start, stop) {
    return Boolean(this.selection) && start >= this.selection.start - 0.02 && stop <= this.selection.stop + 0.02;
  }

  drawCanvas(width) {
    const canvas = this.find("canvas");
    // browsers refuse canvases that are wider
    const ratio = Math.min(window.devicePixelRatio || 1, 16000 / width);
    [canvas.width, canvas.height] = [width * ratio, HEIGHT * ratio];
    Object.assign(canvas.style, { width: `${width}px`, height: `${HEIGHT}px` });
    const paint = canvas.getContext("2d");
    paint.scale(ratio, ratio);
    const style = getComputedStyle(this.root);
    const colour = (name) => style.getPropertyValue(name).trim();
    if (this.selection) {
      paint.fillStyle = colour("--hafm-selected");
      paint.fillRect(this.selection.start * this.scale, 0, (this.selection.stop - this.selection.start) * this.scale, HEIGHT);
    }
    if (this.peaks) this.drawWave(paint, width, colour("--hafm-wave"));
    for (const [index, beat] of (this.sheet.beats ?? []).entries()) {
      const bar = beatInBar(this.sheet, index) === 0;
      paint.fillStyle = colour(bar ? "--hafm-bar" : "--hafm-beat");
      paint.fillRect(beat * this.scale - (bar ? 1 : 0.5), 0, bar ? 2 : 1, HEIGHT);
    }
    this.drawPitch(paint, colour("--hafm-pitch"));
  }

  drawWave(paint, width, colour) {
    paint.fillStyle = colour;
    const samples = this.peaks.length / width;
    const { loudest } = this;
    for (let x = 0; x < width; x += 1) {
      let peak = 0;
      const stop = Math.min((x + 1) * samples, this.peaks.length);
      for (let at = Math.floor(x * samples); at < stop; at += 8) peak = Math.max(peak, Math.abs(this.peaks[at]));
      const half = Math.max((peak / loudest) * (HEIGHT / 2 - 4), 0.5);
      paint.fillRect(x, HEIGHT / 2 - half, 1, 2 * half);
    }
  }

  showWave(samples) {
    this.peaks = samples;
    this.loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0.01);
    this.draw();
  }

  drawPitch(paint, colour) {
    const { pitch = [], seconds } = this.value;
    const sung = pitch.filter((note) => note !== null);
    if (!sung.length) return;
    const [low, high] = [Math.min(...sung) - 2, Math.max(...sung) + 2];
    paint.strokeStyle = colour;
    paint.lineWidth = 2;
    paint.beginPath();
    let before = null;
    for (const [at, note] of pitch.entries()) {
      const [x, y] = [(at / pitch.length) * seconds * this.scale, HEIGHT - ((note - low) / (high - low)) * HEIGHT];
      // a leap of a third within a fortieth of a second is no line
      if (note !== null) before !== null && Math.abs(note - before) < 3 ? paint.lineTo(x, y) : paint.moveTo(x, y);
      before = note;
    }
    paint.stroke();
  }

  drawEditor() {
    const { selection, sheet, value } = this;
    const label = selection ? filledChords(sheet, value.seconds).find(([, stop]) => stop > selection.start + 0.02)?.[2] : "";
    this.write(".chosen", selection ? `Selected: ${this.selectionName()}` : "Select a chord or bars (with Shift, several).");
    const input = this.find("[data-set=chord]");
    if (document.activeElement !== input) input.value = selection && label !== "N" ? spell(label, sheet.key) : "";
    for (const control of [input, this.find("[data-do=chord]")]) control.disabled = !selection;
    const likely = [...likelyChords(sheet.key), "N"];
    const group = this.find(".likely");
    if (group.dataset.key !== String(sheet.key)) {
      group.replaceChildren(...likely.map((each) => {
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: each === "N" ? "none" : pretty(each) });
        button.dataset.likely = each;
        return button;
      }));
      group.dataset.key = String(sheet.key);
    }
    for (const button of group.children) button.disabled = !selection;
    this.drawSectionEditor();
  }

  drawSectionEditor() {
    const { selection, sheet, value } = this;
    const { name = "", energy = "" } = sectionsOf(sheet).find(({ stop }) => selection && stop > selection.start + 0.02) ?? {};
    const [text, select] = [this.find("[data-set=section]"), this.find("[data-set=energy]")];
    const energies = ["", ...(value.energies ?? [])];
    if (select.options.length !== energies.length) select.replaceChildren(...energies.map((each) => new Option(each || "automatic", each)));
    // what has been typed for these bars stays until it is set
    if (this.editing?.selection !== selection || this.editing.sheet !== sheet) {
      [text.value, select.value] = [name, energies.includes(energy) ? energy : ""];
      this.editing = { selection, sheet };
    }
    // a model that cannot play it is not asked
    this.find(".energies").hidden = energies.length === 1;
    for (const control of [text, select, this.find("[data-do=section]")]) control.disabled = !selection;
  }

  selectionName() {
    const { start, stop } = this.selection;
    const bars = barsOf(this.sheet, this.value.seconds).filter((bar) => this.isSelected(bar.start, bar.stop)).map(({ number }) => number);
    if (!bars.length) return placeOf(this.sheet, this.value.seconds, start);
    const name = bars.length > 1 ? `bars ${Math.max(bars[0], 1)} to ${bars.at(-1)}` : bars[0] < 1 ? "the upbeat" : `bar ${bars[0]}`;
    return `${name} (${start.toFixed(1)} to ${stop.toFixed(1)} s)`;
  }

  // what a person does

  clicked(event) {
    const button = event.target.closest("button");
    if (!button) return;
    this.refuse(null);
    const item = button.parentElement;
    if (item.tagName === "LI") this.select(Number(item.dataset.start), Number(item.dataset.stop), event.shiftKey);
    else if (button.dataset.likely) this.putChord(button.dataset.likely);
    else if (button.dataset.do) this.act(button.dataset.do);
  }

  act(name) {
    const { sheet, value: { seconds } } = this;
    const beats = {
      half: () => halfTempo(sheet), double: () => doubleTempo(sheet), shift: () => shiftHalfBeat(sheet, seconds),
      downbeat: () => setDownbeat(sheet, this.selection?.start ?? this.transport.position),
    };
    if (beats[name]) this.tryTo(() => this.edit(beats[name]()));
    else if (name === "play") this.toggle();
    else if (name === "chord") this.putChord(this.find("[data-set=chord]").value);
    else if (name === "section") this.putSection();
    else if (name === "taps") this.useTaps();
    else if (name === "save") this.save();
    else if (name === "load") this.find("input[type=file]").click();
    else if (name === "undo" || name === "redo") this.travel(name);
  }

  tryTo(change) { try { change(); } catch (error) { this.refuse(error); } }

  travel(name) {
    const [from, to] = name === "undo" ? [this.past, this.future] : [this.future, this.past];
    if (!from.length) return;
    to.push(this.sheet);
    this.set(from.pop());
  }

  changed(event) {
    const { set, hear } = event.target.dataset;
    this.refuse(null);
    if (set === "metre") this.edit(setMetre(this.sheet, Number(event.target.value)));
    else if (set === "key" && event.target.value) this.edit(setKey(this.sheet, event.target.value));
    else if (set === "position") this.seek(Number(event.target.value));
    else if (hear && this.transport.playing) this.play(this.transport.position);
    else if (event.target.type === "file") this.open(event.target);
  }

  pressed(event) {
    const item = event.target.closest("li");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const { set } = event.target.dataset;
    if (event.key === "Enter" && (set === "chord" || set === "section")) {
      event.preventDefault();
      this.act(set);
    } else if (event.target.dataset.do === "tap" && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      if (!event.repeat) this.tap(event);
    } else if (set === "position" && event.altKey && step) {
      event.preventDefault();
      this.nudgeBeat(step * NUDGE_SECONDS);
    } else if (item && step) {
      event.preventDefault();
      const next = step > 0 ? item.nextElementSibling : item.previousElementSibling;
      if (!next) return;
      item.firstChild.tabIndex = -1;
      next.firstChild.tabIndex = 0;
      next.firstChild.focus();
      if (event.shiftKey) this.select(Number(next.dataset.start), Number(next.dataset.stop), true);
    } else if ((event.ctrlKey || event.metaKey) && event.key === "z" && event.target.type !== "text") {
      event.preventDefault();
      this.travel(event.shiftKey ? "redo" : "undo");
    }
  }

  select(start, stop, extend) {
    const old = extend && this.selection;
    this.selection = old ? { start: Math.min(old.start, start), stop: Math.max(old.stop, stop) } : { start, stop };
    this.send();
    if (!this.transport.playing) this.transport.began = this.selection.start;
    this.draw();
  }

  putChord(label) {
    if (!this.selection) return;
    this.tryTo(() => this.edit(setChord(this.sheet, this.selection.start, this.selection.stop, parseChord(label) ? label.trim() : "N")));
  }

  putSection() {
    if (!this.selection) return;
    const { start, stop } = this.selection;
    const [name, energy] = ["section", "energy"].map((each) => this.find(`[data-set=${each}]`).value.trim());
    this.tryTo(() => this.edit(setSection(this.sheet, start, stop, name, energy)));
  }

  /** The beat that is drawn at a place of the canvas; -1 where there is none. */
  beatUnder(x) {
    const at = nearestBeat(this.sheet, x / this.scale);
    return at >= 0 && Math.abs(this.sheet.beats[at] * this.scale - x) <= GRAB_PIXELS ? at : -1;
  }

  /** A beat under the mouse is dragged, and dropped where the button is let go; a finger scrolls. */
  grab(event) {
    const canvas = event.currentTarget;
    const [at, before] = [this.beatUnder(event.offsetX), this.sheet];
    this.dragged = false;
    if (at < 0 || event.pointerType === "touch") return;
    const listening = new AbortController();
    const on = (name, act) => canvas.addEventListener(name, act, { signal: listening.signal });
    canvas.setPointerCapture(event.pointerId);
    on("pointermove", ({ offsetX }) => {
      this.dragged ||= offsetX !== event.offsetX;
      this.sheet = moveBeat(before, at, before.beats[at] + (offsetX - event.offsetX) / this.scale, this.value.seconds);
      this.draw();
    });
    on("pointercancel", () => { listening.abort(); this.sheet = before; this.draw(); });
    on("pointerup", () => {
      listening.abort();
      const dropped = this.sheet;
      this.sheet = before;
      if (this.dragged) this.edit(dropped);
    });
  }

  /** The keyboard's way to drag: the beat nearest to the playhead. */
  nudgeBeat(by) {
    const at = nearestBeat(this.sheet, this.transport.position);
    if (at < 0) return;
    const { seconds } = this.value;
    const moved = moveBeat(this.sheet, at, this.sheet.beats[at] + by, seconds);
    this.edit(moved);
    if (!this.transport.playing) this.seek(moved.beats[at]);
  }

  async play(from) {
    const buffer = await this.buffer.catch(() => null);
    const { seconds } = this.value;
    const heard = (name) => this.find(`[data-hear=${name}]`).checked;
    await this.start(from, seconds, (out, zero, first) => {
      if (buffer && heard("voice")) startBuffer(out, buffer, zero, first);
      startSheet(heard("clicks") && out, heard("chords") && out, this.sheet, zero, first, seconds);
    });
  }

  /** The playhead, which the lane follows while something plays. */
  at(position) {
    const x = position * this.scale;
    this.find(".head").style.transform = `translateX(${x}px)`;
    const strip = this.find(".strip");
    const hidden = x < strip.scrollLeft || x > strip.scrollLeft + 0.8 * strip.clientWidth;
    if (hidden && this.transport.playing) strip.scrollLeft = x - 0.2 * strip.clientWidth;
  }

  /** The first tap starts the voice; each of the others is a beat. */
  tap(event) {
    event.preventDefault();
    event.target.focus();
    const late = (performance.now() - event.timeStamp) / 1000;
    if (!this.taps || !this.transport.playing) {
      this.taps = [];
      this.find("[data-hear=clicks]").checked = false;
      this.play(this.transport.began);
    } else if (context().state === "running") this.taps.push(this.transport.position - late);
    this.write("[data-do=tap]", this.taps.length ? `Tap (${this.taps.length})` : "Tap on every beat");
    this.find("[data-do=taps]").hidden = this.taps.length < LEAST_TAPS;
  }

  useTaps() {
    this.transport.stop();
    this.find("[data-hear=clicks]").checked = true;
    const taps = this.taps.filter((tap, at) => at === 0 || tap - this.taps[at - 1] > 0.15);
    this.taps = null;
    this.write("[data-do=tap]", "Tap along");
    this.find("[data-do=taps]").hidden = true;
    this.find("[data-do=tap]").focus();
    if (taps.length < LEAST_TAPS) this.refuse(new Error(`There are only ${taps.length} taps; tap at least ${LEAST_TAPS} beats.`));
    else this.edit(tappedBeats(this.sheet, taps, this.value.seconds));
  }

  save() {
    this.props.value = { ...this.props.value, ask: { format: this.find("[data-set=format]").value } };
    this.trigger("submit");
  }

  async open(input) {
    const [file] = input.files;
    if (!file) return;
    const text = await file.text();
    this.tryTo(() => this.edit(readSheet(text)));
    input.value = "";
  }
}
