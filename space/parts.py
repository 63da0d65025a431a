# SPDX-License-Identifier: Apache-2.0
"""What the page is made of: its inputs and results, our own parts of static/, and the words that it says.

Between songs.py, whose values are shown here, and app.py, which joins the components by events.
"""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from hafm_hf.accompaniment.options import MIX_OPTIONS
from songs import CHOICES, MAX_SECONDS, OFFERED, Stages, load_pipeline

BESIDE = Path(__file__).parent
STATIC = BESIDE / "static"
EXAMPLES = [
    path
    for folder in (BESIDE, BESIDE.parent)
    for kind in ("*.wav", "*.flac")
    for path in sorted((folder / "examples").glob(kind))
]
# Options that some models cannot be asked for.
NEEDING_STREAMS = [name for name, option in CHOICES.items() if option.streams]
# What of the band is updated, in its order; "sounds" are those of the styles.
PAGE_OPTIONS = ["model", "length", "tail", *CHOICES, "sounds"]
# Of an option, less than its table allows.
MOST = {"variations": 4}
# Gradio replaces what is inside; the outer elements stay, so they are the ones that a screen reader listens to.
LIVE_REGIONS = """document.querySelectorAll('#announced, #phase')
    .forEach(element => element.setAttribute('aria-live', 'polite'));"""
ONE_SOUND = """document.addEventListener('play', event => document.querySelectorAll('audio')
    .forEach(each => each === event.target || each.pause()), true);"""
ON_LOAD = f"() => {{ {LIVE_REGIONS} {ONE_SOUND} }}"
INTRODUCTION = """# Sing, and get a band
Sing something, alone; HAFM plays a band to it. Three clicks: an example voice, Generate, Play."""
# Stages and options in the words of somebody who sings.
STAGE_WORDS = {"semantic": "Thinking of a part", "coarse": "Playing it", "fine": "Polishing the sound"}
OPTION_WORDS = {
    "variations": ("Variations", "Bands that play differently"),
    "seed": ("Seed", "The same number makes the same music again; −1 rolls the dice"),
    "guidance_scale": ("Faithfulness", "How strictly the band follows the voice, 1 to 5; 0: as usual"),
    "temperature": ("Daring", "How far from the obvious it plays, around 1; 0: as usual"),
    "top_k": ("Palette", "Among how many likely sounds it chooses; 0: as usual"),
    "skip_fine": ("Quick sketch", "Faster, with a rougher sound"),
    "lead_sheet_guidance": ("Obedience", "How strictly it keeps to chords, beats and sections, 1 to 5; 0: as usual"),
    "style": ("Style", "Who plays"),
    "energy": ("Energy", "How much they play; sections of their own are set in the timeline, over selected bars"),
    "stems": ("Instruments apart", "Drums, bass, chords and colour, each with a channel of the mixer"),
}
# What is chosen of an option that is left to the model or the lead sheet, and of energy left to the voice.
AS_IT_COMES, CHOICE_WORDS = ("As it comes", ""), {"auto": "As the voice"}
# What the browser plays of a style: small, and there as long as the page is.
SOUND = "data:audio/ogg;base64,"
# What stands above the numbers, where the model can be asked for it.
CARDS = ("style", "energy", "stems")


# Words


def progress_bars(stages: Stages) -> str:
    """HTML of one bar a stage, and the time that all of them still need."""
    rows = []
    for stage in stages.names:
        done, total = stages.done.get(stage, (0, 1))
        told = "done" if done == total else f"{100 * done // total} %" if stage in stages.done else "waiting"
        name = STAGE_WORDS[stage]
        bar = f"<progress value='{done}' max='{total}' aria-label='{name}'></progress>"
        rows.append(f"<div class='hafm-stage'><span>{name}</span>{bar}<span>{told}</span></div>")
    left = stages.remaining()
    rows.append("" if left is None else f"<p>About {max(round(left), 1)} s left in all.</p>")
    return "".join(rows)


def announcement(text: str, kind: str = "status") -> str:
    """HTML of the one line that a screen reader speaks; `kind` "alert" for refusals."""
    return f"<p class='hafm-{kind}' role='{kind}'>{html.escape(text)}</p>" if text else ""


def phase(stages: Stages) -> str:
    """What is going on, in words that change only when a stage does."""
    running = [stage for stage in stages.names if stage in stages.done]
    if not running:
        return "Listening to the voice …"
    done, total = stages.done[running[-1]]
    if done == total:
        return "Almost there …" if running[-1] == stages.names[-1] else "On to the next step …"
    return f"{STAGE_WORDS[running[-1]]} …"


def voice_name(path: Path) -> str:
    """What the page calls an example voice."""
    return path.stem.replace("_", " ").capitalize()


def finished_songs(voices: Iterable[Path] = EXAMPLES) -> str:
    """HTML of players of the finished songs that lie beside example voices; empty where there is none.

    Of NAME.flac it is NAME_accompanied_STYLE.ogg where there is one, else NAME_accompanied.ogg.
    """
    players = ""
    for voice in voices:
        name = f"{voice.stem}_accompanied"
        # in the order of names those with a style come last
        for song in sorted(voice.parent.glob(f"{name}*.ogg"))[-1:]:
            style = song.stem.removeprefix(name).strip("_")
            title = html.escape(voice_name(voice) + (f" ({style})" if style else ""))
            players += (
                f"<label><span>{title}</span> <audio controls preload='metadata' src='gradio_api/file={song}' "
                f"aria-label='Finished song: {title}'></audio></label>"
            )
    return players and f"<div class='hafm-finished'><strong>Hear what comes out:</strong>{players}</div>"


