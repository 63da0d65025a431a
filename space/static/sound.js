// SPDX-License-Identifier: Apache-2.0
// Audio shared by timeline, recorder and mixer: one AudioContext, files as buffers, clicks.
import { keepSound, unpacked } from "./keep.js";

const CLICK_SECONDS = 0.03;
// of decoded sounds that are not being played, in bytes; the rest is decoded again when it is needed
const MOST_DECODED = 4e6;
// of files as they travelled; what does not fit is fetched again
const MOST_FETCHED = 100e6;
// decoding takes memory for each sound at once
const MOST_AT_ONCE = 2;
// between attempts to download a file (s)
const LONGEST_PAUSE = 8;
// of an outline, per second
const PEAKS = 200;
// 20 ms of silence in Opus: a browser that decodes it gets Opus, others get FLAC
const SILENCE =
  "T2dnUwACAAAAAAAAAAA8LPZWAAAAAH8jVrkBE09wdXNIZWFkAQE4AYC7AAAAAABPZ2dTAAAAAAAAAAAAADws9lYBAAAAjcr1oQT///8aT3B1c1RhZ3MLAAAAbGlib3B1cyAxLjQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABPZ2dTAAT4BAAAAAAAADws9lYCAAAAEttUGgIDA/j//vD//g==";
let shared = null;
let opus = null;
// by path, the last used come last: files, among them recordings that this browser has sent, and decoded sounds
const files = new Map();
const buffers = new Map();
const outlines = new Map();
// of sounds that play soon, which stay
let wanted = new Set();
// what is sent to the closed end of a channel is freed at once
const { port1: nowhere, port2: closed } = new MessageChannel();
closed.close();
let busy = 0;
const queued = [];

/** The page's one AudioContext; browsers let it play only after a click or a key press. */
export const context = () => (shared ??= new AudioContext({ latencyHint: "interactive" }));

/** The URL of a file on this server. */
export const fileAddress = (path) =>
  new URL(`gradio_api/file=${encodeURI(path).replace(/#/g, "%23").replace(/\?/g, "%3F")}`, document.baseURI)
    .href;

/** Keeps the file of a recording that has been sent to the server as `path`: it need not come back. */
export function remember(path, file) {
  files.set(path, Promise.resolve(file));
  keepSound(path, file);
}

/** Whether the browser decodes Opus in Ogg. */
function decodesOpus() {
  opus ??= context()
    .decodeAudioData(Uint8Array.from(atob(SILENCE), (sign) => sign.charCodeAt(0)).buffer)
    .then(
      ({ length }) => length > 0,
      () => false,
    );
  return opus;
}

/** A file of the server as a Blob; asked for until it is here, since connections fail, and come back. */
async function download(path) {
  for (let attempt = 0; ; attempt += 1) {
    const reply = await fetch(fileAddress(path)).catch(() => null);
    // a server that is busy (429) or has failed may answer later
    const isGone = reply && !reply.ok && reply.status < 500 && reply.status !== 429;
    if (isGone) throw new Error("This sound has been removed from the server.");
    const file = reply?.ok ? await reply.blob().catch(() => null) : null;
    if (file) return file;
    await new Promise((done) => setTimeout(done, 1000 * Math.min(0.5 * 2 ** attempt, LONGEST_PAUSE)));
  }
}

/** A file as it travels, as a Blob. */
async function fetched(path) {
  const readable = path.endsWith(".opus") && !(await decodesOpus()) ? unpacked(path) : path;
  const file = await download(readable);
  keepSound(readable, file);
  return file;
}

/** What a map holds for a path, made on first use; the last used come last. */
function once(map, path, make) {
  const held = map.get(path) ?? make(path);
  map.delete(path);
  map.set(path, held);
  held.catch(() => {
    if (map.get(path) === held) map.delete(path);
  });
  return held;
}

/** Forgets what was not used for longest, if what is not wanted is too large; returns it. */
function forget(map, most) {
  const others = [...map].filter(([path, { size = 0 }]) => size && !wanted.has(path));
  let total = others.reduce((sum, [, { size }]) => sum + size, 0);
  const forgotten = [];
  for (const [path, each] of others) {
    if (total <= most) break;
    total -= each.size;
    map.delete(path);
    forgotten.push(each);
  }
  return forgotten;
}

