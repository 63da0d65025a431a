// The mixer: voice and band of every take, or its stems, through Web Audio, with level, mute, solo and pan.
//
// Python sends the takes (takes.shelf) as {takes, chosen}; what a person sets goes back as {chosen, channels}. Files of
// it are asked for by {ask: {file, format}} or {ask: {seed}} and the event "submit".

import { Player, load, startBuffer } from "./sound.js";

const titled = (name) => name[0].toUpperCase() + name.slice(1);

const strip = (name, title) => `
  <fieldset class="channel" data-channel="${name}">
    <legend>${title}</legend>
    <label class="wide">Level <input type="range" data-set="db" min="-24" max="6" step="0.5" value="0" aria-label="${title}, level in dB"></label>
    <output>0 dB</output>
    <button type="button" data-do="muted" aria-pressed="false" aria-label="Mute ${title.toLowerCase()}">Mute</button>
    <button type="button" data-do="solo" aria-pressed="false" aria-label="Solo ${title.toLowerCase()}">Solo</button>
    <label class="wide">Pan <input type="range" data-set="pan" min="-1" max="1" step="0.1" value="0" aria-label="${title}, pan"></label>
  </fieldset>`;

const USUAL = { db: 0, pan: 0, muted: false, solo: false };

const TEMPLATE = `
  <div class="takes" role="radiogroup" aria-label="Takes"></div>
  <div class="row">
    <button type="button" class="strong" data-do="play">Play</button>
    <label class="wide">Position <input type="range" data-set="position" min="0" step="0.1" value="0"></label>
    <span class="clock" aria-hidden="true"></span>
    <button type="button" data-do="seed">Use this seed</button>
  </div>
  <div class="channels"></div>
  <p class="hint">At 0 dB, voice and band are as loud as in most songs.</p>
  <div class="row" role="group" aria-label="Download">
    <label>Format <select data-set="format" aria-label="Format"></select></label>
    <label>Loudness <select data-set="loudness" aria-label="Loudness">
      <option value="">as mixed</option><option value="-14">−14 LUFS (streaming)</option>
      <option value="-16">−16 LUFS (podcasts)</option><option value="-23">−23 LUFS (radio)</option>
    </select></label>
    <button type="button" class="strong" data-do="file" data-file="mix">Download mix</button>
    <button type="button" data-do="file" data-file="instrumental">Download band</button>
    <button type="button" data-do="file" data-file="stems">Download stems (zip)</button>
  </div>
  <p class="wrong" role="alert"></p>`;

export function mount(element, props, watch, trigger) {
  const mixer = new Mixer(element.querySelector(".hafm-mixer"), props, trigger);
  watch("value", () => mixer.show());
  mixer.show();
}

class Mixer extends Player {
  constructor(root, props, trigger) {
    super(root, props, trigger);
    Object.assign(this, { takes: [], chosen: null, channels: {} });
    root.innerHTML = TEMPLATE;
    root.addEventListener("click", (event) => this.clicked(event));
    root.addEventListener("input", (event) => this.changed(event));
  }

