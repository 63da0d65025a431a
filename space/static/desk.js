// SPDX-License-Identifier: Apache-2.0
// The desk: one time axis and one playback position for all lanes. Its parts, timeline and mixer, play and draw on them.
import { context, endSource } from "./sound.js";

// delay between a call and its sounds, crossfade from the previous sounds, and how early a loop is restarted (s)
const SOON = 0.06;
const FADE = 0.012;
const EARLY = 0.5;
// less than this is not played (s)
const LEAST = 0.05;
const START = -Infinity; // a position before any song

class Desk {
  constructor() {
    Object.assign(this, {
      parts: [],
      out: null,
      older: new Set(),
      began: START,
      wanted: null,
      scale: 1,
      loops: false,
      span: null,
      vocal: null,
      handed: null, // a voice that Python has been given, and that is not shown yet (recorder.js)
      waits: false,
    });
    [this.voice, this.stems] = ["voice", "stems"].map((name) =>
      Object.assign(document.createElement("div"), { className: name }),
    );
  }

  /** A part: {begin, seconds, until, lasts(from), ready(), start(out, zero, from), stop(), follow(position), draw()}, all optional; it may replace another part. */
  join(part, instead) {
    this.parts = [...this.parts.filter((each) => each !== instead), part];
  }

  get playing() {
    return this.out !== null;
  }

  /** Where the song begins and ends: second 0 is that of the voice, before which an intro may be. */
  get begin() {
    return Math.min(0, ...this.parts.map((part) => part.begin ?? 0));
  }

  get seconds() {
    return Math.max(0, ...this.parts.map((part) => part.seconds ?? 0));
  }

  get length() {
    return this.seconds - this.begin;
  }

  /** The second up to which there are sounds here: less than `seconds` while a band is generated or downloaded. */
  get until() {
    return Math.min(this.seconds, ...this.parts.map((part) => part.until ?? Infinity));
  }

  /** Whether the sounds that are here last from a second on until more come. */
  lasts(from) {
    return this.parts.every((part) => part.lasts?.(from) ?? true);
  }

  /** The playback position in seconds, as heard. */
  get position() {
    if (!this.playing) return Math.min(Math.max(this.began, this.begin), this.seconds);
    const ctx = this.out.context;
    const heard = ctx.currentTime - (ctx.outputLatency || ctx.baseLatency || 0);
    return Math.min(
      Math.max(heard - (heard < this.since ? this.before : this.zero), this.begin),
      this.seconds,
    );
  }

  /** The second from which playback goes on: at the end of the song, that is its beginning. */
  get next() {
    if (this.wanted === null) return this.position;
    return this.wanted >= this.seconds - 0.1 ? START : this.wanted;
  }

  toggle() {
    this.playing || this.waits ? this.stop() : this.play();
  }

  /** Plays from a second on, once its sounds are here; at the end of the song, from its beginning. */
  async play(from = this.began) {
    [this.waits, this.wanted] = [true, from];
    context().resume(); // at once: browsers allow it only right after a click or a key press
    await this.ready();
    await this.go();
  }

  /** Shows changed sounds, and continues playback with them at the same position, without a gap. */
  async refresh() {
    this.draw();
    await this.ready();
    this.draw();
    await this.go();
  }

  /** Loads the sounds of all parts. */
  ready() {
    return Promise.all(this.parts.map((part) => part.ready?.()));
  }

  /** Plays the sounds that are here: from the second asked for, or else on from where playback is or waits. */
  async go() {
    if (!this.playing && !this.waits) return;
    const ctx = context();
    await ctx.resume();
    if (!this.playing && !this.waits) return; // stopped in the meantime
    const soon = ctx.currentTime + SOON; // read once, since the clock advances
    let from = this.next;
    if (this.wanted === null) from = this.playing ? soon - this.zero : this.began;
    this.wanted = null;
    this.cut(from, soon);
  }

