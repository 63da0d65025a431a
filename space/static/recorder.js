// How a voice comes in: recorded, plainly or to a click, dropped or opened as a file, or an example.
//
// Of a take to the click the beats are known, because the page itself has played them. Clicks and recording share the
// clock of one AudioContext. What is sung on a click arrives later by the latency of loudspeaker and microphone
// together: the browser's estimate, or measured by claps. The take is cut so that its first beat lies half a beat after
// its start.

import { mark } from "./desk.js";
import { before } from "./page.js";
import { click, context } from "./sound.js";

const TEMPO = { least: 55, most: 185, usual: 96 };
const CLAPS = 10;
// clicks are scheduled so far in advance, and looked after so often (s)
const AHEAD = 0.6;
const TICK = 0.1;
// a clap counts if it lies so near to the others (s)
const NEAR = 0.04;
// measurements that are the same (ms)
const SAME_MS = 8;
// envelope of claps, frames a second
const ENVELOPE = 1000;

// What the server reads; all else is decoded here, if it can be.
const READ_THERE = /\.(wav|flac|ogg|mp3|zip)$/i;

export function mount(element, props, watch, trigger, upload) {
  const recorder = new Recorder(element.querySelector(".hafm-recorder"), props, trigger, upload);
  before.then((state) => state && recorder.hand(state));
}

