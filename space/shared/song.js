// SPDX-License-Identifier: Apache-2.0
// Plays a song that was shared: two tracks from this file, in step by one clock; bars and chords follow the position.

const song = JSON.parse(document.getElementById("song").textContent);
const find = (id) => document.getElementById(id);
// a little later than now, so that both tracks begin together (s); how quickly a track is muted (s)
const SOON = 0.05;
const FADE = 0.01;
const ctx = new AudioContext();
// {buffer, gain} of voice and band
const tracks = {};
let sources = [];
// the second of the song at second 0 of the context's clock is −zero
let zero = 0;
let stopped = 0;
let only = "";

const playing = () => sources.length > 0;
const bounded = (second) => Math.min(Math.max(second, 0), song.seconds);
/** The second of the song that is heard. */
const position = () =>
  playing() ? bounded(ctx.currentTime - (ctx.outputLatency || ctx.baseLatency || 0) - zero) : stopped;

/** The sound of a track: Opus, or else MP3; null if this file does not have it. */
async function decode(name) {
  let refused = null;
  for (const kind of ["opus", "mp3"]) {
    const text = find(`${name}-${kind}`)?.textContent;
    if (!text) return null;
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    try {
      return await ctx.decodeAudioData(bytes.buffer);
    } catch (error) {
      refused = error;
    }
  }
  throw refused;
}

async function load() {
  for (const name of ["voice", "band"]) {
    const buffer = await decode(name);
    if (!buffer) continue;
    tracks[name] = { buffer, gain: new GainNode(ctx) };
    tracks[name].gain.connect(ctx.destination);
  }
  for (const button of document.querySelectorAll("[data-only]")) {
    const absent = !button.dataset.only ? Object.keys(tracks).length < 2 : !tracks[button.dataset.only];
    if (absent) button.disabled = true;
  }
  find("status").textContent = "";
  find("play").disabled = false;
}

function play(from) {
  // on iPhones, also when the ring switch is off
  if (navigator.audioSession) navigator.audioSession.type = "playback";
  ctx.resume();
  stop();
  const start = from >= song.seconds - 0.1 ? 0 : from;
  zero = ctx.currentTime + SOON - start;
  sources = Object.values(tracks).map(({ buffer, gain }) => {
    const source = new AudioBufferSourceNode(ctx, { buffer });
    source.connect(gain);
    source.start(zero + start, start);
    return source;
  });
  show();
}

function stop() {
  stopped = position();
  for (const source of sources) source.stop();
  sources = [];
}

function seek(second) {
  if (playing()) return play(second);
  stopped = bounded(second);
  show();
}

/** Lets both be heard (""), or one alone. */
function choose(name) {
  only = name;
  for (const [each, { gain }] of Object.entries(tracks))
    gain.gain.setTargetAtTime(only && only !== each ? 0 : 1, ctx.currentTime, FADE);
  for (const button of document.querySelectorAll("[data-only]"))
    button.setAttribute("aria-pressed", String(button.dataset.only === only));
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

let shown = null;
/** Shows the position, continuously while the song plays. */
function show() {
  const second = position();
  if (playing() && second >= song.seconds) {
    stop();
    stopped = 0;
    return show();
  }
  if (!find("position").matches(":active")) find("position").value = String(second);
  find("position").setAttribute("aria-valuetext", clock(second));
  find("clock").textContent = `${clock(second)} / ${clock(song.seconds)}`;
  find("play").textContent = playing() ? "■ Stop" : "▶ Play";
  const bar = bars.find(({ start, stop }) => second >= start && second < stop);
  if (shown !== bar) {
    if (shown) shown.button.removeAttribute("aria-current");
    if (bar) bar.button.setAttribute("aria-current", "true");
    const { top = 0, bottom = 0 } = bar?.button.getBoundingClientRect() ?? {};
    if (playing() && bar && (bottom > innerHeight || top < 130))
      bar.button.scrollIntoView({ block: "center", behavior: "smooth" });
    shown = bar;
  }
  if (bar) {
    bar.button.style.setProperty("--done", String((second - bar.start) / (bar.stop - bar.start)));
    for (const chord of bar.chords)
      chord.element.classList.toggle("now", second >= chord.start && second < chord.stop);
  }
  for (const each of bars) if (each !== bar) each.button.style.setProperty("--done", "0");
  if (playing()) requestAnimationFrame(show);
}

/** A bar of the page: a button that goes there, with its number, its section and its chords. */
function barOf({ number, start, stop, section = "", chords = [] }) {
  const button = document.createElement("button");
  const label = document.createElement("small");
  const line = document.createElement("div");
  line.className = "chords";
  label.textContent = [number > 0 ? number : "", section].filter(Boolean).join(" ");
  const spans = chords.map(([from, to, name]) => {
    const element = document.createElement("span");
    element.textContent = name;
    element.style.flexGrow = String(to - from);
    line.append(element);
    return { start: from, stop: to, element };
  });
  button.append(label, line);
  button.addEventListener("click", () => seek(start));
  const item = document.createElement("li");
  item.append(button);
  find("bars").append(item);
  return { start, stop, chords: spans, button };
}

document.querySelector("h1").textContent = song.title || "Song";
document.querySelector(".about").textContent = song.about ?? "";
find("position").max = String(song.seconds);
const bars = (song.bars ?? []).map(barOf);
find("play").addEventListener("click", () => {
  if (!playing()) return play(stopped);
  stop();
  show();
});
find("position").addEventListener("input", ({ target }) => seek(Number(target.value)));
for (const button of document.querySelectorAll("[data-only]"))
  button.addEventListener("click", () => choose(button.dataset.only));
addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target.closest("button, input") || find("play").disabled) return;
  event.preventDefault();
  find("play").click();
});
show();
load().catch(() => {
  find("status").textContent =
    "This browser decodes neither Opus nor MP3; open the file in a current Chrome, Edge, Firefox or Safari.";
});
