"""The HAFM Space: a page on which a person sings, and takes home an instrumental and a mix.

Run it with `python space/app.py` after `pip install "hafm-hf[space]"`; README.md beside this file lists the settings.
What happens behind the page is in songs.py; here is what the page shows, the endpoint `/accompany`, and the page.
"""

from __future__ import annotations

import html
import inspect
import math
import secrets
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songs import (  # before gradio, which reads once where temporary files go
    CAN_STREAM,
    CHOICES,
    FORMATS,
    OFFERED,
    Job,
    Levels,
    LiveMix,
    Request,
    Stages,
    keep_sweeping,
    logger,
    make_job,
    mix_job,
    setting,
)

# isort: split
import gradio as gr

from hafm_hf import audio, plots
from hafm_hf.hub.redaction import without_secrets
from hafm_hf.stage_table import STAGES

QUEUE_SIZE = int(setting("QUEUE_SIZE", "20"))
MAX_UPLOAD = setting("MAX_UPLOAD", "100mb")
# Of an option, less than its table allows.
MOST = {"variations": 4}
# How often the bars move.
SHOW_SECONDS = 0.25
# Gradio takes a new value of a player that streams for its next piece, unless it comes as a change of property.
UNHEARD = gr.update(value=None, visible=False)
# Of Generate, Cancel and the progress. Only these show and hide it, so that a report which comes in after Cancel
# stays unseen.
BUSY = [gr.update(interactive=False), gr.update(interactive=True), gr.update(visible=True)]
IDLE = [gr.update(interactive=True), gr.update(interactive=False), gr.update(visible="hidden")]
# Tickets of runs that are not wanted any more. Gradio's own `cancels` races with the run that it stops and then marks
# components with an error, so a run looks here instead, and ends by itself.
CANCELLED: deque[str] = deque(maxlen=1000)
BESIDE = Path(__file__).parent
EXAMPLES = [path for folder in (BESIDE, BESIDE.parent) for path in sorted((folder / "examples").glob("*.wav"))]


# What the page shows


def loudness_table(levels: Levels) -> str:
    """HTML table of loudness (LUFS) and peak (dBFS) by name."""
    rows = []
    for name, figures in levels.items():
        cells = "".join(f"<td>{f'{value:.1f}' if math.isfinite(value) else 'silent'}</td>" for value in figures)
        rows.append(f"<tr><th scope='row' class='hafm-name'>{name}</th>{cells}</tr>")
    heading = "<tr><td></td><th scope='col'>LUFS</th><th scope='col'>peak, dBFS</th></tr>"
    return f"<table><caption>Loudness</caption>{heading}{''.join(rows)}</table>"


def progress_bars(stages: Stages) -> str:
    """HTML of one bar a stage, with the time that it still needs."""
    rows = []
    for stage in stages.names:
        done, total = stages.done.get(stage, (0, 1))
        remaining = stages.remaining(stage)
        if done == total:
            told = "done"
        elif remaining is None:
            told = "waiting"
        else:
            told = f"{100 * done // total} %, {remaining:.0f} s left"
        name = STAGES[stage].title.capitalize()
        bar = f"<progress value='{done}' max='{total}' aria-label='{name}'></progress>"
        rows.append(f"<div class='hafm-stage'><span>{name}</span>{bar}<span>{told}</span></div>")
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
        return "Next stage …" if running[-1] != stages.names[-1] else "Turning codes into sound …"
    return f"Generating: {STAGES[running[-1]].title} …"


def mix_or_explain(job: Job, variation: int, band_db: float) -> tuple[Path, Levels]:
    """`mix_job`, its refusal shown as a message on the page."""
    try:
        return mix_job(job, variation, band_db)
    except audio.HAFMAudioError as error:
        raise gr.Error(str(error)) from error


def show_song(job: Job | None, variation: int, band_db: float) -> list[Any]:
    """Values of `Page.song`: players, picture, loudness and downloads of one variation."""
    if job is None:
        return [gr.skip()] * 9
    mix, levels = mix_or_explain(job, variation, band_db)
    picture = job.path("picture", "png", variation)
    if not picture.exists():
        vocal, rate = job.read("vocal")
        figure = plots.plot_song(vocal, job.read("instrumental", variation)[0], rate, title=job.name)
        plots.write_plot(picture, figure, transparent=True)
    instrumentals = [job.path("instrumental", suffix, variation) for suffix in FORMATS]
    files = [mix, mix.with_suffix(".flac"), *instrumentals, job.path("stems", "zip")]
    return [str(value) for value in (mix, instrumentals[0], picture, loudness_table(levels), *files)]


