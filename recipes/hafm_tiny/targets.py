# SPDX-License-Identifier: Apache-2.0
"""Training targets of the bundled semantic tokenizer at 50 Hz, and its constant-Q front end.

HuBERT (Hsu et al. 2021, arXiv 2106.07447) predicts clusters of MFCCs, which discard pitch. Here, the clusters are of
chroma and of onset strength, loudness and band levels, and the labels of rendered songs (sung note, onset, chord,
beat) are predicted as well. The first convolution is a bank of constant-Q filters (Brown 1991) in three phases 120°
apart: after the GELU, the sum over the phases hardly depends on the signal's phase, so that the network has access to
pitch from the first step. Dimensions: B clips, F frequencies of the filters, T frames at 50 Hz.
"""

from typing import Any

import numpy as np
import torch
from transformers import HubertConfig, HubertModel

from hafm_hf.lead_sheet.chords import NUM_TRIADS, PITCH_CLASSES, triad_class
from hafm_hf.lead_sheet.lead_sheet import beats_passed

from .song_pool import Song

# filters per frequency
PHASES = 3
# target of frames that do not count in the loss
IGNORED = -100
# range of sung notes (MIDI)
LOWEST_NOTE = 36
HIGHEST_NOTE = 96
# number of classes of each target
LABEL_SIZES = {"pitch": HIGHEST_NOTE - LOWEST_NOTE + 2, "onset": 4, "chord": NUM_TRIADS, "beat": 4}
# upper limits, in seconds since a note's start, of the frames in its onset and in its first part
ONSET_SECONDS = (0.06, 0.2)


def filter_frequencies() -> np.ndarray:
    """Centre frequencies in Hz [128]: semitones below E3 and above G6, quarter tones in between, wider above 4 kHz."""
    notes = np.concatenate([np.arange(28, 52), np.arange(52, 92, 0.5), np.arange(92, 108), np.linspace(109, 118.5, 8)])
    return 440.0 * 2.0 ** ((notes - 69) / 12)


def constant_q_filters(frequencies: np.ndarray, sampling_rate: int, kernel: int, cycles: float = 24.0) -> np.ndarray:
    """A bank of constant-Q filters: for each frequency, windowed cosines in three phases 120° apart.

    Args:
        frequencies (float64 [F]): in Hz.
        sampling_rate: in Hz.
        kernel: length of the filters in samples; low frequencies get a window of that length.
        cycles: length of the other windows in cycles of their frequency.

    Returns:
        float32 [3 · F, kernel]: a filter per row, the three phases of a frequency in succession.
    """
    time = (np.arange(kernel) - (kernel - 1) / 2) / sampling_rate
    rows = []
    for frequency in frequencies:
        length = min(kernel, cycles * sampling_rate / frequency) / sampling_rate
        window = np.where(np.abs(time) < length / 2, 0.5 + 0.5 * np.cos(2 * np.pi * time / length), 0.0)
        # music gets weaker with frequency, which √f compensates; the factor brings a loud partial of normalised audio
        # to about 1
        window *= 4.0 * np.sqrt(frequency / 1000.0) / window.sum()
        rows += [window * np.cos(2 * np.pi * (frequency * time + phase / PHASES)) for phase in range(PHASES)]
    return np.stack(rows).astype(np.float32)


def tiny_hubert_config(hidden_size: int = 192, num_hidden_layers: int = 5) -> HubertConfig:
    """A small HuBERT with layer norm; its two convolutions have a stride of 160 · 2 = 320, like HuBERT's seven.

    The first convolution is the bank of constant-Q filters, with a kernel of 3072 samples (0.19 s at 16 kHz).
    """
    return HubertConfig(
        conv_dim=[PHASES * len(filter_frequencies()), 256],
        conv_kernel=[3072, 3],
        conv_stride=[160, 2],
        conv_bias=True,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden_size,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=64,
        num_conv_pos_embedding_groups=8,
        hidden_dropout=0.05,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
    )


