// SPDX-License-Identifier: Apache-2.0
// Chord labels, and how a key spells them: the grammar of lead_sheet/chord_symbols.py and the rules of lead_sheet/spelling.py.

const LETTERS = { C: 0, D: 2, E: 4, F: 5, G: 7, A: 9, B: 11 };
const PLAIN = {
  "♭": "b",
  "♯": "#",
  "−": "-",
  "–": "-",
  "—": "-",
  "‐": "-",
  "‑": "-",
  "‒": "-",
  Δ: "^",
  "∆": "^",
  "△": "^",
  º: "°",
  "˚": "°",
  Ø: "ø",
};
const NO_CHORD = /^(?:|N|X|[Nn]\.?[Cc]\.?)$/;
// words of a quality, in any case, and how the grammar writes them
const WORDS = [
  ["half-?dim(?:inished)?|hdim", "h"],
  ["dim(?:inished)?", "dim"],
  ["maj(?:or)?|ma(?![a-z])", "maj"],
  ["min(?:or)?|mi(?![a-z])", "m"],
  ["aug(?:mented)?", "aug"],
  ["sus(?:pended)?", "sus"],
  ["alt(?:ered)?", "alt"],
  ["omit|no", "omit"],
  ["dom(?:inant)?(?=\\d)", ""],
  ["add", "add"],
];
const WORD = new RegExp(WORDS.map(([word]) => `(${word})`).join("|"), "gi");
const [ROOT, NOTE] = ["[A-G](?:##?(?!#)|bb?(?!b)|(?![#b]))", "[A-G](?:##?|bb?)?"];
const UNCLEAR_ROOT = "(?!(?:[CF]b|[EB]#|[A-G](?:bb|##))(?:5|9|11|13))";
const [MAJOR, SEVENTH] = ["(?:maj|M|\\^|j)", "(?:7|9|11|13)"];
const core = (sixth) =>
  `(?!-5|\\+(?:6|9|1))(?:(?:7?alt|7\\(alt\\)|5|${MAJOR}?${sixth}|[m-]${sixth}|[hø]${SEVENTH}?)` +
  `|(?:[m-]|dim|°|o(?!mit)|aug|\\+(?!5))?(?:${MAJOR}${SEVENTH}?|${SEVENTH}|[79]M)?)`;
const ADDED = "(?:b(?:6|9|13)|#(?:4|9|11)|2|4|6|9|11|13)";
const CHANGE =
  `(?:b(?:5|6|9|13)|#(?:4|5|9|11)|-(?:5|9|13)|\\+(?:5|9|11)|add${ADDED}|add\\(${ADDED}\\)` +
  "|omit(?:3(?:rd)?|5(?:th)?)|sus(?:24|42|2|4|7|9|13)?)";
const LISTED = `(?:${CHANGE}|${MAJOR}[79]|b7|6|9|11|13)`;
const CHANGES = `(?:${CHANGE}|\\(${LISTED}(?:,?${LISTED})*\\)|/${MAJOR}7|/add${ADDED}|/sus[24]?)*`;
const TENSIONS = "(?:/(?:[b-](?:9|13)|[#+](?:9|11)|9|11|13))*";
const DEGREE = "(?:bb?|##?)?(?:1[0-3]|[1-9])";
const DEGREES = `\\(\\*?${DEGREE}(?:,\\*?${DEGREE})*\\)`;
const COMMON = new RegExp(
  `^${UNCLEAR_ROOT}(${ROOT})(${core("(?:69|6/9|6)")}${CHANGES}${TENSIONS})(?:/(${NOTE}|[b#][357]))?$`,
);
const HARTE = new RegExp(
  `^(${ROOT})(?::((?:1|${core("(?:69|6)")})${CHANGES}(?:${DEGREES})?))?(?:/(${NOTE}|${DEGREE}))?$`,
);

// notes are counted in fifths from C
const FIFTHS = "FCGDAEB";
const LOWEST = { maj: { maj: -5, min: -3, dim: -2 }, min: { maj: -6, min: -6, dim: -5 } };
const SCALE = { maj: [-1, 5], min: [-4, 2] };
const [MOST_ACCIDENTALS, LEADING_NOTE] = [7, 5];
const STEPS = { maj: [0, 2, 4, 5, 7, 9, 11], min: [0, 2, 3, 5, 7, 8, 10] };
const TRIADS = { maj: ["", "m", "m", "", "", "m", "dim"], min: ["m", "dim", "", "m", "m", "", ""] };

