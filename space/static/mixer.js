// SPDX-License-Identifier: Apache-2.0
// The mixer: voice and band of the chosen take as lanes of the desk, with level, pan, mute and solo; takes; downloads.
// Python sends the takes (takes.shelf) as {takes, chosen} and the pieces of one that is being generated (takes.LiveTake) as {live};
// the user's settings go back as {chosen, channels}. Files are requested with {ask: {file, format}} and the event "submit".

import { blank, desk, drawWave, mark } from "./desk.js";
import { songOf } from "./share.js";
import { decodedOf, outline, startBuffer, want } from "./sound.js";

// sounds are decoded so far before and after the playback position, and after the beginning of a loop (s)
const BEHIND = 2;
const AHEAD = 8;
const LOOP_AHEAD = 12;
// how often the next ones are decoded (ms); in hidden windows, browsers wait a second or more
const NEXT = 1000;
// a piece may come so much later than the last ones did (times, and s)
const LATER = 1.3;
const LATE = 0.2;
// most that is loaded before playback begins if a band is generated more slowly than it plays (s)
const MOST_AHEAD = 8;
const USUAL = { db: 0, pan: 0, muted: false, solo: false };

export function mount(element, props, watch, trigger) {
  const mixer = new Mixer(element.querySelector(".hafm-mixer"), props, trigger);
  watch("value", () => mixer.show());
  mixer.show();
}

/** Plays a take, with or without the mixer on the page. */
export class Player {
  constructor() {
    // the band of an example may already be playing
    Object.assign(this, {
      takes: [],
      chosen: null,
      live: desk.mixer?.live ?? null,
      channels: {},
      sounds: {},
      marks: {},
      asked: 0,
      shown: 0,
      run: null,
      reach: Infinity,
      arrivals: [],
      hushed: false,
      sung: null,
    });
    desk.join(this, desk.mixer);
    desk.mixer = this;
  }

  /** Plays the stored band of an example (takes.stored_band) at once, until Python has made a take of it. */
  preview(live) {
    if (!live.run || live === this.live) return;
    [this.live, desk.vocal] = [live, live.source];
    desk.play(0);
    desk.refresh();
  }

  /** The band that is being generated for the current voice. */
  get coming() {
    return this.live?.source === desk.vocal ? this.live : null;
  }

  /** The take to play: the one being generated, or the chosen one, for the current voice only. */
  get take() {
    return this.coming ?? this.own.find(({ id }) => id === this.chosen);
  }

  /** The takes of the current voice. */
  get own() {
    return this.takes.filter(({ source }) => source === desk.vocal);
  }

  /** The files of each channel (the voice, alone or with the band's silence around it, and the band or its stems), with the second at which each begins. */
  get files() {
    const { files = {}, at = [0] } = this.take ?? {};
    const all = { ...(desk.vocal && !files.voice ? { voice: [desk.vocal] } : {}), ...files };
    return Object.fromEntries(
      Object.entries(all).map(([name, paths]) => [
        name,
        [paths].flat().map((path, next) => [path, files[name] ? (at[next] ?? 0) + this.begin : 0]),
      ]),
    );
  }

  get begin() {
    return -(this.take?.intro ?? 0);
  }

  get seconds() {
    return (this.take?.seconds ?? 0) + this.begin;
  }

  /** Where the loaded sounds end: what has been announced may still be on its way. */
  get until() {
    return this.coming && this.coming.run !== this.run ? this.begin : this.reach;
  }

  /** Loads the sounds of the take; slower calls do not replace what later ones have loaded. */
  async ready() {
    const { run = null, until = Infinity } = this.coming ?? {};
    const [asked, call, reach] = [Object.entries(this.files), ++this.asked, until + this.begin];
    try {
      const found = await Promise.all(
        asked.map(async ([name, pieces]) => [
          name,
          await Promise.all(pieces.map(async ([path, at]) => ({ path, at, outline: await outline(path) }))),
        ]),
      );
      if (call < this.shown) return;
      this.measure(run, reach);
      [this.sounds, this.shown, this.run, this.reach] = [Object.fromEntries(found), call, run, reach];
      this.refuse?.("");
      for (const name of Object.keys(this.sounds)) this.channels[name] ??= { ...USUAL };
      await this.decode();
    } catch (error) {
      this.refuse?.(error.message);
    }
  }

  /** Notes when a band that is being generated reaches how far here. */
  measure(run, reach) {
    if (run !== this.run) this.arrivals = [];
    if (reach > (this.arrivals.at(-1)?.reach ?? -Infinity))
      this.arrivals.push({ time: performance.now() / 1000, reach });
  }