@torch.no_grad()
def start_front_end(hubert: HubertModel, sampling_rate: int) -> None:
    """Set the first convolution to the filter bank and freeze it; initialise the second to sum over phases.

    Args:
        hubert: model with a `tiny_hubert_config`, changed in place.
        sampling_rate: in Hz.
    """
    first, second = hubert.feature_extractor.conv_layers[:2]
    frequencies = filter_frequencies()
    filters = constant_q_filters(frequencies, sampling_rate, first.conv.kernel_size[0])
    first.conv.weight.copy_(torch.from_numpy(filters).unsqueeze(1))
    first.conv.bias.normal_(0.0, 0.02)
    first.layer_norm.weight.fill_(4.0)
    for parameter in first.conv.parameters():
        parameter.requires_grad_(False)
    # one channel per frequency sums its phases; the other channels stay random
    second.conv.weight[: len(frequencies)] = 0.0
    for index in range(len(frequencies)):
        second.conv.weight[index, PHASES * index : PHASES * (index + 1)] = 0.3


def descriptors(responses: torch.Tensor) -> dict[str, torch.Tensor]:
    """Self-supervised descriptors of sound: B clips, F frequencies, T frames at 50 Hz.

    Args:
        responses (float [B, 3 · F, 2 · T (+1)]): the first convolution's output, at 100 Hz; an odd last frame is not
            used.

    Returns:
        "harmony" (float [B, T, 24]), chroma of the middle and of the low range; and "texture" (float [B, T, 10]),
        loudness, onset strength and levels of 8 bands. Both are scaled so that their parts contribute evenly to
        Euclidean distance.
    """
    bank = responses.unflatten(1, (-1, PHASES)).pow(2).sum(2)  # power at 100 Hz: [B, F, 2 · T (+1)]
    num_paired = bank.shape[-1] // 2 * 2
    power = bank[..., :num_paired].unflatten(-1, (-1, 2)).mean(-1)  # at 50 Hz: [B, F, T]
    notes = 69 + 12 * torch.log2(torch.from_numpy(filter_frequencies()) / 440.0)  # MIDI
    classes = torch.remainder(torch.round(notes), PITCH_CLASSES).long().to(power.device)
    # quarter tones belong to no pitch class
    is_semitone = (notes - torch.round(notes)).abs() < 0.1
    # the middle range, E3 to G6, and the low one, below G♯3
    ranges = (is_semitone & (notes >= 52) & (notes < 92), is_semitone & (notes < 56))
    chroma = []
    for inside in ranges:
        folded = power.new_zeros(power.shape[0], PITCH_CLASSES, power.shape[-1])  # [B, 12, T]
        index = inside.nonzero().squeeze(1).to(power.device)
        folded.index_add_(1, classes[index], power[:, index].sqrt())
        chroma.append(folded / folded.norm(dim=1, keepdim=True).clamp_min(1e-4))
    bands = torch.log(power.unflatten(1, (8, -1)).mean(2) + 1e-4)
    loudness = torch.log(power.mean(1, keepdim=True) + 1e-4)
    log_magnitudes = torch.log(power.sqrt() + 0.01)
    rise = (log_magnitudes[..., 1:] - log_magnitudes[..., :-1]).clamp_min(0.0).mean(1, keepdim=True)
    onset = torch.nn.functional.pad(rise, (1, 0))  # 0 in the first frame
    texture = torch.cat([loudness, 10 * onset, 0.3 * bands], dim=1)
    return {"harmony": torch.cat(chroma, dim=1).transpose(1, 2), "texture": texture.transpose(1, 2)}