/** Root, quality and bass of a label, null for “no chord”; throws for an invalid label. */
export function parseChord(label) {
  const written = [...label.trim()]
    .map((sign) => PLAIN[sign] ?? sign)
    .join("")
    .replace(/,\s+/g, ",");
  if (NO_CHORD.test(written)) return null;
  const head = /^[A-G](?:##?|bb?)?:?/.exec(written)?.[0] ?? "",
    tail = written.slice(head.length);
  const plain =
    head +
    tail.replace(
      WORD,
      (...found) => WORDS[found.slice(1, WORDS.length + 1).findIndex((word) => word !== undefined)][1],
    );
  // a bare root with a slash and a tension is common notation, not Harte's
  const harte = HARTE.exec(plain),
    found =
      harte && (harte[2] !== undefined || !/\/[b#]?(?:9|1\d)$/.test(plain)) ? harte : COMMON.exec(plain);
  if (!found) throw new Error(`“${label}” is not a chord; write Am7, Bb, F#dim or N, for example.`);
  const [, root, spoken = "", bass] = found;
  const quality = bass ? tail.slice(0, -bass.length - 1) : tail;
  return {
    root: pitchOf(root),
    name: root,
    quality,
    spoken,
    bass: bass ? `/${bass}` : "",
    colon: head.endsWith(":"),
  };
}

const pitchOf = (note) => mod(LETTERS[note[0]] + note.split("#").length - note.split("b").length, 12);
const mod = (value, size) => ((value % size) + size) % size;

function keyParts(key) {
  const [tonic, mode] = (key || "C:maj").split(":"),
    { root, name } = parseChord(tonic);
  return { tonic: root, name, mode: mode === "min" ? "min" : "maj" };
}

const inFifths = (note) =>
  FIFTHS.indexOf(note[0]) - 1 + 7 * (note.split("#").length - note.split("b").length);

function nameAt(fifths) {
  const accidentals = Math.floor((fifths + 1) / 7);
  return FIFTHS[mod(fifths + 1, 7)] + (accidentals > 0 ? "#" : "b").repeat(Math.abs(accidentals));
}

/** How a key spells a pitch class as the root of a chord whose third is "maj", "min" or "dim". */
function rootName(pitch, third, key) {
  const { name, mode } = keyParts(key),
    [first, last] = SCALE[mode];
  let home = inFifths(name);
  while (home + last - 5 > MOST_ACCIDENTALS) home -= 12;
  while (home + first + 1 < -MOST_ACCIDENTALS) home += 12;
  const among = (lowest, count) =>
    Array.from({ length: count }, (_, at) => lowest + at).find((fifths) => mod(7 * fifths, 12) === pitch);
  const own = among(home + first, last - first + 1);
  if (own !== undefined) return nameAt(own);
  const fifths = among(home + LOWEST[mode][third], 12),
    leads = mode === "min" && third === "dim" && fifths === home + LEADING_NOTE;
  const other = nameAt(fifths);
  const odd = other.length > 2 || (["E#", "B#", "Fb", "Cb"].includes(other) && !leads);
  return odd ? Object.keys(LETTERS).find((letter) => LETTERS[letter] === pitch) : other;
}

/** A root with the quality and bass of a chord, in lead-sheet notation where that means the same. */
function named(root, { quality, spoken, bass, colon }) {
  const label = root + quality.replace(/^min(?!or)/, "m").replace(/^maj$/, "") + bass;
  const listed = colon && quality.startsWith("(");
  try {
    const again = parseChord(label);
    if (!listed && again.name === root && again.bass === bass && again.spoken === spoken.replace(/^maj$/, ""))
      return label;
  } catch {
    /* only Harte's notation has it */
  }
  return `${root}:${quality}${bass}`;
}

/** A label as it is written, in lead-sheet notation: “A#:min7” is “A#m7”. */
export function written(label) {
  const chord = parseChord(label);
  return chord ? named(chord.name, chord) : "N";
}

/** A label spelled for a lead sheet in this key: in F, “A:min7” is “Am7”, “A#” is “Bb”. */
export function spell(label, key) {
  const chord = parseChord(label);
  if (!chord) return "N";
  const { root, spoken } = chord,
    minor = /^(?:m(?!aj)|-|\((?:.*,)?b3[,)])/.test(spoken);
  const flat = /^(?:h|ø|dim|°|o(?!mit))/.test(spoken) || (minor && /(?:b|-)5/.test(spoken));
  return named(rootName(root, flat ? "dim" : minor ? "min" : "maj", key), chord);
}

/** For display: ♯ and ♭ instead of # and b, a dash for no chord. */
export function pretty(label) {
  if (NO_CHORD.test(label)) return "–";
  return label
    .replace(/^([A-G])(b+)/, (_, letter, flats) => letter + "♭".repeat(flats.length))
    .replace(/#/g, "♯")
    .replace(/b(?=\d)/g, "♭")
    .replace(/\/([A-G])b/, "/$1♭");
}

/** The most likely chords of a song in this key, spelled. */
export function likelyChords(key) {
  const { tonic, mode } = keyParts(key);
  const triad = (step, quality) =>
    rootName((tonic + step) % 12, { "": "maj", m: "min", dim: "dim" }[quality], key) + quality;
  return [...STEPS[mode].map((step, at) => triad(step, TRIADS[mode][at])), `${triad(7, "")}7`];
}

export const sameKey = (one, other) =>
  keyParts(one).tonic === keyParts(other).tonic && keyParts(one).mode === keyParts(other).mode;

/** The key, or a throw if it is none. */
export const checkKey = (key) => (keyParts(key), key);
