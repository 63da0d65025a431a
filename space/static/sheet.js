// SPDX-License-Identifier: Apache-2.0
// Lead sheets as plain objects (`LeadSheet.to_dict`), independent of the page. Functions return new sheets.
// Here a lead sheet also has `set`: the spans [start, stop, "set"] of chords that the user has set, which estimates leave alone.

import { checkKey, parseChord, spell } from "./chords.js";

export { likelyChords, parseChord, pretty, sameKey, spell, written } from "./chords.js";

// taps that deviate less than this from one tempo count as steady
const STEADY_SECONDS = 0.06;

const given = (sheet, ...names) => ({
  ...sheet,
  estimated: (sheet.estimated ?? []).filter((name) => !names.includes(name)),
});

export const metreOf = (sheet) => sheet.beats_per_bar ?? 4;
export const tempoOf = ({ beats }) =>
  beats?.length > 1 ? (60 * (beats.length - 1)) / (beats.at(-1) - beats[0]) : null;

/** The position of a beat within its bar, from 0. */
export function beatInBar(sheet, index) {
  const metre = metreOf(sheet);
  return (((index - (sheet.downbeat ?? 0)) % metre) + metre) % metre;
}

/** All beats from one second to another, continued before and after those known: [second, position in its bar] each. */
export function allBeats(sheet, from, to) {
  const { beats = [] } = sheet ?? {},
    all = [];
  const before = (at) => beats[0] + at * (beats[1] - beats[0]),
    after = (at) => beats.at(-1) + at * (beats.at(-1) - beats.at(-2));
  const second = (at) => (at < 0 ? before(at) : (beats[at] ?? after(at - beats.length + 1)));
  let at = 0;
  while (second(at - 1) >= from) at -= 1;
  for (; second(at) < to; at += 1) all.push([second(at), beatInBar(sheet, at)]);
  return all;
}

/** The bars of a song that lasts `seconds`: number (0 for an upbeat), start, stop in seconds. */
export function barsOf(sheet, seconds) {
  const beats = (sheet.beats ?? []).filter((beat) => beat < seconds - 0.02);
  const first = (sheet.beats ?? []).findIndex((beat, index) => beat > -0.05 && beatInBar(sheet, index) === 0);
  const starts = beats
    .map((beat, index) => [beat, index])
    .filter(([, index]) => beatInBar(sheet, index) === 0);
  const bars = starts.map(([beat, index], at) => ({
    number: Math.floor((index - first) / metreOf(sheet)) + 1,
    start: Math.max(beat, 0),
    stop: Math.min(starts[at + 1]?.[0] ?? seconds, seconds),
  }));
  if (bars.length && bars[0].start > 0.02)
    bars.unshift({ number: bars[0].number - 1, start: 0, stop: bars[0].start });
  return bars.filter(({ start, stop }) => stop - start > 0.02);
}

/** The position of a second: “bar 3, beat 2”. */
export function placeOf(sheet, seconds, second) {
  const bar = barsOf(sheet, seconds).findLast(({ start }) => start <= second + 0.02);
  if (!bar) return `${second.toFixed(1)} s`;
  const beat = (sheet.beats ?? []).filter((each) => each > bar.start - 0.02 && each <= second + 0.02).length;
  return bar.number < 1 ? "the upbeat" : `bar ${bar.number}, beat ${Math.max(beat, 1)}`;
}

/** The chords of the whole song without gaps, which become “N”. */
export function filledChords(sheet, seconds) {
  const gaps = (sheet.chords ?? []).reduce(
    (rest, [start, stop]) => spread(rest, start, stop, ""),
    [[0, seconds, "N"]],
  );
  const known = (sheet.chords ?? []).filter(([start]) => start < seconds);
  return joined([...gaps, ...known.map(([start, stop, label]) => [start, Math.min(stop, seconds), label])]);
}

/** Sets one chord from start to stop (s) and cuts the others around it. */
export function setChord(sheet, start, stop, label) {
  parseChord(label);
  const chords = spread(sheet.chords, start, stop, label.trim() || "N");
  return given({ ...sheet, chords, set: spread(sheet.set, start, stop, "set") }, "chords");
}

