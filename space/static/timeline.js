// The timeline: a voice's waveform and pitch with bars, beats and chords, which can be corrected and played.
//
// `mount` fills a component of the page; its value is {vocal, seconds, pitch, sheet, selection} (listening.py). What a
// person changes is written back into it, and the next generation follows it.

import {
  allKeys, barsOf, beatInBar, doubleTempo, filledChords, halfTempo, likelyChords, metreOf, moveBeat, nearestBeat,
  parseChord, placeOf, pretty, readSheet, sameKey, sectionsOf, setChord, setDownbeat, setKey, setMetre, setSection, spell, tappedBeats, tempoOf,
} from "./sheet.js";
import { blank, desk, drawWave, loudestOf, mark } from "./desk.js";
import { context, load, startClicks } from "./sound.js";

const LEAST_PIXELS_A_SECOND = 30;
const ZOOM = 1.5;
const NUDGE_SECONDS = 0.01;
const LEAST_TAPS = 4;
const GRAB_PIXELS = 5;
const HEIGHT = 130;
// chords that are less likely against the next likeliest one are drawn pale
const SURE = 0.6;

export function mount(element, props, watch, trigger) {
  const timeline = new Timeline(element.querySelector(".hafm-timeline"), props, trigger);
  watch("value", () => timeline.show());
  timeline.show();
}

class Timeline {
  constructor(root, props, trigger) {
    Object.assign(this, { root, props, trigger, past: [], future: [], selection: null, taps: null, zoom: 1, clicks: false });
    this.find = (selector) => root.querySelector(selector);
    this.find(".sung").prepend(desk.voice);
    this.find(".sung").after(desk.stems);
    for (const kind of ["click", "change", "keydown"]) root.addEventListener(kind, (event) => this[kind](event));
    document.addEventListener("keydown", (event) => this.shortcut(event));
    this.find("[data-do=tap]").addEventListener("pointerdown", (event) => this.tap(event));
    this.find(".lane").addEventListener("pointerdown", (event) => this.grab(event));
    this.find(".sung canvas").addEventListener("pointermove", ({ target, offsetX }) => {
      target.style.cursor = this.beatUnder(offsetX) < 0 ? "" : "ew-resize";
    });
    new ResizeObserver(() => desk.draw()).observe(this.find(".strip"));
    this.find("dialog").addEventListener("click", ({ target }) => target.closest("dialog").close());
    desk.grid = (paint, height) => this.drawGrid(paint, height);
    desk.sheet = this;
    desk.join(this);
    desk.follow();
  }

  /** Sets a text only where it changes: what is set again is spoken again. */
  write(selector, text) { const found = this.find(selector); if (found.textContent !== text) found.textContent = text; }

  get seconds() { return this.value?.seconds ?? 0; }

  /** What Python has sent. */
  show() {
    const value = this.props.value;
    const there = Boolean(value?.vocal);
    mark("full", there);
    this.refuse(value?.wrong && { message: value.wrong });
    if (!there) { desk.stop(); this.value = desk.vocal = null; this.write(".summary", ""); return; }
    const same = this.value?.vocal === value.vocal;
    this.value = JSON.parse(JSON.stringify(value));
    [this.past, this.future, this.selection] = [same ? [...this.past, this.sheet] : [], [], null];
    this.sheet = this.value.sheet;
    if (!same) this.buffer = null;
    // the band of an example may already play
    if (desk.vocal !== value.vocal) { desk.stop(); desk.seek(0); }
    desk.vocal = value.vocal;
    load(value.vocal).then((buffer) => { this.buffer = buffer; this.loudest = loudestOf(buffer); desk.draw(); }, (error) => this.refuse(error));
    desk.refresh();
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
    desk.refresh();
  }

  /** What generating goes by. */
  send() {
    const selection = this.selection && [this.selection.start, this.selection.stop];
    this.props.value = { ...this.value, sheet: this.sheet, selection };
  }

  refuse(error) { this.find(".wrong").textContent = error ? error.message ?? String(error) : ""; }

  // drawing

