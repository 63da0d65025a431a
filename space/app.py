# SPDX-License-Identifier: Apache-2.0
"""The HAFM Space: a web page that accompanies a recorded voice and mixes the result.

Run it with `python space/app.py` after `pip install ".[space]"`; README.md in this folder lists the settings.
The page is one workspace: a voice and its lead sheet (listening.py), a band (songs.py), takes and their mix (takes.py)
on one time axis. Its components are in parts.py and static/; this file has its events and the endpoint `/accompany`.
"""

import inspect
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from songs import (
    KINDS,
    MAX_SECONDS,
    OFFERED,
    USUAL,
    Request,
    load_pipeline,
    logger,
    make_job,
    read_link,
    read_recording,
)

# isort: split
# after songs, which sets the folder for temporary files: gradio reads it on import
import gradio as gr
from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader

import parts
import takes
from hafm_hf import LeadSheet, audio
from hafm_hf.accompaniment.generation_accompaniment import check_supported
from hafm_hf.accompaniment.options import GenerationOptions, MixOptions
from hafm_hf.pretrained.redaction import without_secrets
from listening import at_tempo, lead_sheet_of, listen, set_chords, uploaded, write_sheet
from parts import EXAMPLES, NEEDING_FIELDS, PAGE_OPTIONS, STATIC, announcement, band_properties, imported, voice_name
from projects import read_project, write_project
from shared_song import write_song
from singing_again import with_new_voice
from takes import Channel, Job

QUEUE_SIZE = int(takes.setting("QUEUE_SIZE", "20"))
MAX_UPLOAD = takes.setting("MAX_UPLOAD", "300mb")
# Files that browsers play; others, such as AIFF, are sent to them as FLAC.
PLAYED = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm")
# Takes of a voice that a page keeps.
MOST_JOBS = 4
# Songs that are longer than their voice by less are announced without it.
NOTICED_SECONDS = 0.05
# Whether Generate, Stop, and the button of the selected bars can be pressed, during a run and at other times.
BUSY = [gr.update(interactive=enabled) for enabled in (False, True, False)]
IDLE = [gr.update(interactive=enabled) for enabled in (True, False, True)]
# Tickets of runs that have begun, and of those that were cancelled. Gradio's own `cancels` races with the run that it
# stops and then shows an error on components, so a run checks these instead and ends by itself.
BEGUN: deque[str] = deque(maxlen=1000)
CANCELLED: deque[str] = deque(maxlen=1000)
# Tickets of runs that were told their place in the queue, and how long the last runs took, in seconds.
QUEUED: deque[str] = deque(maxlen=1000)
DURATIONS: deque[float] = deque(maxlen=10)
# Held while the list of a page's takes is changed.
ADDING = threading.Lock()
WAITS = "Too many people are waiting. Your band starts automatically as soon as there is a place in the queue."
# Gradio's HTML: its folder, and its path there.
GRADIO = str(gr.routes.STATIC_TEMPLATE_LIB)
INDEX = "frontend/index.html"
COMING = "The band is on its way …"
RESTARTED = "The server has been restarted; the song is here again."
INTERRUPTED = "The band has been interrupted; “Play a band” plays it from the beginning."
UNEXPECTED = "Something went wrong on the server; try again, or reload the page."
Values = dict[str, Any]


def explain(error: Exception) -> str:
    """The message shown for an error; details of unexpected errors go to the log."""
    if isinstance(error, ValueError):
        return without_secrets(str(error))
    if isinstance(error, gr.Error):
        # what a host says to the user, of a quota that is used up for example
        return without_secrets(str(error.message))
    logger.error("generation failed", exc_info=error)
    return f"{UNEXPECTED} ({type(error).__name__})"


def showing_errors(action: Callable[..., list[Any]], *otherwise: Any) -> Callable[..., list[Any]]:
    """Wraps an action whose first output is the announcement, so that an error is announced.

    Gradio itself shows no error for an event without a progress display.

    Args:
        action: handler of an event.
        otherwise: the outputs after the announcement if the action fails.
    """

    def act(*inputs: Any) -> list[Any]:
        """The action's outputs, or the announcement of its error and `otherwise`."""
        try:
            return action(*inputs)
        except Exception as error:
            return [announcement(explain(error), "alert"), *otherwise]

    return act