def note_targets(labels: dict[str, Any], times: np.ndarray, shift: int) -> dict[str, np.ndarray]:
    """Targets of a vocal: sung pitch, and part of the note.

    Args:
        labels: labels of the song; "notes" have start and end in seconds, and MIDI pitch.
        times (float [T]): times of the frames in seconds.
        shift: semitones by which the vocal is transposed.

    Returns:
        int64 [T] each. "pitch": 0 between notes, otherwise the transposed MIDI pitch, clipped to 36 to 96, minus 35.
        "onset": 0 between notes; in a note, 1 for its onset, 2 for its first part and 3 for the rest.
    """
    pitch = np.zeros(len(times), np.int64)
    onset = np.zeros(len(times), np.int64)
    if not labels["notes"]:
        return {"pitch": pitch, "onset": onset}
    notes = np.asarray(labels["notes"], dtype=np.float64)
    # for each frame, the last note to begin by then; the first note, before it
    index = np.clip(np.searchsorted(notes[:, 0], times, side="right") - 1, 0, None)
    inside = (times >= notes[index, 0]) & (times < notes[index, 1])
    midi = np.clip(np.round(notes[index, 2]).astype(np.int64) + shift, LOWEST_NOTE, HIGHEST_NOTE)
    pitch[inside] = midi[inside] - LOWEST_NOTE + 1
    age = times - notes[index, 0]
    onset[inside] = 1 + np.searchsorted(ONSET_SECONDS, age[inside], side="right")
    return {"pitch": pitch, "onset": onset}


def chord_targets(labels: dict[str, Any], times: np.ndarray, shift: int) -> dict[str, np.ndarray]:
    """Targets of an instrumental: chord, and position in the beat.

    Args:
        labels: labels of the song; "chords" have start and end in seconds, and a label in Harte's notation.
        times (float [T]): times of the frames in seconds.
        shift: semitones by which the instrumental is transposed.

    Returns:
        int64 [T] each: "chord" (`triad_class`; 0: none), and "beat", the quarter of the beat (0 to 3; IGNORED outside
        all beats).
    """
    chord = np.zeros(len(times), np.int64)
    for start, end, label in labels["chords"]:
        chord[(times >= start) & (times < end)] = triad_class(label)
    return {"chord": transposed_chords(chord, shift), "beat": beat_parts(labels, times, LABEL_SIZES["beat"])}


def transposed_chords(chords: np.ndarray, semitones: int) -> np.ndarray:
    """Chord classes (int64 of any shape, see `triad_class`) transposed up by semitones; 0, no chord, stays 0."""
    mode, root = np.divmod(chords - 1, PITCH_CLASSES)
    return np.where(chords > 0, 1 + mode * PITCH_CLASSES + (root + semitones) % PITCH_CLASSES, chords)


def beat_phases(labels: dict[str, Any], times: np.ndarray) -> np.ndarray:
    """Position in the beat, from 0 to 1, of each time (float [T], in seconds): float64 [T], NaN outside all beats."""
    beats = np.asarray(labels["beats"], dtype=np.float64)
    if len(beats) <= 1:
        return np.full(len(times), np.nan)
    return np.where((times >= beats[0]) & (times < beats[-1]), beats_passed(beats, times) % 1, np.nan)


def beat_parts(labels: dict[str, Any], times: np.ndarray, parts: int) -> np.ndarray:
    """Which of `parts` equal parts of the beat each time (float [T], in seconds) is in.

    Returns:
        int64 [T], from 0; IGNORED outside all beats.
    """
    phase = beat_phases(labels, times)
    part_numbers = np.full(len(times), IGNORED, np.int64)
    inside = np.isfinite(phase)
    part_numbers[inside] = np.clip(phase[inside] * parts, 0, parts - 1).astype(np.int64)
    return part_numbers


def frame_targets(song: Song, times: np.ndarray, shift: int, is_vocal: bool) -> dict[str, np.ndarray]:
    """All targets in LABEL_SIZES for a crop of a vocal or an instrumental.

    Args:
        song: the song, with labels.
        times (float [T]): times of the frames in the song, in seconds.
        shift: semitones by which the crop is transposed.
        is_vocal: whether the crop is of the vocal, not of the instrumental.

    Returns:
        int64 [T] each, by name; IGNORED for the targets of the other kind of audio.
    """
    if is_vocal:
        targets = note_targets(song.labels, times, shift)
    else:
        targets = chord_targets(song.labels, times, shift)
    ignored = np.full(len(times), IGNORED, np.int64)
    return {name: targets.get(name, ignored) for name in LABEL_SIZES}