/** Sets name and energy of a section from start to stop (s), either possibly empty, and cuts the others around it. */
export function setSection(sheet, start, stop, name, energy) {
  const [form, sections] = [
    spread(sheet.form, start, stop, name),
    spread(sheet.sections, start, stop, energy),
  ];
  return given({ ...sheet, form, sections }, "sections");
}

/** The sections of a song: {start, stop, name, energy}, where name or energy may be empty. */
export function sectionsOf({ form = [], sections = [] }) {
  const edges = [...new Set([...form, ...sections].flatMap(([start, stop]) => [start, stop]))].sort(
    (one, other) => one - other,
  );
  const at = (spans, start) => spans.find(([from, to]) => from <= start && to > start)?.[2] ?? "";
  return edges
    .slice(1)
    .map((stop, place) => {
      const start = edges[place];
      return { start, stop, name: at(form, start), energy: at(sections, start) };
    })
    .filter(({ name, energy }) => name || energy);
}

/** Spans with another from start to stop (s), cut around it; an empty label only clears. */
function spread(spans, start, stop, label) {
  const found = label ? [[start, stop, label]] : [];
  for (const [from, to, each] of spans ?? []) {
    if (from < start) found.push([from, Math.min(to, start), each]);
    if (to > stop) found.push([Math.max(from, stop), to, each]);
  }
  return joined(found);
}

function joined(spans) {
  const sorted = spans.filter(([start, stop]) => stop - start > 0.01).sort((one, other) => one[0] - other[0]);
  const result = [];
  for (const [start, stop, label] of sorted) {
    const last = result.at(-1);
    if (last && last[2] === label && start - last[1] < 0.01) last[1] = stop;
    else result.push([start, stop, label]);
  }
  return result;
}

export function doubleTempo(sheet) {
  const beats = sheet.beats.flatMap((beat, at, all) =>
    at + 1 < all.length ? [beat, (beat + all[at + 1]) / 2] : [beat],
  );
  return given({ ...sheet, beats, downbeat: 2 * (sheet.downbeat ?? 0) }, "beats");
}

export function halfTempo(sheet) {
  const downbeat = sheet.downbeat ?? 0;
  const beats = sheet.beats.filter((_, index) => (index - downbeat) % 2 === 0);
  return given({ ...sheet, beats, downbeat: Math.floor(downbeat / 2) }, "beats");
}

/** Beats from taps (s, at least four, ascending): steady taps give one tempo; beats are continued to both ends of the song. */
export function tappedBeats(sheet, taps, seconds) {
  const gap = (taps.at(-1) - taps[0]) / (taps.length - 1);
  if (!(gap > 0)) throw new Error("The taps do not follow each other; tap again.");
  // taps are as often early as late, so average their deviations
  const late = taps.reduce((sum, tap, at) => sum + tap - at * gap, 0) / taps.length;
  const even = taps.map((_, at) => late + at * gap);
  const beats = taps.every((tap, at) => Math.abs(tap - even[at]) < STEADY_SECONDS) ? even : [...taps];
  let downbeat = 0;
  // the first tap begins a bar
  for (; beats[0] >= gap; downbeat += 1) beats.unshift(beats[0] - gap);
  while (beats.at(-1) + gap <= seconds) beats.push(beats.at(-1) + gap);
  return withBeats(sheet, beats, seconds, downbeat);
}

/** Replaces the beats (s), and moves chord changes to the nearest of them. */
export function withBeats(sheet, beats, seconds, downbeat = 0) {
  const edges = [0, ...beats.filter((beat) => beat > 0 && beat < seconds), seconds];
  const snap = (second) => edges[nearest(edges, second)];
  const chords = joined((sheet.chords ?? []).map(([start, stop, label]) => [snap(start), snap(stop), label]));
  return given(
    { ...sheet, tempo: undefined, beats, beats_per_bar: metreOf(sheet), downbeat, chords },
    "beats",
  );
}

/** Moves all beats by half a beat, earlier (-1) or later (1), and the chords with them. */
export function moveHalfBeat(sheet, direction, seconds) {
  const { beats } = sheet;
  return movedBeats(sheet, seconds, (second) => secondOf(beats, placeIn(beats, second) + direction / 2));
}

