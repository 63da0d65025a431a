// SPDX-License-Identifier: Apache-2.0
// Singing again to a take: from which second on, its count-in, and the new voice, which is the old one outside of what was sung.

import { allBeats, barsOf, metreOf } from "./sheet.js";

// count-in of a song without beats, and the cross-fade between the voices (s)
const WITHOUT_BEATS = 2;
const FADE = 0.02;

/** Where singing begins from a bar on: the second `start`, and beats of the bar before, [second, place in its bar] each, from second `from`. */
export function countIn(sheet, seconds, number) {
  const bars = barsOf(sheet, seconds);
  const bar = bars.find((each) => each.number === number);
  const last = bars.at(-1)?.number ?? 1;
  if (!bar && number > 1) throw new Error(`There is no bar ${number}: the voice ends in bar ${last}.`);
  // from the first bar on means all, with an upbeat
  const start = number > 1 ? bar.start : 0;
  const beats = allBeats(sheet, start - 20, start - 0.02).slice(-metreOf(sheet));
  return { start, beats, from: beats[0]?.[0] ?? start - WITHOUT_BEATS };
}

/** The old voice (samples) with `sung` in its place from sample `first` on. */
export function replaced(old, sung, first, rate) {
  const voice = Float32Array.from(old);
  const count = Math.min(sung.length, voice.length - first);
  const fade = FADE * rate;
  for (let at = 0; at < count; at += 1) {
    const opening = first > 0 ? at / fade : 1;
    const closing = first + count < voice.length ? (count - at) / fade : 1;
    const share = Math.min(opening, closing, 1);
    voice[first + at] = (1 - share) * voice[first + at] + share * sung[at];
  }
  return voice;
}

/** A buffer's channels as one, `length` samples long. */
export function monoOf(buffer, length) {
  const mono = new Float32Array(length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    const samples = buffer.getChannelData(channel).subarray(0, length);
    for (let at = 0; at < samples.length; at += 1) mono[at] += samples[at] / buffer.numberOfChannels;
  }
  return mono;
}
