# SPDX-License-Identifier: Apache-2.0
"""From a voice to its lead sheet: a vocal's noisy tokens, its beats and chords, and the streams that tell the stages.

The first thing that the composite does on the path of the data, before `song`.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..audio import pad_end, resample
from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.streams import lead_sheet_streams, place_of
from ..lead_sheet.vocabulary import ENERGIES, STEMS
from ..listening.modeling_harmony import HAFMHarmonyModel
from ..listening.transcription import energies
from ..modeling.modeling_hafm import HAFMCoarseForCausalLM, HAFMSemanticForCausalLM, HAFMStageForCausalLM
from ..modeling.stage_table import STAGES
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .options import OPTIONS, GenerationOptions
from .song import Voice

# of `STREAMS`, those that beats of a lead sheet have a place in
BEAT_STREAMS = ("chord", "beat", "bar")


class ListeningMixin:
    """What a composite estimates of a vocal, by its semantic tokenizer and, if it has one, its `harmony`."""

    semantic_tokenizer: HAFMSemanticTokenizerModel
    semantic: HAFMSemanticForCausalLM
    coarse: HAFMCoarseForCausalLM
    harmony: HAFMHarmonyModel

    @property
    def units_per_second(self) -> int:
        """Largest rate that divides all token rates: 25 for 50 and 75 Hz. Songs are whole units long inside."""
        return math.gcd(self.semantic.config.frame_rate, self.coarse.config.frame_rate)

    def units(self, samples: int, sampling_rate: int) -> int:
        """Whole units that hold so many samples; a song is whole units long inside."""
        return math.ceil(round(samples / sampling_rate * self.units_per_second, 6))

    def tokenize_vocal(
        self,
        vocal: np.ndarray,
        sampling_rate: int,
        seed: int | None = None,
        lead_sheet: LeadSheet | None = None,
    ) -> torch.Tensor:
        """Noisy vocal semantic tokens of a mono vocal (float32 [N]), padded to whole units: int64 [1, T_v].

        Tempo or beats of `lead_sheet` count instead of those that are estimated.

        Raises:
            ValueError: on an empty vocal, or where neither a stage nor the tokenizer knows what to do with beats.
        """
        if len(vocal) == 0:
            raise ValueError("The vocal is empty; HAFM needs samples to accompany.")
        rate = self.semantic_tokenizer.config.sampling_rate
        samples = resample(vocal, sampling_rate, rate)
        wanted = self.units(len(vocal), sampling_rate) * rate // self.units_per_second
        waveform = torch.from_numpy(pad_end(samples[:wanted], wanted)).to(self.semantic_tokenizer.device)
        if not self.semantic_tokenizer.config.beat_line and not self.known_streams.isdisjoint(BEAT_STREAMS):
            lead_sheet = None
        return self.semantic_tokenizer.encode(waveform, noise=True, seed=seed, lead_sheet=lead_sheet)[None]

    def hear_voice(
        self, vocal: np.ndarray, sampling_rate: int, seed: int | None = None, lead_sheet: LeadSheet | None = None
    ) -> Voice:
        """What the stages are told of a mono vocal (float32 [N]); the rest as for `tokenize_vocal`.

        Raises:
            ValueError: as `tokenize_vocal`, or where no stage reads the chords of a lead sheet.
        """
        sheet = LeadSheet() if lead_sheet is None else lead_sheet
        if (sheet.chords or sheet.bars) and "chords" not in sheet.estimated and "chord" not in self.known_streams:
            raise ValueError("Chords are given, but no stage of this model reads any; leave chords out.")
        tokens = self.tokenize_vocal(vocal, sampling_rate, seed, lead_sheet)[0]
        if not self.reading_stages:
            return Voice(tokens, lead_sheet=lead_sheet)
        sheet = self.complete_lead_sheet(tokens, lead_sheet)
        return Voice(tokens, self._streams(len(tokens), sheet), sheet)

    @property
    def reading_stages(self) -> dict[str, HAFMStageForCausalLM]:
        """The stages that are conditioned on a lead sheet, by name."""
        stages = {name: getattr(self, name, None) for name in STAGES}
        return {name: stage for name, stage in stages.items() if stage is not None and stage.config.lead_sheet_streams}

    @property
    def stems(self) -> tuple[str, ...]:
        """The stems that a band can come as: what the coarse stage is told to play, or the separator's; or none."""
        return STEMS[1:] if self.separates or "stem" in self.coarse.config.lead_sheet_streams else ()

    @property
    def separates(self) -> bool:
        """Whether stems come from a separator, and not from rows of the acoustic stages."""
        return getattr(self, "separator", None) is not None

    @property
    def known_streams(self) -> set[str]:
        """What the model can be told, of `STREAMS`: what its stages read, and stems where it has them."""
        known = {stream for stage in self.reading_stages.values() for stream in stage.config.lead_sheet_streams}
        return known | {"stem"} if self.stems else known - {"stem"}

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles that the model can play."""
        configs = [
            stage.config for stage in self.reading_stages.values() if "style" in stage.config.lead_sheet_streams
        ]
        return tuple(configs[0].styles) if configs else ()

    def check_streams(self, options: GenerationOptions) -> None:
        """Refuses options that say what no stage of the model reads.

        Raises:
            ValueError: naming the option, or the styles that there are.
        """
        configs, known = [stage.config for stage in self.reading_stages.values()], self.known_streams
        for name, row in OPTIONS.items():
            value = getattr(options, name)
            if row.streams and value not in (None, False) and known.isdisjoint(row.streams):
                read = ", ".join(row.streams)
                raise ValueError(f"{name} is {value!r}, but this model knows nothing of {read}; leave {name} out.")
        for config in configs:
            if options.style is not None and "style" in config.lead_sheet_streams:
                place_of(options.style, config.styles, "style")

    def asked_lead_sheet(
        self, vocal: np.ndarray, sampling_rate: int, lead_sheet: LeadSheet | None, options: GenerationOptions
    ) -> LeadSheet | None:
        """The lead sheet of a mono vocal (float32 [N]) with the style and the energy that the options ask for."""
        changes: dict[str, Any] = {} if options.style is None else {"style": options.style}
        sheet = LeadSheet() if lead_sheet is None else lead_sheet
        estimated = {*sheet.estimated} - changes.keys()
        if options.energy in ENERGIES:
            changes["sections"] = [(0.0, len(vocal) / sampling_rate, options.energy)]
            estimated -= {"sections"}
        elif options.energy is not None and not sheet.sections:
            changes["sections"] = energies(vocal, sampling_rate, sheet.downbeats)
            estimated |= {"sections"}
        return replace(sheet, **changes, estimated=sorted(estimated)) if changes else lead_sheet

    def lead_sheet_streams(
        self, vocal_semantic: torch.Tensor, lead_sheet: LeadSheet | None = None
    ) -> dict[str, torch.Tensor]:
        """The streams of a song's lead sheet for the stages that are conditioned on them.

        What is not given is estimated where the model can (beats, chords); the rest stays unknown.

        Args:
            vocal_semantic (int64 [T_v]): a vocal's tokens, of the whole song.
            lead_sheet: what is known.

        Returns:
            int64 [S, T_c] by the name of the stage; where it plays stems, of the mix.

        Raises:
            ValueError: a style that the model does not have.
        """
        if not self.reading_stages:
            return {}
        return self._streams(len(vocal_semantic), self.complete_lead_sheet(vocal_semantic, lead_sheet))

    def _streams(self, tokens: int, sheet: LeadSheet) -> dict[str, torch.Tensor]:
        """The streams of a lead sheet over so many tokens of a vocal, by the name of the stage."""
        streams = {}
        for name, stage in self.reading_stages.items():
            config, rate = stage.config, stage.config.conditioning_frame_rate
            frames = tokens * rate // self.semantic_tokenizer.config.frame_rate
            found = lead_sheet_streams(sheet, list(config.lead_sheet_streams), frames, rate, config.styles, STEMS[0])
            streams[name] = found.to(stage.device)
        return streams

    def complete_lead_sheet(self, vocal_semantic: torch.Tensor, lead_sheet: LeadSheet | None = None) -> LeadSheet:
        """What is known of a song, and the model's estimate of what is not, as far as it has one.

        Args:
            vocal_semantic (int64 [T_v]): a vocal's tokens, of the whole song.
            lead_sheet: what is known.
        """
        sheet = self._with_bars(vocal_semantic, lead_sheet)
        if not self.semantic_tokenizer.config.beat_line or (sheet.beats is not None and sheet.chords):
            return sheet
        # the estimate keeps to a tempo that is given, and says where its beats lie
        beats = sheet if sheet.tempo is None else replace(sheet, tempo=None)
        return beats.completed_by(self._estimated(vocal_semantic, sheet))

    def estimate_lead_sheet(
        self, vocal: np.ndarray, sampling_rate: int, seed: int | None = None, lead_sheet: LeadSheet | None = None
    ) -> LeadSheet:
        """Estimated beats of a vocal, and the likeliest chord of each: to be looked at, mended and given back.

        Args:
            vocal (float32 [N]): mono.
            sampling_rate: in Hz.
            seed: of the noise on the vocal.
            lead_sheet: what is known already.

        Returns:
            beats, if there are two, and chords, if there is a `harmony` to hear them.

        Raises:
            ValueError: on an empty vocal, or where the tokenizer does not know the beat.
        """
        return self._estimated(self.tokenize_vocal(vocal, sampling_rate, seed, lead_sheet)[0], lead_sheet)

    def _estimated(self, vocal_semantic: torch.Tensor, lead_sheet: LeadSheet | None) -> LeadSheet:
        """Beats and chords of a vocal's tokens (int64 [T_v]), those that are known among them."""
        tokenizer, part, tokens = self.semantic_tokenizer, getattr(self, "harmony", None), vocal_semantic
        sheet = self._with_bars(tokens, lead_sheet)
        phase = tokenizer.beat_phase(tokenizer.beat_places(tokens), sheet)
        rate = tokenizer.config.frame_rate
        chords = None if part is None else sheet.add_chords(part.chords(tokens, phase).cpu(), rate)
        return LeadSheet.from_estimates(phase, chords, rate)

    def _with_bars(self, vocal_semantic: torch.Tensor, lead_sheet: LeadSheet | None) -> LeadSheet:
        """A lead sheet with the chords of its bars at their seconds, on the beats of a vocal (int64 [T_v])."""
        sheet, tokenizer = LeadSheet() if lead_sheet is None else lead_sheet, self.semantic_tokenizer
        if not sheet.bars:
            return sheet
        phase = sheet.phase(len(vocal_semantic), tokenizer.config.frame_rate)
        if phase is None:
            phase = tokenizer.beat_phase(tokenizer.beat_places(vocal_semantic), sheet)
        return sheet.with_bars_placed(phase, tokenizer.config.frame_rate)
