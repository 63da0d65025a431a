# SPDX-License-Identifier: Apache-2.0
"""Components of the page: its inputs, our own parts from static/, and its texts. app.py connects them by events."""

import html
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from hafm_hf.accompaniment.generation_accompaniment import supported_needs
from songs import ENDS, OFFERED, OPTIONS, load_pipeline
from takes import stored_band

BESIDE = Path(__file__).parent
STATIC = BESIDE / "static"
EXAMPLES = [
    path
    for folder in (BESIDE, BESIDE.parent)
    for kind in ("*.wav", "*.flac")
    for path in sorted((folder / "examples").glob(kind))
]
# Options with an input each; those that some models do not support.
FIELDS = ENDS | OPTIONS
NEEDING_FIELDS = [name for name, option in FIELDS.items() if option.needs_one_of]
# The inputs of the band, in the order in which `restore` updates them; "sounds" are audio examples of the styles.
PAGE_OPTIONS = ["model", "seconds", *FIELDS, "sounds"]
# Labels and help texts of the options in singers' words, and the placeholder of an empty number.
OPTION_WORDS = {
    "seed": ("Seed", "The same seed gives the same music", "random"),
    "guidance_scale": ("Guidance", "How closely the band follows the voice, usually 1 to 5", "auto"),
    "temperature": ("Temperature", "Above 1 the music is more surprising, below 1 less", "auto"),
    "top_k": ("Top-k", "How many of the likeliest sounds to choose from; 0 for all", "auto"),
    "skip_fine": ("Quick draft", "Faster, with a rougher sound", ""),
    "style": ("Style", "The kind of band", ""),
    "energy": ("Energy", "How busily the band plays; use the timeline to set it for single sections", ""),
    "stems": ("Separate instruments", "Drums, bass, chords and pads, each with its own channel in the mixer", ""),
}
# The choice (label, value) that leaves an option to the model or the lead sheet.
AUTOMATIC = ("Automatic", "")
# Labels of choices that are not their names: "auto" is an energy that follows the voice.
CHOICE_WORDS = {"auto": "As sung"}
# Options shown above the numbers, if the model supports them.
CARDS = ("style", "energy", "stems")


def announcement(text: str, kind: str = "status") -> str:
    """HTML of the status line, which screen readers announce; `kind` is "alert" for errors. "" for no text."""
    if not text:
        return ""
    return f"<p class='hafm-{kind}' role='{kind}'>{html.escape(text)}</p>"


def voice_name(path: Path) -> str:
    """The name of an example voice on the page."""
    return path.stem.replace("_", " ").capitalize()


def style_players(styles: Iterable[str], sounds: Mapping[str, bytes]) -> str:
    """HTML with a button for each style that has an audio example; static/page.js plays it.

    Args:
        styles: of the model.
        sounds: the examples by style, OGG files; styles may lack one.
    """
    buttons = []
    for style in styles:
        if style not in sounds:
            buttons.append("<span></span>")  # so that the next buttons stay beside the choices of their styles
            continue
        name = html.escape(style)
        sound = b64encode(sounds[style]).decode()
        buttons.append(
            f"<button type='button' aria-pressed='false' aria-label='Hear {name}' "
            f"data-sound='data:audio/ogg;base64,{sound}'>{name}</button>"
        )
    row = f"<div class='row' role='group' aria-label='Style examples'>{''.join(buttons)}</div>"
    return f"<div class='hafm-studio'>{row}</div>"


def option_components() -> dict[str, gr.components.Component]:
    """The inputs next to the lanes, by name: style, its examples, energy and stems."""
    # passed to the constructors: Gradio validates values by these, and forgets attributes that are set later
    known = band_properties(OFFERED[0])
    found: dict[str, gr.components.Component] = {"style": option_component("style", known["style"])}
    found["sounds"] = gr.HTML(elem_id="style_sounds", min_height=0, **known["sounds"])
    return found | {name: option_component(name, known[name]) for name in CARDS if name not in found}


def more_components() -> dict[str, gr.components.Component]:
    """The other inputs of the band by name: bars and seconds around the voice, options of generation, and model."""
    known = band_properties(OFFERED[0])
    found = {name: option_component(name, known.get(name)) for name in FIELDS if name not in CARDS}
    found["seconds"] = number("seconds", "Seconds", "Use only the start of the voice", "all", minimum=0)
    return found | {"model": gr.Dropdown(OFFERED, value=OFFERED[0], label="Model", elem_id="model")}


