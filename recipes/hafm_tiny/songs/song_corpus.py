# SPDX-License-Identifier: Apache-2.0
"""Renders symbolic songs to aligned audio: one folder per item, with vocal, instrumental, stems and labels.

An item is an excerpt of a song with much singing, in a random key, tempo, voice and style; its labels include the lead
sheet. All randomness is derived from (seed, pass, song), so that an item does not depend on other items, on their
order, or on the worker.
"""

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile

from hafm_hf.lead_sheet.style_choice import sung_density, weigh_styles

from ..song_pool import STEREO
from . import singer
from .band import bars
from .effects import equalise, room, to_level
from .form import reharmonised
from .midi_song import Note, Song, SongError, change, dense_excerpt, in_threes, list_songs, read_song
from .styled import StyledSong, style_song
from .styles import STYLES

logger = logging.getLogger(__name__)

# silence before the band starts, in seconds
LEAD_IN = 0.3
# largest amplitudes of the band and of the vocal
LOUDEST = 0.98
LOUDEST_VOCAL = 0.99
# of folders that are being written
PARTIAL_SUFFIX = ".partial"
# Share of singers in a room; ranges of its reverberation time in s, and of its level relative to the dry sound in dB;
# range of the background noise of every singer in dBFS.
ROOM_SHARE = 0.6
ROOM_SECONDS = (0.12, 0.7)
ROOM_DB = (-24, -9)
NOISE_DBFS = (-85, -52)
# Largest distance of a singer's comfortable pitch from the voice's, in semitones.
COMFORT_RANGE = 3
# By voice: range of formant factors for which it sounds natural, and its comfortable pitch (MIDI).
WARPS = {"iona": (0.84, 1.08), "scott": (0.84, 1.2), "erith": (0.92, 1.15)}
COMFORT = {"iona": 65.0, "scott": 57.0, "erith": 53.0}
DEFAULT_WARP = (0.9, 1.1)
TEST_SPLIT = "test"


@dataclasses.dataclass(frozen=True)
class SongCorpusOptions:
    """What to render. Ranges are (lowest, highest).

    Attributes:
        songs: folder of songs in POP909's layout.
        voices: folder of voices, one folder each.
        soundfonts: one for all players, or those named in the styles, matched by file name.
        output: folder of the corpus.
        training_voices, test_voices: names of the voices that sing training and validation songs, and test songs.
        validation_songs, test_songs: number of songs in these splits.
        seconds: range of the items' length.
        transpose: range of the transposition in semitones.
        stretch: range of the factor by which songs are stretched in time.
        level_db: range of the vocal's level in dBFS RMS.
        sampling_rate: of the mono audio in Hz.
        seed: seed of everything random.
        styles: styles to draw from.
        reharmonised: share of songs whose chords are changed under the melody (`form.reharmonised`).
        line_ups: whether to draw instruments and human timing for every song (`line_ups`).
        stereo_rate: sampling rate in Hz of the band in stereo, written beside the mono one; None: mono only.
        suited: whether to draw a style by how it suits the song's metre, tempo and density (`Style.suits`), with
            bars of six beats halved (`in_threes`); otherwise, all styles are equally likely.
        syllables: number of syllables of a voice to use; None: all.
        licence: licence of the songs, for the labels.
    """

    songs: Path
    voices: Path
    soundfonts: tuple[Path, ...]
    output: Path
    training_voices: tuple[str, ...] = ("iona", "scott")
    test_voices: tuple[str, ...] = ("erith",)
    validation_songs: int = 50
    test_songs: int = 59
    seconds: tuple[float, float] = (60.0, 90.0)
    transpose: tuple[int, int] = (-5, 6)
    stretch: tuple[float, float] = (0.92, 1.09)
    level_db: tuple[float, float] = (-20.0, -14.0)
    sampling_rate: int = 24000
    seed: int = 0
    styles: tuple[str, ...] = tuple(STYLES)
    reharmonised: float = 0.0
    line_ups: bool = False
    stereo_rate: int | None = None
    suited: bool = True
    syllables: int | None = None
    licence: str = "POP909 MIT"


@dataclasses.dataclass(frozen=True)
class Task:
    """One item to render.

    Attributes:
        folder: the song's folder.
        split: train, validation or test.
        number: number of the pass over all songs, from 0.
    """

    folder: Path
    split: str
    number: int

    @property
    def name(self) -> str:
        """Name of the item's folder: song and pass."""
        return f"{self.folder.name}_{self.number}"


