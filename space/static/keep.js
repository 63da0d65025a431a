// SPDX-License-Identifier: Apache-2.0
// What the browser keeps in case the server is restarted: projects (states of page.js), and the sounds that they name, in IndexedDB.
// A server that doesn't know a project any more gets it from here, as a file that projects.py reads.
import { fileAddress } from "./sound.js";

// the sounds of four minutes are some 20 MB
const MOST_PROJECTS = 3;
const SAVE = "“↓ Project” saves it in a file.";
const REFUSED = {
  QuotaExceededError: `This browser has no room to keep the song, in case the server is restarted. ${SAVE}`,
  SecurityError: `Inside another page, this browser does not keep the song, in case the server is restarted. ${SAVE}`,
};
const PRIVATE = `This browser, perhaps in a private window, does not keep the song, in case the server is restarted. ${SAVE}`;
// sounds that no project names stay for so long: the project of a new voice is kept only once that is shown (ms)
const RECENT = 3_600_000;
// the folder of recordings that have not reached the server
const UNSENT = "unsent/";
let opened = null;
// why a sound, or the "projects", are not kept: sentences
const refusals = new Map();

/** Why something is not kept: a sentence, or "". */
export const refused = () => [...refusals.values()][0] ?? "";

function database() {
  opened ??= openDatabase();
  return opened;
}

function openDatabase() {
  const opening = new Promise((done, failed) => {
    const request = indexedDB.open("hafm", 2);
    request.onupgradeneeded = () => {
      const { result: base } = request;
      for (const name of base.objectStoreNames) base.deleteObjectStore(name);
      base.createObjectStore("projects");
      base.createObjectStore("sounds").createIndex("at", "at");
    };
    request.onsuccess = () => {
      // another page wants to change it, or the browser has closed it in the background
      request.result.onversionchange = () => request.result.close();
      request.result.onclose = () => {
        opened = null;
      };
      done(request.result);
    };
    request.onerror = () => failed(request.error);
  });
  opening.catch(() => {
    opened = null;
  });
  return opening;
}

/** The result of a request to one of the stores, once it is done. */
async function ask(name, mode, request) {
  const transaction = (await database()).transaction(name, mode);
  const { result } = await new Promise((done, failed) => {
    const asked = request(transaction.objectStore(name));
    transaction.oncomplete = () => done(asked);
    transaction.onabort = () => failed(transaction.error);
  });
  return result;
}

/** Runs a change of what is called `name`; returns whether it was possible. */
async function change(name, act) {
  try {
    await act();
    refusals.delete(name);
    return true;
  } catch (error) {
    refusals.set(name, REFUSED[error.name] ?? PRIVATE);
    return false;
  }
}

/** Keeps a file of the server, given as a File or its bytes, until no project needs it. */
export function keepSound(path, content) {
  const bytes = new Blob([content]).arrayBuffer(); // at once: decoding takes the bytes away
  return change(path, async () => {
    const sound = { at: Date.now(), bytes: await bytes };
    await ask("sounds", "readwrite", (store) => store.put(sound, path));
  });
}

/** Keeps a project: its state, its takes (mixer.js), and files that it will need; the oldest ones make room. */
export const keepProject = (state, takes = [], coming = []) =>
  change("projects", async () => {
    const needed = [state.path, ...coming, ...takes.flatMap(({ files }) => Object.values(files).flat())];
    const before = await projectOf(state);
    await ask("projects", "readwrite", (store) =>
      store.put({ at: Date.now(), state, takes, needed }, state.path),
    );
    const all = (await projects()).sort((one, other) => other.at - one.at);
    // recordings that have not been sent take nobody's place
    const isUnsent = (project) => project.state.path.startsWith(UNSENT);
    const evicted = [
      ...all.filter(isUnsent).slice(MOST_PROJECTS),
      ...all.filter((project) => !isUnsent(project)).slice(MOST_PROJECTS),
    ];
    for (const project of evicted)
      await ask("projects", "readwrite", (store) => store.delete(project.state.path));
    await deleteSounds([before, ...evicted]);
  });

/** Deletes the sounds of former projects, and those that never had one, unless a project needs them. */
async function deleteSounds(former) {
  const needed = new Set((await projects()).flatMap(soundsOf));
  const old = IDBKeyRange.upperBound(Date.now() - RECENT);
  const candidates = [
    ...former.filter(Boolean).flatMap(soundsOf),
    ...(await ask("sounds", "readonly", (store) => store.index("at").getAllKeys(old))),
  ];
  for (const path of candidates) {
    if (needed.has(path)) continue;
    await ask("sounds", "readwrite", (store) => store.delete(path));
    refusals.delete(path);
  }
}

/** The files that a project needs, in each of the formats in which they may be kept. */
const soundsOf = ({ needed }) => needed.flatMap((path) => [path, unpacked(path)]);

const projects = () => ask("projects", "readonly", (store) => store.getAll());

