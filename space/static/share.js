// SPDX-License-Identifier: Apache-2.0
// What a shared song shows (shared_song.py): title, key and tempo, bars and chords, in seconds from the song's beginning.

import { desk } from "./desk.js";
import { allBeats, barsOf, filledChords, metreOf, pretty, sectionsOf, tempoOf, written } from "./sheet.js";

/** What is shared of a song with this title, which a timeline shows. */
export function songOf(title, { sheet, value, keyName }) {
  const { begin, length } = desk;
  const beats = allBeats(sheet, begin, desk.seconds);
  const whole = {
    ...sheet,
    beats: beats.map(([second]) => second - begin),
    downbeat: beats.findIndex(([, place]) => place === 0),
  };
  const moved = ([start, stop, name]) => [start - begin, stop - begin, name];
  const chords = filledChords(sheet, value.seconds).map(moved);
  const sections = sectionsOf(sheet);
  const bars = barsOf(whole, length).map(({ number, start, stop }) => {
    const inside = chords.filter(([from, to]) => from < stop - 0.02 && to > start + 0.02);
    const named = inside.map(([from, to, label]) => [
      Math.max(from, start),
      Math.min(to, stop),
      pretty(written(label)),
    ]);
    const begins = sections.find((section) => Math.abs(section.start - begin - start) < 0.1);
    return { number, start, stop, chords: named, section: begins?.name ?? "" };
  });
  const tempo = tempoOf(sheet);
  const about = [keyName, tempo && `${Math.round(tempo)} beats a minute`, tempo && `${metreOf(sheet)}/4`];
  return { title, about: about.filter(Boolean).join(" · "), bars };
}