  /** Switches playback, at a time of the context, to the song from second `from`. */
  cut(wanted, time) {
    const from = Math.max(wanted, this.begin);
    if (from >= this.until - LEAST || !(this.playing || this.lasts(from))) {
      this.hold(from);
      return;
    }
    const [ctx, old] = [context(), this.out];
    clearTimeout(this.timer);
    this.out = Object.assign(new GainNode(ctx, { gain: 0 }), { sources: new Set() });
    this.out.connect(ctx.destination);
    this.out.gain.setValueAtTime(0, time);
    this.out.gain.linearRampToValueAtTime(1, time + FADE);
    [this.before, this.since, this.zero, this.waits] = [
      old ? this.zero : time - from,
      time,
      time - from,
      false,
    ];
    for (const part of this.parts) part.start?.(this.out, this.zero, from);
    // starting the parts may take long: the previous sounds fade only once the new ones are scheduled
    if (old) this.older.add(old);
    for (const each of this.older) this.fade(each, Math.max(time, ctx.currentTime));
    const span = this.loops && this.span && from < this.span.stop ? this.span : null;
    const stop = Math.min(span?.stop ?? Infinity, this.until);
    const again = span || (this.loops && stop >= this.seconds);
    const wait = time - ctx.currentTime + stop - from + (again ? -EARLY : 0.3);
    this.timer = setTimeout(() => this.arrived(again && (span?.start ?? START), stop), wait * 1000);
    this.follow();
  }

  /** At the end of the song, of the generated part, or of a loop, which restarts at second `start`. */
  arrived(start, stop) {
    if (start !== false) this.cut(start, Math.max(this.zero + stop, context().currentTime + SOON));
    else if (stop < this.seconds) this.hold(stop);
    else {
      this.stop();
      this.seek(START);
    }
  }

  /** Waits at a second, unless it is the last, for sounds that are still being generated, downloaded or decoded. */
  hold(second) {
    this.stop();
    [this.began, this.waits] = [second, second < this.seconds - LEAST];
    this.follow();
  }

  fade(out, time) {
    if (out.ends <= time) return;
    out.ends = time;
    out.gain.cancelScheduledValues(time);
    out.gain.setValueAtTime(1, time);
    out.gain.linearRampToValueAtTime(0, time + FADE);
    setTimeout(
      () => {
        this.end(out);
        this.older.delete(out);
      },
      (time - out.context.currentTime + FADE + 0.05) * 1000,
    );
  }

  /** Ends sounds, also those that would have begun later. */
  end(out) {
    out.disconnect();
    for (const source of out.sources) endSource(source);
    out.sources.clear();
  }

  stop() {
    [this.waits, this.wanted] = [false, null];
    for (const part of this.parts) part.stop?.();
    if (this.playing) {
      this.began = this.position;
      clearTimeout(this.timer);
      for (const each of [...this.older, this.out]) this.end(each);
      this.out = null;
    }
    this.follow();
  }

  seek(second) {
    this.began = Math.min(second, this.seconds);
    if (this.playing || this.waits) this.play(this.began);
    else this.follow();
  }

  draw() {
    for (const part of this.parts) part.draw?.();
    this.follow();
  }

  /** Shows the position, continuously during playback. */
  follow() {
    for (const part of this.parts) part.follow?.(this.position);
    cancelAnimationFrame(this.frame);
    if (this.playing) this.frame = requestAnimationFrame(() => this.follow());
  }
}

export const desk = new Desk();

/** Sets a state for the style sheet: "full" with a voice, "new" while another is being chosen, "selected", "taken", "beginning" while a band waits for estimates. */
export const mark = (name, on) => document.querySelector("#workspace").toggleAttribute(`data-${name}`, on);

/** Clears a canvas and makes it as wide as the song and as high as in the style sheet: [its context, height]. */
export function blank(canvas) {
  const height = parseFloat(getComputedStyle(canvas).getPropertyValue("--hafm-lane"));
  const width = Math.max(Math.ceil(desk.length * desk.scale), 1);
  // the lanes of a long song would take 100 MB, and browsers refuse canvases wider than 16000
  const ratio = Math.min(window.devicePixelRatio || 1, 12000 / width);
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const paint = canvas.getContext("2d");
  paint.scale(ratio, ratio);
  paint.translate(-desk.begin * desk.scale, 0);
  return [paint, height];
}

/** Draws the outline of a sound (sound.js) that begins at second `at`, pixel by pixel, scaled so that `loudest` fills the lane. */
export function drawWave(paint, { peaks, rate }, at, height, loudest, colour) {
  const each = rate / desk.scale;
  const left = Math.round(at * desk.scale);
  paint.fillStyle = colour;
  for (let x = 0; x * each < peaks.length; x += 1) {
    const first = Math.floor(x * each);
    const stop = Math.min(Math.max(Math.floor((x + 1) * each), first + 1), peaks.length);
    let peak = 0;
    // without an array for each pixel: they would be tens of megabytes
    for (let index = first; index < stop; index += 1) peak = Math.max(peak, peaks[index]);
    const half = Math.max(Math.min(peak / loudest, 1) * (height / 2 - 3), 0.5);
    paint.fillRect(left + x, height / 2 - half, 1, 2 * half);
  }
}