  draw() {
    this.find(".selection").hidden = !this.selection;
    mark("selected", Boolean(this.selection));
    if (!this.value) return;
    const head = parseFloat(getComputedStyle(this.root).getPropertyValue("--hafm-head")) || 0;
    const room = this.find(".strip").clientWidth - head;
    desk.scale = Math.max(room / desk.seconds, LEAST_PIXELS_A_SECOND) * this.zoom;
    [desk.head, desk.span] = [head, this.selection];
    this.find(".lane").style.width = `${head + desk.seconds * desk.scale}px`;
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
    const how = (name) => ((sheet.estimated ?? []).includes(name) ? "estimated" : "given");
    const parts = [tempo ? `${Math.round(tempo * 10) / 10} beats per minute (${how("beats")})` : "No beats (tap along)"];
    if (sheet.chords?.length) parts.push(`chords (${how("chords")})`);
    if (typeof sheet.style === "string") parts.push(`${sheet.style} (${how("style")})`);
    // spelled as its chords are
    const named = (key) => `${pretty(key.split(":")[0])} ${key.endsWith(":min") ? "minor" : "major"}`;
    const own = sheet.key && allKeys().find((key) => sameKey(key, sheet.key));
    if (own) parts.push(`${named(own)} (${how("key")})`);
    this.write(".summary", `${parts.join(", ")}. The band follows what is shown here.`);
    this.write(".tempo", tempo ? `${Math.round(tempo)} bpm` : "no beats");
    for (const name of ["half", "double", "downbeat"]) this.find(`[data-do=${name}]`).disabled = !tempo;
    this.find("[data-do=undo]").disabled = !this.past.length;
    this.find("[data-do=redo]").disabled = !this.future.length;
    this.find("[data-set=metre]").value = String(metreOf(sheet));
    const keys = this.find("[data-set=key]");
    if (!keys.options.length) keys.replaceChildren(new Option("no key", ""), ...allKeys().map((key) => new Option(named(key), key)));
    keys.value = own || "";
    this.find("[data-set=position]").max = String(desk.seconds);
  }