# Components


def voice_components() -> gr.Audio:
    """The voice: a file, the microphone, or an example."""
    vocal = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label=f"Voice, up to {MAX_SECONDS:g} s: drop a file, or record",
        elem_id="vocal",
        buttons=["download"],
    )
    if EXAMPLES:
        labels = [voice_name(path) for path in EXAMPLES]
        voices = [[str(path)] for path in EXAMPLES]
        gr.Examples(voices, [vocal], label="Example voices", example_labels=labels, preload=False)
    return vocal


def option_components() -> dict[str, gr.components.Component]:
    """The inputs of the band by name: model, the options of generation, length."""
    band = {"style": option_component("style"), "sounds": studio_part("style_sounds", visible=False)}
    band |= {name: option_component(name) for name in CARDS if name not in band}
    with gr.Row():
        found: dict[str, gr.components.Component] = {"variations": option_component("variations")}
        found["length"] = gr.Number(
            0, label="Length", minimum=0, info="Seconds from the start of the voice; 0 for all", elem_id="length"
        )
        ending = MIX_OPTIONS["tail"]
        about = "Seconds that the band goes on behind the voice, fading out"
        found["tail"] = gr.Number(
            0, label=ending.label, minimum=ending.least, maximum=ending.most, info=about, elem_id="tail"
        )
    with gr.Accordion("More options", open=False), gr.Row():
        found["model"] = gr.Dropdown(
            OFFERED,
            value=OFFERED[0],
            allow_custom_value=True,
            label="Model",
            info="From the list, or a hub id: org/name",
            elem_id="model",
        )
        found |= {name: option_component(name) for name in CHOICES if name not in {**found, **band}}
    found |= band
    # known before anybody comes: what arrives later could undo what somebody has chosen by then
    for name, update in band_choices(OFFERED[0]).items():
        for key in update.keys() - {"__type__"}:
            setattr(found[name], key, update[key])
    return found


def band_choices(model: str) -> dict[str, Any]:
    """Updates of the inputs that need a model which reads something: shown where it does, with what it knows."""
    try:
        composite = load_pipeline(model).model
    except ValueError:
        # it is said when something is generated
        return dict.fromkeys([*NEEDING_STREAMS, "sounds"], gr.update(visible=False))
    updates: dict[str, dict[str, Any]] = {
        name: {"visible": not composite.known_streams.isdisjoint(CHOICES[name].streams)} for name in NEEDING_STREAMS
    }
    updates["style"] |= {"choices": radio_choices(composite.styles), "value": ""}
    sounds = {style: SOUND + b64encode(sound).decode() for style, sound in composite.style_sounds.items()}
    updates["sounds"] = {"visible": bool(sounds), "value": {"sounds": sounds}}
    # splitting an instrumental costs next to nothing
    updates["stems"] |= {"value": bool(composite.stems)}
    return {name: gr.update(**update) for name, update in updates.items()}


def option_component(name: str) -> gr.components.Component:
    """The input of an option of generation, by its row of the table.

    Browsers send 0 for an empty number; so 0 leaves an option to the model, and a seed of −1 to chance.
    """
    option = CHOICES[name]
    label, info = OPTION_WORDS.get(name, (option.label, option.help))
    shown: dict[str, Any] = {"label": label, "info": info, "elem_id": name, "min_width": 140}
    shown["visible"] = name not in NEEDING_STREAMS
    if option.kind is bool:
        return gr.Checkbox(option.default, **shown)
    if option.kind is str:
        return gr.Radio(radio_choices(option.choices), value=option.default or "", **shown)
    most = MOST.get(name, option.most)
    if option.least is not None and most is not None and not option.optional:
        return gr.Slider(option.least, most, option.default, step=1 if option.kind is int else None, **shown)
    precision = 0 if option.kind is int else None
    if name == "seed":
        return gr.Number(-1, precision=precision, minimum=-1, maximum=most, **shown)
    return gr.Number(0, precision=precision, minimum=0, maximum=most, **shown)


def radio_choices(values: Iterable[str]) -> list[tuple[str, str]]:
    """Choices of an option with their words, the first of which leaves it open."""
    return [AS_IT_COMES, *((CHOICE_WORDS.get(value, value.capitalize()), value) for value in values)]


def studio_part(name: str, visible: bool = True) -> gr.HTML:
    """A part of our own, empty: static/NAME.js fills it, and its value is what a person makes of it there."""
    address = json.dumps(f"gradio_api/file={STATIC / name}.js")
    mount = "part => part.mount(element, props, watch, trigger, upload)"
    return gr.HTML(
        html_template=f"<div class='hafm-studio hafm-{name}'></div>",
        js_on_load=f"import(new URL({address}, document.baseURI)).then({mount})",
        apply_default_css=False,
        elem_id=name,
        min_height=0,
        limit=MAX_SECONDS,
        visible=visible,
    )