def _rank(name: str, purpose: str) -> str:
    """A sort key that orders songs by name as if shuffled: reproducible, and different for each purpose."""
    return hashlib.sha256(f"{purpose}/{name}".encode()).hexdigest()


def split_songs(names: Sequence[str], validation: int, test: int) -> dict[str, str]:
    """Assign every song to a split by the hash of its name: the first are for test, the next for validation.

    Args:
        names: names of the songs.
        validation: number of songs for validation.
        test: number of songs for test.

    Returns:
        Split ("train", "validation" or "test") by name.

    Raises:
        ValueError: no songs would be left for training.
    """
    if validation + test >= len(names):
        raise ValueError(f"{len(names)} songs are too few for {test} test, {validation} validation and some training.")
    ranked = sorted(names, key=lambda name: _rank(name, "split"))
    splits = [TEST_SPLIT] * test + ["validation"] * validation
    splits += ["train"] * (len(ranked) - len(splits))
    return dict(zip(ranked, splits, strict=True))


def list_tasks(options: SongCorpusOptions, number: int) -> list[Task]:
    """The items of one pass, shuffled by hash; every prefix of the list has all splits in proportion.

    Args:
        options: the songs, and the sizes of their splits.
        number: number of the pass, which changes the order.
    """
    folders = {folder.name: folder for folder in list_songs(options.songs)}
    splits = split_songs(list(folders), options.validation_songs, options.test_songs)
    # each task with its place in its split, from 0 to 1, which spreads every split over the list
    placed: list[tuple[float, Task]] = []
    for split in ("train", "validation", TEST_SPLIT):
        names = [name for name in folders if splits[name] == split]
        names.sort(key=lambda name: _rank(name, f"order {number}"))
        for index, name in enumerate(names):
            placed.append(((index + 0.5) / len(names), Task(folders[name], split, number)))
    placed.sort(key=lambda pair: (pair[0], pair[1].name))
    return [task for _, task in placed]


@cache
def _cached_voice(folder: Path, syllables: int | None) -> singer.Voice:
    """`singer.load_voice`, once per process."""
    return singer.load_voice(folder, syllables)


@dataclasses.dataclass(frozen=True)
class Item:
    """Time-aligned audio of one item, and its labels.

    Attributes:
        vocal, instrumental (float64 [N]): mono.
        stems (float64 [N] each): stems of the instrumental by name.
        labels: contents of labels.json.
        stereo (float64 [2, N']): the instrumental as left and right, at a rate of its own, attenuated by the factor
            `stereo_gain` in the labels; None: not rendered.
    """

    vocal: np.ndarray
    instrumental: np.ndarray
    stems: dict[str, np.ndarray]
    labels: dict[str, object]
    stereo: np.ndarray | None = None


def _in_range(melody: Sequence[Note], comfortable_pitch: float) -> tuple[Note, ...]:
    """A melody, transposed by octaves so that its median pitch is as near as possible to a pitch (MIDI)."""
    middle = float(np.median([note.pitch for note in melody]))
    semitones = 12 * round((comfortable_pitch - middle) / 12)
    return tuple(dataclasses.replace(note, pitch=note.pitch + semitones) for note in melody)


def _render_vocal(
    song: Song, voice: singer.Voice, options: SongCorpusOptions, generator: np.random.Generator
) -> tuple[np.ndarray, tuple[Note, ...], singer.Manner]:
    """Sings a song's melody in a random manner, with a random microphone, room and background noise.

    Args:
        song: an excerpt with a melody.
        voice: the singer's voice.
        options: range of levels.
        generator: source of all randomness.

    Returns:
        Samples (float64 [N] at the voice's rate), the notes as sung, and the manner.
    """
    rate = voice.sampling_rate
    formant = float(generator.uniform(*WARPS.get(voice.name, DEFAULT_WARP)))
    manner = singer.random_manner(generator, formant)
    # the comfortable pitch moves by the same ratio as the formants
    comfortable_pitch = COMFORT.get(voice.name, voice.pitch) + 12 * np.log2(formant)
    comfortable_pitch += generator.uniform(-COMFORT_RANGE, COMFORT_RANGE)
    notes = singer.sung_notes(_in_range(song.melody, comfortable_pitch), manner, generator)
    audio = singer.sing(voice, notes, song.duration, manner, seed=int(generator.integers(2**32)))
    audio = equalise(audio, rate, generator)
    if generator.random() < ROOM_SHARE:
        seconds = generator.uniform(*ROOM_SECONDS)
        audio = room(audio, rate, seconds=seconds, wet_db=generator.uniform(*ROOM_DB), generator=generator)
    is_sung = np.zeros(audio.size, dtype=bool)
    for note in notes:
        is_sung[int(note.start * rate) : int(note.end * rate)] = True
    audio = to_level(audio, generator.uniform(*options.level_db), is_sung)
    noise = 10 ** (generator.uniform(*NOISE_DBFS) / 20) * generator.standard_normal(audio.size)
    return np.clip(audio + noise, -LOUDEST_VOCAL, LOUDEST_VOCAL), notes, manner