  /** What Python has sent. */
  show() {
    const { takes = [], chosen, formats = [] } = JSON.parse(JSON.stringify(this.props.value || {}));
    const fresh = takes.length && chosen !== this.chosen;
    [this.takes, this.chosen] = [takes, chosen ?? takes.at(-1)?.id ?? null];
    const select = this.find("[data-set=format]");
    if (select.options.length !== formats.length) select.replaceChildren(...formats.map((each) => new Option(each.toUpperCase(), each)));
    if (!this.chosen) { this.transport.stop(); return; }
    if (fresh) this.send();
    this.draw();
    if (!fresh) return;
    this.transport.stop();
    this.transport.began = 0;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    setTimeout(() => this.root.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" }), 100);
    this.follow();
  }

  get take() { return this.takes.find(({ id }) => id === this.chosen); }

  /** The channels of the take that is chosen, by name: the voice, and the band or its stems. */
  get heard() {
    const names = Object.keys(this.take.files);
    for (const name of names) this.channels[name] ??= { ...USUAL };
    return Object.fromEntries(names.map((name) => [name, this.channels[name]]));
  }

  /** Tells Python what is set; solo mutes the other channels. */
  send(ask) {
    const solo = Object.values(this.heard).some((channel) => channel.solo);
    const heard = Object.entries(this.heard).map(([name, { db, pan, muted, solo: alone }]) =>
      [name, { db, pan, muted: muted || (solo && !alone) }]);
    const loudness = Number(this.find("[data-set=loudness]").value) || null;
    this.props.value = { ...this.props.value, loudness, chosen: this.chosen, channels: Object.fromEntries(heard), ask: ask ?? null };
    this.settle();
    if (ask) this.trigger("submit");
  }

  draw() {
    const { take } = this;
    const list = this.find(".takes");
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...this.takes.map((each) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "hafm-take", value: each.id, checked: each.id === this.chosen });
      label.append(radio, `${each.name} (seed ${each.seed})`);
      return label;
    }));
    if (focused) list.querySelector(":checked")?.focus();
    this.find("[data-set=position]").max = String(take.seconds);
    const strips = this.find(".channels");
    const names = Object.keys(this.heard);
    if (strips.dataset.names !== names.join()) {
      strips.innerHTML = names.map((name) => strip(name, titled(name))).join("");
      strips.dataset.names = names.join();
    }
    for (const [name, channel] of Object.entries(this.heard)) {
      const part = this.find(`[data-channel=${name}]`);
      part.querySelector("[data-set=db]").value = String(channel.db);
      part.querySelector("[data-set=pan]").value = String(channel.pan);
      part.querySelector("[data-set=pan]").setAttribute("aria-valuetext", place(channel.pan));
      part.querySelector("output").textContent = `${channel.db > 0 ? "+" : ""}${channel.db} dB`;
      for (const kind of ["muted", "solo"]) part.querySelector(`[data-do=${kind}]`).setAttribute("aria-pressed", String(channel[kind]));
    }
  }

  clicked(event) {
    const button = event.target.closest("button");
    if (!button) return;
    this.find(".wrong").textContent = "";
    const name = button.dataset.do;
    const channel = this.channels[button.closest("[data-channel]")?.dataset.channel];
    if (channel) channel[name] = !channel[name];
    if (name === "play") this.toggle();
    else if (name === "seed") this.send({ seed: this.take.seed });
    else if (name === "file") this.send({ file: button.dataset.file, format: this.find("[data-set=format]").value });
    else this.send();
    this.draw();
  }

  changed(event) {
    const { target } = event;
    const { set } = target.dataset;
    const channel = this.channels[target.closest("[data-channel]")?.dataset.channel];
    if (channel) channel[set] = Number(target.value);
    else if (target.type === "radio") this.chosen = target.value;
    else if (set === "position") { this.seek(Number(target.value)); return; }
    else return;
    this.send();
    this.draw();
    // from A to B without losing the place
    if (target.type === "radio" && this.transport.playing) this.play(this.transport.position);
  }

  async play(from) {
    const { files, seconds } = this.take;
    let buffers;
    try { buffers = await Promise.all(Object.values(files).map(load)); }
    catch (error) { this.write(".wrong", error.message); return; }
    await this.start(from, seconds, (out, zero, first) => {
      const ctx = out.context;
      this.nodes = {};
      for (const [at, name] of Object.keys(files).entries()) {
        const [gain, panner] = [new GainNode(ctx), new StereoPannerNode(ctx)];
        gain.connect(panner).connect(out);
        this.nodes[name] = { gain, panner };
        startBuffer(gain, buffers[at], zero, first);
      }
      this.settle();
    });
  }

  /** Makes what is heard follow what is set. */
  settle() {
    if (!this.transport.playing || !this.nodes) return;
    const { balance } = this.take;
    for (const [name, { gain, panner }] of Object.entries(this.nodes)) {
      const { db, pan, muted } = this.props.value.channels?.[name] ?? this.channels[name];
      // a band that is quieter than the voice is not raised, which might clip: the voice is lowered
      const trim = name === "voice" ? Math.min(-balance, 0) : Math.min(balance, 0);
      // a mono sound in the middle goes through a panner 3 dB down; takes.Channel keeps its level
      gain.gain.setTargetAtTime(muted ? 0 : Math.SQRT2 * 10 ** ((db + trim) / 20), gain.context.currentTime, 0.01);
      panner.pan.setTargetAtTime(pan, gain.context.currentTime, 0.01);
    }
  }

  at(position) { this.write(".clock", `${clock(position)} / ${clock(this.take?.seconds ?? 0)}`); }
}

/** Seconds as minutes and seconds. */
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const place = (pan) => (pan === 0 ? "middle" : `${Math.round(Math.abs(pan) * 100)} % ${pan < 0 ? "left" : "right"}`);
