// SPDX-License-Identifier: Apache-2.0
// The page as a whole: announcements to screen readers, one sound at a time, downloads, links, and the buttons that
// play an example of each style.
import { desk, mark } from "./desk.js";
import { keepProject, refused } from "./keep.js";
import { context, fileAddress } from "./sound.js";

const player = new Audio();
// delay before a run that found the queue full tries again (ms)
const AGAIN = 2000;
// how often the browser keeps a changed project (ms)
const KEPT = 1000;
// when, and how often, a band that has not begun asks for its place in the queue (ms)
const PLACE = 1900;
// longest wait for estimates that the user has asked for, before a band is generated (ms)
const SETTLED = 10000;
let query = "";
let keptLast = "";
// whether a band that has been asked for waits for estimates
let beginning = false;
const waiting = {};
// the state of this tab before a reload, with its settings unless a new link has others
const kept = JSON.parse(ofTab((storage) => storage.getItem("hafm")) ?? "{}");
if (kept.search !== location.search) delete kept.query;

/** What `act` does with the tab's storage; null where the browser allows none, as inside some pages. */
function ofTab(act) {
  try {
    return act(sessionStorage);
  } catch {
    return null;
  }
}

export function mount() {
  // Gradio replaces the content; the outer element stays, so screen readers follow that one
  document.querySelector("#announced").setAttribute("aria-live", "polite");
  document.documentElement.lang = "en"; // Gradio sets the browser's language
  for (const name of ["style", "energy"]) document.getElementById(name)?.setAttribute("aria-label", name);
  document.body.append(player);
  ofTab((storage) => storage.removeItem("hafm"));
  // iPhones with a silent switch play music, but not other sounds
  if (navigator.audioSession) navigator.audioSession.type = "playback";
  desk.state = state;
  loaded();
  addEventListener("beforeunload", (event) => {
    const { running, choice, sending } = desk.recorder ?? {};
    if (running || choice || ((sending || isRunning()) && !isLost())) event.preventDefault();
  });
  for (const event of ["pagehide", "visibilitychange"])
    addEventListener(event, () =>
      ofTab((storage) =>
        storage.setItem("hafm", JSON.stringify({ ...stateToRestore(), search: location.search })),
      ),
    );
  setInterval(keep, KEPT);
  desk.join({ start: () => player.pause(), stop: () => player.pause() });
  document.addEventListener("click", ({ target, isTrusted }) => {
    const button = target.closest?.("#style_sounds button");
    if (button) hear(button);
    // buttons that are pressed by this page itself close no menu
    if (!isTrusted) return;
    // Safari allows sounds only from a press on, not once those of a band have arrived
    context().resume();
    for (const pop of document.querySelectorAll(".pop[open]")) pop.open = pop.contains(target);
  });
  addEventListener("keydown", ({ key, target }) => {
    const pop = key === "Escape" && !target.closest("dialog[open]") && document.querySelector(".pop[open]");
    if (pop) {
      pop.open = false;
      pop.querySelector("summary").focus();
    }
  });
  // the second click of a double click would start another band, or stop this one
  addEventListener(
    "click",
    (event) => {
      // after the mouse has pressed a button, Space plays instead of pressing it again; a timer would be too late for fast keys
      const mouse = event.pointerType === "mouse";
      if (mouse) event.target.closest("#workspace :is(button, summary):not([data-do=tap])")?.blur();
      pressed = mouse ? null : (event.target.closest?.("#run, #stop") ?? pressed);
      const again = event.detail > 1 && event.target.closest?.("#run, #stop, #remake");
      if (again || (beginning && event.target.closest?.("#run, #remake"))) event.stopPropagation();
    },
    true,
  );
  // a button that is pressed by keyboard passes the focus to the one that takes its place
  let pressed = null;
  new MutationObserver(() => {
    if (!pressed?.disabled || ![document.body, pressed].includes(document.activeElement)) return;
    pressed = document.querySelector(pressed.id === "run" ? "#stop" : "#run");
    pressed.focus();
  }).observe(document.querySelector("#generate"), { attributes: true, subtree: true });
  // the button whose example is playing is pressed
  for (const event of ["play", "pause", "ended"])
    player.addEventListener(event, () =>
      document.querySelectorAll("#style_sounds button").forEach((each) => {
        each.ariaPressed = String(!player.paused && player.src === each.dataset.sound);
      }),
    );
}

/** Plays the example of a style, or stops it. */
function hear(button) {
  const stops = player.src === button.dataset.sound && !player.paused;
  desk.stop(); // stops the player too
  if (stops) return;
  player.src = button.dataset.sound;
  // another button may be pressed before this one plays
  player.play().catch(() => {});
}