  /** Whether the sounds from a second on last until the next piece is here, as far as the last ones can tell. */
  lasts(from) {
    if (!this.coming || this.reach >= this.seconds) return true;
    if (this.coming.run !== this.run || this.arrivals.length < 2) return false;
    const [first, ...rest] = this.arrivals;
    const last = rest.at(-1);
    const rate = (last.reach - first.reach) / (last.time - first.time);
    const gaps = rest.map(({ time }, at) => time - this.arrivals[at].time);
    const wait = Math.max(...gaps.slice(-3)) * LATER + LATE;
    const lag = Math.min((this.seconds - from) * (1 - rate), MOST_AHEAD);
    return this.reach - from >= Math.max(wait, lag);
  }

  /** Decodes what is played next, and forgets what has been played. */
  async decode() {
    const from = desk.next;
    const spans = [[from - BEHIND, Math.max(from, this.begin) + AHEAD]];
    const again = desk.span?.start ?? this.begin;
    if (desk.loops) spans.push([again - BEHIND, again + LOOP_AHEAD]);
    const pieces = Object.values(this.sounds).flat();
    const near = ({ at, outline: { seconds } }) =>
      spans.some(([start, stop]) => at < stop && at + seconds > start);
    await want(pieces.filter(near).map(({ path }) => path));
  }

  /** Decodes and starts what follows what is playing. */
  async more() {
    const { nodes } = this;
    await this.decode();
    if (nodes === this.nodes) this.startDecoded(nodes);
  }

  /** Starts the decoded sounds that have not been started yet. */
  startDecoded(nodes) {
    for (const [name, pieces] of Object.entries(this.sounds)) {
      if (!nodes[name]) continue;
      const { gain, zero, from, started, sources } = nodes[name];
      const now = Math.max(from, gain.context.currentTime - zero);
      for (const piece of pieces) {
        const buffer = started.has(piece.path) ? null : decodedOf(piece.path);
        if (!buffer) continue;
        started.add(piece.path);
        startBuffer(gain, buffer, zero + piece.at, now - piece.at, sources);
      }
    }
  }

  /** Called by the desk. */
  stop() {
    clearInterval(this.timer);
    this.nodes = {};
  }

  silent(name) {
    // the singer sings it again
    if (name === "voice" && this.hushed) return true;
    const solo = Object.keys(this.sounds).some((each) => this.channels[each].solo);
    return this.channels[name].muted || (solo && !this.channels[name].solo);
  }

  /** Called by the desk: starts all channels of the take. */
  start(out, zero, from) {
    const ctx = out.context;
    this.nodes = {};
    for (const [name, loaded] of Object.entries(this.sounds)) {
      // a voice that was sung again, and is not kept yet
      const again = name === "voice" ? this.sung : null;
      const [gain, panner] = [new GainNode(ctx, { gain: 0 }), new StereoPannerNode(ctx)];
      gain.connect(panner).connect(out);
      // a panner attenuates centred mono by 3 dB, which takes.Channel does not
      const middle = (again?.numberOfChannels ?? loaded[0].outline.channels) > 1 ? 1 : Math.SQRT2;
      const started = new Set(again ? loaded.map(({ path }) => path) : []);
      this.nodes[name] = { gain, panner, middle, zero, from, started, sources: out.sources };
      if (again) startBuffer(gain, again, zero, Math.max(from, ctx.currentTime - zero), out.sources);
    }
    this.startDecoded(this.nodes);
    this.settle(true);
    clearInterval(this.timer);
    this.timer = setInterval(() => this.more(), NEXT);
    this.more();
  }

  /** Applies levels and pans, at once or smoothly. */
  settle(once) {
    const balance = this.take?.balance ?? 0;
    for (const [name, { gain, panner, middle }] of Object.entries(this.nodes ?? {})) {
      const { db, pan } = this.channels[name];
      // lower the voice rather than raise a quieter band, which might clip
      let trim = name === "voice" ? Math.min(-balance, 0) : Math.min(balance, 0);
      // the file of a quiet voice is as it was sung; in a take it has been raised
      if (name === "voice" && !this.take?.files.voice) trim += desk.sheet?.value?.gain ?? 0;
      const level = this.silent(name) ? 0 : middle * 10 ** ((db + trim) / 20);
      const now = gain.context.currentTime;
      for (const [each, to] of [
        [gain.gain, level],
        [panner.pan, pan],
      ])
        once ? each.setValueAtTime(to, now) : each.setTargetAtTime(to, now, 0.01);
    }
  }
}