/** Keeps a recording and what is known of it before it is sent, since connections fail and phones close pages; returns its path here. */
export async function keepUnsent(file, known) {
  const path = `${UNSENT}${file.name}`;
  await keepSound(path, file);
  await keepProject({ ...known, path });
  return path;
}

/** Forgets a recording that has been sent. */
export const forgetUnsent = (path) =>
  change("projects", async () => {
    const project = await projectOf({ path });
    await ask("projects", "readwrite", (store) => store.delete(path));
    await deleteSounds([project]);
  });

/** The name of a piece for browsers that don't decode Opus. */
export const unpacked = (path) => path.replace(/opus$/, "flac");

/** The state of the project that was changed last, or null. */
export const latest = () =>
  projects().then(
    (all) => all.sort((one, other) => other.at - one.at)[0]?.state ?? null,
    () => null,
  );

/** Whether the server has the voice of a state, and the takes that are kept with it. */
export async function isThere(state) {
  const project = await projectOf(state);
  const paths = [state.path, ...(project?.takes ?? []).map(({ folder }) => `${folder}/job.json`)];
  const replies = await Promise.all(paths.map((path) => fetch(fileAddress(path), { method: "HEAD" })));
  return replies.every(({ ok }) => ok);
}

const projectOf = ({ path }) => ask("projects", "readonly", (store) => store.get(path)).catch(() => null);

/** A state with its sounds as a file for projects.py, without takes of which something is missing; null if the voice is. */
export async function packed(state) {
  const project = await projectOf(state);
  const sound = async (path) => {
    for (const each of [path, unpacked(path)]) {
      const found = await ask("sounds", "readonly", (store) => store.get(each));
      if (found) return [each.split(".").at(-1), found.bytes];
    }
    return null;
  };
  const voice = project && (await sound(state.path));
  if (!voice) return null;
  const name = state.path.split("/").at(-1);
  const entries = [
    // the server has never had one that was not sent
    [
      "project.json",
      JSON.stringify({ takes: [], ...state, path: name, kept: !state.path.startsWith(UNSENT) }),
    ],
    [name, voice[1]],
  ];
  for (const { id, about, files, at = [0] } of project.takes) {
    const pieces = Object.entries(files)
      .filter(([channel]) => channel !== "voice")
      .flatMap(([channel, paths]) =>
        [paths]
          .flat()
          .map((path, next) => [channel, path, String(Math.round(1000 * at[next])).padStart(7, "0")]),
      );
    const found = await Promise.all(
      pieces.map(async ([channel, path, begin]) => [channel, begin, await sound(path)]),
    );
    if (found.some(([, , one]) => !one)) continue;
    entries.push(
      [`${id}/job.json`, JSON.stringify(about)],
      ...found.map(([channel, begin, [kind, bytes]]) => [`${id}/${begin}_${channel}.${kind}`, bytes]),
    );
  }
  return zipOf(entries, `${name.replace(/\.\w+$/, "")}_project.zip`);
}

/** A zip of [name, text or bytes] each, not compressed. */
async function zipOf(entries, name) {
  const parts = [];
  const directory = [];
  let at = 0;
  for (const [path, content] of entries) {
    const bytes = new Uint8Array(await new Blob([content]).arrayBuffer());
    const title = new TextEncoder().encode(path);
    // version, names in UTF-8, not compressed, no time, 1980-01-01, checksum, sizes, length of the name
    const about = fields(
      [20, 2],
      [0x800, 2],
      [0, 2],
      [0, 2],
      [0x21, 2],
      [checksum(bytes), 4],
      [bytes.length, 4],
      [bytes.length, 4],
      [title.length, 2],
      [0, 2],
    );
    directory.push(
      fields([0x02014b50, 4], [20, 2]),
      about,
      fields([0, 2], [0, 2], [0, 2], [0, 4], [at, 4]),
      title,
    );
    const head = [fields([0x04034b50, 4]), about, title];
    parts.push(...head, bytes);
    at += [...head, bytes].reduce((sum, { length }) => sum + length, 0);
  }
  const size = directory.reduce((sum, { length }) => sum + length, 0);
  const end = fields(
    [0x06054b50, 4],
    [0, 4],
    [entries.length, 2],
    [entries.length, 2],
    [size, 4],
    [at, 4],
    [0, 2],
  );
  return new File([...parts, ...directory, end], name);
}

/** Numbers of so many bytes each, the lowest byte first. */
const fields = (...all) =>
  Uint8Array.from(
    all.flatMap(([value, size]) => Array.from({ length: size }, (_, byte) => (value >>> (8 * byte)) & 255)),
  );

const TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  let rest = number;
  for (let bit = 0; bit < 8; bit += 1) rest = rest & 1 ? 0xedb88320 ^ (rest >>> 1) : rest >>> 1;
  return rest;
});

/** The CRC-32 of bytes. */
function checksum(bytes) {
  let rest = 0xffffffff;
  for (const byte of bytes) rest = TABLE[(rest ^ byte) & 255] ^ (rest >>> 8);
  return ~rest >>> 0;
}