def show_first_estimates(voice: Values | None, *inputs: Any) -> Values | None:
    """Estimates beats, chords and key of a new voice for the timeline, and sets the voice's "shown" to True.

    Args:
        voice: as `take_voice` returns it; None if there is none.
        inputs: the other values of `Request.of`.

    Returns:
        The timeline's value: the estimates (`listen`), or {"wrong": error}; None, which empties it, without a voice.
        The timeline does not change if the voice's "shown" is set already.
    """
    if voice is None:
        return None
    if voice["shown"]:
        return gr.skip()
    voice["shown"] = True
    try:
        request = Request.of(voice, *inputs)
        sheet = with_tempo(voice["sheet"], request.tempo)
        estimates = listen(request.vocal, request.model, request.seconds, sheet)
    except Exception as error:
        return {"wrong": explain(error)}
    if voice["state"].get("sheet"):
        # parts of a restored sheet that were estimated remain marked as such
        estimates |= {"sheet": sheet.to_dict(), "set": voice["state"].get("set")}
    return estimates


def estimate_again(timeline: Values | None, voice: Values | None, *inputs: Any) -> Values | None:
    """Estimates a voice again because the user has asked for other estimates.

    Args:
        timeline: the timeline's value. Its "ask" is {"again": "key"} for chords that suit the key, while the beats
            and the chords that the user has set stay; or {"again": "tempo", "tempo": BPM} for beats at that tempo.
            Without "again", all is estimated that was not given with the voice.
        voice: as `take_voice` returns it; None if there is none.
        inputs: the other values of `Request.of`.

    Returns:
        The timeline's new value: the estimates (`listen`), or {"wrong": error, "again": True}. The timeline does not
        change without a voice or if it is empty.
    """
    if voice is None or timeline is None:
        return gr.skip()
    ask = timeline.get("ask") or {}
    try:
        request = Request.of(voice, *inputs)
        sheet_shown = lead_sheet_of(timeline, request.vocal) or LeadSheet()
        metre = None
        if ask.get("again") == "key":
            known = replace(sheet_shown, chords=set_chords(sheet_shown, timeline.get("set")))
        elif ask.get("again") == "tempo":
            known = at_tempo(sheet_shown, ask.get("tempo"), timeline.get("set"))
            if "beats_per_bar" not in sheet_shown.estimated:
                metre = sheet_shown.beats_per_bar
        else:
            known = voice["sheet"]
            # a restored sheet whose beats are estimates
            if "beats" in known.estimated:
                known = LeadSheet()
            known = with_tempo(known, request.tempo)
            if sheet_shown.key and "key" not in sheet_shown.estimated:
                known = replace(known, key=sheet_shown.key)
        estimates = listen(request.vocal, request.model, request.seconds, known, metre)
    except Exception as error:
        return {"wrong": explain(error), "again": True}
    return estimates | {"edits": timeline.get("edits"), "asked": ask.get("again"), "set": timeline.get("set") or []}


def with_tempo(known: LeadSheet, tempo: float) -> LeadSheet:
    """Adds the tempo that the user has entered to what is known of a voice, unless its beats are known.

    Args:
        known: what is known of the voice.
        tempo: in beats a minute; 0: none was entered.
    """
    if known.has_beats or not tempo:
        return known
    return replace(known, tempo=tempo)


