# SPDX-License-Identifier: Apache-2.0
"""FluidSynth as a library: notes to samples, SoundFonts loaded once a process.

A note that starts with one of the synthesiser's blocks of 64 samples gives the same samples wherever it starts. Every
player gets a new synthesiser, since one that has played before plays its first notes a little differently.
"""

import ctypes
import ctypes.util
from functools import cache
from pathlib import Path

import numpy as np

from .midi_song import Note

BLOCK = 64
DRUM_CHANNEL, DRUM_BANK = 9, 128
SETTINGS = {
    "synth.gain": 0.5, "synth.reverb.active": 0, "synth.chorus.active": 0, "synth.polyphony": 256,
    "synth.cpu-cores": 1,
}  # fmt: skip
FAILED = -1


@cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("fluidsynth")
    if name is None:
        raise RuntimeError("libfluidsynth is not installed; install it (Debian: apt install fluidsynth).")
    library = ctypes.CDLL(name)
    pointer, text, whole = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for function in ("new_fluid_settings", "new_fluid_synth", "fluid_synth_get_sfont_by_id"):
        getattr(library, function).restype = pointer
    arguments = {
        "fluid_settings_setnum": [pointer, text, ctypes.c_double],
        "fluid_settings_setint": [pointer, text, whole],
        "new_fluid_synth": [pointer],
        "delete_fluid_synth": [pointer],
        "fluid_synth_sfload": [pointer, text, whole],
        "fluid_synth_get_sfont_by_id": [pointer, whole],
        "fluid_synth_add_sfont": [pointer, pointer],
        "fluid_synth_remove_sfont": [pointer, pointer],
        "fluid_synth_program_select": [pointer, whole, whole, whole, whole],
        "fluid_synth_noteon": [pointer, whole, whole, whole],
        "fluid_synth_noteoff": [pointer, whole, whole],
        "fluid_synth_write_float": [pointer, whole, pointer, whole, whole, pointer, whole, whole],
        "fluid_set_log_function": [whole, pointer, pointer],
    }
    for function, types in arguments.items():
        getattr(library, function).argtypes = types
    # it writes about every SoundFont's oddities
    for level in range(5):
        library.fluid_set_log_function(level, None, None)
    return library


class Synthesiser:
    """FluidSynth at one sampling rate, dry; for one thread."""

    def __init__(self, sampling_rate: int) -> None:
        """Starts without SoundFonts: those that players need are loaded then, and stay."""
        self.library = _library()
        self.sampling_rate = sampling_rate
        self.settings = self.library.new_fluid_settings()
        self.library.fluid_settings_setnum(self.settings, b"synth.sample-rate", float(sampling_rate))
        for name, value in SETTINGS.items():
            setter = self.library.fluid_settings_setnum if isinstance(value, float) else None
            (setter or self.library.fluid_settings_setint)(self.settings, name.encode(), value)
        # it never plays: the SoundFonts are its own, and lent to those who do
        self.owner = self.library.new_fluid_synth(self.settings)
        self.loaded: dict[Path, int] = {}

    def _soundfont(self, path: Path) -> int:
        """A SoundFont in memory, as a pointer."""
        if path not in self.loaded:
            number = self.library.fluid_synth_sfload(self.owner, str(path).encode(), 0)
            if number == FAILED:
                raise ValueError(f"{path} is not a SoundFont; give an .sf2 or .sf3 file.")
            self.loaded[path] = self.library.fluid_synth_get_sfont_by_id(self.owner, number)
        return self.loaded[path]

    def play(self, notes: tuple[Note, ...], program: int, soundfont: Path, seconds: float, drums: bool) -> np.ndarray:
        """One player's notes as mono audio, float64 [seconds * sampling_rate]; what still sounds then is cut.

        Raises:
            ValueError: when the SoundFont is none, or has no such program.
        """
        font = self._soundfont(soundfont)
        synth = self.library.new_fluid_synth(self.settings)
        number = self.library.fluid_synth_add_sfont(synth, font)
        channel, bank = (DRUM_CHANNEL, DRUM_BANK) if drums else (0, 0)
        try:
            if self.library.fluid_synth_program_select(synth, channel, number, bank, program) == FAILED:
                raise ValueError(f"{soundfont.name} has no program {program} in bank {bank}.")
            return self._played(synth, channel, notes, round(seconds * self.sampling_rate))
        finally:
            self.library.fluid_synth_remove_sfont(synth, font)
            self.library.delete_fluid_synth(synth)

    def _played(self, synth: int, channel: int, notes: tuple[Note, ...], size: int) -> np.ndarray:
        """What a new synthesiser makes of notes, float64 [size]."""
        blocks = -(-size // BLOCK)
        # at one instant notes end before others start
        events = [(self._block(note.start), 1, note.pitch, note.velocity) for note in notes]
        events += [(max(self._block(note.end), self._block(note.start) + 1), 0, note.pitch, 0) for note in notes]
        stereo = np.zeros((2, blocks * BLOCK), dtype=np.float32)
        at = 0
        for block, on, pitch, velocity in [*sorted(events), (blocks, 0, 0, 0)]:
            if (until := min(block, blocks)) > at:
                left, right = (side[at * BLOCK :].ctypes.data_as(ctypes.c_void_p) for side in stereo)
                self.library.fluid_synth_write_float(synth, (until - at) * BLOCK, left, 0, 1, right, 0, 1)
                at = until
            if on:
                self.library.fluid_synth_noteon(synth, channel, pitch, velocity)
            else:
                self.library.fluid_synth_noteoff(synth, channel, pitch)
        return stereo.mean(axis=0, dtype=np.float64)[:size]

    def _block(self, seconds: float) -> int:
        return round(seconds * self.sampling_rate / BLOCK)


@cache
def synthesiser(sampling_rate: int) -> Synthesiser:
    """This process's synthesiser of a rate."""
    return Synthesiser(sampling_rate)