  drawSections() {
    const sections = sectionsOf(this.sheet);
    this.find(".form").hidden = !sections.length;
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
        const [, , , likely = 1, next = "N"] = this.choiceOf(start, label) ?? [];
        button.title = likely < SURE ? `${name}, or ${pretty(spell(next, sheet.key))}?` : name;
        button.setAttribute("aria-label", `${name === "–" ? "no chord" : name}, ${placeOf(sheet, value.seconds, start)}${likely < SURE ? ", unsure" : ""}`);
        button.setAttribute("aria-pressed", String(this.isSelected(start, stop)));
        button.classList.toggle("root", name !== "–");
        button.classList.toggle("unsure", likely < SURE);
      });
  }

  /** What the listener says of a chord that it has estimated: [start, stop, label, how likely it is, another]. */
  choiceOf(start, label) {
    return this.value.choices?.find(([from, to, own]) => own === label && from < start + 0.02 && start < to);
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
      item.style.left = `${span.start * desk.scale}px`;
      item.style.width = `${(span.stop - span.start) * desk.scale - 2}px`;
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

  colour(name) { return getComputedStyle(this.root).getPropertyValue(name).trim(); }

  drawCanvas() {
    const [paint] = blank(this.find(".sung canvas"), HEIGHT);
    this.drawGrid(paint, HEIGHT);
    if (this.buffer) drawWave(paint, this.buffer, 0, HEIGHT, this.loudest, this.colour("--hafm-wave"));
    this.drawPitch(paint, this.colour("--hafm-accent"));
  }

  /** What lies behind every lane: the selection, bars and beats. */
  drawGrid(paint, height) {
    const { selection, sheet } = this;
    if (selection) {
      paint.fillStyle = this.colour("--hafm-selected");
      paint.fillRect(selection.start * desk.scale, 0, (selection.stop - selection.start) * desk.scale, height);
    }
    for (const [index, beat] of (sheet?.beats ?? []).entries()) {
      const bar = beatInBar(sheet, index) === 0;
      paint.fillStyle = this.colour(bar ? "--hafm-bar" : "--hafm-beat");
      paint.fillRect(beat * desk.scale, 0, 1, height);
    }
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
      const [x, y] = [(at / pitch.length) * seconds * desk.scale, HEIGHT - ((note - low) / (high - low)) * HEIGHT];
      // a leap of a third within a fortieth of a second is no line
      if (note !== null) before !== null && Math.abs(note - before) < 3 ? paint.lineTo(x, y) : paint.moveTo(x, y);
      before = note;
    }
    paint.stroke();
  }

  drawEditor() {
    const { selection, sheet, value } = this;
    const [start, , label] = (selection && filledChords(sheet, value.seconds).find(([, stop]) => stop > selection.start + 0.02)) || [0, 0, ""];
    const next = this.choiceOf(start, label)?.[4];
    const instead = this.find(".next");
    Object.assign(instead, { hidden: !next, textContent: next ? `${pretty(spell(next, sheet.key))} instead` : "" });
    instead.dataset.likely = next ?? "";
    this.write(".chosen", selection ? `Selected: ${this.selectionName()}` : "");
    const input = this.find("[data-set=chord]");
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
    // what has been typed for these bars stays until it is set
    if (this.editing?.selection === selection && this.editing.sheet === sheet) return;
    input.value = selection && label !== "N" ? spell(label, sheet.key) : "";
    this.drawSectionEditor();
    this.editing = { selection, sheet };
  }

  drawSectionEditor() {
    const { selection, sheet, value } = this;
    const { name = "", energy = "" } = sectionsOf(sheet).find(({ stop }) => selection && stop > selection.start + 0.02) ?? {};
    const [text, select] = [this.find("[data-set=section]"), this.find("[data-set=energy]")];
    const energies = ["", ...(value.energies ?? [])];
    if (select.options.length !== energies.length) select.replaceChildren(...energies.map((each) => new Option(each || "automatic", each)));
    [text.value, select.value] = [name, energies.includes(energy) ? energy : ""];
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

  click(event) {
    const button = event.target.closest("button");
    const dragged = this.dragged;
    this.dragged = false;
    if (dragged) return;
    if (event.target.tagName === "CANVAS") desk.seek(event.offsetX / desk.scale);
    if (!button) return;
    this.refuse(null);
    const item = button.parentElement;
    if (item.tagName === "LI") this.select(Number(item.dataset.start), Number(item.dataset.stop), event.shiftKey);
    else if (button.dataset.likely) this.putChord(button.dataset.likely);
    else if (button.dataset.do) this.act(button.dataset.do);
  }

  act(name) {
    const { sheet } = this;
    const beats = {
      half: () => halfTempo(sheet), double: () => doubleTempo(sheet),
      downbeat: () => setDownbeat(sheet, this.selection?.start ?? desk.position),
    };
    if (beats[name]) this.tryTo(() => this.edit(beats[name]()));
    else if (name === "play") desk.toggle();
    else if (name === "loop") { desk.loops = this.press(name, !desk.loops); desk.refresh(); }
    else if (name === "clicks") { this.clicks = this.press(name, !this.clicks); desk.refresh(); }
    else if (name === "in" || name === "out") { this.zoom = Math.max(this.zoom * (name === "in" ? ZOOM : 1 / ZOOM), 1); desk.draw(); }
    else if (name === "unselect") this.unselect();
    else if (name === "keys") this.find("dialog").showModal();
    else if (name === "all") this.find("[data-do=all]").ariaExpanded = String(this.find(".transport").toggleAttribute("data-all"));
    else if (name === "chord") this.putChord(this.find("[data-set=chord]").value);
    else if (name === "section") this.putSection();
    else if (name === "taps") this.useTaps();
    else if (name === "undo" || name === "redo") this.travel(name);
  }

  press(name, on) { this.find(`[data-do=${name}]`).setAttribute("aria-pressed", String(on)); return on; }

  tryTo(change) { try { change(); } catch (error) { this.refuse(error); } }

  travel(name) {
    const [from, to] = name === "undo" ? [this.past, this.future] : [this.future, this.past];
    if (!from.length) return;
    to.push(this.sheet);
    this.set(from.pop());
  }

  change(event) {
    const { set } = event.target.dataset;
    if (set === "metre") this.edit(setMetre(this.sheet, Number(event.target.value)));
    else if (set === "key" && event.target.value) this.edit(setKey(this.sheet, event.target.value));
    else if (set === "position") desk.seek(Number(event.target.value));
  }

  keydown(event) {
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
    } else if (event.key === "Escape" && this.selection) this.unselect();
  }

  /** Keys of the whole page, wherever no text is written and where they do nothing else; ? shows them. */
  shortcut(event) {
    const { target, shiftKey, ctrlKey, metaKey, altKey } = event;
    const key = event.key.toLowerCase();
    if (event.defaultPrevented || target.closest("dialog, textarea, input:not([type=range], [type=radio], [type=checkbox])")) return;
    const presses = target.closest("button, input, select, summary, a, [role=option]");
    const arrows = target.closest("input, select, li, [role=listbox]");
    const plain = {
      " ": presses ? null : () => desk.toggle(),
      arrowright: arrows ? null : () => this.step(1, shiftKey), arrowleft: arrows ? null : () => this.step(-1, shiftKey),
      m: () => desk.mixer.toggle("muted", target), s: () => desk.mixer.toggle("solo", target),
    };
    const act = ctrlKey || metaKey ? key === "z" && (() => this.travel(shiftKey ? "redo" : "undo"))
      : plain[key] ?? ("1234".includes(key) && (() => desk.mixer.choose(Number(key) - 1)));
    if (key === "?") this.act("keys");
    else if (this.value && act && !altKey && !(target.tagName === "SELECT")) act();
    else return;
    event.preventDefault();
  }

  /** Goes to the next or the last beat, or bar. */
  step(by, bars) {
    const places = [0, ...(bars ? barsOf(this.sheet, this.seconds).map(({ start }) => start) : this.sheet.beats ?? []), desk.seconds];
    // while it plays, the last beat is the one before the one that was just heard
    const near = desk.playing && by < 0 ? 0.3 : 0.03;
    const found = places.filter((place) => (place - desk.position) * by > near);
    if (found.length) desk.seek(by > 0 ? Math.min(...found) : Math.max(...found));
  }

  select(start, stop, extend) {
    const old = extend && this.selection;
    this.selection = old ? { start: Math.min(old.start, start), stop: Math.max(old.stop, stop) } : { start, stop };
    this.send();
    if (!desk.playing) desk.began = this.selection.start;
    desk.draw();
  }

  unselect() {
    this.selection = null;
    this.send();
    desk.draw();
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
    const at = nearestBeat(this.sheet, x / desk.scale);
    return at >= 0 && Math.abs(this.sheet.beats[at] * desk.scale - x) <= GRAB_PIXELS ? at : -1;
  }

  /** In the voice's lane a beat under the mouse is dragged; elsewhere bars are selected; a finger scrolls. */
  grab(event) {
    const { target } = event;
    const left = this.find(".lane").getBoundingClientRect().left + desk.head;
    if (target.closest(".head, .voice, fieldset") || event.pointerType === "touch" || event.button) return;
    const [at, before] = [target.closest(".sung") ? this.beatUnder(event.offsetX) : -1, this.sheet];
    const second = ({ clientX }) => (clientX - left) / desk.scale;
    const listening = new AbortController();
    const on = (name, act) => window.addEventListener(name, act, { signal: listening.signal });
    this.dragged = false;
    on("pointermove", (moved) => {
      this.dragged ||= Math.abs(moved.clientX - event.clientX) > GRAB_PIXELS;
      if (!this.dragged) return;
      if (at >= 0) this.sheet = moveBeat(before, at, before.beats[at] + second(moved) - second(event), this.seconds);
      else this.drag(second(event), second(moved));
      desk.draw();
    });
    on("pointercancel", () => { listening.abort(); this.sheet = before; desk.draw(); });
    on("pointerup", () => {
      listening.abort();
      const dropped = this.sheet;
      this.sheet = before;
      if (this.dragged && at >= 0) this.edit(dropped);
      else if (this.dragged) this.select(this.selection.start, this.selection.stop);
    });
  }

  /** Selects the bars between two seconds, or what lies between them where there are none. */
  drag(one, other) {
    const [from, to] = [Math.max(Math.min(one, other), 0), Math.min(Math.max(one, other), this.seconds)];
    const bars = barsOf(this.sheet, this.seconds).filter(({ start, stop }) => start < to && stop > from);
    this.selection = { start: bars[0]?.start ?? from, stop: bars.at(-1)?.stop ?? to };
  }

  /** The keyboard's way to drag: the beat nearest to the playhead. */
  nudgeBeat(by) {
    const at = nearestBeat(this.sheet, desk.position);
    if (at < 0) return;
    const moved = moveBeat(this.sheet, at, this.sheet.beats[at] + by, this.seconds);
    this.edit(moved);
    if (!desk.playing) desk.seek(moved.beats[at]);
  }

  /** What the desk asks for: clicks. */
  start(out, zero, from) { if (this.value && this.clicks) startClicks(out, this.sheet, zero, from, desk.seconds); }

  /** The playhead, which the lanes follow while something plays. */
  follow(position) {
    const sounds = desk.playing || desk.waits;
    const play = this.find("[data-do=play]");
    if (play.getAttribute("aria-label") !== (sounds ? "Stop" : "Play")) {
      [play.textContent, play.ariaLabel] = sounds ? ["■", "Stop"] : ["▶", "Play"];
    }
    const range = this.find("[data-set=position]");
    range.value = String(position);
    range.setAttribute("aria-valuetext", `${position.toFixed(1)} s`);
    this.write(".clock", `${clock(position)} / ${clock(desk.seconds)}`);
    const x = position * desk.scale;
    this.find(".playhead").style.transform = `translateX(${(desk.head ?? 0) + x}px)`;
    const strip = this.find(".strip");
    const room = strip.clientWidth - (desk.head ?? 0);
    const hidden = x < strip.scrollLeft || x > strip.scrollLeft + 0.9 * room;
    if (hidden && desk.playing) strip.scrollLeft = x - 0.1 * room;
  }

  /** The first tap starts the voice; each of the others is a beat. */
  tap(event) {
    event.preventDefault();
    event.target.focus();
    const late = (performance.now() - event.timeStamp) / 1000;
    if (!this.taps || !desk.playing) {
      this.taps = [];
      this.clicks = this.press("clicks", false);
      desk.play();
    } else if (context().state === "running") this.taps.push(desk.position - late);
    this.write("[data-do=tap]", this.taps.length ? `Tap (${this.taps.length})` : "Tap on every beat");
    this.find("[data-do=taps]").hidden = this.taps.length < LEAST_TAPS;
  }

  useTaps() {
    desk.stop();
    const taps = this.taps.filter((tap, at) => at === 0 || tap - this.taps[at - 1] > 0.15);
    this.taps = null;
    this.write("[data-do=tap]", "Tap along");
    this.find("[data-do=taps]").hidden = true;
    this.find("[data-do=tap]").focus();
    if (taps.length < LEAST_TAPS) this.refuse(new Error(`There are only ${taps.length} taps; tap at least ${LEAST_TAPS} beats.`));
    else this.edit(tappedBeats(this.sheet, taps, this.seconds));
  }

  /** The lead sheet as a file, in a format that is asked for. */
  save(format) {
    this.props.value = { ...this.props.value, ask: { format } };
    this.trigger("submit");
  }

  /** A lead sheet of a file. */
  async open(file) {
    const text = await file.text();
    this.tryTo(() => this.edit(readSheet(text)));
  }
}

/** Seconds as minutes, seconds and tenths. */
const clock = (seconds) => `${Math.floor(seconds / 60)}:${(Math.floor(seconds * 10 + 0.01) / 10 % 60).toFixed(1).padStart(4, "0")}`;