def soundfont_of(name: str, soundfonts: Sequence[Path]) -> Path:
    """The SoundFont for a name used in a style: the only one, or the first whose file name contains the name.

    Raises:
        ValueError: there are several, and none matches.
    """
    matching = [path for path in soundfonts if len(soundfonts) == 1 or name in path.name.lower()]
    if not matching:
        given = ", ".join(path.name for path in soundfonts)
        raise ValueError(f"No SoundFont's name contains {name!r} ({given}); give the file with --soundfont.")
    return matching[0]


def draw_style(weights: Mapping[str, float], generator: np.random.Generator) -> str:
    """Draws the name of a style, given the probability of each (see `weigh_styles`)."""
    names = list(weights)
    return names[int(generator.choice(len(names), p=list(weights.values())))]


def song_weights(song: Song, styles: Sequence[str]) -> dict[str, float]:
    """Probability of drawing each style for a song, given the song's metre, tempo and notes per second of singing."""
    ranges = {name: STYLES[name].suits for name in styles}
    metre = int(np.median([bar.size - 1 for bar in bars(song)]))
    density = sung_density([(note.start, note.end) for note in song.melody])
    return weigh_styles(ranges, metre, song.tempo, density)


def _render_band(
    song: Song, options: SongCorpusOptions, generator: np.random.Generator, line_up: np.random.Generator
) -> StyledSong:
    """Plays a song in one of the options' styles.

    If the sum of the mono stems would clip, all stems, mono and stereo, are attenuated by the same factor.

    Args:
        song: an excerpt that starts at a bar line.
        options: what to render.
        generator: draws the style, energies and pattern variants.
        line_up: draws instruments and human timing; not used unless `options.line_ups`.
    """
    if options.suited:
        style_name = draw_style(song_weights(song, options.styles), generator)
    else:
        style_name = options.styles[int(generator.integers(len(options.styles)))]
    soundfont_names = {player.soundfont for style in STYLES.values() for player in style.players.values()}
    files = {soundfont: soundfont_of(soundfont, options.soundfonts) for soundfont in soundfont_names}
    played = style_song(
        song, STYLES[style_name], files, options.sampling_rate, generator,
        line_up_generator=line_up if options.line_ups else None, stereo_rate=options.stereo_rate,
    )  # fmt: skip
    gain = _attenuation(np.asarray(sum(played.stems.values())))
    stems = {name: gain * stem for name, stem in played.stems.items()}
    stereo = {name: gain * stem for name, stem in played.stereo.items()}
    return dataclasses.replace(played, stems=stems, stereo=stereo)


def _attenuation(audio: np.ndarray) -> float:
    """The factor, at most 1, that brings the peak of audio down to LOUDEST."""
    peak = float(np.abs(audio).max())
    return LOUDEST / max(peak, LOUDEST)