def take_voice(sent: Values, jobs: list[Job], mixer: Values | None, seconds: float | None) -> list[Any]:
    """Takes a voice that was recorded, uploaded or chosen.

    Args:
        sent: the recorder's value: {"example": name}; or {"path": uploaded file}, with "beats", "beats_per_bar" and
            "downbeat" if it was recorded to a click; or a state of static/page.js, with "again" if the state's takes
            get this voice instead of their own.
        jobs: the takes of the page.
        mixer: the mixer's value.
        seconds: how much of the voice is used; None or 0: all, up to MAX_SECONDS.

    Returns:
        [announced, voice, jobs, mixer, tempo, options …]. The voice has its "path", the "sheet" known of it, the
        "state" to restore (from a project, or from before the page was reloaded), "shown", whether its estimates are
        on the timeline, and the "seed" of a band that was interrupted.

    Raises:
        ValueError: the voice can't be used.
    """
    example = {voice_name(path): path for path in EXAMPLES}.get(str(sent.get("example")))
    path = example or uploaded(sent.get("path"), EXAMPLES)
    if path.suffix == ".zip":
        sent = read_project(path)
        path = sent["path"]
    if path.suffix.lower() not in PLAYED:
        recording = read_recording(str(path), MAX_SECONDS)
        path = audio.write_audio(path.with_suffix(".flac"), recording.samples, recording.sampling_rate)
    if sent.get("again"):
        sent = with_new_voice(sent, path)
    recording = read_recording(str(path), seconds or MAX_SECONDS)
    samples, rate = recording.samples, recording.sampling_rate
    state = sent if "takes" in sent else {}
    if example:
        sheet = takes.stored_sheet(example)
    else:
        click = {name: sent[name] for name in ("beats", "beats_per_bar", "downbeat") if sent.get(name) is not None}
        sheet = LeadSheet.given(state.get("sheet") or click)
    voice = {"path": str(path), "sheet": sheet, "state": state, "shown": False, "seed": None}
    running = state.get("running")
    if isinstance(running, dict):
        voice["seed"] = running.get("seed")
    with ADDING:
        jobs[:] = [job for job in jobs if job.folder.exists()]  # the others have expired
    found: list[Job | None] = []
    if example:
        # only a stored band took no time
        on_page = next((job for job in jobs if not job.elapsed and job.source == str(path)), None)
        found.append(on_page or takes.stored_job(example))
    else:
        found += [takes.read_job(str(name), str(path)) for name in state.get("takes", [])]
    # a band may have been finished while the page showed another voice
    found += [job for job in jobs if state and job.source == str(path)]
    jobs_and_mixer = bring_takes([job for job in found if job is not None], state, jobs, mixer)
    announced, *settings = restore(state.get("query") if state else "")
    seconds_index = PAGE_OPTIONS.index("seconds") + 1  # the tempo comes before the options
    # before there is a voice, the page has no Seconds field
    if len(samples) >= MAX_SECONDS * rate and not (seconds or settings[seconds_index].get("value")):
        announced = announcement(f"The first {MAX_SECONDS:g} s of {path.name} are used.")
        settings[seconds_index] = MAX_SECONDS
    # the last announcement replaces the others
    news = []
    if state.get("kept"):
        news.append(RESTARTED)
    if running:
        news.append(INTERRUPTED)
    if news:
        announced = announcement(" ".join(news))
    if recording.remarks:
        announced = announcement(" ".join(recording.remarks))
    return [announced, voice, *jobs_and_mixer, *settings]


def bring_takes(found: list[Job], state: Values, jobs: list[Job], mixer: Values | None) -> list[Any]:
    """Adds the take of an example, which plays at once, or the takes of a restored state, which wait.

    Args:
        found: the takes.
        state: the state of static/page.js that is restored; empty for an example.
        jobs: the takes of the page.
        mixer: the mixer's value.

    Returns:
        [jobs, mixer], neither of which changes if nothing was found.
    """
    if not found:
        return [gr.skip()] * 2
    all_jobs, new_mixer = add_takes(found, jobs, mixer)
    if not state:
        # the take replaces the stored band, which may be playing already
        return [all_jobs, new_mixer | {"live": None}]
    marks = {**new_mixer.get("marks", {}), **(state.get("marks") or {})}
    new_mixer |= {"marks": marks, "levels": state.get("levels")}
    if state.get("chosen") in [take["id"] for take in new_mixer["takes"]]:
        new_mixer["chosen"] = state["chosen"]
    return [all_jobs, new_mixer | {"play": False}]


def renew(voice: Values | None, jobs: list[Job]) -> None:
    """Sets the times of an open page's files to now, so that `takes.sweep` does not remove them."""
    paths: list[Any] = []
    if voice:
        paths.append(voice["path"])
    for job in jobs:
        paths += [job.source, *job.folder.glob("*")]
    for path in paths:
        with suppress(OSError, ValueError):  # gone already, or not of this page
            os.utime(uploaded(path))


def stop_run(ticket: str) -> list[Any]:
    """Marks the run of a ticket as cancelled, which ends it: [announced, run, stop, remake]."""
    CANCELLED.append(ticket)
    return [announcement("Stopped."), *IDLE]


def song_request(jobs: list[Job], mixer: Values | None, timeline: Values | None, *inputs: Any) -> Request:
    """The request of the Play a band button, with the lead sheet of the timeline, or until that shows, of the voice.

    Args:
        jobs: the takes of the page.
        mixer: the mixer's value.
        timeline: the timeline's value.
        inputs: the values of `Request.of`. The first is the voice; a band that was interrupted takes the "seed" out of
            it, which the request then has.

    Raises:
        ValueError: a value is wrong, or there is no room for another take.
    """
    request = Request.of(*inputs)
    voice = inputs[0]
    jobs_of_vocal = [job for job in jobs if job.source == request.vocal]
    num_kept = len(jobs_of_vocal) - len(not_kept(jobs_of_vocal, mixer))
    if num_kept >= MOST_JOBS:
        raise ValueError(f"All {MOST_JOBS} takes are kept (★) or named; unmark one to make room for a new one.")
    if voice and request.options.seed is None:
        # a band that was interrupted is the same when it is generated again
        request = replace(request, options=replace(request.options, seed=voice.pop("seed", None)))
    if voice and (timeline or {}).get("vocal") != request.vocal:
        timeline = {"vocal": request.vocal, "sheet": voice["sheet"].to_dict()}
    return replace(request, lead_sheet=lead_sheet_of(timeline, request.vocal))


