# SPDX-License-Identifier: Apache-2.0
"""The HAFM Space: a page on which a person sings, and takes home a band and a mix.

Run it with `python space/app.py` after `pip install "hafm-hf[space]"`; README.md beside this file lists the settings.
The page goes from top to bottom: sing, see what was heard (listening.py), generate (songs.py), take home (takes.py).
Its components are in parts.py and static/; here are its events and the endpoint `/accompany`.
"""

from __future__ import annotations

import inspect
import math
import secrets
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from songs import (  # before gradio, which reads once where temporary files go
    CAN_STREAM,
    CHOICES,
    OFFERED,
    LiveMix,
    Request,
    load_pipeline,
    logger,
    make_job,
)

# isort: split
import gradio as gr

from hafm_hf import LeadSheet
from hafm_hf.accompaniment.options import MEDIAN_BALANCE, GenerationOptions
from hafm_hf.pretrained.redaction import without_secrets
from links import known_of, read_link, write_link
from listening import lead_sheet_of, listen, uploaded, write_sheet
from parts import (
    EXAMPLES,
    INTRODUCTION,
    NEEDING_STREAMS,
    ON_LOAD,
    PAGE_OPTIONS,
    STATIC,
    announcement,
    band_choices,
    finished_songs,
    option_components,
    phase,
    progress_bars,
    studio_part,
    voice_components,
)
from takes import FORMATS, JOBS, Channel, Job, Remake, find, keep_sweeping, mix_job, setting, shelf, write_file

QUEUE_SIZE = int(setting("QUEUE_SIZE", "20"))
MAX_UPLOAD = setting("MAX_UPLOAD", "100mb")
# How often the bars move.
SHOW_SECONDS = 0.25
# Generations that a page keeps side by side.
MOST_JOBS = 6
# Gradio takes a new value of a player that streams for its next piece, unless it comes as a change of property.
UNHEARD = gr.update(value=None, visible=False)
# Of Generate, Cancel, the selected bars and the progress. Only these show and hide it, so that a report which comes in
# after Cancel stays unseen.
OFF, ON = gr.update(interactive=False), gr.update(interactive=True)
BUSY = [OFF, ON, OFF, gr.update(visible=True)]
IDLE = [ON, OFF, ON, gr.update(visible="hidden")]
# Tickets of runs that are not wanted any more. Gradio's own `cancels` races with the run that it stops and then marks
# components with an error, so a run looks here instead, and ends by itself.
CANCELLED: deque[str] = deque(maxlen=1000)
Values = dict[str, Any]


# Events


def explain(error: Exception) -> str:
    """What a person is told about an error; the log gets the rest."""
    if isinstance(error, ValueError):
        return without_secrets(str(error))
    logger.error("generation failed", exc_info=error)
    return f"Something went wrong on the server ({type(error).__name__}); try again, or with a shorter vocal."


def show_heard(
    vocal: str | None, model: str, length: float, tempo: float, take: Values | None, linked: LeadSheet
) -> Values | None:
    """The value of the timeline: what is heard in a voice, or {"wrong": why nothing is}; None without a voice.

    Of a take to the click the beats are known; a link may have told more.
    """
    if vocal is None:
        return None
    try:
        recorded = take is not None and Path(vocal).name == take["name"]
        return listen(vocal, model, length, known_of(take["sheet"] if take and recorded else None, tempo, linked))
    except Exception as error:
        return {"wrong": explain(error)}


def take_recording(recorded: Values) -> list[Any]:
    """A take to the click: [vocal, take]; the change of the vocal has it listened to."""
    try:
        path = uploaded(recorded.get("path"))
        known = {name: recorded.get(name) for name in ("beats", "beats_per_bar", "downbeat")}
        return [str(path), {"name": path.name, "sheet": LeadSheet.told(known or {})}]
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def begin() -> list[Any]:
    """Both buttons that generate, at once: [announced, run, cancel, remake, progress, live, phase, bars, ticket]."""
    return ["", *BUSY, UNHEARD, announcement("Waiting for a free place …"), "", secrets.token_urlsafe()]