def show_mix(job: Job | None, variation: int, band_db: float) -> list[Any]:
    """Values of `Page.mixed` after the slider has moved; nothing is generated."""
    if job is None:
        return [gr.skip()] * 4
    mix, levels = mix_or_explain(job, variation, band_db)
    return [str(mix), loudness_table(levels), str(mix), str(mix.with_suffix(".flac"))]


def explain(error: Exception) -> str:
    """What a person is told about an error; the log gets the rest."""
    if isinstance(error, ValueError):
        return without_secrets(str(error))
    logger.error("generation failed", exc_info=error)
    return f"Something went wrong on the server ({type(error).__name__}); try again, or with a shorter vocal."


def begin() -> list[Any]:
    """The Generate button, at once: [announced, run, cancel, progress, live, phase, bars, ticket]."""
    return ["", *BUSY, UNHEARD, announcement("Waiting for a free place …"), "", secrets.token_urlsafe()]


def cancel_run(ticket: str) -> list[Any]:
    """The Cancel button: [announced, run, cancel, progress, live]."""
    CANCELLED.append(ticket)
    return [announcement("Cancelled."), *IDLE, UNHEARD]


def run_page(ticket: str, job: Job | None, band_db: float, *options: Any) -> Iterator[list[Any]]:
    """The Generate button: [announced, run, cancel, progress, live, phase, bars, results, job, variation, *song].

    After Cancel, `ticket` is in CANCELLED, and nothing more is generated, shown or heard.
    """
    keep = [gr.skip()] * 12
    told, shown, heard = "", -math.inf, False
    try:
        # Gradio takes a run that yields nothing for one that empties every component
        yield [*[gr.skip()] * 7, *keep]
        live = LiveMix(band_db) if CAN_STREAM else None
        for step in () if ticket in CANCELLED else make_job(Request.of(*options), live):
            if ticket in CANCELLED:
                return
            if isinstance(step, Job):
                yield [*finished(step), *show_song(step, 1, band_db)]
                if job is not None:
                    shutil.rmtree(job.folder, ignore_errors=True)
            elif isinstance(step, bytes):
                if not heard:
                    yield [*[gr.skip()] * 4, gr.update(visible=True), *[gr.skip()] * 2, *keep]
                heard = True
                yield [*[gr.skip()] * 4, step, *[gr.skip()] * 2, *keep]
            elif time.monotonic() - shown >= SHOW_SECONDS or phase(step) != told:
                # What is set again is spoken again.
                said = gr.skip() if phase(step) == told else announcement(phase(step))
                told, shown = phase(step), time.monotonic()
                yield [*[gr.skip()] * 5, said, progress_bars(step), *keep]
    except Exception as error:
        yield [announcement(explain(error), "alert"), *IDLE, gr.skip(), "", "", *keep]


def finished(job: Job) -> list[Any]:
    """What the page says of a job: [announced, run, cancel, progress, live, phase, bars, results, job, variation]."""
    choices = gr.update(choices=list(range(1, job.variations + 1)), value=1, visible=job.variations > 1)
    said = announcement(f"Done in {job.seconds:.0f} s; seed {job.seed} makes the same again.")
    return [said, *IDLE, gr.skip(), "", "", gr.update(visible=True), job, choices]


def accompany(vocal: str, model: str, *values: Any) -> tuple[str, str, str, dict[str, Any]]:
    """Generates accompaniments for a singing voice.

    An option that is left out is the model's own, or drawn if it is the seed; 0 for length (s) takes the whole vocal,
    and 0 for tempo (beats a minute) the one that is estimated. Returns the first variation's mix (WAV), its
    instrumental (WAV), a zip of all stems, and {"seed", "seconds", "variations", "model"}.
    """
    *options, band_db = values
    try:
        *_, job = make_job(Request.of(vocal, model, *options))
        assert isinstance(job, Job)
        mix, _ = mix_job(job, 1, band_db)
    except Exception as error:
        raise gr.Error(explain(error)) from error
    report = {"seed": job.seed, "seconds": job.seconds, "variations": job.variations, "model": model}
    return str(mix), str(job.path("instrumental", "wav", 1)), str(job.path("stems", "zip")), report


