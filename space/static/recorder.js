// SPDX-License-Identifier: Apache-2.0
// Input of a voice: recorded, with or without a click or again to a take, dropped or opened as a file, or an example.
// The page knows the beats of a take to the click: clicks and recording share the clock of one AudioContext. Singing arrives late by
// the latency of output and microphone: the browser's estimate, or what was measured (latency.js). A take is cut to start half a beat before its first.

import { countIn, monoOf, replaced } from "./again.js";
import { desk, mark } from "./desk.js";
import { forgetUnsent, isThere, keepProject, keepUnsent, latest, packed } from "./keep.js";
import { delayIn, LISTENED, playChirps } from "./latency.js";
import { Player } from "./mixer.js";
import { before, settings } from "./page.js";
import { barsOf, placeOf } from "./sheet.js";
import { click, context, load, outlineOf, remember } from "./sound.js";

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
const GONE = "The microphone was disconnected; what it had heard until then is here.";
const LISTENING = "Listening to the voice …";
// time until a count-in or the clicks of a measurement begin (s)
const SOON = 0.3;
const TOO_SOON = "Nothing was recorded: stop after the count-in, not before it.";
// the buttons that start a recording, and end it
const RECORD = { sing: "● Record", record: "Record to the click", again: "Sing to the band" };
// Formats that the server reads; others are decoded here if possible.
const READ_THERE = /\.(wav|flac|ogg|mp3|zip)$/i;

const early = document.querySelector(".early");
let examples = {};

/** Before Gradio has built the page, examples already play their bands; other presses are handled afterwards. */
export function begin(bands) {
  examples = bands;
  fetchAhead(early);
  // start.html keeps presses from before this script was loaded
  const answer = () =>
    examples[early.asked?.value] && (desk.mixer ?? new Player()).preview(examples[early.asked.value]);
  early.addEventListener("click", answer);
  answer();
}

/** Fetches the sounds of an example when the pointer is over its button. */
const fetchAhead = (root) =>
  root.addEventListener("pointerover", ({ target }) =>
    Object.values(examples[target.value]?.files ?? {}).forEach(load),
  );

export function mount(element, props, watch, trigger, upload) {
  const recorder = (desk.recorder = new Recorder(
    element.querySelector(".hafm-recorder"),
    props,
    trigger,
    upload,
  ));
  early?.remove();
  before.then((state) => {
    if (early?.asked) recorder.act(early.asked.dataset.do, early.asked.value);
    else if (state) recorder.act("back", (recorder.lost = state));
    else latest().then((project) => recorder.offer(project));
  });
}