def cancel_run(ticket: str) -> list[Any]:
    """The Cancel button: [announced, run, cancel, remake, progress, live]."""
    CANCELLED.append(ticket)
    return [announcement("Cancelled."), *IDLE, UNHEARD]


def run_page(ticket: str, jobs: list[Job], mixer: Values | None, *wanted: Any) -> Iterator[list[Any]]:
    """The Generate button; `wanted` is the timeline and the options."""
    yield from run(ticket, jobs, mixer, lambda: page_request(*wanted))


def run_remake(ticket: str, jobs: list[Job], mixer: Values | None, *wanted: Any) -> Iterator[list[Any]]:
    """The button that makes the selected bars of the chosen take anew."""
    yield from run(ticket, jobs, mixer, lambda: remake_request(jobs, mixer, *wanted))


def page_request(timeline: Values | None, *options: Any) -> Request:
    """What the page asks for: its options, and the lead sheet that its timeline shows."""
    request = Request.of(*options)
    return replace(request, lead_sheet=lead_sheet_of(timeline, request.vocal))


def remake_request(jobs: list[Job], mixer: Values | None, timeline: Values | None, *options: Any) -> Request:
    """`page_request` for the selected bars of a take.

    Raises:
        ValueError: nothing is selected, or the take is of another voice.
    """
    request = page_request(timeline, *options)
    job, variation = find(jobs, (mixer or {}).get("chosen"))
    if job.source != request.vocal:
        raise ValueError("This take is of another voice than the one above; generate it anew.")
    selection = (timeline or {}).get("selection")
    if not isinstance(selection, list) or [type(each) in (int, float) for each in selection] != [True, True]:
        raise ValueError("Select the bars in the timeline first; then they are made anew.")
    return replace(request, remake=Remake(job, variation, *selection))


def run(ticket: str, jobs: list[Job], mixer: Values | None, request: Callable[[], Request]) -> Iterator[list[Any]]:
    """What both yield: [announced, run, cancel, remake, progress, live, phase, bars, results, jobs, mixer].

    After Cancel, `ticket` is in CANCELLED, and nothing more is generated, shown or heard.
    """
    keep, still = [gr.skip()] * 3, [gr.skip()] * 5
    spoken, shown, heard = "", -math.inf, False
    try:
        # Gradio takes a run that yields nothing for one that empties every component
        yield [*still, *[gr.skip()] * 3, *keep]
        live = LiveMix(0.0) if CAN_STREAM else None
        for step in () if ticket in CANCELLED else make_job(request(), live):
            if ticket in CANCELLED:
                return
            if isinstance(step, Job):
                yield finished(step, jobs, mixer)
            elif isinstance(step, bytes):
                if not heard:
                    yield [*still, gr.update(visible=True), *[gr.skip()] * 2, *keep]
                heard = True
                yield [*still, step, *[gr.skip()] * 2, *keep]
            elif time.monotonic() - shown >= SHOW_SECONDS or phase(step) != spoken:
                # What is set again is spoken again.
                said = gr.skip() if phase(step) == spoken else announcement(phase(step))
                spoken, shown = phase(step), time.monotonic()
                yield [*still, gr.skip(), said, progress_bars(step), *keep]
    except Exception as error:
        yield [announcement(explain(error), "alert"), *IDLE, UNHEARD, "", "", *keep]


def finished(job: Job, jobs: list[Job], mixer: Values | None) -> list[Any]:
    """What the page says of a new job, in the order of `run`; the oldest of too many goes."""
    for old in jobs[: max(len(jobs) + 1 - MOST_JOBS, 0)]:
        shutil.rmtree(old.folder, ignore_errors=True)
    number = 1 + max((old.number for old in jobs), default=0)
    jobs = [*jobs, replace(job, number=number)][-MOST_JOBS:]
    said = announcement(f"Done in {job.seconds:.0f} s; seed {job.seed} makes the same again.")
    chosen = f"{job.folder.name}/1"
    value = {**(mixer or {}), "takes": shelf(jobs), "chosen": chosen, "ask": None}
    value |= {"formats": FORMATS, "usual": MEDIAN_BALANCE}
    return [said, *IDLE, UNHEARD, "", "", gr.update(visible=True), jobs, value]