def remake_request(jobs: list[Job], mixer: Values | None, timeline: Values | None, *inputs: Any) -> Request:
    """The request of the button that replaces the selected bars.

    Args:
        jobs, mixer, timeline, inputs: as for `song_request`; the mixer's "chosen" is the take, and the timeline's
            "selection" the bars, (start, stop) in seconds of the voice.

    Raises:
        ValueError: no bars or no take of this voice are selected, or as for `song_request`.
    """
    request = song_request(jobs, mixer, timeline, *inputs)
    job = takes.find(jobs, (mixer or {}).get("chosen"))
    selection = (timeline or {}).get("selection")
    if job.source != request.vocal or not isinstance(selection, list):
        raise ValueError("Nothing is selected to replace; choose a take of this voice and select some of its bars.")
    # the timeline counts from the beginning of the voice, a take from that of its intro
    start, stop = (float(second) + job.intro for second in selection)
    return replace(request, remake=takes.Remake(job, start, stop))


def run(
    request: Callable[..., Request], ticket: str, jobs: list[Job], mixer: Values | None, *wanted: Any
) -> Iterator[list[Any]]:
    """Runs a request for either button; `finish` adds the take that it makes.

    A run is stopped by putting its `ticket` into CANCELLED; what has been generated by then becomes a take.

    Args:
        request: makes the request: `song_request` or `remake_request`.
        ticket: the run's name, which static/page.js has drawn.
        jobs: the takes of the page.
        mixer: the mixer's value.
        wanted: the other arguments of `request`.

    Yields:
        [announced, run, stop, remake, made, mixer]; "made" is (ticket, job) at the end.
    """
    no_change = [gr.skip()] * 4
    live = takes.LiveTake()
    # a run that was retried because the queue was full may arrive twice
    has_begun = ticket in BEGUN
    BEGUN.append(ticket)

    def stopped() -> bool:
        return ticket in CANCELLED

    try:
        # if a run yields nothing, Gradio empties every component
        yield [*no_change, gr.skip(), gr.skip()]
        if has_begun or stopped():
            return
        for step in make_job(request(jobs, mixer, *wanted), live, stopped):
            if isinstance(step, Job):
                DURATIONS.append(step.elapsed)
                yield [*no_change, (ticket, step), gr.skip()]
            elif step is not None and not stopped():
                yield [*no_change, gr.skip(), {"live": {**step, "run": ticket}, "play": True}]
    except Exception as error:
        # a band that has begun to play disappears
        value = {"live": None} if live.chunks else gr.skip()
        yield [announcement(explain(error), "alert"), *IDLE, gr.skip(), value]


def finish(made: tuple[str, Job] | None, voice: Values | None, jobs: list[Job], mixer: Values | None) -> list[Any]:
    """Adds the take that a run has made to the page: [announced, run, stop, remake, made, jobs, mixer].

    Args:
        made: the run's ticket and take; None, which changes nothing, if it made none.
        voice: the one that the page shows now, perhaps another than the run's.
        jobs: the takes of the page now.
        mixer: the mixer's value now.
    """
    if made is None:
        return [gr.skip()] * 7
    ticket, job = made
    jobs_before = list(jobs)
    jobs, value = add_takes([job], jobs, mixer)
    dropped_takes = "".join(
        f" Take {old.number} has made room for it; ★ keeps a take." for old in jobs_before if old not in jobs
    )
    message = f"Done in {job.elapsed:.0f} s; seed {job.seed} gives the same music again."
    if job.remade:
        message = f"Done in {job.elapsed:.0f} s; all other bars are as they were."
    elif job.style:
        message += f" Style: {job.style}."
    if job.added > NOTICED_SECONDS:
        message += f" The song is {job.added:.1f} s longer than the voice, which begins at {job.intro:.1f} s."
    if voice and voice["path"] != job.source:
        value |= {"play": False, "chosen": (mixer or {}).get("chosen")}
    # after stopping this run, the user may have started another
    status = [gr.skip()] * 4 if ticket in CANCELLED else [announcement(message + dropped_takes), *IDLE]
    return [*status, None, jobs, value | {"live": None}]


