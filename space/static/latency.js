// SPDX-License-Identifier: Apache-2.0
// Measures how late a recording is after the clock of its AudioContext: the page plays chirps, and looks for them in what the
// microphone hears.

// of a chirp: seconds, and the lowest and highest frequency (Hz)
const SECONDS = 0.012;
const LOW = 1000;
const HIGH = 5000;
// when the chirps begin (s): at irregular times, so that only one delay fits all of them
const TIMES = [0, 0.31, 0.69, 1.13, 1.5, 1.97, 2.3, 2.74];
const LONGEST = 0.9;
// a delay counts if chirps stand out so far from what else is heard, and from the second-best delay that is not its echo
const CLEAR = 5;
const CLEARER = 1.5;
const ECHO = 0.06;

export const NOT_HEARD =
  "The clicks were not heard: turn the volume up, hold the microphone to the headphones or loudspeaker, and measure again.";
/** How long the chirps last, with the time for them to arrive (s). */
export const LISTENED = TIMES.at(-1) + SECONDS + LONGEST;

function chirp(rate) {
  return Float32Array.from({ length: Math.round(SECONDS * rate) }, (_, at) => {
    const time = at / rate;
    const phase = 2 * Math.PI * (LOW * time + ((HIGH - LOW) / (2 * SECONDS)) * time * time);
    return Math.sin(phase) * Math.sin((Math.PI * time) / SECONDS) ** 2;
  });
}

/** Plays the chirps, the first of them at a time of the context. */
export function playChirps(ctx, time) {
  const samples = chirp(ctx.sampleRate);
  const buffer = new AudioBuffer({ length: samples.length, sampleRate: ctx.sampleRate });
  buffer.copyToChannel(samples, 0);
  for (const each of TIMES) {
    const source = new AudioBufferSourceNode(ctx, { buffer });
    source.connect(ctx.destination);
    source.start(time + each);
  }
}

/** The delay (s) of chirps that were to be heard from sample `first` of a recording on; throws if they were not. */
export function delayIn(recording, first, rate) {
  const places = TIMES.map((time) => first + Math.round(time * rate));
  const match = matched(recording, chirp(rate));
  const score = Float32Array.from({ length: Math.round(LONGEST * rate) }, (_, lag) => {
    const heard = places.map((place) => match[place + lag] ?? 0).sort((one, other) => one - other);
    // the median: a cough is no chirp
    return heard[heard.length >> 1];
  });
  const best = score.reduce((most, each, lag) => (each > score[most] ? lag : most), 0);
  const others = score.filter((_, lag) => Math.abs(lag - best) > ECHO * rate);
  const noise = others.reduce((sum, each) => sum + each, 0) / others.length;
  const second = others.reduce((most, each) => Math.max(most, each), 0);
  if (!(score[best] > CLEAR * noise && score[best] > CLEARER * second)) throw new Error(NOT_HEARD);
  return best / rate;
}

/** How much each place of a recording resembles a sound that begins there. */
function matched(recording, sound) {
  return Float32Array.from({ length: Math.max(recording.length - sound.length, 0) }, (_, place) => {
    let sum = 0;
    for (let at = 0; at < sound.length; at += 1) sum += recording[place + at] * sound[at];
    return Math.abs(sum);
  });
}
