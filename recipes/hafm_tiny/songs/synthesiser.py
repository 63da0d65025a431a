# SPDX-License-Identifier: Apache-2.0
"""Synthesises notes with libfluidsynth; SoundFonts are loaded once per process.

Notes that start on a boundary of FluidSynth's 64-sample blocks give the same samples everywhere. Every player gets a
new synth, since one that has played before renders its first notes slightly differently.
"""

import ctypes
import ctypes.util
from functools import cache
from pathlib import Path

import numpy as np

from .midi_song import Note

# samples
BLOCK = 64
# MIDI channel and SoundFont bank of drums
DRUM_CHANNEL = 9
DRUM_BANK = 128
SETTINGS = {
    "synth.gain": 0.5, "synth.reverb.active": 0, "synth.chorus.active": 0, "synth.polyphony": 256,
    "synth.cpu-cores": 1,
}  # fmt: skip
# what FluidSynth's functions return instead of a number
FAILED = -1


@cache
def _library() -> ctypes.CDLL:
    """Loads libfluidsynth and declares the types of the functions that are used here.

    Raises:
        RuntimeError: it is not installed.
    """
    name = ctypes.util.find_library("fluidsynth")
    if name is None:
        raise RuntimeError("libfluidsynth is not installed; install it (Debian: apt install fluidsynth).")
    library = ctypes.CDLL(name)
    pointer = ctypes.c_void_p
    text = ctypes.c_char_p
    whole = ctypes.c_int
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
    # silence warnings about SoundFonts
    for level in range(5):
        library.fluid_set_log_function(level, None, None)
    return library


class Synthesiser:
    """FluidSynth at one sampling rate, without effects; not thread-safe.

    Args:
        sampling_rate: in Hz.
    """

    def __init__(self, sampling_rate: int) -> None:
        """Starts without SoundFonts; they are loaded on first use and kept."""
        self.library = _library()
        self.sampling_rate = sampling_rate
        self.settings = self.library.new_fluid_settings()
        self.library.fluid_settings_setnum(self.settings, b"synth.sample-rate", float(sampling_rate))
        for name, value in SETTINGS.items():
            if isinstance(value, float):
                self.library.fluid_settings_setnum(self.settings, name.encode(), value)
            else:
                self.library.fluid_settings_setint(self.settings, name.encode(), value)
        # never plays: it owns the SoundFonts and lends them to the synths that do
        self.owner = self.library.new_fluid_synth(self.settings)
        # pointers to SoundFonts
        self.loaded: dict[Path, int] = {}

    def _soundfont(self, path: Path) -> int:
        """Pointer to a SoundFont in memory, loaded from a file if necessary."""
        if path not in self.loaded:
            font_id = self.library.fluid_synth_sfload(self.owner, str(path).encode(), 0)
            if font_id == FAILED:
                raise ValueError(f"{path} is not a SoundFont; give an .sf2 or .sf3 file.")
            self.loaded[path] = self.library.fluid_synth_get_sfont_by_id(self.owner, font_id)
        return self.loaded[path]

    def play(self, notes: tuple[Note, ...], program: int, soundfont: Path, seconds: float, drums: bool) -> np.ndarray:
        """Renders one player's notes.

        Args:
            notes: in any order.
            program: General MIDI program; for drums, the number of the kit.
            soundfont: the SoundFont's file.
            seconds: length of the audio; later sound is cut off.
            drums: whether the player is the drums.

        Returns:
            float32 [left and right, seconds · sampling_rate].

        Raises:
            ValueError: the file is not a SoundFont, or does not have the program.
        """
        font = self._soundfont(soundfont)
        synth = self.library.new_fluid_synth(self.settings)
        font_id = self.library.fluid_synth_add_sfont(synth, font)
        channel, bank = (DRUM_CHANNEL, DRUM_BANK) if drums else (0, 0)
        try:
            if self.library.fluid_synth_program_select(synth, channel, font_id, bank, program) == FAILED:
                raise ValueError(f"{soundfont.name} has no program {program} in bank {bank}.")
            return self._render(synth, channel, notes, round(seconds * self.sampling_rate))
        finally:
            self.library.fluid_synth_remove_sfont(synth, font)
            self.library.delete_fluid_synth(synth)

    def _render(self, synth: int, channel: int, notes: tuple[Note, ...], size: int) -> np.ndarray:
        """Renders notes with a synth that has not played yet.

        Args:
            synth: pointer to FluidSynth's synth, whose program is selected.
            channel: MIDI channel.
            notes: in any order.
            size: number of samples.

        Returns:
            float32 [left and right, size].
        """
        blocks = -(-size // BLOCK)  # rounded up
        # block, 1 for note-on or 0 for note-off, pitch, velocity; in the same block, note-offs are sorted first
        events = [(self._block(note.start), 1, note.pitch, note.velocity) for note in notes]
        events += [(max(self._block(note.end), self._block(note.start) + 1), 0, note.pitch, 0) for note in notes]
        stereo = np.zeros((2, blocks * BLOCK), dtype=np.float32)
        at = 0  # number of blocks rendered
        # the last event is a dummy, before which the remaining blocks are rendered
        for block, on, pitch, velocity in [*sorted(events), (blocks, 0, 0, 0)]:
            until = min(block, blocks)
            if until > at:
                left, right = (side[at * BLOCK :].ctypes.data_as(ctypes.c_void_p) for side in stereo)
                self.library.fluid_synth_write_float(synth, (until - at) * BLOCK, left, 0, 1, right, 0, 1)
                at = until
            if on:
                self.library.fluid_synth_noteon(synth, channel, pitch, velocity)
            else:
                self.library.fluid_synth_noteoff(synth, channel, pitch)
        return stereo[:, :size]

    def _block(self, seconds: float) -> int:
        """Index of the block whose start is nearest to a time in seconds."""
        return round(seconds * self.sampling_rate / BLOCK)


@cache
def synthesiser(sampling_rate: int) -> Synthesiser:
    """This process's only synthesiser for a sampling rate in Hz."""
    return Synthesiser(sampling_rate)