def place_in_queue(tickets: list[Any], ticket: str) -> str:
    """The announcement for a run that waits (its number in the queue), or that has begun after waiting; "" for others.

    QUEUED notes which runs were told their number, because only these are told that they have begun, once.

    Args:
        tickets: of all runs that wait, in the order of the queue.
        ticket: of the run.
    """
    if ticket not in tickets:
        if ticket in QUEUED and ticket in BEGUN and ticket not in CANCELLED:
            QUEUED.remove(ticket)
            return announcement(COMING)
        return ""
    if ticket not in QUEUED:
        QUEUED.append(ticket)
    place = tickets.index(ticket) + 1
    message = f"Number {place} in the queue."
    if DURATIONS:
        # the one that is running may have just begun
        message += f" Your band begins in about {place * sum(DURATIONS) / len(DURATIONS):.0f} s, or sooner."
    return announcement(message)


def not_kept(jobs: list[Job], mixer: Values | None) -> list[Job]:
    """The jobs that newer ones may replace: those that the mixer's "marks" neither keep (★) nor name."""
    marks = (mixer or {}).get("marks") or {}
    replaceable = []
    for job in jobs:
        mark = marks.get(job.folder.name) or {}
        if not any(mark.values()):
            replaceable.append(job)
    return replaceable


def add_takes(new: list[Job], jobs: list[Job], mixer: Values | None) -> list[Any]:
    """Numbers and saves new takes and adds them to the page's; if a voice has too many, the oldest not kept go.

    Args:
        new: the takes to add; one that the page already has is replaced by its new version.
        jobs: the takes of the page, changed in place: a band may end while a project is being opened, and neither may
            undo what the other adds.
        mixer: the mixer's value.

    Returns:
        [jobs, mixer]; the mixer plays the last new take.
    """
    with ADDING:
        for job in new:
            others = [other for other in jobs if other.folder != job.folder]
            jobs_of_vocal = [other for other in others if other.source == job.source]
            too_many = max(len(jobs_of_vocal) + 1 - MOST_JOBS, 0)
            jobs_to_drop = not_kept(jobs_of_vocal, mixer)[:too_many]
            remaining = [other for other in others if other not in jobs_to_drop]
            highest = max((other.number for other in remaining), default=0)
            added = replace(job, number=job.number or highest + 1)
            added.save()
            jobs[:] = [*remaining, added]
    # writing what the page plays takes seconds, in which further takes may be added
    shown: list[Job] = []
    while shown != jobs:
        shown = list(jobs)
        shelf = takes.shelf(shown)
    value = {**(mixer or {}), "takes": shelf, "chosen": added.folder.name, "ask": None}
    return [jobs, value | {"formats": takes.FORMATS, "play": True}]


def answer(mixer: Values, jobs: list[Job]) -> list[Any]:
    """Writes the file that the mixer requests.

    Args:
        mixer: the mixer's value; the "file" of its "ask" is "project", "song" (`write_song`), or one of `write_file`.
        jobs: the takes of the page; the file is of the one that is chosen, a project of all.

    Returns:
        [announced, the file's path]; nothing is announced.
    """
    file = (mixer.get("ask") or {}).get("file")
    if file == "project":
        return [gr.skip(), str(write_project(jobs, mixer["ask"].get("state")))]
    job = takes.find(jobs, mixer.get("chosen"))
    write = write_song if file == "song" else takes.write_file
    return [gr.skip(), str(write(job, mixer))]


def save_sheet(timeline: Values, *inputs: Any) -> list[Any]:
    """Writes the lead sheet that the timeline requests (`write_sheet`), with the chosen style and energy.

    Args:
        timeline: the timeline's value.
        inputs: the values of `Request.of`.

    Returns:
        [announced, the file's path]; nothing is announced.
    """
    return [gr.skip(), str(write_sheet(timeline, Request.of(*inputs)))]


def restore(query: str | None) -> list[Any]:
    """Restores the settings of a link; if they cannot be used, announces why and restores the defaults.

    Args:
        query: of the link. "" only clears the announcement; None changes nothing.

    Returns:
        [announced, tempo, options …]: updates of Gradio's components, the options in the order of PAGE_OPTIONS.
    """
    if not query:
        announced = "" if query == "" else gr.skip()
        return [announced, *[gr.skip()] * (1 + len(PAGE_OPTIONS))]
    announced = ""
    inputs: Values = {}
    try:
        inputs = read_link(query)
        options = GenerationOptions.of(given={name: inputs[name] for name in parts.CARDS if name in inputs})
        if options != GenerationOptions():
            check_supported(options, load_pipeline(inputs.get("model", OFFERED[0])).model)
    except ValueError as error:
        announced = announcement(explain(error), "alert")
        inputs = {}
    # the default for stems depends on the model: `band_properties` has it
    defaults: Values = {**dict.fromkeys(USUAL.keys() - {"stems"}, ""), "model": OFFERED[0], "skip_fine": False}
    # the properties of each component, in the order of the outputs
    properties: Values = {"tempo": {}, **{name: {} for name in PAGE_OPTIONS}}
    properties |= band_properties(inputs.get("model", OFFERED[0]))
    for name, value in (defaults | inputs).items():
        properties[name]["value"] = value
    return [announced, *(gr.update(**changes) for changes in properties.values())]


