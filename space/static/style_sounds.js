// How each style sounds: a button beneath its card, which plays and stops the model's own sound of it.
//
// The value is {sounds: {style: address}}; Python alone sets it.

export function mount(element, props, watch) {
  const sounds = new Sounds(element.querySelector(".hafm-style_sounds"), props);
  watch("value", () => sounds.show());
  sounds.show();
}

class Sounds {
  constructor(root, props) {
    Object.assign(this, { root, props, heard: null });
    root.innerHTML = `
      <div class="row" role="group" aria-label="How the styles sound"></div>
      <audio preload="none"></audio>
      <p class="wrong" role="alert"></p>`;
    this.find = (selector) => root.querySelector(selector);
    this.audio = this.find("audio");
    root.addEventListener("click", ({ target }) => this.hear(target.closest("button")));
    for (const event of ["play", "pause", "ended"]) this.audio.addEventListener(event, () => this.mark());
  }

  /** What Python has sent. */
  show() {
    this.sounds = JSON.parse(JSON.stringify(this.props.value?.sounds ?? {}));
    this.audio.pause();
    this.find(".row").replaceChildren(...Object.keys(this.sounds).map((style) => {
      const button = Object.assign(document.createElement("button"), { type: "button", ariaPressed: "false" });
      button.dataset.style = style;
      const sign = Object.assign(document.createElement("span"), { textContent: "▶", className: "sign", ariaHidden: "true" });
      button.append(sign, `Hear ${style}`);
      return button;
    }));
  }

  async hear(button) {
    if (!button) return;
    const { style } = button.dataset;
    const playing = this.heard === style && !this.audio.paused;
    this.find(".wrong").textContent = "";
    this.audio.pause();
    if (playing) return;
    this.heard = style;
    this.audio.src = this.sounds[style];
    try { await this.audio.play(); }
    catch (error) {
      // another button was pressed before this one began
      if (error.name !== "AbortError") this.find(".wrong").textContent = "This sound cannot be played here.";
    }
  }

  /** The button of what is heard is pressed. */
  mark() {
    for (const button of this.root.querySelectorAll("button")) {
      const pressed = !this.audio.paused && button.dataset.style === this.heard;
      button.setAttribute("aria-pressed", String(pressed));
      button.querySelector(".sign").textContent = pressed ? "■" : "▶";
    }
  }
}
