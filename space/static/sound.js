// SPDX-License-Identifier: Apache-2.0
// Audio shared by timeline, recorder and mixer: one AudioContext, files as buffers, clicks.
import { keepSound, unpacked } from "./keep.js";

const CLICK_SECONDS = 0.03;
// of sounds in memory, at some 190 kB each; a take of four minutes has 1,200
const MOST_SECONDS = 1500;
// 20 ms of silence in Opus: a browser that decodes it gets Opus, others get FLAC
const SILENCE = "T2dnUwACAAAAAAAAAAA8LPZWAAAAAH8jVrkBE09wdXNIZWFkAQE4AYC7AAAAAABPZ2dTAAAAAAAAAAAAADws9lYBAAAAjcr1oQT///8aT3B1c1RhZ3MLAAAAbGlib3B1cyAxLjQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABPZ2dTAAT4BAAAAAAAADws9lYCAAAAEttUGgIDA/j//vD//g==";
let shared = null;
let opus = null;
const buffers = new Map();
// recordings that this browser has sent: they need not come back
const sent = new Map();

/** The page's one AudioContext; browsers let it play only after a click or a key press. */
export const context = () => (shared ??= new AudioContext({ latencyHint: "interactive" }));

/** The URL of a file on this server. */
export const fileAddress = (path) =>
  new URL(`gradio_api/file=${encodeURI(path).replace(/#/g, "%23").replace(/\?/g, "%3F")}`, document.baseURI).href;

/** Keeps the file of a recording that has been sent to the server as `path`. */
export function remember(path, file) {
  sent.set(path, file);
  keepSound(path, file);
}

/** Whether the browser decodes Opus in Ogg. */
function decodesOpus() {
  opus ??= context().decodeAudioData(Uint8Array.from(atob(SILENCE), (sign) => sign.charCodeAt(0)).buffer)
    .then(({ length }) => length > 0, () => false);
  return opus;
}

/** The bytes of a file: of one that was sent from here, or from the server. */
async function bytesOf(path) {
  if (sent.has(path)) return sent.get(path).arrayBuffer();
  const readable = path.endsWith(".opus") && !(await decodesOpus()) ? unpacked(path) : path;
  const reply = await fetch(fileAddress(readable));
  if (!reply.ok) throw new Error("This sound has been removed from the server.");
  const bytes = await reply.arrayBuffer();
  keepSound(readable, bytes);
  return bytes;
}

/** A file as an AudioBuffer; each is fetched and decoded once. */
export function load(path) {
  if (!buffers.has(path)) {
    const loading = bytesOf(path).then((bytes) => context().decodeAudioData(bytes));
    loading.then(({ duration }) => { loading.seconds = duration; forget(); }, () => buffers.delete(path));
    buffers.set(path, loading);
  }
  const found = buffers.get(path);
  buffers.delete(path); buffers.set(path, found); // the last used come last
  return found;
}

/** In a long session, only the sounds used last stay in memory. */
function forget() {
  let total = [...buffers.values()].reduce((sum, { seconds = 0 }) => sum + seconds, 0);
  for (const [path, { seconds = 0 }] of buffers) if (total > MOST_SECONDS) { total -= seconds; buffers.delete(path); }
}

/** Schedules a metronome click at a time of the context. */
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

/** Starts a buffer so that its second s plays at zero + s. */
export function startBuffer(target, buffer, zero, from) {
  if (from >= buffer.duration) return;
  const source = new AudioBufferSourceNode(target.context, { buffer });
  source.connect(target);
  // a sound that begins after the song does is not started early
  source.start(zero + Math.max(from, 0), Math.max(from, 0));
}

/** Schedules clicks from a second on: [second, place in its bar] each. */
export function startClicks(target, beats, zero, from) {
  for (const [beat, place] of beats) if (beat >= from - 0.01) click(target, zero + beat, place === 0);
}