def open_link(query: str | None) -> list[Any]:
    """Restores the settings of the page's address when it opens, and announces that they are from a link.

    Args:
        query: of the address; "" or None as for `restore`.

    Returns:
        The outputs of `restore`.
    """
    announced, *settings = restore(query)
    if announced == "" and query and read_link(query):
        announced = announcement(
            "The link holds settings only, no voice and no song: these settings are chosen for yours."
        )
    return [announced, *settings]


def accompany(vocal: Any, model: str, *values: Any) -> tuple[str, str, str, Values]:
    """Generates accompaniments for a singing voice.

    Options are those of the pipeline; the model chooses any that are left out, and the seed is random. seconds limits
    how much of the vocal is used, from its start; tempo (BPM) is estimated if left out; lead_sheet gives more of what
    is known, as in {"beats": [0.2, 0.8], "chords": [[0, 2.4, "Am"]]}. The band plays intro_bars before the voice, and
    outro_bars or tail (s) after it. Returns the mix (WAV), the instrumental (WAV), a zip of all stems, and {"seed",
    "elapsed" (s), "model", "vocal_start" (s)}.
    """
    *options, lead_sheet, instrumental_gain_db = values
    try:
        request = Request.of(vocal, model, *options)
        if lead_sheet:
            request = replace(request, lead_sheet=LeadSheet.given(lead_sheet))
        gain = MixOptions.of(given={"instrumental_gain_db": instrumental_gain_db}).instrumental_gain_db
        # the job is the last thing that it yields
        *_, job = make_job(request)
        assert isinstance(job, Job)
        channels = {name: Channel(db=gain) for name in job.channels} | {"voice": Channel()}
        mix = takes.mix_job(job, channels)
    except Exception as error:
        raise gr.Error(explain(error), print_exception=False) from error
    report = {"seed": job.seed, "elapsed": job.elapsed, "model": model, "vocal_start": job.intro}
    return str(mix), str(job.path("instrumental")), str(takes.zip_stems(job)), report


