// SPDX-License-Identifier: Apache-2.0
// Input of a voice: recorded, with or without a click, dropped or opened as a file, or an example.
// The page knows the beats of a take to the click: clicks and recording share the clock of one AudioContext. Singing arrives late by
// the latency of output and microphone: the browser's estimate, or the user's. A take is cut to start half a beat before its first.

import { desk, mark } from "./desk.js";
import { isThere, latest, packed } from "./keep.js";
import { Player } from "./mixer.js";
import { before } from "./page.js";
import { click, context, load, remember } from "./sound.js";

// how far in advance clicks are scheduled, and how often (s)
const AHEAD = 0.6;
const TICK = 0.1;
// a recording whose peak is lower after so many seconds is too quiet; one that reaches the other peak is clipped
const QUIET_PEAK = 0.045;
const QUIET_SECONDS = 3;
const CLIPPED_PEAK = 0.999;
const REFUSALS = {
  NotAllowedError: "The browser does not let this page use the microphone.",
  NotFoundError: "There is no microphone; connect one, or open a file.",
  NotReadableError: "Another program is using the microphone; close it, and record again.",
};
const LISTENING = "Listening to the voice …";
// Formats that the server reads; others are decoded here if possible.
const READ_THERE = /\.(wav|flac|ogg|mp3|zip)$/i;

const early = document.querySelector(".early");
let examples = {};

/** Before Gradio has built the page, examples already play their bands; other presses are handled afterwards. */
export function begin(bands) {
  examples = bands;
  fetchAhead(early);
  // start.html keeps presses from before this script was loaded
  const answer = () => examples[early.asked?.value] && (desk.mixer ?? new Player()).preview(examples[early.asked.value]);
  early.addEventListener("click", answer);
  answer();
}

/** Fetches the sounds of an example when the pointer is over its button. */
const fetchAhead = (root) =>
  root.addEventListener("pointerover", ({ target }) => Object.values(examples[target.value]?.files ?? {}).forEach(load));

export function mount(element, props, watch, trigger, upload) {
  const recorder = desk.recorder = new Recorder(element.querySelector(".hafm-recorder"), props, trigger, upload);
  early?.remove();
  before.then((state) => {
    if (early?.asked) recorder.act(early.asked.dataset.do, early.asked.value);
    else if (state) recorder.act("back", recorder.lost = state);
    else latest().then((project) => recorder.offer(project));
  });
}