def answer(jobs: list[Job], mixer: Values) -> list[Any]:
    """What the mixer asks for: [path of the file to be downloaded, seed]."""
    ask = mixer.get("ask") or {}
    try:
        job, variation = find(jobs, mixer.get("chosen"))
        if "seed" in ask:
            return ["", job.seed]
        return [str(write_file(job, variation, mixer)), gr.skip()]
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def save_sheet(timeline: Values, *inputs: Any) -> str:
    """The path of a lead sheet that the timeline asks for, with the style and energy that are chosen."""
    try:
        return str(write_sheet(timeline, Request.of(*inputs)))
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def restore(query: str) -> list[Any]:
    """The page as the query of its address has it: [announced, linked, tempo, options …]; as it is without one."""
    if not query:
        return [gr.skip()] * (3 + len(PAGE_OPTIONS))
    inputs: Values = {}
    said, linked = "", LeadSheet()
    try:
        inputs, known = read_link(query)
        asked = GenerationOptions.of(given={name: inputs[name] for name in NEEDING_STREAMS if name in inputs})
        if asked != GenerationOptions():
            load_pipeline(inputs.get("model", OFFERED[0])).model.check_streams(asked)
        linked = known
    except ValueError as error:
        said, inputs = announcement(explain(error), "alert"), {}
    updates: Values = {"tempo": gr.update(), **dict.fromkeys(PAGE_OPTIONS, gr.update())}
    updates |= band_choices(inputs.get("model", OFFERED[0]))
    for name, value in inputs.items():
        updates[name] = {**updates[name], "value": value}
    return [said, linked, *updates.values()]


def link_to(timeline: Values | None, mixer: Values | None, *inputs: Any) -> list[str]:
    """The button that copies a link: [link, announced]."""
    try:
        takes = {take["id"]: take["seed"] for take in (mixer or {}).get("takes", [])}
        query = write_link(timeline, takes.get((mixer or {}).get("chosen")), Request.of(*inputs))
    except ValueError as error:
        return ["", announcement(explain(error), "alert")]
    return [query, announcement("The link to these settings is copied, and stands in the address bar.")]


# The clipboard may be forbidden; the address bar is not.
COPY = """query => {
    if (!query) return;
    history.replaceState(null, '', location.pathname + query);
    navigator.clipboard?.writeText(location.href).catch(() => {});
}"""
DOWNLOAD = """path => {
    if (!path) return;
    // a mix of another balance has the same name, and is not to come from the browser's cache
    const href = new URL('gradio_api/file=' + encodeURI(path) + '?' + Date.now(), document.baseURI).href;
    Object.assign(document.createElement('a'), { href, download: path.split('/').at(-1) }).click();
}"""


def accompany(vocal: str, model: str, *values: Any) -> tuple[str, str, str, Values]:
    """Generates accompaniments for a singing voice.

    An option that is left out is the model's own, or drawn if it is the seed; 0 for length (s) takes the whole vocal,
    and 0 for tempo (beats a minute) the one that is estimated; lead_sheet says more of what is known, as
    {"beats": [0.2, 0.8], "chords": [[0, 2.4, "Am"]]}. For tail (s) the band goes on behind the voice, fading out.
    Returns the first variation's mix (WAV), its instrumental (WAV), a zip of all stems, and {"seed", "seconds",
    "variations", "model"}.
    """
    *options, lead_sheet, band_db = values
    try:
        request = Request.of(vocal, model, *options)
        if lead_sheet:
            request = replace(request, lead_sheet=LeadSheet.told(lead_sheet or {}))
        *_, job = make_job(request)
        assert isinstance(job, Job)
        mix = mix_job(job, 1, Channel(), Channel(band_db or 0.0))
    except Exception as error:
        raise gr.Error(explain(error), print_exception=False) from error
    report = {"seed": job.seed, "seconds": job.seconds, "variations": job.variations, "model": model}
    return str(mix), str(job.path("instrumental", "wav", 1)), str(job.path("stems", "zip")), report