class Mixer extends Player {
  constructor(root, props, trigger) {
    Object.assign(super(), { root, props, trigger });
    this.find = (selector) => root.querySelector(selector);
    root.addEventListener("focusout", ({ target }) => {
      if (target.type === "text")
        this.mark(target.closest("[data-take]").dataset.take, { title: target.value.trim() || undefined });
    });
    for (const place of [root, desk.voice, desk.stems]) {
      place.addEventListener("click", (event) => this.clicked(event));
      place.addEventListener("input", (event) => this.changed(event));
    }
    this.find("input[type=file]").addEventListener("change", ({ target }) => {
      if (target.files[0]) desk.sheet.open(target.files[0]);
      target.value = "";
    });
    root.addEventListener("keydown", (event) => {
      const { key, target } = event;
      if (target.type !== "text" || !["Enter", "Escape"].includes(key)) return;
      event.preventDefault(); // else Enter would press the newly focused button
      if (key === "Escape") target.value = target.defaultValue;
      target.blur();
      target.closest("[data-take]").querySelector("[data-do=name]").focus();
    });
  }

  /** Shows what Python has sent; other values and the user's marks stay. */
  show() {
    const {
      live = this.live,
      levels,
      ...value
    } = JSON.parse(JSON.stringify({ ...this.value, ...this.props.value }));
    const { takes = [], chosen, formats = [], play = false, marks } = (this.props.value = this.value = value);
    const fresh = chosen !== this.chosen;
    const begins =
      play && (live ? live.source === desk.vocal && live.run !== this.begun : fresh && !this.coming);
    [this.takes, this.chosen, this.live, this.marks, this.channels] = [
      takes,
      chosen ?? takes.at(-1)?.id ?? null,
      live,
      { ...marks, ...this.marks },
      { ...this.channels, ...levels },
    ];
    const select = this.find("[data-set=format]");
    if (select.options.length !== formats.length)
      select.replaceChildren(...formats.map((each) => new Option(each.toUpperCase(), each)));
    if (fresh && !live) this.send();
    if (begins) {
      [this.begun, desk.vocal] = [live?.run, live?.source ?? takes.find(({ id }) => id === chosen).source];
      desk.recorder?.running || desk.play(live ? desk.begin : (desk.span?.start ?? desk.begin));
    }
    desk.refresh();
  }

  refuse(message) {
    this.find(".wrong").textContent = message;
  }

  /** Sends the settings to Python; solo mutes the other channels. */
  send(ask) {
    const loudness = Number(this.find("[data-set=loudness]").value) || null;
    const heard = Object.entries(this.channels).map(([name, { db, pan }]) => [
      name,
      { db, pan, muted: this.silent(name) },
    ]);
    this.props.value = this.value = {
      ...this.value,
      loudness,
      chosen: this.chosen,
      marks: this.marks,
      channels: Object.fromEntries(heard),
      ask: ask ?? null,
    };
    this.settle();
    if (ask) this.trigger("submit");
  }

  draw() {
    mark("taken", Boolean(this.take));
    this.drawTakes();
    const names = Object.keys(this.sounds);
    if (this.drawn !== names.join()) {
      const strip = (name) =>
        this.find("template")
          .innerHTML.replaceAll("TITLE", name[0].toUpperCase() + name.slice(1))
          .replaceAll("NAME", name);
      desk.voice.innerHTML = names.includes("voice") ? strip("voice") : "";
      desk.stems.innerHTML = names
        .filter((name) => name !== "voice")
        .map((name) => `<div class="track">${strip(name)}<canvas aria-hidden="true"></canvas></div>`)
        .join("");
      this.drawn = names.join();
    }
    const loudest = Math.max(
      0.01,
      ...Object.entries(this.sounds)
        .filter(([name]) => name !== "voice")
        .flatMap(([, pieces]) => pieces.map((piece) => piece.outline.loudest)),
    );
    for (const name of names) this.drawChannel(name, loudest);
  }