def parameters_of_endpoint() -> list[inspect.Parameter]:
    """Names and defaults of the inputs of `accompany`, which the endpoint tells its callers."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    defaults = {"model": OFFERED[0], **{name: each.default for name, each in CHOICES.items()}}
    defaults |= dict.fromkeys(("length", "tempo", "band_db"), 0)
    return [inspect.Parameter("vocal", kind), *(inspect.Parameter(k, kind, default=v) for k, v in defaults.items())]


accompany.__signature__ = inspect.Signature(parameters_of_endpoint())  # type: ignore[attr-defined]


# The page

CSS = """
.hafm-stage { display: grid; grid-template-columns: 9.5em 1fr 8em; gap: .75em; align-items: center; padding: .15em 0 }
.hafm-stage progress { appearance: none; width: 100%; height: .7em; border: 0; border-radius: .35em; overflow: hidden }
.hafm-stage progress, .hafm-stage progress::-webkit-progress-bar { background: var(--border-color-primary) }
.hafm-stage progress::-webkit-progress-value { background: var(--color-accent) }
.hafm-stage progress::-moz-progress-bar { background: var(--color-accent) }
#announced, #phase, #bars { padding-block: 0 }
#announced p, #phase p { margin: 0 }
#loudness table { border-collapse: collapse; width: 100%; max-width: 24em; margin: 0; border: 0 }
#loudness caption { text-align: left; font-weight: 600; color: var(--body-text-color) }
#loudness th, #loudness td { padding: .2em .6em; text-align: right; border: 0; color: var(--body-text-color) }
#loudness tr { border: 0; border-bottom: 1px solid var(--border-color-primary) }
#loudness tr .hafm-name { text-align: left; font-weight: 400; padding-left: 0 }
#model input { text-overflow: ellipsis }
.hafm-alert { padding: .6em .8em; border-left: .3em solid #c0392b; color: var(--body-text-color) }
@media (max-width: 480px) { .hafm-stage { grid-template-columns: 1fr; gap: 0 } }
"""
# Gradio replaces what is inside; the outer elements stay, so they are the ones that a screen reader listens to.
LIVE_REGIONS = """() => document.querySelectorAll('#announced, #phase')
    .forEach(element => element.setAttribute('aria-live', 'polite'))"""
INTRODUCTION = """# Sing, and get a band
Record or upload a voice singing alone. HAFM makes an instrumental that follows it, and a mix of the two."""


@dataclass
class Page:
    """The components that events speak of."""

    options: list[gr.components.Component]
    run: gr.Button
    cancel: gr.Button
    ticket: gr.Textbox
    announced: gr.HTML
    progress: gr.Column
    live: gr.Audio
    phase: gr.HTML
    bars: gr.HTML
    results: gr.Column
    job: gr.State
    variation: gr.Radio
    band: gr.Slider
    song: list[gr.components.Component]

    @property
    def mixed(self) -> list[gr.components.Component]:
        """The part of `song` that changes with the mixing slider: player, table and two downloads."""
        return [self.song[0], self.song[3], self.song[4], self.song[5]]


def option_components() -> list[gr.components.Component]:
    """The inputs, in the order of `Request`."""
    vocal = gr.Audio(
        sources=["microphone", "upload"], type="filepath", label="Voice", elem_id="vocal", buttons=["download"]
    )
    if EXAMPLES:
        gr.Examples([[str(path)] for path in EXAMPLES], [vocal], label="Example voices", preload=False)
    model = gr.Dropdown(
        OFFERED,
        value=OFFERED[0],
        allow_custom_value=True,
        label="Model",
        info="From the list, or a hub id: org/name",
        elem_id="model",
    )
    with gr.Row():
        first = {"variations": option_component("variations")}
        length = gr.Number(0, label="Length", minimum=0, info="Seconds from the start; 0 for all", elem_id="length")
        tempo = gr.Number(0, label="Tempo", minimum=0, info="Beats a minute; 0: as estimated", elem_id="tempo")
    with gr.Accordion("Sampling", open=False), gr.Row():
        others = {name: option_component(name) for name in CHOICES if name not in first}
    chosen = {**first, **others}
    return [vocal, model, *(chosen[name] for name in CHOICES), length, tempo]


def option_component(name: str) -> gr.components.Component:
    """The input of an option of generation, by its row of the table.

    Browsers send 0 for an empty number; so 0 leaves an option to the model, and a seed of −1 to chance.
    """
    option = CHOICES[name]
    shown: dict[str, Any] = {"label": option.label, "info": option.help, "elem_id": name, "min_width": 140}
    if option.kind is bool:
        return gr.Checkbox(option.default, **shown)
    if option.kind is str:
        return gr.Dropdown(list(option.choices), value=option.default, **shown)
    most = MOST.get(name, option.most)
    if option.least is not None and most is not None and not option.optional:
        return gr.Slider(option.least, most, option.default, step=1 if option.kind is int else None, **shown)
    precision = 0 if option.kind is int else None
    if name == "seed":
        return gr.Number(-1, precision=precision, minimum=-1, maximum=most, **shown)
    return gr.Number(0, precision=precision, minimum=0, maximum=most, **shown)


def song_components() -> list[gr.components.Component]:
    """Players, picture, loudness and downloads, in the order of `show_song`."""
    mix = gr.Audio(label="Mix", interactive=False, type="filepath", elem_id="mix", buttons=[])
    instrumental = gr.Audio(
        label="Instrumental", interactive=False, type="filepath", elem_id="instrumental", buttons=[]
    )
    table = gr.HTML(elem_id="loudness", padding=True)
    with gr.Row():
        labels = ("Mix, WAV", "Mix, FLAC", "Instrumental, WAV", "Instrumental, FLAC", "All stems, zip")
        downloads = [gr.DownloadButton(label, size="sm", min_width=140) for label in labels]
    alternative = (
        "Waveforms and log-mel spectrograms of voice and accompaniment on one time axis, with pitch and beats"
    )
    picture = gr.Image(
        label="Voice and accompaniment",
        show_label=False,
        alt_text=alternative,
        buttons=["fullscreen", "download"],
        interactive=False,
        type="filepath",
        format="png",
        image_mode="RGBA",
        elem_id="picture",
    )
    return [mix, instrumental, picture, table, *downloads]


def connect(page: Page) -> None:
    """Events of the page, and the endpoint."""
    status = [page.announced, page.run, page.cancel, page.progress, page.live]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "generate"}

    begun = page.run.click(begin, None, [*status, page.phase, page.bars, page.ticket], queue=False, **quiet)
    outputs = [*status, page.phase, page.bars, page.results, page.job, page.variation, *page.song]
    wanted = [page.ticket, page.job, page.band, *page.options]
    # a cancelled run may still be ending, or waiting, when the next one begins
    run = begun.then(run_page, wanted, outputs, trigger_mode="multiple", **quiet, **one_at_a_time)
    # what goes wrong within a run is told by the run itself
    full = announcement("Too many people are waiting for a place; try again in a minute.", "alert")
    run.failure(lambda: [full, *IDLE, UNHEARD], None, status, queue=False, **quiet)
    page.cancel.click(cancel_run, page.ticket, status, queue=False, **quiet)
    chosen = [page.job, page.variation, page.band]
    page.variation.input(show_song, chosen, page.song, concurrency_limit=4, **quiet)
    page.band.change(show_mix, chosen, page.mixed, trigger_mode="always_last", concurrency_limit=4, **quiet)

    report, hidden = gr.JSON(label="Report", visible=False), gr.Button(visible=False)
    mix, instrumental, stems = page.song[0], page.song[1], gr.File(label="Stems", visible=False)
    hidden.click(
        accompany,
        [*page.options, page.band],
        [mix, instrumental, stems, report],
        api_name="accompany",
        **one_at_a_time,
    )


def build_page() -> gr.Blocks:
    """The page, its events and the endpoint, without a server."""
    with gr.Blocks(title="HAFM: sing, and get a band") as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                options = option_components()
                with gr.Row():
                    run = gr.Button("Generate", variant="primary", elem_id="run", min_width=120)
                    cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=120)
                ticket = gr.Textbox(visible="hidden", label="Ticket")
                announced = gr.HTML(elem_id="announced", min_height=0)
                with gr.Column(visible="hidden", elem_id="progress") as progress:
                    phase_shown = gr.HTML(elem_id="phase", min_height=0)
                    bars = gr.HTML(elem_id="bars", min_height=0)
                live = gr.Audio(
                    label="The mix, while it is made",
                    streaming=True,
                    autoplay=True,
                    interactive=False,
                    visible=False,
                    elem_id="live",
                    buttons=[],
                )
            with gr.Column(min_width=300, visible=False, elem_id="results") as results:
                variation = gr.Radio([1], value=1, label="Variation", visible=False, elem_id="variation")
                band = gr.Slider(
                    -24, 24, 0, step=1, label="Band against voice, dB", info="Mixes again at once", elem_id="band"
                )
                song = song_components()
        shown = (run, cancel, ticket, announced, progress, live, phase_shown, bars, results)
        connect(Page(options, *shown, gr.State(None), variation, band, song))
        blocks.load(None, js=LIVE_REGIONS)
    return blocks.queue(max_size=QUEUE_SIZE)


def main() -> None:
    """Serves the page until it is told to stop, and leaves no file behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keep_sweeping()
    build_page().launch(
        css=CSS, max_file_size=MAX_UPLOAD, ssr_mode=False, show_error=True, footer_links=["api", "settings"]
    )


if __name__ == "__main__":
    main()