def parameters_of_endpoint() -> list[inspect.Parameter]:
    """Names and defaults of the inputs of `accompany`, for the endpoint's description."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    defaults = {**USUAL, "lead_sheet": None, "instrumental_gain_db": 0}
    return [inspect.Parameter("vocal", kind), *(inspect.Parameter(k, kind, default=v) for k, v in defaults.items())]


accompany.__signature__ = inspect.Signature(parameters_of_endpoint())  # type: ignore[attr-defined]


class Page:
    """The components, all in one workspace; static/studio.css arranges them.

    Attributes:
        voice: as `take_voice` returns it.
        made: what `run` has made, for `finish`: the run's ticket and its take.
        ticket: hidden; name of the run, drawn by static/page.js.
        file: hidden; path of a file that has been written, for static/page.js to download.
        link: hidden; the query of the page's address when it opens.
        waiting: hidden; selector of the button that static/page.js presses again, because the queue was full.
    """

    def __init__(self) -> None:
        with gr.Column(elem_id="workspace"):
            self.voice = gr.State(None)
            self.made = gr.State(None)
            self.recorder = parts.studio_part("recorder", limit=MAX_SECONDS)
            self.timeline = parts.studio_part("timeline")
            self.remake = gr.Button("Regenerate these bars", elem_id="remake", size="sm")
            self.listen = gr.Button("Estimate again", elem_id="listen", size="sm")
            with gr.Row(elem_id="generate"):
                self.run = gr.Button("Play a band", variant="primary", elem_id="run", min_width=120)
                self.stop = gr.Button("Stop the band", interactive=False, elem_id="stop", min_width=120)
            with gr.Column(elem_id="band"):
                self.announced = gr.HTML(elem_id="announced", min_height=0)
                # the style sheet shows it while the generate button is disabled
                gr.HTML("<progress aria-label='Generating'></progress>", elem_id="bar", min_height=0)
                self.mixer = parts.studio_part("mixer")
                self.options = parts.option_components()
                with gr.Accordion("More options", open=False):
                    self.options |= parts.more_components()
                    about = "Beats per minute, if you know it; then press “Estimate again”"
                    self.tempo = parts.number("tempo", "Tempo", about, "auto", minimum=0)
                    self.copy = gr.Button("Copy a link to these settings", elem_id="copy", size="sm")
            hidden = [gr.Textbox(visible="hidden", label=label) for label in ("Ticket", "File", "Link", "Waiting")]
            self.ticket, self.file, self.link, self.waiting = hidden

    def inputs(self) -> list[gr.components.Component]:
        """The inputs of `Request.of`, in its order."""
        by_name = {**self.options, "tempo": self.tempo}
        return [self.voice, *(by_name[name] for name in KINDS)]

    def restored(self) -> list[gr.components.Component]:
        """The outputs of `restore`."""
        return [self.announced, self.tempo, *(self.options[name] for name in PAGE_OPTIONS)]


# Gradio must not check inputs: `Request.of` does, with better messages.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "generate"}
PAGE = imported("page")
DOWNLOAD = f"path => {PAGE}.then(page => page.download(path))"


def connect_listening(page: Page, jobs: gr.State) -> None:
    """Connects the events of voices and files: taking and analysing a new voice, estimating again, and downloads."""
    outputs = [page.announced, page.voice, jobs, page.mixer, *page.restored()[1:]]
    # if several voices arrive, the last one is shown
    quick: dict[str, Any] = {"queue": False, "trigger_mode": "always_last", **QUIET}
    sent = [page.recorder, jobs, page.mixer, page.options["seconds"]]
    chosen = page.recorder.submit(showing_errors(take_voice, *[gr.skip()] * len(outputs[1:])), sent, outputs, **quick)
    tell_desk = f"() => {imported('desk')}.then(({{ desk }}) => desk.heard())"
    chosen.then(show_first_estimates, page.inputs(), page.timeline, **quick).then(None, js=tell_desk)
    estimated = page.listen.click(estimate_again, [page.timeline, *page.inputs()], page.timeline, **quick)
    estimated.then(None, js=tell_desk)
    announced_and_file = [page.announced, page.file]
    # several files may be requested at once
    # nor do they wait for the bands in the queue, which may be full
    every: dict[str, Any] = {"queue": False, "trigger_mode": "multiple", **QUIET}
    for part, action, others in ((page.timeline, save_sheet, page.inputs()), (page.mixer, answer, [jobs])):
        written = part.submit(showing_errors(action, ""), [part, *others], announced_and_file, **every)
        written.then(None, page.file, None, js=DOWNLOAD)


def connect_settings(page: Page, jobs: gr.State, blocks: gr.Blocks) -> None:
    """Connects the settings: inputs that depend on the model, restoring the settings of a link, and copying one.

    It also starts the timer that renews the files of the open page.
    """
    quick: dict[str, Any] = {"queue": False, **QUIET}
    gr.Timer(takes.KEEP_SECONDS / 60).tick(renew, [page.voice, jobs], None, **quick)

    model = page.options["model"]
    inputs_of_model = [page.options[name] for name in (*NEEDING_FIELDS, "sounds")]

    def update_inputs(model_name: str) -> list[Any]:
        """Updates of `inputs_of_model` for the model that was chosen."""
        return [gr.update(**properties) for properties in band_properties(model_name).values()]

    model.input(update_inputs, model, inputs_of_model, **quick)  # type: ignore[attr-defined]

    blocks.load(open_link, page.link, page.restored(), js=f"() => {PAGE}.then(page => page.opening())", **quick)
    settings = page.inputs()[1:]  # all but the voice, in the order of USUAL
    # static/page.js makes the link, which leaves out settings that have their defaults
    store_settings = f"(...values) => {{ {PAGE}.then(page => page.note({json.dumps(USUAL)}, values)); }}"
    changes = [setting.change for setting in settings]  # type: ignore[attr-defined]
    gr.on([blocks.load, *changes], None, settings, None, js=store_settings)
    copied = "The link to these settings is copied, and is in the address bar; to send the song itself, use Share."
    copy_link = f"() => {{ {PAGE}.then(page => page.copyLink()); }}"
    page.copy.click(lambda: announcement(copied), None, page.announced, js=copy_link, **quick)


def connect_generating(page: Page, jobs: gr.State, blocks: gr.Blocks) -> None:
    """Connects generating, stopping, and regenerating the selected bars."""
    status = [page.announced, page.run, page.stop, page.remake]
    wanted = [page.ticket, jobs, page.mixer, page.timeline, *page.inputs()]
    while_running = [*status, page.made, page.mixer]
    ended = [page.made, page.voice, jobs, page.mixer]
    at_the_end = [*status, page.made, jobs, page.mixer]
    finish_or_say_why = showing_errors(finish, *IDLE, None, gr.skip(), {"live": None})

    def failed(again: str, ticket: str) -> list[Any]:
        """The outputs [announced, run, stop, remake, waiting] after a run has failed.

        Args:
            again: selector of the button that starts the run again, which becomes "waiting" if the queue is full.
            ticket: of the run.
        """
        # `run` reports its own errors, so either the queue was full, or Gradio failed before or after it
        full = ticket not in BEGUN and len(blocks._queue) >= QUEUE_SIZE
        if full and ticket not in CANCELLED:
            return [announcement(WAITS), *BUSY, again]
        if ticket in CANCELLED:
            return [gr.skip(), *IDLE, ""]
        return [announcement(UNEXPECTED, "alert"), *IDLE, ""]

    for button, request in ((page.run, song_request), (page.remake, remake_request)):
        begun = button.click(None, None, [*status, page.ticket], js=f"() => {PAGE}.then(page => page.begin())")
        again = gr.Button("Once more", visible="hidden", elem_id=f"{button.elem_id}_again")
        # a stopped run may still be ending, or waiting, when the next one starts
        waits = {"fn": partial(failed, f"#{again.elem_id}"), "inputs": page.ticket, "queue": False, **QUIET}
        for start in (begun.then, again.click):
            made = start(
                partial(run, request), wanted, while_running, trigger_mode="multiple", **QUIET, **ONE_AT_A_TIME
            )
            made.then(finish_or_say_why, ended, at_the_end, queue=False, **QUIET)
            waiting = made.failure(outputs=[*status, page.waiting], **waits)
            waiting.then(None, page.waiting, None, js=f"again => {{ {PAGE}.then(page => page.again(again)); }}")

    def place(ticket: str) -> str:
        """The announcement of a run's place in the queue; it does not change if there is nothing to say."""
        queued = blocks._queue.event_queue_per_concurrency_id[ONE_AT_A_TIME["concurrency_id"]].queue
        # the first value of `wanted` is the ticket
        tickets = [event.data.data[0] for event in queued if event.data and event.data.data]
        return place_in_queue(tickets, ticket) or gr.skip()

    # static/page.js presses it while a run has not begun
    ask = gr.Button("Place", visible="hidden", elem_id="place")
    ask.click(place, page.ticket, page.announced, queue=False, **QUIET)
    page.stop.click(stop_run, page.ticket, status, queue=False, **QUIET)


