# SPDX-License-Identifier: Apache-2.0
"""Listens to a vocal once, and returns all that the stages read: tokens, lead sheet, and the lead sheet by frame.

In this order: pitches, where in the beat each frame may be, tempo, one track of beats, chords and key; last the
tokens, which contain the beats.

Frames are those of the tokenizer, at 50 Hz, unless they are said to be the conditioning frames of a stage.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from transformers.utils import logging

from ..audio.feature_extraction_hafm import PreparedVocal
from ..lead_sheet.bars import likeliest_key
from ..lead_sheet.lead_sheet import LeadSheet, rows_by_frame
from ..lead_sheet.metre import song_metre
from ..lead_sheet.style_choice import StyleRange, styles_in_order, sung_density, weigh_styles
from ..lead_sheet.vocabulary import AUTO_STYLE, ENERGIES
from ..modeling.configuration_stage import HAFMStageConfig
from ..stopping import CheckStop
from ..tokenizers.beat_tracker import likeliest_tempo
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from ..tokenizers.pitch_contour import Note, PitchContour, notes_of_pitches, sung_notes
from .energy import energy_sections
from .intro_and_outro import IntroAndOutro, add_bars
from .modeling_listener import HAFMListenerModel

logger = logging.get_logger(__name__)
# lead-sheet rows that depend on the beats
BEAT_ROWS = frozenset(("chord", "beat", "bar"))


@dataclass(frozen=True)
class Heard:
    """What is measured in a vocal, before beats are tracked and chords estimated.

    Args:
        pitches (float32 [frames at 100 Hz]): in Hz, NaN where nothing is sung.
        contour: the pitch contour of the vocal, at 50 Hz.
        phase_vectors (float32 [frames at 50 Hz, 4]): where in the beat each frame is
            (`HAFMRhythmNetwork.expected_phase_vectors`).
    """

    pitches: np.ndarray
    contour: PitchContour
    phase_vectors: torch.Tensor

    @cached_property
    def notes(self) -> list[Note]:
        """The notes that are sung, (start s, stop s, MIDI pitch) each."""
        return notes_of_pitches(self.pitches)


@dataclass(frozen=True)
class HAFMEncoderOutput:
    """What the stages read of one song: not hidden states, but tokens and a lead sheet.

    Args:
        tokens (int64 [frames at 50 Hz]): vocal semantic tokens of the whole song.
        lead_sheet: lead sheet of the song, as far as it was given or estimated.
        lead_sheet_rows: for each stage that reads a lead sheet, by its name: int64 [rows, conditioning frames], one
            row for each kind of information, such as chord and beat (`HAFMVocalEncoder.make_lead_sheet_rows`).
        duration: exact length of the vocal in seconds.
        before, after: silence around the vocal in seconds, in which the band plays alone.
        fade: length of the fade-out at the end, in seconds.
        suiting_styles: styles of the model that suit the song, in the order in which its variations get them; empty
            if the style is given or the model has none.
        seed: seed of the noise added to the vocal, and of the random numbers of the stages.
        variation: index of this accompaniment among those of the same vocal; selects its random numbers.
    """

    tokens: torch.Tensor
    lead_sheet: LeadSheet = field(default_factory=LeadSheet)
    lead_sheet_rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    duration: Fraction = Fraction(0)
    before: float = 0.0
    after: float = 0.0
    fade: float = 0.0
    suiting_styles: tuple[str, ...] = ()
    seed: int = 0
    variation: int = 0

    def length(self, rate: int) -> int:
        """Length of the song in samples at `rate` Hz."""
        return round(self.before * rate) + round(self.duration * rate) + round(self.after * rate)


class HAFMVocalEncoder:
    """The parts of a composite that listen to the vocal: semantic tokenizer, and listener and ear if there are any.

    Args:
        semantic_tokenizer: makes the tokens. With `beat_line` in its configuration it also tracks the beats: the beat
            in its tokens then follows one beat track through the whole vocal.
        listener: a small network that estimates chords and tempo from the pitch contour.
        ear: a large pretrained network that estimates nothing itself; the listener reads its features beside the
            contour. hafm-tiny has none.
        stage_configs: configurations of the stages that read what the encoder returns, by name.
    """

    def __init__(
        self,
        semantic_tokenizer: HAFMSemanticTokenizerModel,
        listener: HAFMListenerModel | None = None,
        ear: HAFMSemanticTokenizerModel | None = None,
        stage_configs: Mapping[str, HAFMStageConfig] | None = None,
    ) -> None:
        self.semantic_tokenizer = semantic_tokenizer
        self.listener = listener
        self.ear = ear
        self.stage_configs = dict(stage_configs or {})
        # configurations of the stages that read a lead sheet, by name
        self.reading_configs = {
            name: config for name, config in self.stage_configs.items() if config.lead_sheet_streams
        }

    @property
    def lead_sheet_rows_read(self) -> set[str]:
        """Names of the lead-sheet rows (`rows_by_frame`) that any of the stages reads."""
        return {name for config in self.reading_configs.values() for name in config.lead_sheet_streams}

    @property
    def reads_voice_only(self) -> bool:
        """Whether nothing but the voice can be given: no stage reads a lead sheet, and the tokenizer no beats."""
        return not self.reading_configs and not self.semantic_tokenizer.config.beat_line

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles that the stages can play: those of the first stage that reads a style."""
        for config in self.reading_configs.values():
            if "style" in config.lead_sheet_streams:
                return tuple(config.styles)
        return ()

    @property
    def style_ranges(self) -> dict[str, StyleRange]:
        """The metres, tempi and densities of notes that each of `styles` suits, by the style's name."""
        for config in self.reading_configs.values():
            if "style" in config.lead_sheet_streams:
                return {name: StyleRange.from_dict(config.style_ranges.get(name, {})) for name in config.styles}
        return {}

    @property
    def common_frame_rate(self) -> int:
        """Rate in Hz at which frames of all stages begin together: 25 Hz for stages at 50 and 75 Hz."""
        rates = [config.frame_rate for config in self.stage_configs.values()]
        return math.gcd(self.semantic_tokenizer.config.frame_rate, *rates)

    @torch.no_grad()
    def __call__(
        self,
        vocal: PreparedVocal,
        given: LeadSheet | None = None,
        *,
        seed: int = 0,
        style: str | None = None,
        energy: str | None = None,
        intro_bars: int = 0,
        outro_bars: int = 0,
        tail: float = 0.0,
        check_stop: CheckStop | None = None,
    ) -> HAFMEncoderOutput:
        """Encodes one vocal.

        Args:
            vocal: the vocal, from the feature extractor.
            given: the lead sheet of the vocal, as far as it is known.
            seed: seed of the noise that is added before the vocal is tokenised.
            style, energy: as in `GenerationOptions`; they override the lead sheet unless they are None or "auto".
            intro_bars, outro_bars: bars in which the band plays alone before and after the vocal.
            tail: seconds for which the band plays on after the vocal, if there is no outro.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Returns:
            Tokens and lead sheet of the whole song, intro, outro and tail included.

        Raises:
            ValueError: chords, beats or bars are given that the model cannot follow.
        """
        sheet = LeadSheet() if given is None else given
        self._check(sheet, intro_bars + outro_bars)
        seconds = float(vocal.duration)
        rate = self.semantic_tokenizer.config.sampling_rate

        heard = None
        if self._needs_estimates(sheet, vocal):
            heard = self.hear(vocal, check_stop)
        sheet, beat_phase = self._with_estimates(vocal, sheet, heard, check_stop)
        vocal_sheet = sheet

        # silence around the vocal, in which the band plays alone
        ends = IntroAndOutro(sheet)
        if intro_bars or outro_bars:
            ends = add_bars(sheet, vocal.samples, rate, intro_bars, outro_bars)
        if tail and not outro_bars:
            ends = ends.with_tail(seconds, tail)
        waveform = self._waveform(vocal, ends.before, ends.after)

        sheet = ends.sheet
        # without the padding to whole frames
        unpadded = waveform[: round(float(ends.before + seconds + ends.after) * rate)]
        sheet = with_style_and_energy(sheet, style, energy, unpadded.cpu().numpy(), rate)
        styles: tuple[str, ...] = ()
        if sheet.style is None and self.style_ranges:
            # by the vocal alone: intro and outro have no notes
            notes = sung_notes(vocal.samples, rate, check_stop) if heard is None else heard.notes
            styles = self._suiting_styles(notes, vocal_sheet, seed)

        if beat_phase is not None:
            # so far it covers the vocal only, not intro and outro
            beat_phase = self._phase_of_song(beat_phase, sheet, self.semantic_tokenizer.num_frames(len(waveform)))
        tokens = self.semantic_tokenizer.encode(
            waveform, vocal=True, seed=seed, beat_phase=beat_phase, check_stop=check_stop
        )
        return HAFMEncoderOutput(
            tokens=tokens,
            lead_sheet=sheet,
            lead_sheet_rows=self.make_lead_sheet_rows(len(tokens), sheet),
            duration=vocal.duration,
            before=ends.before,
            after=ends.after,
            fade=ends.fade,
            suiting_styles=styles,
            seed=seed,
        )

    def lead_sheet(
        self,
        vocal: PreparedVocal,
        given: LeadSheet | None = None,
        heard: Heard | None = None,
        check_stop: CheckStop | None = None,
    ) -> LeadSheet:
        """Adds the model's estimates to what is known of a song; they can be corrected and passed back.

        Args:
            vocal: the vocal, from the feature extractor.
            given: the lead sheet, as far as it is known.
            heard: what `hear` has returned for the vocal, if it has been called.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Returns:
            The lead sheet with beats if the tokenizer finds at least two, and chords and key if there is a listener.

        Raises:
            ValueError: chords are given by the bar and there are no beats.
        """
        sheet = LeadSheet() if given is None else given
        if heard is None and self._needs_estimates(sheet, vocal):
            heard = self.hear(vocal, check_stop)
        return self._with_estimates(vocal, sheet, heard, check_stop)[0]

    @torch.no_grad()
    def hear(self, vocal: PreparedVocal, check_stop: CheckStop | None = None) -> Heard:
        """Measures pitches and beats of a vocal, and the features that the composite's ear, if any, extracts from it.

        Args:
            vocal: the vocal, from the feature extractor.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Returns:
            The pitches, their contour, with `ear_features` if there is an ear, and the phase vectors.

        Raises:
            ValueError: the tokenizer has no rhythm network.
        """
        waveform = self._waveform(vocal)
        pitches, contour, phase_vectors = self.semantic_tokenizer.measure_pitch_and_beats(waveform, check_stop)
        if self.ear is not None:
            features = self.ear.extract_features(waveform.to(self.ear.device), check_stop=check_stop)
            contour = replace(contour, ear_features=features.cpu().numpy())
        return Heard(pitches, contour, phase_vectors)

    def tracked_beat_phase(self, vocal: PreparedVocal) -> torch.Tensor | None:
        """The beat phase that the tokenizer reads if no beats are given; None if the tokenizer tracks no beats.

        Returns:
            float [frames at 50 Hz], from 0 at a beat to 1 at the next.
        """
        if not self.semantic_tokenizer.config.beat_line:
            return None
        beat_phase = self._beat_track(self.hear(vocal), LeadSheet())
        # a lead sheet has the times of beats, and the tokenizer reads the phase between these
        _, phase_between_beats = with_beats(LeadSheet(), beat_phase, self.semantic_tokenizer.config.frame_rate)
        return phase_between_beats

    def make_lead_sheet_rows(self, frames: int, sheet: LeadSheet) -> dict[str, torch.Tensor]:
        """Encodes a lead sheet as integers, one row per kind of information, for each stage that reads it.

        Args:
            frames: length of the song in frames of the semantic tokenizer: one for each vocal token.
            sheet: the lead sheet; what it lacks is encoded as unknown.

        Returns:
            For each such stage, by its name: int64 [rows, conditioning frames], the rows that its
            `lead_sheet_streams` names, at its conditioning frame rate.

        Raises:
            ValueError: for a style that the model does not have.
        """
        rows_of_stages = {}
        for name, config in self.reading_configs.items():
            rate = config.conditioning_frame_rate
            conditioning_frames = frames * rate // self.semantic_tokenizer.config.frame_rate
            row_names = list(config.lead_sheet_streams)
            rows = rows_by_frame(sheet, row_names, conditioning_frames, rate, config.styles)
            rows_of_stages[name] = rows.to(self.semantic_tokenizer.device)
        return rows_of_stages

    def in_style(self, song: HAFMEncoderOutput, style: str) -> HAFMEncoderOutput:
        """A copy of an encoded song with a style that the model, not the user, has chosen.

        The copy's lead sheet lists the style as estimated, and its `lead_sheet_rows` are made anew.
        """
        estimated = sorted({*song.lead_sheet.estimated, "style"})
        sheet = replace(song.lead_sheet, style=style, estimated=estimated)
        return replace(song, lead_sheet=sheet, lead_sheet_rows=self.make_lead_sheet_rows(len(song.tokens), sheet))

    def _suiting_styles(self, notes: list[Note], sheet: LeadSheet, seed: int) -> tuple[str, ...]:
        """Styles that suit a vocal and its lead sheet, in the order in which the variations of a seed get them.

        They are chosen by metre, tempo and notes sung per second.
        """
        metre = sheet.beats_per_bar
        tempo = sheet.tempo
        if sheet.beats is not None:
            metre = song_metre(sheet, notes)
            tempo = float(60 / np.median(np.diff(sheet.beats)))
        return styles_in_order(weigh_styles(self.style_ranges, metre, tempo, sung_density(notes)), seed)

    def _check(self, sheet: LeadSheet, added_bars: int) -> None:
        """Raises ValueError for parts of a lead sheet, or bars, that neither the stages nor the tokenizer follow.

        Args:
            sheet: the lead sheet; the key is not checked, nor are fields listed as estimated, except beats.
            added_bars: number of bars of intro and outro together.
        """
        # names of lead-sheet rows, such as "chord" and "beat"
        rows_read = self.lead_sheet_rows_read
        why = ""
        if self.reads_voice_only:
            why = " This model reads the voice only."
        # `bars` are chords by the bar, which have no times yet
        chords_given = (sheet.chords or sheet.bars) and "chords" not in sheet.estimated
        if chords_given and "chord" not in rows_read:
            raise ValueError(f"Chords are given, but no stage of this model reads any; leave chords out.{why}")
        if sheet.has_beats and not self.semantic_tokenizer.config.beat_line and not rows_read & BEAT_ROWS:
            raise ValueError(f"This model has no beat line; leave tempo and beats of a lead sheet out.{why}")
        given_fields = sheet.to_dict().keys() - {*sheet.estimated, "estimated", "key"}
        if self.reads_voice_only and given_fields:
            raise ValueError(f"No stage of this model reads {' and '.join(sorted(given_fields))}; leave it out.{why}")
        if added_bars and not rows_read & {"beat", "bar"}:
            raise ValueError("This model cannot follow beats; leave intro_bars and outro_bars out.")

    def _needs_estimates(self, sheet: LeadSheet, vocal: PreparedVocal) -> bool:
        """Whether a lead sheet lacks beats or chords that can be estimated from the vocal."""
        if not self.semantic_tokenizer.config.beat_line:
            return False
        return sheet.beats is None or bool(self._chord_gaps(sheet, vocal))

    @staticmethod
    def _chord_gaps(sheet: LeadSheet, vocal: PreparedVocal) -> list[tuple[float, float]]:
        """Where a vocal has no chords: (start s, stop s); chords by the bar fill the whole song."""
        if sheet.bars:
            return []
        return sheet.chord_gaps(float(vocal.duration))

    def _with_estimates(
        self,
        vocal: PreparedVocal,
        sheet: LeadSheet,
        heard: Heard | None = None,
        check_stop: CheckStop | None = None,
    ) -> tuple[LeadSheet, torch.Tensor | None]:
        """Adds estimates of beats, chords and key to a lead sheet.

        Args:
            vocal: the vocal, from the feature extractor.
            sheet: the lead sheet, as far as it is known.
            heard: what `hear` has returned for the vocal; None if nothing is missing that could be estimated.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Returns:
            The lead sheet, and the beat phase of each frame of the vocal, float [frames at 50 Hz]. If no beats are
            given and the tokenizer tracks none: the lead sheet unchanged, and None.

        Raises:
            ValueError: chords are given by the bar and there are no beats.
        """
        tokenizer = self.semantic_tokenizer
        rate = tokenizer.config.frame_rate
        gaps = self._chord_gaps(sheet, vocal)
        if self.listener is None and sheet.key and "key" not in sheet.estimated and gaps:
            logger.warning("The key changes no chords, since this model has no listener; give chords instead.")

        beat_phase = sheet.beat_phase(tokenizer.num_frames(self._num_samples(float(vocal.duration))), rate)
        if beat_phase is None and heard is not None:
            beat_phase = self._beat_track(heard, sheet, check_stop)
        if beat_phase is None:
            if sheet.bars:
                raise ValueError(
                    "Chords by the bar need beats, which this model does not estimate; give beats as well."
                )
            return sheet, None
        sheet, beat_phase = with_beats(sheet, beat_phase, rate)
        if self.listener is not None and heard is not None and gaps:
            if check_stop is not None:
                check_stop()
            probabilities = self.listener.chord_probabilities(heard.contour, beat_phase, sheet)
            sheet = with_chords(sheet, LeadSheet.from_estimates(beat_phase, probabilities, rate), gaps)
        return sheet, beat_phase

    def _beat_track(self, heard: Heard, sheet: LeadSheet, check_stop: CheckStop | None = None) -> torch.Tensor:
        """Tracks the beat through a vocal.

        Args:
            heard: what `hear` has returned for the vocal.
            sheet: its tempo, if given, is kept exactly; else the track stays near the listener's estimate.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Returns:
            Beat phase of each frame: float [frames at 50 Hz], from 0 at a beat to 1 at the next.
        """
        if check_stop is not None:
            check_stop()
        # in beats a minute
        estimated_tempo = None
        if self.listener is not None and sheet.tempo is None:
            estimated_tempo = likeliest_tempo(self.listener.tempi, self.listener.tempo_logits_of(heard.contour))
        return self.semantic_tokenizer.track_beats(heard.phase_vectors, sheet.tempo, estimated_tempo, check_stop)

    def _phase_of_song(self, beat_phase: torch.Tensor, sheet: LeadSheet, frames: int) -> torch.Tensor | None:
        """The beat phase that the tokenizer reads, for a song with intro and outro; None if the tokenizer reads none.

        Args:
            beat_phase (float [frames of the vocal]): of the vocal alone.
            sheet: lead sheet of the whole song.
            frames: number of the tokenizer's frames in the whole song.

        Returns:
            float [frames]: from the lead sheet's beats; without beats the vocal's phase, its last value held to the
            end of the song.
        """
        if not self.semantic_tokenizer.config.beat_line:
            return None
        phase_by_beats = sheet.beat_phase(frames, self.semantic_tokenizer.config.frame_rate)
        if phase_by_beats is not None:
            return phase_by_beats
        # too short for two beats
        return torch.cat([beat_phase, beat_phase[-1:].expand(frames - len(beat_phase))])

    def num_tokens(self, seconds: float) -> int:
        """Number of tokens of a song of `seconds`, rounded up to whole frames of all stages."""
        frame_rate = self.semantic_tokenizer.config.frame_rate
        return self._num_common_frames(seconds) * frame_rate // self.common_frame_rate

    def _num_samples(self, seconds: float) -> int:
        """Number of samples of a vocal of `seconds`, rounded up to whole frames of all stages."""
        sampling_rate = self.semantic_tokenizer.config.sampling_rate
        return self._num_common_frames(seconds) * sampling_rate // self.common_frame_rate

    def _num_common_frames(self, seconds: float) -> int:
        """Number of frames at the common frame rate that cover `seconds`."""
        # rounded first: an error of the multiplication must not add a frame
        return math.ceil(round(seconds * self.common_frame_rate, 6))

    def _waveform(self, vocal: PreparedVocal, before: float = 0.0, after: float = 0.0) -> torch.Tensor:
        """The vocal with silence before and after it, padded to whole frames of all stages.

        Args:
            vocal: the vocal, from the feature extractor.
            before, after: silence in seconds.

        Returns:
            float32 [N] at the tokenizer's sampling rate, on its device.
        """
        first = round(before * self.semantic_tokenizer.config.sampling_rate)
        waveform = np.zeros(self._num_samples(before + float(vocal.duration) + after), dtype=np.float32)
        # rounding may leave room for one sample less than the vocal has
        samples = vocal.samples[: len(waveform) - first]
        waveform[first : first + len(samples)] = samples
        return torch.from_numpy(waveform).to(self.semantic_tokenizer.device)