def parameters_of_endpoint() -> list[inspect.Parameter]:
    """Names and defaults of the inputs of `accompany`, which the endpoint tells its callers."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    defaults = {"model": OFFERED[0], **{name: each.default for name, each in CHOICES.items()}}
    defaults |= {"length": 0, "tempo": 0, "tail": 0, "lead_sheet": None, "band_db": 0}
    return [inspect.Parameter("vocal", kind), *(inspect.Parameter(k, kind, default=v) for k, v in defaults.items())]


accompany.__signature__ = inspect.Signature(parameters_of_endpoint())  # type: ignore[attr-defined]


# The page


@dataclass
class Page:
    """The components that events speak of, in the order in which they stand."""

    vocal: gr.Audio
    recorder: gr.HTML
    tempo: gr.Number
    listen: gr.Button
    timeline: gr.HTML
    options: dict[str, gr.components.Component]
    run: gr.Button
    cancel: gr.Button
    ticket: gr.Textbox
    announced: gr.HTML
    progress: gr.Column
    phase: gr.HTML
    bars: gr.HTML
    live: gr.Audio
    results: gr.Column
    mixer: gr.HTML
    remake: gr.Button
    file: gr.Textbox
    copy: gr.Button
    link: gr.Textbox
    linked: gr.State

    def inputs(self) -> list[gr.components.Component]:
        """In the order of `Request.of`."""
        chosen = [self.options[name] for name in CHOICES]
        return [self.vocal, self.options["model"], *chosen, self.options["length"], self.tempo, self.options["tail"]]


QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "generate"}


def connect_listening(page: Page) -> None:
    """A new voice is listened to; a take to the click brings its beats."""
    take = gr.State(None)
    inputs = [page.vocal, page.options["model"], page.options["length"], page.tempo, take, page.linked]
    listening: dict[str, Any] = {"fn": show_heard, "inputs": inputs, "outputs": page.timeline}
    listening |= {"concurrency_limit": 2, "concurrency_id": "listen", "trigger_mode": "always_last"}
    for changed in (page.vocal.change, page.listen.click):  # type: ignore[attr-defined]
        changed(**listening, api_visibility="private")
    page.recorder.submit(take_recording, page.recorder, [page.vocal, take], queue=False, **QUIET)  # type: ignore[attr-defined]
    asked = page.timeline.submit(  # type: ignore[attr-defined]
        save_sheet, [page.timeline, *page.inputs()], page.file, concurrency_limit=2, concurrency_id="listen", **QUIET
    )
    asked.success(None, page.file, None, js=DOWNLOAD)


def connect_settings(page: Page, blocks: gr.Blocks) -> None:
    """What the chosen model can be asked for, and links to all that is chosen."""
    quick, model = {"queue": False, **QUIET}, page.options["model"]
    needing = [page.options[name] for name in (*NEEDING_STREAMS, "sounds")]
    model.input(lambda name: list(band_choices(name).values()), model, needing, **quick)  # type: ignore[attr-defined]
    restored = [page.announced, page.linked, page.tempo, *(page.options[name] for name in PAGE_OPTIONS)]
    blocks.load(restore, page.link, restored, js="() => location.search", **quick)
    copied = page.copy.click(
        link_to, [page.timeline, page.mixer, *page.inputs()], [page.link, page.announced], **quick
    )
    copied.success(None, page.link, None, js=COPY)


def connect_generating(page: Page) -> None:
    """Generate, Cancel, and the selected bars made anew."""
    jobs = gr.State([])
    status = [page.announced, page.run, page.cancel, page.remake, page.progress, page.live]
    outputs = [*status, page.phase, page.bars, page.results, jobs, page.mixer]
    wanted = [page.ticket, jobs, page.mixer, page.timeline, *page.inputs()]
    full = announcement("Too many people are waiting for a place; try again in a minute.", "alert")
    for button, generate in ((page.run, run_page), (page.remake, run_remake)):
        begun = button.click(begin, None, [*status, page.phase, page.bars, page.ticket], queue=False, **QUIET)
        # a cancelled run may still be ending, or waiting, when the next one begins
        made = begun.then(generate, wanted, outputs, trigger_mode="multiple", **QUIET, **ONE_AT_A_TIME)
        # what goes wrong within a run is told by the run itself
        made.failure(lambda: [full, *IDLE, UNHEARD], None, status, queue=False, **QUIET)
    page.cancel.click(cancel_run, page.ticket, status, queue=False, **QUIET)
    answered = page.mixer.submit(  # type: ignore[attr-defined]
        answer, [jobs, page.mixer], [page.file, page.options["seed"]], concurrency_limit=4, **QUIET
    )
    answered.success(None, page.file, None, js=DOWNLOAD)


def connect_endpoint(page: Page) -> None:
    """`/accompany`, behind components that nobody sees."""
    hidden, report = gr.Button(visible=False), gr.JSON(label="Report", visible=False)
    sheet, band_db = gr.JSON(label="Lead sheet", visible=False), gr.Number(0, label="Band, dB", visible=False)
    sounds = [gr.Audio(label=name, type="filepath", visible=False) for name in ("Mix", "Instrumental")]
    outputs = [*sounds, gr.File(label="Stems", visible=False), report]
    # a radio button takes nothing but what it shows
    style, shown = gr.Textbox(visible=False, label="Style"), page.options["style"]
    inputs = [style if each is shown else each for each in page.inputs()]
    hidden.click(accompany, [*inputs, sheet, band_db], outputs, api_name="accompany", **ONE_AT_A_TIME)


def build_page() -> gr.Blocks:
    """The page, its events and the endpoint, without a server."""
    with gr.Blocks(title="HAFM: sing, and get a band") as blocks:
        gr.Markdown(INTRODUCTION)
        if players := finished_songs():
            gr.HTML(players, min_height=0)
        gr.Markdown("## 1 · Sing")
        vocal, recorder = voice_components(), studio_part("recorder")
        gr.Markdown("## 2 · What was heard")
        timeline = studio_part("timeline")
        with gr.Row(equal_height=False):
            about = "Beats a minute, if you know them; 0: as heard"
            tempo = gr.Number(0, label="Tempo", minimum=0, info=about, elem_id="tempo", min_width=140)
            listen_again = gr.Button("Listen again", elem_id="listen", min_width=140)
        gr.Markdown("## 3 · The band")
        options = option_components()
        with gr.Row():
            generate = gr.Button("Generate", variant="primary", elem_id="run", min_width=120)
            cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=120)
            copy = gr.Button("Copy a link to these settings", elem_id="copy", min_width=120)
        ticket = gr.Textbox(visible="hidden", label="Ticket")
        announced = gr.HTML(elem_id="announced", min_height=0)
        with gr.Column(visible="hidden", elem_id="progress") as progress:
            phase_shown, bars = gr.HTML(elem_id="phase", min_height=0), gr.HTML(elem_id="bars", min_height=0)
        label = "The mix, while it is made"
        live = gr.Audio(
            label=label, streaming=True, autoplay=True, interactive=False, visible=False, elem_id="live", buttons=[]
        )
        with gr.Column(visible=False, elem_id="results") as results:
            gr.Markdown("## 4 · Take home")
            mixer = studio_part("mixer")
            remake = gr.Button("Make the selected bars anew", elem_id="remake")
        file, link = (gr.Textbox(visible="hidden", label=label) for label in ("File", "Link"))
        linked = gr.State(LeadSheet())
        page = Page(vocal, recorder, tempo, listen_again, timeline, options, generate, cancel, ticket, announced,
                    progress, phase_shown, bars, live, results, mixer, remake, file, copy,
                    link, linked)  # fmt: skip
        connect_listening(page)
        connect_settings(page, blocks)
        connect_generating(page)
        connect_endpoint(page)
        blocks.load(None, js=ON_LOAD)
    return blocks.queue(max_size=QUEUE_SIZE)


def main() -> None:
    """Serves the page until it is told to stop, and leaves no file behind."""
    gr.set_static_paths([STATIC, *{path.parent for path in EXAMPLES}])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keep_sweeping()
    build_page().launch(
        css_paths=[STATIC / "studio.css"],
        max_file_size=MAX_UPLOAD,
        allowed_paths=[str(JOBS)],
        ssr_mode=False,
        show_error=True,
        footer_links=["api", "settings"],
    )


if __name__ == "__main__":
    main()