def connect_endpoint(page: Page) -> None:
    """Connects `/accompany` to hidden components."""
    hidden = gr.Button(visible=False)
    report = gr.JSON(label="Report", visible=False)
    sheet = gr.JSON(label="Lead sheet", visible=False)
    gain = gr.Number(0, label="Instrumental, dB", visible=False)
    sounds = [gr.Audio(label=name, type="filepath", visible=False) for name in ("Mix", "Instrumental")]
    outputs = [*sounds, gr.File(label="Stems", visible=False), report]
    # the page's own style component lists the styles of one model only
    own: dict[Any, Any] = {page.options["style"]: gr.Textbox(visible=False, label="Style")}
    own[page.voice] = gr.Audio(label="Voice", type="filepath", visible=False)
    inputs = [own.get(component, component) for component in page.inputs()]
    endpoint = {"api_name": "accompany", "preprocess": False, **ONE_AT_A_TIME}
    hidden.click(accompany, [*inputs, sheet, gain], outputs, **endpoint)


def build_page() -> gr.Blocks:
    """Builds the page, its events and the endpoint, without starting a server."""
    with gr.Blocks(title="HAFM: sing, and get a band") as blocks:
        page = Page()
        jobs = gr.State([])
        connect_listening(page, jobs)
        connect_settings(page, jobs, blocks)
        connect_generating(page, jobs, blocks)
        connect_endpoint(page)
        blocks.load(None, js=f"() => {{ {imported('page')}.then(page => page.mount()); }}")
    return blocks.queue(max_size=QUEUE_SIZE)


def main() -> None:
    """Serves the page until it is terminated, and leaves no files behind."""
    start = parts.with_start(Path(GRADIO, INDEX).read_text(encoding="utf-8"))
    gr.routes.templates.env.loader = ChoiceLoader([DictLoader({INDEX: start}), FileSystemLoader(GRADIO)])
    gr.set_static_paths([STATIC, *{path.parent for path in parts.EXAMPLES}])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    takes.keep_sweeping()
    for voice in parts.EXAMPLES[:1]:  # so that the first visitor does not wait for slow first-time work
        listen(str(voice), OFFERED[0], None, takes.stored_sheet(voice))
    more: dict[str, Any] = {"max_file_size": MAX_UPLOAD, "show_error": True, "footer_links": ["api"]}
    build_page().launch(css_paths=[STATIC / "studio.css"], allowed_paths=[str(takes.JOBS)], ssr_mode=False, **more)


if __name__ == "__main__":
    main()