def with_beats(sheet: LeadSheet, beat_phase: torch.Tensor, frame_rate: int) -> tuple[LeadSheet, torch.Tensor]:
    """Adds the beats of a beat track to a lead sheet, and places chords that are given by the bar.

    Args:
        sheet: the lead sheet, as far as it is known.
        beat_phase (float [frames]): beat phase of each frame along the track, from 0 at a beat to 1 at the next; the
            track has the lead sheet's tempo, if that is given.
        frame_rate: in Hz.

    Returns:
        The lead sheet, with beats instead of a tempo; and the beat phase that follows from its beats, float [frames].
        If the track has fewer than two beats and none are given, tempo and beat phase stay as they are.
    """
    sheet = sheet.with_bars_placed(beat_phase, frame_rate)
    estimate = replace(LeadSheet.from_estimates(beat_phase, None, frame_rate), downbeat=sheet.downbeat)
    # a lead sheet has tempo or beats, not both
    if estimate.beats:
        sheet = replace(sheet, tempo=None)
    sheet = sheet.completed_by(estimate)
    phase_by_beats = sheet.beat_phase(len(beat_phase), frame_rate)
    # fewer than two beats were found and none given
    if phase_by_beats is None:
        return sheet, beat_phase
    return sheet, phase_by_beats