  drawTakes() {
    const [{ own }, list] = [this, this.find(".takes")];
    this.find(".songs").hidden = !own.length;
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    // keep a name that is being edited, and a row that is being pressed
    if (focused?.type === "text") return;
    const before = [...list.children];
    const rows = own.map(
      ({ id }) =>
        before.find(({ dataset }) => dataset.take === id) ??
        this.find("template.take").content.firstElementChild.cloneNode(true),
    );
    if (rows.length !== before.length || rows.some((row, at) => row !== before[at]))
      list.replaceChildren(...rows);
    for (const [at, { id, name, style, seed, remade }] of own.entries()) {
      const row = rows[at];
      row.classList.remove("named");
      const [radio, text, pencil, star] = row.querySelectorAll("input, button");
      const { title = name, kept = false } = this.marks[id] ?? {};
      Object.assign(radio, { value: id, checked: id === this.chosen && !this.coming });
      row.title = row.querySelector("span").textContent = [
        title,
        style,
        remade ? "regenerated bars" : `seed ${seed}`,
      ]
        .filter(Boolean)
        .join(" · ");
      row.dataset.take = id;
      Object.assign(text, { value: title, defaultValue: title });
      pencil.ariaLabel = `Name ${title}`;
      Object.assign(star, {
        textContent: kept ? "★" : "☆",
        ariaLabel: `Keep ${title}`,
        ariaPressed: String(kept),
      });
    }
    (focused?.type === "radio" ? list.querySelector(":checked") : focused)?.focus();
  }

  /** Switches to the take with a number, from 0, at the same position. */
  choose(number) {
    this.chosen = this.own[number]?.id ?? this.chosen;
    this.send();
    desk.refresh();
  }

  /** Names a take, or protects it from being replaced. */
  mark(id, change) {
    this.marks = { ...this.marks, [id]: { ...this.marks[id], ...change } };
    this.send();
    desk.draw();
  }

  /** Asks for the song as one file: its title is the name of the take, or else of the voice. */
  share() {
    const voice = desk.vocal
      .split("/")
      .at(-1)
      .replace(/\.\w+$/, "")
      .replaceAll("_", " ");
    try {
      this.send({ file: "song", song: songOf(this.marks[this.chosen]?.title ?? voice, desk.sheet.shown()) });
    } catch (error) {
      this.refuse(error.message);
    }
  }

  /** Toggles mute or solo of an element's channel, or else of the voice. */
  toggle(name, element) {
    const channel = this.channels[element.closest("[data-channel]")?.dataset.channel ?? "voice"];
    if (!channel) return;
    channel[name] = !channel[name];
    this.send();
    desk.draw();
  }

  drawChannel(name, loudest) {
    const part = [desk.voice, desk.stems]
      .map((place) => place.querySelector(`[data-channel=${name}]`))
      .find(Boolean);
    const channel = this.channels[name];
    for (const set of ["db", "pan"]) part.querySelector(`[data-set=${set}]`).value = String(channel[set]);
    part.querySelector("[data-set=pan]").setAttribute("aria-valuetext", place(channel.pan));
    part.querySelector("output").textContent = `${channel.db} dB`;
    for (const kind of ["muted", "solo"])
      part.querySelector(`[data-do=${kind}]`).setAttribute("aria-pressed", String(channel[kind]));
    part.classList.toggle("silent", this.silent(name));
    if (name === "voice") return;
    const [paint, height] = blank(part.nextElementSibling);
    desk.grid(paint, height);
    const colour = getComputedStyle(part).getPropertyValue("--hafm-wave").trim();
    for (const piece of this.sounds[name]) drawWave(paint, piece.outline, piece.at, height, loudest, colour);
  }

  clicked(event) {
    const button = event.target.closest("button");
    if (!button) return;
    event.stopPropagation();
    this.find(".wrong").textContent = "";
    const name = button.dataset.do;
    const row = button.closest("[data-take]");
    if (button.closest("[data-channel]")) this.toggle(name, button);
    else if (name === "keep") this.mark(row.dataset.take, { kept: button.ariaPressed !== "true" });
    else if (name === "name") {
      row.classList.add("named");
      row.querySelector("[type=text]").select();
    } else if (button.dataset.file === "song") this.share();
    else if (name === "file")
      this.send({
        file: button.dataset.file,
        format: this.find("[data-set=format]").value,
        state: desk.state(),
      });
    else if (name === "save") desk.sheet.save(this.find("[data-set=sheet]").value);
    else if (name === "load") this.find("input[type=file]").click();
  }

  changed({ target }) {
    if (target.type === "text") return;
    const channel = this.channels[target.closest("[data-channel]")?.dataset.channel];
    if (channel) channel[target.dataset.set] = Number(target.value);
    // switch takes at the same position
    if (target.type === "radio") return this.choose(this.own.findIndex(({ id }) => id === target.value));
    this.send();
    desk.draw();
  }
}

const place = (pan) =>
  pan === 0 ? "middle" : `${Math.round(Math.abs(pan) * 100)} % ${pan < 0 ? "left" : "right"}`;