def band_properties(model: str) -> dict[str, dict[str, Any]]:
    """Gradio's properties of the inputs that depend on the model, such as whether they are shown, and their choices.

    Args:
        model: one of OFFERED.

    Returns:
        Properties by name of the input: those of NEEDING_FIELDS, and then "sounds". All inputs are hidden if the model
        cannot be loaded.
    """
    try:
        composite = load_pipeline(model).model
    except ValueError:
        # the reason is given when something is generated
        return {name: {"visible": False} for name in [*NEEDING_FIELDS, "sounds"]}
    supported = supported_needs(composite)
    properties: dict[str, dict[str, Any]] = {}
    for name in NEEDING_FIELDS:
        properties[name] = {"visible": not supported.isdisjoint(FIELDS[name].needs_one_of)}
    properties["style"] |= {"choices": radio_choices(composite.styles), "value": ""}
    sounds = composite.style_sounds
    properties["sounds"] = {"visible": bool(sounds), "value": style_players(composite.styles, sounds)}
    # on by default: splitting a band costs next to nothing
    properties["stems"] |= {"value": bool(composite.stems)}
    return properties


def option_component(name: str, known: Mapping[str, Any] | None = None) -> gr.components.Component:
    """The input of an option.

    Args:
        name: of the option, one of FIELDS.
        known: Gradio's properties that depend on the model (`band_properties`); None: none do.
    """
    option = FIELDS[name]
    placeholder = "auto"
    if option.default is not None and not isinstance(option.default, str):
        placeholder = f"{option.default:g}"
    label, info, empty = OPTION_WORDS.get(name, (option.label, option.help.rstrip("."), placeholder))
    shown = {"label": label, "info": info, "elem_id": name, "min_width": 140, **(known or {})}
    if option.kind is bool:
        return gr.Checkbox(**{"value": bool(option.default), **shown})
    if option.kind is str:
        return gr.Radio(**{"choices": radio_choices(option.choices), "value": "", **shown})
    return number(name, label, info, empty, **(known or {}))


def number(name: str, label: str, info: str, empty: str, **properties: Any) -> gr.Number:
    """A number field, empty at first.

    Args:
        name: its id.
        label: above it.
        info: help below the label.
        empty: placeholder, which says what an empty field means.
        properties: more of Gradio's.
    """
    shown = {"label": label, "info": info, "placeholder": empty, "elem_id": name, "min_width": 140}
    # Gradio's page turns None into 0; a field that the user empties arrives as None
    return gr.Number("", **shown, **properties)  # type: ignore[arg-type]


def radio_choices(values: Iterable[str]) -> list[tuple[str, str]]:
    """Labelled choices of an option; the first leaves it to the model."""
    return [AUTOMATIC, *((CHOICE_WORDS.get(value, value.capitalize()), value) for value in values)]


def part_html(name: str) -> str:
    """The content of static/NAME.html, with a button for each example voice."""
    names = [html.escape(voice_name(path)) for path in EXAMPLES]
    buttons = (f"<button type='button' value='{voice}' aria-label='{voice}'>▶ {voice}</button>" for voice in names)
    inside = (STATIC / f"{name}.html").read_text(encoding="utf-8").replace("EXAMPLES", "".join(buttons))
    return f"<div class='hafm-studio hafm-{name}'>{inside}</div>"


def with_start(document: str) -> str:
    """Adds our files to Gradio's HTML, loaded along with its own, and a start page that works before Gradio does.

    Args:
        document: Gradio's HTML.
    """
    files = [f"<link rel='modulepreload' href='gradio_api/file={path}'>" for path in STATIC.glob("*.js")]
    files += [f"<link rel='stylesheet' href='gradio_api/file={STATIC / 'studio.css'}'>"]
    bands = json.dumps({voice_name(path): stored_band(path) for path in EXAMPLES}).replace("<", "\\u003c")
    start = (STATIC / "start.html").read_text(encoding="utf-8").replace("RECORDER", part_html("recorder"))
    start = start.replace("SCRIPT", imported("recorder")).replace("BANDS", bands)
    return document.replace("<style>", f"{''.join(files)}<style>", 1).replace("</body>", f"{start}</body>")


def studio_part(name: str, **properties: Any) -> gr.HTML:
    """A custom component: static/NAME.html, driven by NAME.js, which also sets its value."""
    return gr.HTML(
        html_template=part_html(name),
        js_on_load=f"{imported(name)}.then(part => part.mount(element, props, watch, trigger, upload))",
        apply_default_css=False,
        elem_id=name,
        min_height=0,
        **properties,
    )


def imported(name: str) -> str:
    """A JavaScript expression that imports the module static/NAME.js, as a promise."""
    return f"import(new URL({json.dumps(f'gradio_api/file={STATIC / name}.js')}, document.baseURI))"