def with_chords(sheet: LeadSheet, estimate: LeadSheet, gaps: Sequence[tuple[float, float]]) -> LeadSheet:
    """Adds estimated chords where none are given, and the key that fits all chords best.

    Args:
        sheet: the lead sheet, as far as it is known.
        estimate: a lead sheet with estimated chords, which are respelled for that key.
        gaps: where no chords are given, (start s, stop s) each.

    Returns:
        The lead sheet with these chords and key; given ones are kept.
    """
    # estimated chords have yet to be spelled, so the key is found from their notes
    key = sheet.key or likeliest_key(sheet.with_chords_in_gaps(estimate, gaps))
    estimate = estimate.spelled(key)
    if sheet.chords:
        sheet = sheet.with_chords_in_gaps(estimate, gaps)
    else:
        sheet = sheet.completed_by(estimate)
    return sheet.completed_by(LeadSheet(key=key, estimated=["key"] if key else []))


def with_style_and_energy(
    sheet: LeadSheet, style: str | None, energy: str | None, samples: np.ndarray, rate: int
) -> LeadSheet:
    """Adds the style and energy that were asked for to the lead sheet of a song.

    If no style is given, it stays unknown here; `generation_accompaniment.variations_of` chooses one later.

    Args:
        sheet: the lead sheet.
        style: a style for the whole song, in place of the lead sheet's; None or "auto": keep the lead sheet's.
        energy: "sparse", "normal" or "full" for the whole song, in place of the lead sheet's sections; "auto": if the
            lead sheet has no sections, make them from the loudness of the vocal in each bar; None: leave them.
        samples (float32 [N]): the vocal, with silence where the band plays alone.
        rate: of the samples in Hz.

    Returns:
        The lead sheet; a style or energy that was asked for counts as given, sections by loudness as estimated.
    """
    if style not in (None, AUTO_STYLE):
        estimated = [name for name in sheet.estimated if name != "style"]
        sheet = replace(sheet, style=style, estimated=estimated)
    if energy in ENERGIES:
        estimated = [name for name in sheet.estimated if name != "sections"]
        sheet = replace(sheet, sections=[(0.0, len(samples) / rate, energy)], estimated=estimated)
    elif energy is not None and not sheet.sections:
        estimated = sorted({*sheet.estimated, "sections"})
        sheet = replace(sheet, sections=energy_sections(samples, rate, sheet.downbeats), estimated=estimated)
    return sheet