/** Forgets decoded sounds. Their samples go at once: until the browser collects them, they could be hundreds of megabytes. */
function forgetDecoded() {
  for (const loading of forget(buffers, MOST_DECODED)) {
    loading.buffer = null;
    // after all who have waited for it
    loading.then((buffer) => setTimeout(() => discard(buffer)));
  }
}

/** Takes the samples away from a buffer; nodes that are playing it have their own hold of them. */
function discard(buffer) {
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    try {
      nowhere.postMessage(null, [buffer.getChannelData(channel).buffer]);
    } catch {
      /* some browsers let a node keep them */
    }
  }
}

/** Decodes the files that play soon, which then stay until others are wanted. */
export async function want(paths) {
  wanted = new Set(paths);
  forgetDecoded();
  await Promise.all(paths.map(load));
}

/** A file's AudioBuffer if it is decoded, else null: to be used at once. */
export const decodedOf = (path) => buffers.get(path)?.buffer ?? null;

/** A file as an AudioBuffer: to be used at once. */
export function load(path) {
  const loading = once(buffers, path, async () => {
    const coming = once(files, path, fetched);
    const file = await coming;
    Object.assign(coming, { size: file.size });
    forget(files, MOST_FETCHED);
    return decoded(file);
  });
  loading.then(
    (buffer) => {
      Object.assign(loading, { buffer, size: sizeOf(buffer) });
      outlines.set(path, outlines.get(path) ?? outlineOf(buffer));
      forgetDecoded();
    },
    () => {},
  );
  return loading;
}

/** Decodes a file, a few at a time. */
async function decoded(file) {
  while (busy >= MOST_AT_ONCE) await new Promise((free) => queued.push(free));
  busy += 1;
  try {
    return await context().decodeAudioData(await file.arrayBuffer());
  } finally {
    busy -= 1;
    queued.shift()?.();
  }
}

/** Bytes of a decoded sound. */
export const sizeOf = (buffer) => 4 * buffer.length * buffer.numberOfChannels;

/** What is drawn of a file, and stays when its samples are forgotten: seconds, channels, peaks (200 a second), the loudest. */
export async function outline(path) {
  if (!outlines.has(path)) await load(path);
  return outlines.get(path);
}

/** What is drawn of a decoded sound. */
export function outlineOf(buffer) {
  const samples = buffer.getChannelData(0);
  const each = buffer.sampleRate / PEAKS;
  const peaks = Float32Array.from({ length: Math.ceil(samples.length / each) }, (_, at) => {
    let peak = 0;
    const stop = Math.min((at + 1) * each, samples.length);
    for (let next = Math.floor(at * each); next < stop; next += 4)
      peak = Math.max(peak, Math.abs(samples[next]));
    return peak;
  });
  return {
    seconds: buffer.duration,
    channels: buffer.numberOfChannels,
    peaks,
    rate: PEAKS,
    // not Math.max(...peaks): a call takes some 65,000 arguments at most, in Safari, which are five minutes of peaks
    loudest: peaks.reduce((most, peak) => Math.max(most, peak), 0.01),
  };
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

/** Starts a buffer so that its second s plays at zero + s, as one of `sources` until it ends. */
export function startBuffer(target, buffer, zero, from, sources) {
  if (from >= buffer.duration) return;
  const source = new AudioBufferSourceNode(target.context, { buffer });
  source.connect(target);
  // a sound that begins after the song does is not started early
  source.start(zero + Math.max(from, 0), Math.max(from, 0));
  sources.add(source);
  source.onended = () => {
    endSource(source);
    sources.delete(source);
  };
}

/** Ends a source, which else would hold its sound until the time at which it was to end. */
export function endSource(source) {
  source.onended = null;
  source.stop();
  source.disconnect();
  source.buffer = null;
}

/** Schedules clicks from a second on: [second, place in its bar] each. */
export function startClicks(target, beats, zero, from) {
  for (const [beat, place] of beats) if (beat >= from - 0.01) click(target, zero + beat, place === 0);
}