export function download(path) {
  if (!path) return;
  // mixes of a take share a name, so the browser's cache must be avoided
  const href = `${fileAddress(path)}?${Date.now()}`;
  Object.assign(document.createElement("a"), { href, download: path.split("/").at(-1) }).click();
}

/** The state of the page: voice, lead sheet, takes and settings (projects.py). */
function state() {
  const { own, chosen, marks, channels } = desk.mixer ?? { own: [] };
  return {
    query,
    path: desk.vocal,
    // the band of an example plays before its lead sheet is there
    ...(desk.sheet?.value?.vocal === desk.vocal && desk.sheet.written()),
    takes: own.map(({ id }) => id),
    chosen,
    marks,
    levels: structuredClone(channels),
    running: isRunning() ? { seed: desk.mixer.coming?.seed ?? null } : null,
  };
}

/** What a reload brings back: a voice that is on its way, the one that is shown, or that of before. */
function stateToRestore() {
  if (desk.handed) return { query, ...desk.handed };
  return desk.vocal ? state() : kept;
}

const isRunning = () => Boolean(document.querySelector("#run:disabled"));
/** Whether Gradio has lost the server; it reloads the page when there is one again. */
const isLost = () =>
  [...document.querySelectorAll("[data-testid=toast-body]")].some((toast) =>
    toast.textContent.includes("Connection to the server was lost"),
  );

/** Keeps a changed project in the browser. */
async function keep() {
  if (!desk.vocal || !desk.mixer || desk.recorder?.isUntouchedExample) return;
  const takes = desk.mixer.own.map(({ id, folder, about, files, at }) => ({ id, folder, about, files, at }));
  const project = [state(), takes, Object.values(desk.mixer.coming?.files ?? {}).flat()];
  const text = JSON.stringify(project);
  if (text !== keptLast && (await keepProject(...project))) keptLast = text;
  desk.mixer.find(".kept").textContent = refused();
}

let loaded;
/** The voice and takes to restore, or null, once the page is ready: anything sent earlier is lost. */
export const before = new Promise((done) => {
  loaded = () => done(kept.path ? kept : null);
});

/** The initial settings of the page, as a query; those of takes come with them. */
export function opening() {
  if (kept.query === undefined) return location.search;
  return kept.takes ? null : kept.query;
}

/** Stores the settings: values in the order of the defaults' names; links leave defaults out. */
export function note(usual, values) {
  const chosen = Object.entries(usual)
    .map(([name, common], at) => [name, values[at], common])
    .filter(([, value, common]) => value !== null && value !== "" && value !== common);
  query = `?${new URLSearchParams(chosen.map(([name, value]) => [name, typeof value === "boolean" ? Number(value) : value]))}`;
}

/** The settings of the page that are not the usual ones, as a query. */
export const settings = () => query;

/** Puts a link into the address bar and, if allowed, the clipboard; a random seed is taken from the take. */
export function copyLink() {
  const link = new URLSearchParams(query);
  if (!link.has("seed") && desk.mixer.take?.seed !== undefined) link.set("seed", desk.mixer.take.seed);
  history.replaceState(null, "", `${location.pathname}?${link}`);
  navigator.clipboard?.writeText(location.href).catch(() => {});
}

/** The outputs at the start of a generation: [announced, run, stop, remake, ticket]. */
export async function begin() {
  desk.asked = desk.vocal;
  desk.sheet.refuse(null);
  for (const name of desk.sheet.unset) desk.sheet.act(name);
  // chords that follow a new key or tempo may still be on their way
  beginning = true;
  mark("beginning", true);
  await Promise.race([desk.sheet.settled, new Promise((late) => setTimeout(late, SETTLED))]);
  beginning = false;
  mark("beginning", false);
  setTimeout(askPlace, PLACE);
  return [
    "<p class='hafm-status' role='status'>The band is on its way …</p>",
    ...[false, true, false].map((interactive) => ({ __type__: "update", interactive })),
    crypto.getRandomValues(new Uint32Array(4)).join("-"),
  ];
}

/** Asks for the place in the queue until the band begins, and once more then. */
function askPlace() {
  if (!isRunning()) return;
  document.querySelector("#place").click();
  if (!desk.mixer.coming) setTimeout(askPlace, PLACE);
}

/** Presses a button again after a while. */
export function again(selector) {
  clearTimeout(waiting[selector]);
  if (selector) waiting[selector] = setTimeout(() => document.querySelector(selector).click(), AGAIN);
}