class Recorder {
  constructor(root, props, trigger, upload) {
    Object.assign(this, { root, props, trigger, upload, chunks: [], running: null });
    this.find = (selector) => root.querySelector(selector);
    this.find(".examples").replaceChildren(...props.examples.map((name) =>
      Object.assign(document.createElement("button"), { type: "button", textContent: `▶ ${name}`, ariaLabel: name, value: name })));
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.act(button.dataset.do, button.value);
    });
    const file = this.find("input[type=file]");
    file.addEventListener("change", () => { this.act("file", file.files[0]); file.value = ""; });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files[0]) this.act("file", event.dataTransfer.files[0]);
    });
    this.find("details").addEventListener("toggle", (event) => { if (!event.target.open) this.close(); });
    this.limit = Number(this.props.limit) || 120;
    this.sayExact("The browser's estimate may be off by 50 ms; a measurement is precise to a few ms.");
  }

  number(name) { return Number(this.find(`[data-set=${name}]`).value); }
  get period() { return 60 / Math.min(Math.max(this.number("tempo") || TEMPO.usual, TEMPO.least), TEMPO.most); }
  get metre() { return this.number("beats_per_bar"); }
  say(text) { const told = this.find(".told"); if (told.textContent !== text) told.textContent = text; }
  sayExact(text) { this.find(".exact").textContent = text; }

  async act(name, what) {
    this.find(".wrong").textContent = "";
    if (name === "new") { this.choose(this.find("[data-do=new]").ariaExpanded !== "true"); return; }
    if (name === "open") { this.find("input[type=file]").click(); return; }
    try {
      if (this.running) await this.finish();
      else if (name === "file") await this.take(what);
      else if (!name) this.hand({ example: what });
      else {
        await this.open();
        if (name === "record") this.startClicks("take", Infinity);
        else if (name === "sing") this.startClicks("plain", 0);
        else this.startClicks("claps", CLAPS);
      }
    } catch (error) {
      this.stopClicks();
      const refused = error.name === "NotAllowedError" ? "The browser does not let this page use the microphone." : error.message;
      this.find(".wrong").textContent = refused;
    }
  }

  /** Shows or hides where a voice can come from. */
  choose(shown) {
    mark("new", shown);
    this.find("[data-do=new]").setAttribute("aria-expanded", String(shown));
  }

  /** A voice for the page: {example}, {path, beats …}, or what page.js keeps of one. */
  hand(value) {
    this.choose(false);
    this.props.value = value;
    this.trigger("submit");
  }

  /** A person's file: a project, or a recording; those of phones (M4A, 3GP, WebM) are decoded here or by ffmpeg there. */
  async take(file) {
    this.say("Sending the voice …");
    let sent = file;
    if (!READ_THERE.test(file.name)) {
      const buffer = await context().decodeAudioData(await file.arrayBuffer()).catch(() => null);
      if (buffer) {
        const [left, right] = [0, buffer.numberOfChannels - 1].map((channel) => buffer.getChannelData(channel));
        const mono = left.map((sample, at) => (sample + right[at]) / 2);
        sent = wavOf(mono, buffer.sampleRate, file.name.replace(/\.\w+$/, ""));
      }
    }
    const { path } = await this.upload(sent);
    this.say("");
    this.hand({ path });
  }

  /** The microphone as it is: no processing that would move or swallow notes. */
  async open() {
    const ctx = context();
    await ctx.resume();
    if (this.stream) return;
    if (!navigator.mediaDevices) throw new Error("The browser lets only pages with https use the microphone.");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    this.loaded ??= ctx.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
    await this.loaded;
    this.source = ctx.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(ctx, "hafm-take", { numberOfOutputs: 1, channelCount: 1, channelCountMode: "explicit" });
    this.node.port.onmessage = ({ data }) => this.hear(data);
    // nothing is heard of it, but what leads nowhere is not computed
    const mute = new GainNode(ctx, { gain: 0 });
    this.source.connect(this.node).connect(mute).connect(ctx.destination);
  }

  close() {
    this.stopClicks();
    this.node?.disconnect();
    this.source?.disconnect();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = this.node = this.source = null;
    this.before = undefined;
    this.find("meter").value = 0;
  }

  hear({ frame, samples }) {
    this.find("meter").value = samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
    if (this.running) this.chunks.push([frame, samples]);
  }

  /** Clicks on whole beats of the context's clock, from now on; `bar` of them count in. */
  startClicks(kind, count) {
    const ctx = context();
    const { period, metre } = this;
    const first = Math.ceil((ctx.currentTime + 0.3) / period);
    this.chunks = [];
    this.out = new GainNode(ctx, { gain: 1 });
    this.out.connect(ctx.destination);
    this.running = { kind, period, metre, first, next: first, count };
    this.timer = setInterval(() => this.tick(), TICK * 1000);
    for (const [name, each] of [["record", "take"], ["measure", "claps"], ["sing", "plain"]]) {
      const button = this.find(`[data-do=${name}]`);
      if (each === kind) button.textContent = "■ Stop";
      else button.disabled = true;
    }
    this.tick();
  }

  tick() {
    const run = this.running;
    const now = context().currentTime;
    while (run.next * run.period < now + AHEAD && run.next - run.first < run.count) {
      click(this.out, run.next * run.period, (run.next - run.first) % run.metre === 0);
      run.next += 1;
    }
    if (run.kind === "plain") {
      const seconds = (this.chunks.length * this.chunks[0]?.[1].length || 0) / context().sampleRate;
      this.say(`Recording: ${seconds.toFixed(0)} s`);
      if (seconds > this.limit - 1) this.finish();
      return;
    }
    const beat = Math.floor(now / run.period) - run.first;
    if (run.kind === "claps") {
      this.say(`Clap with the clicks: ${Math.min(Math.max(beat + 1, 0), run.count)} of ${run.count}`);
      if (now > (run.first + run.count + 0.5) * run.period) this.finish();
    } else if (beat < run.metre) this.say(`Count-in: ${Math.max(beat + 1, 1)}`);
    else {
      this.say(`Recording: bar ${Math.floor(beat / run.metre)}`);
      if (now - (run.first + run.metre) * run.period > this.limit - 1) this.finish();
    }
  }

  stopClicks() {
    clearInterval(this.timer);
    this.out?.disconnect();
    this.out = this.running = null;
    for (const [name, text] of [["record", "Record to the click"], ["measure", "Measure with claps"], ["sing", "● Record"]]) {
      const button = this.find(`[data-do=${name}]`);
      [button.textContent, button.disabled] = [text, false];
    }
  }

  async finish() {
    const run = this.running;
    const chunks = this.chunks;
    this.stopClicks();
    if (run.kind === "claps") this.settle(run, chunks);
    else await this.keep(run, chunks);
  }

  /** Seconds from the context's clock to what arrives: as it stands in the field, or the browser's estimate. */
  latency() {
    if (this.find("[data-set=latency]").value !== "") return this.number("latency") / 1000;
    const ctx = context();
    const input = this.stream?.getAudioTracks()[0].getSettings().latency ?? 0;
    return (ctx.baseLatency || 0) + (ctx.outputLatency || 0) + input;
  }

  /** The latency by the claps that were recorded. */
  settle(run, chunks) {
    const times = Array.from({ length: run.count }, (_, at) => (run.first + at) * run.period);
    const found = clapLatency(joined(chunks), chunks[0]?.[0] ?? 0, context().sampleRate, times, run.period);
    if (!found) {
      this.say("");
      throw new Error(`Fewer than half of the ${run.count} claps could be heard; clap louder, on every click.`);
    }
    const [latency, spread] = [found.latency, found.spread].map((seconds) => Math.round(seconds * 1000));
    this.find("[data-set=latency]").value = String(latency);
    // a microphone that has just been opened may take a while until its delay stays the same
    const apart = this.before === undefined ? Infinity : Math.abs(latency - this.before);
    this.before = latency;
    const sure = apart <= Math.max(2 * spread, SAME_MS);
    this.sayExact(`Measured by ${found.count} claps: ${latency} ms, ± ${Math.max(spread, 1)} ms.`);
    this.say(sure ? "Measured as before; now record to the click." : "Measured; measure again to be sure.");
  }

  /** Cuts the take to the beats, if it has any, and hands it to the page. */
  async keep(run, chunks) {
    const { sampleRate } = context();
    const plain = run.kind === "plain";
    const latency = this.latency();
    const lead = run.period / 2;
    const start = plain ? 0 : Math.round(((run.first + run.metre) * run.period + latency - lead) * sampleRate);
    const whole = joined(chunks);
    const samples = whole.subarray(Math.max(start - (chunks[0]?.[0] ?? 0), 0));
    const seconds = samples.length / sampleRate;
    this.close();
    if (seconds < 1) throw new Error(plain ? "Nothing was recorded." : "Nothing was recorded: stop after the count-in, not before it.");
    const tempo = 60 / run.period;
    const beats = [];
    for (let beat = lead; beat < seconds; beat += run.period) beats.push(beat);
    this.say("Sending the take …");
    const now = new Date().toISOString().slice(11, 19).replaceAll(":", "");
    const { path } = await this.upload(wavOf(samples, sampleRate, plain ? `take_${now}` : `take_${Math.round(tempo)}_bpm_${now}`));
    this.say(`Recorded ${seconds.toFixed(1)} s${plain ? "" : "; the beats are those of the click"}.`);
    this.hand(plain ? { path } : { path, beats, beats_per_bar: run.metre, downbeat: 0, latency });
  }
}

