// What the timeline, the recorder and the mixer hear with: one AudioContext, files as buffers, clicks and plain chords.

import { beatInBar, chordNotes } from "./sheet.js";

const CLICK_SECONDS = 0.03;
let shared = null;
const buffers = new Map();

/** The page's one AudioContext; browsers let it sound after a click or a key. */
export function context() {
  shared ??= new AudioContext({ latencyHint: "interactive" });
  return shared;
}

/** The address of a file of this server. */
export const fileAddress = (path) =>
  new URL(`gradio_api/file=${encodeURI(path).replace(/#/g, "%23").replace(/\?/g, "%3F")}`, document.baseURI).href;

/** A file as an AudioBuffer; each is fetched and decoded once. */
export function load(path) {
  if (!buffers.has(path)) {
    const loading = fetch(fileAddress(path)).then(async (reply) => {
      if (!reply.ok) throw new Error("This sound has been removed from the server.");
      return context().decodeAudioData(await reply.arrayBuffer());
    });
    loading.catch(() => buffers.delete(path));
    buffers.set(path, loading);
    // of a long session only the newest sounds stay in memory
    if (buffers.size > 12) buffers.delete(buffers.keys().next().value);
  }
  return buffers.get(path);
}

/** A metronome's click at a time of the context. */
export function click(target, time, accent) {
  const ctx = target.context;
  const [tone, gain] = [ctx.createOscillator(), ctx.createGain()];
  tone.frequency.value = accent ? 1760 : 1175;
  gain.gain.setValueAtTime(accent ? 0.5 : 0.3, time);
  gain.gain.exponentialRampToValueAtTime(0.001, time + CLICK_SECONDS);
  tone.connect(gain).connect(target);
  tone.start(time);
  tone.stop(time + CLICK_SECONDS);
}

/** A plain chord from one time of the context to another. */
export function chord(target, label, from, to) {
  const ctx = target.context;
  for (const [at, note] of chordNotes(label).entries()) {
    const [tone, gain] = [ctx.createOscillator(), ctx.createGain()];
    tone.type = "triangle";
    tone.frequency.value = 440 * 2 ** ((note - 69) / 12);
    gain.gain.setValueAtTime(0, from);
    gain.gain.linearRampToValueAtTime(at ? 0.07 : 0.12, from + 0.015);
    gain.gain.setTargetAtTime(0.03, from + 0.015, 0.6);
    gain.gain.setTargetAtTime(0, Math.max(to - 0.05, from + 0.02), 0.02);
    tone.connect(gain).connect(target);
    tone.start(from);
    tone.stop(to + 0.1);
  }
}

/** Sounds that begin together and can be stopped together, each behind nodes of its own. */
export class Transport {
  constructor() { this.out = null; this.began = 0; this.length = 0; this.ended = null; }

  get playing() { return this.out !== null; }

  /** Seconds of the song that have been heard. */
  get position() {
    if (!this.playing) return this.began;
    const ctx = this.out.context;
    return Math.max(ctx.currentTime - (ctx.outputLatency || ctx.baseLatency || 0) - this.zero, 0);
  }

  /**
   * Plays from a second on. `schedule(out, zero, from)` starts its sources so that the song's second s is heard at
   * the context's zero + s; `ended` is called at the end of `length` seconds, or by `stop`.
   */
  async play(from, length, schedule, ended) {
    this.stop();
    const ctx = context();
    await ctx.resume();
    this.out = ctx.createGain();
    this.out.connect(ctx.destination);
    this.zero = ctx.currentTime + 0.06 - from;
    [this.length, this.ended] = [length, ended];
    schedule(this.out, this.zero, from);
    this.timer = setTimeout(() => { this.stop(); this.began = 0; }, (length - from + 0.3) * 1000);
  }

  stop() {
    if (!this.playing) return;
    clearTimeout(this.timer);
    this.began = Math.min(this.position, this.length);
    this.out.disconnect();
    this.out = null;
    this.ended?.();
  }
}

/** A part of the page with a play button, a range for the position, and something that plays. */
export class Player {
  constructor(root, props, trigger) {
    Object.assign(this, { root, props, trigger, transport: new Transport() });
    this.find = (selector) => root.querySelector(selector);
  }

  /** Sets a text only where it changes: what is set again is spoken again. */
  write(selector, text) { const found = this.find(selector); if (found.textContent !== text) found.textContent = text; }

  toggle() { this.transport.playing ? this.transport.stop() : this.play(this.transport.began); }

  seek(second) {
    if (this.transport.playing) this.play(second);
    else { this.transport.began = second; this.follow(); }
  }

  /** Plays from a second on, or from the beginning at the end. */
  async start(from, seconds, schedule) {
    const first = from >= seconds - 0.1 ? 0 : from;
    await this.transport.play(first, seconds, schedule, () => this.write("[data-do=play]", "Play"));
    this.write("[data-do=play]", "Stop");
    this.follow();
  }

  /** Shows the position, and goes on as long as something plays. */
  follow() {
    const { position, playing } = this.transport;
    const range = this.find("[data-set=position]");
    range.value = String(position);
    range.setAttribute("aria-valuetext", `${position.toFixed(1)} s`);
    this.at(position);
    cancelAnimationFrame(this.frame);
    if (playing) this.frame = requestAnimationFrame(() => this.follow());
  }
}

/** Starts a buffer so that its second s is heard at zero + s. */
export function startBuffer(target, buffer, zero, from) {
  if (from >= buffer.duration) return null;
  const source = target.context.createBufferSource();
  source.buffer = buffer;
  source.connect(target);
  source.start(zero + from, from);
  return source;
}

/** All clicks and chords of a lead sheet from a second on. */
export function startSheet(clicks, chords, sheet, zero, from, seconds) {
  for (const [index, beat] of (sheet.beats ?? []).entries()) {
    if (clicks && beat >= from - 0.01 && beat < seconds) click(clicks, zero + beat, beatInBar(sheet, index) === 0);
  }
  for (const [start, stop, label] of sheet.chords ?? []) {
    if (chords && stop > from) chord(chords, label, zero + Math.max(start, from), zero + Math.min(stop, seconds));
  }
}