def render_item(task: Task, options: SongCorpusOptions) -> Item:
    """Render one item, an excerpt of a song in a random key, tempo, voice and style.

    Args:
        task: song, split and pass; song, pass and seed determine everything drawn.
        options: what to render.

    Raises:
        SongError: the song cannot be read, or lacks melody, beats or chords.
        ValueError: a voice has another sampling rate, or a SoundFont is invalid or missing.
        RuntimeError: FluidSynth is not installed.
    """
    digest = hashlib.sha256(f"{options.seed}/{task.number}/{task.folder.name}".encode()).digest()
    seed_words = np.frombuffer(digest, dtype=np.uint32)
    generator = np.random.default_rng(seed_words)
    whole_song = read_song(task.folder)
    if options.suited:
        whole_song = in_threes(whole_song)
    semitones = int(generator.integers(options.transpose[0], options.transpose[1] + 1))
    stretch = float(generator.uniform(*options.stretch))
    # so long that it has the drawn length once it is stretched
    original = dense_excerpt(whole_song, float(generator.uniform(*options.seconds)) / stretch, generator)
    song = change(original, semitones, stretch, LEAD_IN)
    voice_names = options.test_voices if task.split == TEST_SPLIT else options.training_voices
    # band, chords and line-up have generators of their own, so that changing them does not change the singer
    band_generator = np.random.default_rng([*seed_words, 1])
    chord_generator = np.random.default_rng([*seed_words, 2])
    line_up_generator = np.random.default_rng([*seed_words, 3])
    is_reharmonised = bool(chord_generator.random() < options.reharmonised)
    if is_reharmonised:
        song = reharmonised(song, chord_generator)

    voice = _cached_voice(options.voices / str(generator.choice(voice_names)), options.syllables)
    if voice.sampling_rate != options.sampling_rate:
        raise ValueError(f"Voice {voice.name} has {voice.sampling_rate} Hz, the corpus {options.sampling_rate} Hz.")
    played = _render_band(song, options, band_generator, line_up_generator)
    if not played.song.melody:
        raise SongError(f"{task.folder} has nothing to sing between its intro and its ending.")
    vocal, notes, manner = _render_vocal(played.song, voice, options, generator)

    size = min(vocal.size, *(stem.size for stem in played.stems.values()))
    stems = {name: stem[:size] for name, stem in played.stems.items()}
    labels: dict[str, object] = {
        "song": task.folder.name, "pass": task.number, "split": task.split, "seed": options.seed,
        "voice": voice.name, "transpose": semitones, "stretch": stretch, "reharmonised": is_reharmonised,
        **played.lead_sheet, "key": change(whole_song, semitones).key, "duration": size / options.sampling_rate,
        "manner": {name: value for name, value in dataclasses.asdict(manner).items() if np.isfinite(value)},
        "notes": [[note.start, note.end, note.pitch] for note in notes],
        "licence": options.licence,
    }  # fmt: skip
    stereo = None
    if options.stereo_rate:
        channels = np.sum(list(played.stereo.values()), axis=0)
        channels = channels[:, : size * options.stereo_rate // options.sampling_rate]
        # one channel can be louder than their mean, which sets the level of the mono band
        gain = _attenuation(channels)
        stereo = gain * channels
        labels["stereo_gain"] = gain
    return Item(vocal[:size], np.sum(list(stems.values()), axis=0), stems, labels, stereo)


def _rounded(value: object) -> object:
    """Rounds all floats in nested labels to 6 decimals (1 µs, less than a sample), which halves the size of labels."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value


def write_item(item: Item, folder: Path, sampling_rate: int, stereo_rate: int | None = None) -> None:
    """Write an item under a temporary name and rename it, so that a folder with its final name is complete.

    Args:
        item: the audio and labels.
        folder: the final name, which must not exist yet.
        sampling_rate: of the mono audio in Hz.
        stereo_rate: of the item's stereo audio in Hz; None: no stereo file is written.
    """
    partial_folder = folder.with_name(f"{folder.name}{PARTIAL_SUFFIX}")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    tracks = {"vocal": item.vocal, "instrumental": item.instrumental, **item.stems}
    for name, audio in tracks.items():
        soundfile.write(partial_folder / f"{name}.flac", audio, sampling_rate, subtype="PCM_16")
    if item.stereo is not None and stereo_rate:
        soundfile.write(partial_folder / f"{STEREO}.flac", item.stereo.T, stereo_rate, subtype="PCM_16")
    (partial_folder / "labels.json").write_text(json.dumps(_rounded(item.labels)) + "\n")
    os.replace(partial_folder, folder)


def _render_and_write(task: Task, options: SongCorpusOptions) -> tuple[str, float]:
    """Render and write one item unless it exists.

    Returns:
        Its name, and its seconds of audio; 0 if it exists already or could not be rendered.
    """
    folder = options.output / task.split / task.name
    if folder.exists():
        return task.name, 0.0
    try:
        item = render_item(task, options)
    except SongError as error:
        logger.warning("skipped %s: %s", task.name, error)
        return task.name, 0.0
    write_item(item, folder, options.sampling_rate, options.stereo_rate)
    return task.name, item.vocal.size / options.sampling_rate


def build_corpus(options: SongCorpusOptions, tasks: Sequence[Task], workers: int = 1) -> Iterator[tuple[str, float]]:
    """Render items in the order of `tasks`; finished ones are skipped, so a killed run resumes.

    Args:
        options: what to render, and the output folder.
        tasks: the items.
        workers: number of processes.

    Yields:
        The name of each item and its seconds of audio; 0 if it exists already or could not be rendered.
    """
    run: Callable[[Task], tuple[str, float]] = partial(_render_and_write, options=options)
    if workers == 1:
        yield from map(run, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(run, tasks)