const joined = (chunks) => {
  const whole = new Float32Array(chunks.reduce((length, [, samples]) => length + samples.length, 0));
  let at = 0;
  for (const [, samples] of chunks) { whole.set(samples, at); at += samples.length; }
  return whole;
};

const median = (values) => [...values].sort((one, other) => one - other)[Math.floor(values.length / 2)];

/**
 * How much later claps arrive than the clicks that they answer.
 *
 * samples: from frame `frame` of the clock on; times: of the clicks in seconds of the clock, `period` apart. Returns
 * latency and spread (median distance from it) in seconds and the number of claps, or null where they say nothing.
 */
export function clapLatency(samples, frame, rate, times, period) {
  const hop = Math.round(rate / ENVELOPE);
  const envelope = new Float32Array(Math.floor(samples.length / hop));
  for (let at = 0; at < envelope.length; at += 1) {
    for (let next = at * hop; next < (at + 1) * hop; next += 1) envelope[at] = Math.max(envelope[at], Math.abs(samples[next]));
  }
  const offsets = [];
  for (const time of times) {
    const first = Math.round((time * rate - frame) / hop);
    const window = envelope.subarray(Math.max(first, 0), first + Math.round((period * rate) / hop));
    const peak = window.reduce((most, value) => Math.max(most, value), 0);
    if (first < 0 || peak < 0.02 || peak < 3 * median(window)) continue;
    offsets.push((window.findIndex((value) => value > peak / 2) * hop) / rate);
  }
  if (offsets.length < times.length / 2) return null;
  // on the circle of a beat, since a clap may fall before its click
  const turn = (2 * Math.PI) / period;
  const [x, y] = [Math.cos, Math.sin].map((part) => offsets.reduce((sum, each) => sum + part(each * turn), 0));
  const mean = Math.atan2(y, x) / turn;
  const around = offsets.map((each) => mean + ((((each - mean) / period + 1.5) % 1) - 0.5) * period);
  const middle = median(around);
  const near = around.filter((each) => Math.abs(each - middle) < NEAR);
  if (near.length < times.length / 2) return null;
  const latency = middle < -period / 4 ? middle + period : middle;
  return { latency, spread: median(near.map((each) => Math.abs(each - middle))), count: near.length };
}

/** Mono samples as a WAV file of 16 bits. */
function wavOf(samples, rate, name) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, place) => bytes.setUint8(at + place, letter.charCodeAt(0)));
  const [size, plain] = [2 * samples.length, 16];
  text(0, "RIFF"); bytes.setUint32(4, 36 + size, true); text(8, "WAVEfmt ");
  bytes.setUint32(16, plain, true); bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true);
  bytes.setUint32(24, rate, true); bytes.setUint32(28, 2 * rate, true); bytes.setUint16(32, 2, true); bytes.setUint16(34, plain, true);
  text(36, "data"); bytes.setUint32(40, size, true);
  samples.forEach((sample, at) => bytes.setInt16(44 + 2 * at, Math.round(Math.max(-1, Math.min(sample, 1)) * 32767), true));
  return new File([bytes.buffer], `${name}.wav`, { type: "audio/wav" });
}