class Recorder {
  constructor(root, props, trigger, upload) {
    Object.assign(this, { root, props, trigger, upload, chunks: [], running: null, sending: false });
    this.find = (selector) => root.querySelector(selector);
    fetchAhead(root);
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.act(button.dataset.do, button.value);
    });
    const file = this.find("input[type=file]");
    file.addEventListener("change", () => {
      this.act("file", file.files[0]);
      file.value = "";
    });
    for (const name of ["dragover", "drop"])
      document.addEventListener(name, (event) => {
        event.preventDefault();
        if (name === "drop" && event.dataTransfer.files[0]) this.act("file", event.dataTransfer.files[0]);
      });
    desk.heard = () => {
      desk.handed = null;
      if (this.find(".status").textContent === LISTENING) this.say("");
      // a voice that has takes can be shown again
      if (this.left && this.left.path !== desk.vocal) this.last = this.left;
      this.find("[data-do=last]").hidden = !this.last || this.last.path === desk.vocal;
    };
    this.find("details").addEventListener("toggle", () => {
      this.rest();
      this.suggestBar();
    });
    desk.join({ start: (out, zero) => this.moved(zero), stop: () => this.moved(null) });
  }

  number(name) {
    return Number(this.find(`[data-set=${name}]`).value);
  }

  get period() {
    return 60 / Math.min(Math.max(this.number("tempo") || 96, 55), 185);
  }

  get metre() {
    return this.number("beats_per_bar");
  }

  /** Shows the status, which screen readers don't speak while recording: it would be heard by the microphone. */
  say(text) {
    const status = this.find(".status");
    if (status.textContent !== text)
      Object.assign(status, { ariaLive: this.running ? "off" : "polite", textContent: text });
  }

  async act(name, what) {
    this.find(".wrong").textContent = "";
    if (name === "new") return this.choose(this.find("[data-do=new]").ariaExpanded !== "true");
    if (name === "open") return this.find("input[type=file]").click();
    try {
      if (name in RECORD || name === "measure")
        return await (this.pressed ??= this.press(name).finally(() => {
          this.pressed = null;
          this.rest();
        }));
      if (name === "hear") return await this.listen(what);
      if (name === "keep") return await this.keep();
      if (this.choice) throw new Error("Keep one of the two voices first.");
      // choosing another voice discards the current recording
      if (this.running) {
        this.close();
        this.say("");
      }
      if (name === "last") await this.bring(this.last);
      else if (name === "back") await this.bring(what);
      else if (name === "file") await this.take(what);
      else this.hand({ example: what });
    } catch (error) {
      // a file that could not be sent ends no recording that was started meanwhile
      if (!this.running || name in RECORD || name === "measure") {
        this.stop();
        this.say("");
      }
      this.find(".wrong").textContent = REFUSALS[error.name] ?? error.message;
    }
  }

  /** Starts or ends a recording, or measures the latency. */
  async press(name) {
    if (this.running) return this.finish();
    await this.open();
    if (name === "measure") await this.measure();
    else if (name === "again") await this.startAgain();
    else this.start(name);
  }

  /** Ends a recording, and takes what was recorded; a measurement ends by itself. */
  async end() {
    const { name } = this.running;
    if (name in RECORD) await this.act(name);
  }

  /** Shows or hides the sources of a voice. */
  choose(shown) {
    mark("new", shown);
    this.find("[data-do=new]").setAttribute("aria-expanded", String(shown));
  }

  /** Whether the user has changed what is shown, or asked for a band. */
  get isChanged() {
    return desk.sheet?.past.length > 0 || desk.asked === desk.vocal;
  }

  /** Whether an example is shown as it is, with the band that it came with. */
  get isUntouchedExample() {
    return this.example && !this.isChanged && desk.mixer.own.length < 2;
  }

  /** Whether what is shown cannot be opened again as it is. */
  get isOwn() {
    const isRecorded = /\/take_\w+\.wav$/.test(desk.vocal);
    return this.isChanged || isRecorded || (desk.mixer?.own?.length > 0 && !this.isUntouchedExample);
  }

  /** Passes a voice to the page: {example}, {path, beats …}, or a state kept by page.js. */
  hand(value) {
    this.choose(false);
    // from a voice that was sung again one can go back to the one before
    this.left = this.isOwn || value.again ? desk.state() : null;
    this.example = Boolean(value.example);
    // a page that is reloaded before the voice is shown hands it on again
    desk.handed = value.path ? value : null;
    this.sender = null;
    if (!this.find(".status").textContent) this.say(LISTENING);
    this.props.value = value;
    this.trigger("submit");
    if (value.example) desk.mixer.preview(examples[value.example]);
  }

  /** Shows a voice that was here before: a server that has been restarted gets it from what the browser keeps. */
  async bring(state) {
    const project = (await isThere(state)) ? null : await packed(state);
    if (!project) return this.hand(state);
    await this.take(project, "Sending the song again …");
    // it is shown again, though by another path
    if (this.last === state) this.last = null;
  }

  /** Offers a project of an earlier visit. */
  offer(project) {
    if (desk.vocal || !project) return;
    this.last = project;
    this.find("[data-do=last]").hidden = false;
  }

  /** Takes a user's file: a project, or a recording; phone formats (M4A, 3GP, WebM) are decoded here. */
  async take(file, saying = "Sending the voice …") {
    // a later choice or recording takes the place of this one
    const sender = {};
    this.sender = sender;
    const most = window.gradio_config?.max_file_size ?? Infinity;
    if (file.size > most) {
      const [size, limit] = [file.size, most].map((bytes) => Math.ceil(bytes / 2 ** 20));
      throw new Error(
        `${file.name} has ${size} MB; at most ${limit} MB can be sent. Save it as FLAC or MP3, or cut it.`,
      );
    }
    this.say(saying);
    let sent = file;
    if (!READ_THERE.test(file.name)) {
      const buffer = await context()
        .decodeAudioData(await file.arrayBuffer())
        .catch(() => null);
      if (buffer) {
        const [left, right] = [0, buffer.numberOfChannels - 1].map((channel) =>
          buffer.getChannelData(channel).subarray(0, (this.props.limit + 1) * buffer.sampleRate),
        );
        sent = wavOf(
          left.map((sample, at) => (sample + right[at]) / 2),
          buffer.sampleRate,
          file.name.replace(/\.\w+$/, ""),
        );
      }
    }
    const { path } = await this.upload(sent);
    if (this.sender !== sender) return;
    this.say("");
    const again = !desk.vocal && this.lost?.path.split("/").at(-1) === path.split("/").at(-1);
    const value = { ...(again ? this.lost : {}), path };
    if (!file.name.endsWith(".zip")) this.rememberNew(value, sent);
    this.hand(value);
  }

  /** Keeps a voice that the server has just got, before it is shown: then page.js keeps what becomes of it. */
  rememberNew(value, file) {
    remember(value.path, file);
    keepProject({ query: settings(), ...value });
  }

  /** Opens the microphone without processing, which would shift or suppress notes. */
  async open() {
    const ctx = context();
    // Safari does this only at once, right after a press, or later, while it records
    ctx.resume();
    if (this.node && this.stream.active) return ctx.resume();
    // one that was unplugged, or of which not all could be opened
    this.close();
    if (!navigator.mediaDevices) throw new Error("Browsers allow the microphone only on https pages.");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    if (navigator.audioSession) navigator.audioSession.type = "auto";
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    await ctx.resume();
    await this.loadWorklet(ctx);
    for (const track of this.stream.getTracks()) track.onended = () => this.gone();
    this.source = ctx.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(ctx, "hafm-take", {
      numberOfOutputs: 1,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    this.node.port.onmessage = ({ data }) => this.hear(data);
    // silent, but a node without an output would not be processed
    const mute = new GainNode(ctx, { gain: 0 });
    this.source.connect(this.node).connect(mute).connect(ctx.destination);
  }

  /** Loads the worklet once; after a failure, the next recording tries again. */
  async loadWorklet(ctx) {
    if (this.isLoaded) return;
    await ctx.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
    this.isLoaded = true;
  }

  /** The microphone was unplugged, or taken away: what was recorded is a take. */
  async gone() {
    if (this.running?.name === "measure") this.say("");
    else if (this.running) await this.end();
    this.close();
    this.find(".wrong").textContent ||= GONE;
  }

  close() {
    this.stop();
    // a disconnected processor would go on, and write its silence over the next take
    if (this.node) Object.assign(this.node.port, { onmessage: null }).postMessage("close");
    this.node?.disconnect();
    this.source?.disconnect();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = this.node = this.source = null;
    if (navigator.audioSession) navigator.audioSession.type = "playback";
    this.find("meter").value = 0;
  }

  /** Closes the microphone when the click's panel is closed, except during a take or while one starts. */
  rest() {
    if (!this.running && !this.pressed && !this.find("details").open) this.close();
  }

  hear({ frame, samples }) {
    const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    this.find("meter").value = peak;
    if (!this.running) return;
    this.chunks.push([frame, samples]);
    // the level counts from the end of the count-in
    if (frame < this.running.begins * context().sampleRate) return;
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
  start(name) {
    desk.stop();
    const [ctx, { period, metre }] = [context(), this];
    const first = Math.ceil((ctx.currentTime + SOON) / period);
    const begins = name === "sing" ? ctx.currentTime : (first + metre) * period;
    this.begin({ name, period, metre, first, next: first, begins });
  }

  /** Starts recording the voice again, to the band of the take. */
  async startAgain() {
    desk.stop();
    const { sheet, seconds } = desk.sheet.shown();
    const { start, beats, from } = countIn(sheet, seconds, this.number("bar"));
    desk.seek(from);
    await desk.ready();
    const zero = context().currentTime + SOON - from;
    this.begin({ name: "again", start, beats, zero, begins: zero + start, loops: desk.loops });
    desk.loops = false;
    desk.mixer.hushed = true;
    for (const [second, place] of beats) click(this.out, zero + second, place === 0);
    const first = Math.max(from, desk.begin);
    desk.cut(first, zero + first);
  }

  begin(run) {
    this.chunks = [];
    this.sender = null;
    // a phone that locks its screen stops the recording
    this.awake = navigator.wakeLock?.request("screen").catch(() => null);
    this.out = new GainNode(context(), { gain: 1 });
    this.out.connect(context().destination);
    this.running = { ...run, peak: 0 };
    this.timer = setInterval(() => this.tick(), TICK * 1000);
    // singing to the band, one needs to see its lanes: the menu is closed, and the button beside it ends the recording
    this.ending = this.find(`[data-do=${run.name === "record" ? "record" : "sing"}]`);
    for (const button of this.buttons) button.disabled = button !== this.ending;
    this.tick();
    if (run.name !== "again") return;
    this.ending.focus();
    this.find("details").open = false;
  }

  get buttons() {
    return [...Object.keys(RECORD), "measure"].map((name) => this.find(`[data-do=${name}]`));
  }

  tick() {
    const run = this.running;
    const now = context().currentTime;
    const seconds = Math.max(now - run.begins, 0);
    const place = this.place(run, now, seconds);
    this.say(place + this.warning(seconds));
    this.ending.textContent = run.name === "record" ? `■ Stop · ${place}` : "■ Stop";
    for (; run.name === "record" && run.next * run.period < now + AHEAD; run.next += 1) {
      click(this.out, run.next * run.period, (run.next - run.first) % run.metre === 0);
    }
    if (seconds > this.props.limit - 1) this.act(run.name);
  }

  /** Where a recording is: “Count-in: 2”, “Recording: bar 3”. */
  place(run, now, seconds) {
    if (run.name === "sing") return `Recording: ${seconds.toFixed(0)} s`;
    if (run.name === "again") {
      const second = now - run.zero;
      if (second < run.start)
        return `Count-in: ${Math.max(run.beats.filter(([beat]) => beat <= second).length, 1)}`;
      return `Recording: ${placeOf(desk.sheet.sheet, desk.sheet.seconds, second)}`;
    }
    const beat = Math.floor(now / run.period) - run.first;
    return beat < run.metre
      ? `Count-in: ${Math.max(beat + 1, 1)}`
      : `Recording: bar ${Math.floor(beat / run.metre)}`;
  }

  stop() {
    clearInterval(this.timer);
    this.out?.disconnect();
    if (this.running?.name === "again") {
      desk.mixer.hushed = false;
      desk.loops = this.running.loops;
    }
    this.out = null;
    this.running = null;
    this.awake?.then((lock) => lock?.release());
    this.awake = null;
    for (const [name, text] of Object.entries(RECORD)) this.find(`[data-do=${name}]`).textContent = text;
    for (const button of this.buttons) button.disabled = false;
  }

  /** Called by the desk: if the band stops or is played from elsewhere, singing to it ends, once the last of it has arrived. */
  moved(zero) {
    const run = this.running;
    if (run?.name !== "again" || run.ends || (zero !== null && Math.abs(zero - run.zero) < 0.001)) return;
    run.ends = true;
    const arrived = zero === null ? this.latency() : 0;
    setTimeout(() => {
      if (this.running === run) this.act("again");
    }, 1000 * arrived);
  }

  /** The bar in which the selection begins. */
  suggestBar() {
    if (!this.find("details").open || !desk.span) return;
    const bar = barsOf(desk.sheet.sheet, desk.sheet.seconds).findLast(
      ({ start }) => start <= desk.span.start + 0.02,
    );
    if (bar) this.find("[data-set=bar]").value = String(Math.max(bar.number, 1));
  }

  /** Measures the delay of a recording after the context's clock, with headphones or a loudspeaker near the microphone. */
  async measure() {
    desk.stop();
    this.say("Measuring: hold the microphone to the headphones …");
    const ctx = context();
    this.chunks = [];
    this.running = { name: "measure", peak: 0, begins: Infinity };
    const time = ctx.currentTime + SOON;
    playChirps(ctx, time);
    await new Promise((done) => setTimeout(done, 1000 * (SOON + LISTENED)));
    // another voice was chosen meanwhile
    if (!this.running) return;
    const { samples, begin } = this.whole();
    this.stop();
    this.say("");
    const delay = delayIn(samples, Math.round(time * ctx.sampleRate) - begin, ctx.sampleRate);
    this.find("[data-set=latency]").value = String(Math.round(1000 * delay));
    this.say(`The latency is ${Math.round(1000 * delay)} ms.`);
  }

  /** What has been recorded, and the context's frame at which it begins. */
  whole() {
    const { chunks } = this;
    // gaps left by a busy machine are silent, and the rest stays in place
    const [[begin] = [0], [last, end] = [0, []]] = [chunks[0], chunks.at(-1)];
    const samples = new Float32Array(Math.max(last + end.length - begin, 0));
    for (const [frame, part] of chunks) samples.set(part, frame - begin);
    this.chunks = [];
    return { samples, begin };
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
    const { running: run } = this;
    this.stop();
    if (run.name === "again") return this.finishAgain(run);
    const [{ sampleRate }, plain] = [context(), run.name === "sing"];
    const [latency, lead] = [this.latency(), run.period / 2];
    const start = plain ? 0 : Math.round((run.begins + latency - lead) * sampleRate);
    const { samples: whole, begin } = this.whole();
    const samples = whole.subarray(Math.max(start - begin, 0));
    const seconds = samples.length / sampleRate;
    // between takes to the click the microphone stays open, so that its latency does not change
    if (plain) this.close();
    if (seconds < 1) throw new Error(plain ? "Nothing was recorded." : TOO_SOON);
    const beats = [];
    for (let beat = lead; beat < seconds; beat += run.period) beats.push(beat);
    const known = plain ? {} : { beats, beats_per_bar: run.metre, downbeat: 0, latency };
    const value = await this.send(samples, plain ? "take" : `take_${Math.round(60 / run.period)}_bpm`, known);
    this.say(`Recorded ${seconds.toFixed(1)} s${plain ? "" : "; the beats are those of the click"}.`);
    this.hand(value);
  }

  /** Sends a recording: what is known of it, with its path on the server. */
  async send(samples, name, known) {
    this.say("Sending the take …");
    this.sending = true;
    const now = new Date().toISOString().slice(11, 19).replaceAll(":", "");
    const file = wavOf(samples, context().sampleRate, `${name}_${now}`);
    const keeping = keepUnsent(file, { query: settings(), ...known });
    const uploading = this.upload(file).finally(() => {
      this.sending = false;
    });
    const { path } = await uploading.catch((error) => {
      Object.assign(document.createElement("a"), {
        href: URL.createObjectURL(file),
        download: file.name,
      }).click();
      throw new Error(`${error.message}. The take is among your downloads; open it when the server is back.`);
    });
    const value = { ...known, path };
    this.rememberNew(value, file);
    keeping.then(forgetUnsent);
    return value;
  }

  /** Puts what was sung again into the voice, and lets the singer hear both. */
  async finishAgain(run) {
    desk.stop();
    this.say("");
    const { sampleRate } = context();
    const { samples, begin } = this.whole();
    const sung = samples.subarray(
      Math.max(Math.round((run.begins + this.latency()) * sampleRate) - begin, 0),
    );
    if (sung.length < sampleRate) throw new Error(TOO_SOON);
    const old = monoOf(await load(desk.vocal), Math.round(desk.sheet.seconds * sampleRate));
    const voice = replaced(old, sung, Math.round(run.start * sampleRate), sampleRate);
    const heard = new AudioBuffer({ length: voice.length, sampleRate });
    heard.copyToChannel(voice, 0);
    this.choice = { samples: voice, buffer: heard, old: desk.sheet.outline, new: outlineOf(heard) };
    this.choosing(true);
    await this.listen("new");
    desk.play(Math.max(run.start - 1, desk.begin));
  }

  choosing(on) {
    this.find(".choice").hidden = !on;
    this.root.toggleAttribute("data-choosing", on);
    if (on) this.find("[data-do=keep]").focus();
  }

  /** Plays and shows the "new" or the "old" voice, at the same position. */
  async listen(which) {
    this.choice.which = which;
    for (const button of this.root.querySelectorAll("[data-do=hear]"))
      button.ariaPressed = String(button.value === which);
    desk.mixer.sung = which === "new" ? this.choice.buffer : null;
    desk.sheet.outline = this.choice[which];
    await desk.refresh();
  }

  /** Keeps the voice that is heard; a new one is another voice with the same lead sheet and takes. */
  async keep() {
    const { which, samples } = this.choice;
    desk.stop();
    if (which === "new") {
      const value = await this.send(samples, "take_again", { ...desk.state(), again: true });
      this.say("");
      this.hand(value);
    }
    desk.mixer.sung = null;
    this.choice = null;
    this.choosing(false);
    this.find("[data-do=sing]").focus();
  }
}

/** Mono samples as a 16-bit WAV file. */
function wavOf(samples, rate, name) {
  const size = 2 * samples.length;
  // “RIFF”, “WAVE”, “fmt ”: PCM, one channel, 16 bits; “data”
  const header = Uint32Array.of(
    0x46464952,
    36 + size,
    0x45564157,
    0x20746d66,
    16,
    0x10001,
    rate,
    2 * rate,
    0x100002,
    0x61746164,
    size,
  );
  const pcm = Int16Array.from(samples, (sample) => Math.round(Math.max(-1, Math.min(sample, 1)) * 32767));
  return new File([header, pcm], `${name}.wav`, { type: "audio/wav" });
}
