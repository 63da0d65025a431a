// What belongs to the page as a whole: what a screen reader is told, one sound at a time, downloads, links, and the
// buttons that play an example of each style.

import { desk } from "./desk.js";

const player = new Audio();

export function mount() {
  // Gradio replaces what is inside; the outer element stays, so it is the one that a screen reader follows
  document.querySelector("#announced").setAttribute("aria-live", "polite");
  document.body.append(player);
  desk.join({ start: () => player.pause() });
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("#style_sounds button");
    if (button) hear(button);
  });
  for (const event of ["play", "pause", "ended"]) player.addEventListener(event, mark);
}

/** Plays the example of a style, or stops it. */
function hear(button) {
  const again = player.src === button.dataset.sound;
  if (again && !player.paused) { player.pause(); return; }
  desk.stop();
  if (!again) player.src = button.dataset.sound;
  player.currentTime = 0;
  // another button may be pressed before this one plays
  player.play().catch(() => {});
}

/** Shows as pressed the button whose example is playing. */
function mark() {
  for (const button of document.querySelectorAll("#style_sounds button")) {
    button.setAttribute("aria-pressed", String(!player.paused && player.src === button.dataset.sound));
  }
}

export function download(path) {
  if (!path) return;
  // mixes of the same take have one name: the browser must not take an older one from its cache
  const href = new URL(`gradio_api/file=${encodeURI(path)}?${Date.now()}`, document.baseURI).href;
  Object.assign(document.createElement("a"), { href, download: path.split("/").at(-1) }).click();
}

/** Puts a query into the address bar, and the address into the clipboard, which may be forbidden. */
export function copyLink(query) {
  if (!query) return;
  history.replaceState(null, "", location.pathname + query);
  navigator.clipboard?.writeText(location.href).catch(() => {});
}