/** Moves all beats by some seconds, and the chords with them. */
export const moveBeats = (sheet, by, seconds) => movedBeats(sheet, seconds, (second) => second + by);

/** Moves beats and chord changes; `moved` gives the new second for an old one. The beats still cover the song. */
function movedBeats(sheet, seconds, moved) {
  const beats = sheet.beats.map(moved);
  let downbeat = sheet.downbeat ?? 0;
  const opening = beats[1] - beats[0];
  while (beats[0] - opening >= 0) {
    beats.unshift(beats[0] - opening);
    downbeat += 1;
  }
  const closing = beats.at(-1) - beats.at(-2);
  while (beats.at(-1) + closing <= seconds) beats.push(beats.at(-1) + closing);
  // what begins or ends with the song still does
  const edge = (second) =>
    second <= 0.02 || second >= seconds - 0.02 ? second : Math.min(Math.max(moved(second), 0), seconds);
  const spans = (all) => all && joined(all.map(([start, stop, label]) => [edge(start), edge(stop), label]));
  const change = { beats, downbeat, chords: spans(sheet.chords) ?? [], set: spans(sheet.set) ?? [] };
  return given({ ...sheet, ...change, tempo: undefined, beats_per_bar: metreOf(sheet) }, "beats");
}

/** The second of a beat, by its number, which may be a fraction or beyond the first and last. */
function secondOf(beats, place) {
  const before = Math.min(Math.max(Math.floor(place), 0), beats.length - 2);
  return beats[before] + (place - before) * (beats[before + 1] - beats[before]);
}

/** The number of the beat at a second, as a fraction. */
function placeIn(beats, second) {
  const after = beats.findIndex((beat) => beat > second);
  const before = Math.min(Math.max((after < 0 ? beats.length : after) - 1, 0), beats.length - 2);
  return before + (second - beats[before]) / (beats[before + 1] - beats[before]);
}

/** The index of the instant that is nearest to a second. */
function nearest(instants, second) {
  const distances = instants.map((each) => Math.abs(each - second));
  return distances.indexOf(Math.min(...distances));
}

export const setMetre = (sheet, metre) => given({ ...sheet, beats_per_bar: metre }, "beats_per_bar");

/** Sets the key; chords that are spelled as in the key before are spelled as in this one, others stay as they are written. */
export function setKey(sheet, key) {
  const respell = (label) => (label === spell(label, sheet.key) ? spell(label, key) : label);
  const chords = sheet.chords?.map(([start, stop, label]) => [start, stop, respell(label)]);
  return given({ ...sheet, key, ...(chords && { chords }) }, "key");
}

/** Makes the beat nearest to a second the beginning of a bar. */
export function setDownbeat(sheet, second) {
  const beats = allBeats(sheet, Math.min(second, 0) - 9, second + 9);
  const [, place] =
    beats[
      nearest(
        beats.map(([beat]) => beat),
        second,
      )
    ];
  return given(
    { ...sheet, beats_per_bar: metreOf(sheet), downbeat: ((sheet.downbeat ?? 0) + place) % metreOf(sheet) },
    "beats_per_bar",
  );
}

/** Parses a lead sheet; throws if it is invalid, or if the band would follow parts that are not shown. */
export function readSheet(text) {
  let sheet;
  try {
    sheet = JSON.parse(text);
    const { beats = [], chords = [], sections = [], form = [] } = sheet;
    const spans = [...beats.slice(1).map((beat, at) => [beats[at], beat]), ...chords, ...sections, ...form];
    chords.forEach(([, , label]) => parseChord(label));
    checkKey(sheet.key);
    const whole =
      !Array.isArray(sheet) && beats.every(Number.isFinite) && spans.every(([start, stop]) => start < stop);
    if (!whole || ![3, 4].includes(metreOf(sheet))) throw new Error();
  } catch {
    throw new Error("This file is not a lead sheet.");
  }
  const other = ["tempo", "bars"].find((name) => sheet[name]);
  if (other)
    throw new Error(`This lead sheet has ${other}; here it needs beats and chords in seconds instead.`);
  return sheet.beats ? { ...sheet, beats_per_bar: metreOf(sheet) } : sheet;
}