class Recorder {
  constructor(root, props, trigger, upload) {
    Object.assign(this, { root, props, trigger, upload, chunks: [], running: null });
    this.find = (selector) => root.querySelector(selector);
    fetchAhead(root);
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.act(button.dataset.do, button.value);
    });
    const file = this.find("input[type=file]");
    file.addEventListener("change", () => { this.act("file", file.files[0]); file.value = ""; });
    for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => {
      event.preventDefault();
      if (name === "drop" && event.dataTransfer.files[0]) this.act("file", event.dataTransfer.files[0]);
    });
    desk.heard = () => {
      if (this.find(".status").textContent === LISTENING) this.say("");
      // a voice that has takes can be shown again
      if (this.left && this.left.path !== desk.vocal) this.last = this.left;
      this.find("[data-do=last]").hidden = !this.last || this.last.path === desk.vocal;
    };
    this.find("details").addEventListener("toggle", () => this.rest());
  }

  number(name) { return Number(this.find(`[data-set=${name}]`).value); }
  get period() { return 60 / Math.min(Math.max(this.number("tempo") || 96, 55), 185); }
  get metre() { return this.number("beats_per_bar"); }
  say(text) { const status = this.find(".status"); if (status.textContent !== text) Object.assign(status, { ariaLive: this.running ? "off" : "polite", textContent: text }); } // a recording's seconds are not spoken into the microphone

  async act(name, what) {
    this.find(".wrong").textContent = "";
    if (name === "new") return this.choose(this.find("[data-do=new]").ariaExpanded !== "true");
    if (name === "open") return this.find("input[type=file]").click();
    try {
      if (name === "sing" || name === "record") return await (this.pressed ??= this.press(name === "sing").finally(() => { this.pressed = null; this.rest(); }));
      // choosing another voice discards the current recording
      if (this.running) { this.close(); this.say(""); }
      if (name === "last") await this.bring(this.last);
      else if (name === "back") await this.bring(what);
      else if (name === "file") await this.take(what);
      else this.hand({ example: what });
    } catch (error) {
      this.stop(); this.say("");
      this.find(".wrong").textContent = REFUSALS[error.name] ?? error.message;
    }
  }

  /** Starts or ends a take. */
  async press(plain) {
    if (this.running) return this.finish();
    await this.open();
    this.start(plain);
  }

  /** Shows or hides the sources of a voice. */
  choose(shown) {
    mark("new", shown);
    this.find("[data-do=new]").setAttribute("aria-expanded", String(shown));
  }

  /** Passes a voice to the page: {example}, {path, beats …}, or a state kept by page.js. */
  hand(value) {
    this.choose(false);
    this.left = desk.mixer?.own?.length || desk.sheet?.past.length || desk.asked === desk.vocal || /\/take_\w+\.wav$/.test(desk.vocal) ? desk.state() : null;
    if (!this.find(".status").textContent) this.say(LISTENING);
    this.props.value = value; this.trigger("submit");
    if (value.example) desk.mixer.preview(examples[value.example]);
  }

  /** Shows a voice that was here before: a server that has been restarted gets it from what the browser keeps. */
  async bring(state) {
    const project = (await isThere(state)) ? null : await packed(state);
    if (project) await this.take(project, "Sending the song again …");
    else this.hand(state);
  }

  /** Offers a project of an earlier visit. */
  offer(project) {
    if (desk.vocal || !project) return;
    this.last = project;
    this.find("[data-do=last]").hidden = false;
  }

  /** Takes a user's file: a project, or a recording; phone formats (M4A, 3GP, WebM) are decoded here. */
  async take(file, saying = "Sending the voice …") {
    const most = window.gradio_config?.max_file_size ?? Infinity;
    if (file.size > most) {
      const [size, limit] = [file.size, most].map((bytes) => Math.ceil(bytes / 2 ** 20));
      throw new Error(`${file.name} has ${size} MB; at most ${limit} MB can be sent. Save it as FLAC or MP3, or cut it.`);
    }
    this.say(saying);
    let sent = file;
    if (!READ_THERE.test(file.name)) {
      const buffer = await context().decodeAudioData(await file.arrayBuffer()).catch(() => null);
      if (buffer) {
        const [left, right] = [0, buffer.numberOfChannels - 1].map((channel) => buffer.getChannelData(channel).subarray(0, (this.props.limit + 1) * buffer.sampleRate));
        sent = wavOf(left.map((sample, at) => (sample + right[at]) / 2), buffer.sampleRate, file.name.replace(/\.\w+$/, ""));
      }
    }
    const { path } = await this.upload(sent);
    if (!file.name.endsWith(".zip")) remember(path, sent);
    this.say("");
    const again = !desk.vocal && this.lost?.path.split("/").at(-1) === path.split("/").at(-1);
    this.hand({ ...(again ? this.lost : {}), path });
  }

  /** Opens the microphone without processing, which would shift or suppress notes. */
  async open() {
    const ctx = context();
    await ctx.resume();
    if (this.stream) return;
    if (!navigator.mediaDevices) throw new Error("Browsers allow the microphone only on https pages.");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    this.loaded ??= ctx.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
    await this.loaded;
    this.source = ctx.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(ctx, "hafm-take", { numberOfOutputs: 1, channelCount: 1, channelCountMode: "explicit" });
    this.node.port.onmessage = ({ data }) => this.hear(data);
    // silent, but a node without an output would not be processed
    const mute = new GainNode(ctx, { gain: 0 });
    this.source.connect(this.node).connect(mute).connect(ctx.destination);
  }

  close() {
    this.stop();
    // a disconnected processor would go on, and write its silence over the next take
    if (this.node) Object.assign(this.node.port, { onmessage: null }).postMessage("close");
    this.node?.disconnect(); this.source?.disconnect();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = this.node = this.source = null;
    this.find("meter").value = 0;
  }

  /** Closes the microphone when the click's panel is closed, except during a take or while one starts. */
  rest() { if (!this.running && !this.pressed && !this.find("details").open) this.close(); }

  hear({ frame, samples }) {
    const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    this.find("meter").value = peak;
    if (!this.running) return;
    this.chunks.push([frame, samples]);
    this.running.peak = Math.max(this.running.peak, peak);
  }

  /** What the singer should know of the level so far. */
  warning(seconds) {
    const { peak } = this.running;
    if (peak >= CLIPPED_PEAK) return " · too loud: it is clipped";
    if (seconds > QUIET_SECONDS && peak < QUIET_PEAK) return " · too quiet: sing closer to the microphone";
    return "";
  }

  /** Starts recording: a plain take, or one with clicks on whole beats of the context's clock after a bar of count-in. */
  start(plain) {
    desk.stop();
    const [ctx, { period, metre }] = [context(), this];
    const first = Math.ceil((ctx.currentTime + 0.3) / period);
    [this.chunks, this.out] = [[], new GainNode(ctx, { gain: 1 })];
    this.out.connect(ctx.destination);
    this.running = { plain, period, metre, first, next: first, peak: 0 };
    this.timer = setInterval(() => this.tick(), TICK * 1000);
    this.find(`[data-do=${plain ? "record" : "sing"}]`).disabled = true;
    this.tick();
  }

  tick() {
    const run = this.running;
    const now = context().currentTime;
    const seconds = (this.chunks.length * this.chunks[0]?.[1].length || 0) / context().sampleRate;
    const beat = Math.floor(now / run.period) - run.first;
    let place = `Recording: ${seconds.toFixed(0)} s`;
    if (!run.plain) place = beat < run.metre ? `Count-in: ${Math.max(beat + 1, 1)}` : `Recording: bar ${Math.floor(beat / run.metre)}`;
    this.say(place + this.warning(seconds));
    this.find(`[data-do=${run.plain ? "sing" : "record"}]`).textContent = run.plain ? "■ Stop" : `■ Stop · ${place}`;
    for (; !run.plain && run.next * run.period < now + AHEAD; run.next += 1) {
      click(this.out, run.next * run.period, (run.next - run.first) % run.metre === 0);
    }
    if (seconds - (run.plain ? 0 : run.metre * run.period) > this.props.limit - 1) this.act(run.plain ? "sing" : "record");
  }

  stop() {
    clearInterval(this.timer); this.out?.disconnect();
    this.out = this.running = null;
    for (const [name, text] of [["record", "Record to the click"], ["sing", "● Record"]]) {
      Object.assign(this.find(`[data-do=${name}]`), { textContent: text, disabled: false });
    }
  }

  /** Delay of the recording after the context's clock (s): the user's setting, or the browser's estimate. */
  latency() {
    if (this.find("[data-set=latency]").value !== "") return this.number("latency") / 1000;
    const ctx = context();
    const input = this.stream?.getAudioTracks()[0].getSettings().latency ?? 0;
    return (ctx.baseLatency || 0) + (ctx.outputLatency || 0) + input;
  }

  /** Ends the take, aligns it with its beats if it has any, and passes it to the page. */
  async finish() {
    const { running: run, chunks } = this;
    this.stop();
    const [{ sampleRate }, { plain }] = [context(), run];
    const [latency, lead] = [this.latency(), run.period / 2];
    const start = plain ? 0 : Math.round(((run.first + run.metre) * run.period + latency - lead) * sampleRate);
    // gaps left by a busy machine are silent, and the rest stays in place
    const [[begin] = [0], [last, end] = [0, []]] = [chunks[0], chunks.at(-1)];
    const whole = new Float32Array(Math.max(last + end.length - begin, 0));
    for (const [frame, samples] of chunks) whole.set(samples, frame - begin);
    const samples = whole.subarray(Math.max(start - begin, 0));
    const seconds = samples.length / sampleRate;
    // between takes to the click the microphone stays open, so that its latency does not change
    if (plain) this.close();
    if (seconds < 1) throw new Error(plain ? "Nothing was recorded." : "Nothing was recorded: stop after the count-in, not before it.");
    const beats = [];
    for (let beat = lead; beat < seconds; beat += run.period) beats.push(beat);
    this.say("Sending the take …");
    const now = new Date().toISOString().slice(11, 19).replaceAll(":", "");
    const file = wavOf(samples, sampleRate, plain ? `take_${now}` : `take_${Math.round(60 / run.period)}_bpm_${now}`);
    const { path } = await this.upload(file).catch((error) => {
      Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: file.name }).click();
      throw new Error(`${error.message}. The take is among your downloads; open it when the server is back.`);
    });
    remember(path, file);
    this.say(`Recorded ${seconds.toFixed(1)} s${plain ? "" : "; the beats are those of the click"}.`);
    this.hand(plain ? { path } : { path, beats, beats_per_bar: run.metre, downbeat: 0, latency });
  }
}

/** Mono samples as a 16-bit WAV file. */
function wavOf(samples, rate, name) {
  const size = 2 * samples.length;
  // “RIFF”, “WAVE”, “fmt ”: PCM, one channel, 16 bits; “data”
  const header = Uint32Array.of(
    0x46464952, 36 + size, 0x45564157, 0x20746d66, 16, 0x10001, rate, 2 * rate, 0x100002, 0x61746164, size);
  const pcm = Int16Array.from(samples, (sample) => Math.round(Math.max(-1, Math.min(sample, 1)) * 32767));
  return new File([header, pcm], `${name}.wav`, { type: "audio/wav" });
}
