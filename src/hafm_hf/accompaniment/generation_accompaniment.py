# SPDX-License-Identifier: Apache-2.0
"""Generation by the composite, in three steps: listen to the vocals, run the stages, decode their codes.

Dimensions: B vocals, N samples, C channels.
"""

# a mixin may not say that `self` is the class that it is mixed into; here it always is
# mypy: disable-error-code=misc

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from ..audio import check_sampling_rate
from ..audio.feature_extraction_hafm import PreparedVocal, instrumental_channels_first
from ..computing import drawn_seed, seeded_torch, suitable_threads
from ..lead_sheet.files import FileName, known_lead_sheet
from ..lead_sheet.lead_sheet import LeadSheet, Span, index_of_style
from ..lead_sheet.vocabulary import AUTO_STYLE
from ..listening.encoder import HAFMEncoderOutput, HAFMVocalEncoder
from ..modeling.modeling_stage import HAFMStageForCausalLM
from ..modeling.windows import ROWS_AT_ONCE
from ..tokenizers.codecs import CodecStream
from . import parts
from .chain import Progress, ProgressReports, StageChain, steps_of_first_stage
from .kept_instrumental import KeptInstrumental, Spans
from .modeling_separator import SeparatorStream
from .options import GenerationOptions, options_by_name

if TYPE_CHECKING:
    from .modeling_accompaniment import HAFMForVocalAccompaniment

# float [N], or [C, N] with several channels
Waveform = torch.Tensor | np.ndarray
GivenLeadSheet = LeadSheet | dict[str, Any]


@dataclass
class HAFMAccompanimentOutput(ModelOutput):
    """Output of `HAFMForVocalAccompaniment.generate`; lists have an entry per vocal and sample, samples innermost.

    Args:
        audio: instrumentals, float32 [N] each, [C, N] from a codec with several channels, as long as their vocal with
            the intro, outro and tail that it was encoded with.
        sampling_rate: sampling rate of `audio`, in Hz.
        vocal_semantic: semantic tokens of the vocals, int64 [frames at 50 Hz] each.
        instrumental_semantic: semantic tokens of the instrumentals, int64 [frames at 50 Hz] each.
        codes: codec codes of the instrumentals, int64 [codebooks, codec frames] each; 8 codebooks, or 4 without the
            fine stage.
        lead_sheets: the `LeadSheet` of each, as far as it was given or estimated.
        stems: stems of each by name (float32 [N] or [C, N]), which sum to `audio`; only if requested.
    """

    audio: list[torch.Tensor]
    sampling_rate: int = None  # type: ignore[assignment]
    vocal_semantic: list[torch.Tensor] = None  # type: ignore[assignment]
    instrumental_semantic: list[torch.Tensor] = None  # type: ignore[assignment]
    codes: list[torch.Tensor] = None  # type: ignore[assignment]
    lead_sheets: list[LeadSheet] = None  # type: ignore[assignment]
    stems: list[dict[str, torch.Tensor]] | None = None


class HAFMAccompanimentGenerationMixin:
    """`encode`, `generate` and `stream` of `HAFMForVocalAccompaniment`.

    Their arguments:
        vocals (float [B, N], [B, 1, N], [N], or a list of [N]): B vocals of N samples, mono, in −1 … 1.
        sampling_rate (Hz): of the vocals and the instrumental.
        input_values, padding_mask, original_lengths, original_rates: the vocals as the feature extractor returns them.
            `padding_mask` ([B, N] or [N]) may also mark padding of `vocals`, on either side.
        lead_sheet, tempo, beats, chords, key: what is known of the song (`lead_sheet.files.known_lead_sheet`), for one
            vocal; for several, `lead_sheet` may be a list with a lead sheet or None for each.
        encoder_outputs: what `encode` has returned, tokens and a lead sheet for each vocal rather than hidden states;
            instead of vocals and lead sheets.
        instrumental (float [N], or [C, N] with C channels): accompaniment of a single vocal, with spans to keep.
        keep (sequence of (start, stop) in s): the spans of `instrumental` to keep; the rest is generated with their
            tokens as given, and joined to them by a short cross-fade.
        options: the generation options.
        progress: called with (stage, steps done, total steps) after every step, and with the same values again during
            long computations; an exception raised in it ends the generation.
        kwargs: fields of `options` by name (`seed=1`, `top_k=50`), which take precedence.
    """

    @torch.no_grad()
    def encode(
        self: "HAFMForVocalAccompaniment",
        vocals: Sequence[PreparedVocal],
        lead_sheets: Sequence[LeadSheet | None],
        options: GenerationOptions,
        *,
        intro_bars: int = 0,
        outro_bars: int = 0,
        tail: float = 0.0,
        progress: Progress | None = None,
    ) -> list[HAFMEncoderOutput]:
        """Listens to vocals, the first step of `generate`. A style that isn't given stays open (`variations_of`).

        Args:
            vocals: from the feature extractor.
            lead_sheets: what is known of each song.
            options: the generation options; seed, style and energy are used, and all are checked.
            intro_bars, outro_bars: bars in which the band plays alone before and after the vocal.
            tail: seconds for which the band plays on after the vocal, if there is no outro.
            progress: as for `generate`.

        Returns:
            What the stages read of each song.

        Raises:
            ValueError: for an option, bars, or a lead sheet that the model cannot follow.
        """
        check_supported(options, self)
        encoder = self.encoder
        seed = drawn_seed() if options.seed is None else options.seed
        reports = progress if isinstance(progress, ProgressReports) else ProgressReports(progress)
        # seconds after the vocal, for the number of steps; how long bars are is known only with the beats
        after = 0.0 if outro_bars else tail
        self._announce_total(reports, [encoder.num_tokens(float(vocal.duration) + after) for vocal in vocals], options)
        with self._seeded_torch(options, seed):
            return [
                encoder(
                    vocal,
                    lead_sheet,
                    seed=seed,
                    style=options.style,
                    energy=options.energy,
                    intro_bars=intro_bars,
                    outro_bars=outro_bars,
                    tail=tail,
                    check_stop=reports.repeat_last,
                )
                for vocal, lead_sheet in zip(vocals, lead_sheets, strict=True)
            ]

    @torch.no_grad()
    def generate(
        self: "HAFMForVocalAccompaniment",
        vocals: Waveform | Sequence[Waveform] | None = None,
        sampling_rate: int | None = None,
        *,
        input_values: Waveform | None = None,
        padding_mask: torch.Tensor | None = None,
        original_lengths: torch.Tensor | None = None,
        original_rates: torch.Tensor | None = None,
        lead_sheet: GivenLeadSheet | Sequence[GivenLeadSheet | None] | None = None,
        tempo: float | None = None,
        beats: Sequence[float] | FileName | None = None,
        chords: Sequence[Span] | FileName | None = None,
        key: str | None = None,
        encoder_outputs: Sequence[HAFMEncoderOutput] | None = None,
        instrumental: Waveform | None = None,
        keep: Spans = (),
        options: GenerationOptions | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> HAFMAccompanimentOutput:
        """Generates an instrumental for each vocal.

        The arguments are described at `HAFMAccompanimentGenerationMixin`: vocals as samples with their rate or as the
        feature extractor's values, or what `encode` has returned; what is known of the songs; and options.

        The samples of all vocals are generated in batches of up to `ROWS_AT_ONCE` rows. A row depends only on its
        inputs, the seed and its sample number, not on the rest of the batch (up to rounding: the batch size may change
        the order of summation).

        Returns:
            `HAFMAccompanimentOutput`; each instrumental is exactly as long as its vocal, with the intro, outro and
            tail that it was encoded with.

        Raises:
            ValueError: if vocals, options, spans or a lead sheet cannot be used, saying why.
        """
        options = GenerationOptions.of(options, kwargs)
        reports = ProgressReports(progress)
        if encoder_outputs is None:
            features = (input_values, padding_mask, original_lengths, original_rates)
            prepared_vocals = self._prepared_vocals(vocals, sampling_rate, *features)
            sheets = lead_sheets_of(len(prepared_vocals), lead_sheet, tempo, beats, chords, key)
            encoder_outputs = self.encode(prepared_vocals, sheets, options, progress=reports)
        self._announce_total(reports, [len(encoded.tokens) for encoded in encoder_outputs], options)
        kept = self._kept_instrumental(instrumental, sampling_rate, keep, encoder_outputs)

        generated: list[dict[str, Any]] = []
        vocals_at_once = self._vocals_at_once(options)
        for first in range(0, len(encoder_outputs), vocals_at_once):
            # `num_samples` of each vocal
            variations: list[HAFMEncoderOutput] = []
            for encoded in encoder_outputs[first : first + vocals_at_once]:
                variations += variations_of(self.encoder, encoded, options, keeps_spans=kept is not None)
            with self._seeded_torch(options, variations[0].seed):
                chain = self._chain(variations, options, reports, kept)
                chain.run()
                for number, encoded in enumerate(variations):
                    generated.append(self._song_of_codes(chain, number, encoded, options, kept, reports))
        lists = {name: [song[name] for song in generated] for name in generated[0]}
        return HAFMAccompanimentOutput(sampling_rate=self.sampling_rate, **lists)

    @torch.no_grad()
    def stream(
        self: "HAFMForVocalAccompaniment",
        vocal: Waveform | None = None,
        sampling_rate: int | None = None,
        *,
        input_values: Waveform | None = None,
        padding_mask: torch.Tensor | None = None,
        original_lengths: torch.Tensor | None = None,
        original_rates: torch.Tensor | None = None,
        lead_sheet: GivenLeadSheet | None = None,
        tempo: float | None = None,
        beats: Sequence[float] | FileName | None = None,
        chords: Sequence[Span] | FileName | None = None,
        key: str | None = None,
        encoder_outputs: Sequence[HAFMEncoderOutput] | None = None,
        options: GenerationOptions | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> Generator[torch.Tensor, None, None]:
        """Generates the instrumental of one vocal and yields audio as soon as a window of the last stage is done.

        The concatenated chunks equal the output of `generate`, up to rounding. Closing the iterator ends generation.
        The arguments are those of `generate` (described at `HAFMAccompanimentGenerationMixin`), but for one vocal and
        one sample only, and without an instrumental to keep.

        Yields:
            The next n samples at the model's rate, on the CPU: float32 [n], or [C, n] with several channels; with
                `stems=True` [stems, n] or [stems, C, n], in the order of the model's `stems`, which sum to the
                instrumental.

        Raises:
            ValueError: as for `generate`.
        """
        options = GenerationOptions.of(options, kwargs)
        if options.num_samples > 1:
            raise ValueError(f"num_samples is {options.num_samples}; a stream is one sample.")
        reports = ProgressReports(progress)
        if encoder_outputs is None:
            features = (input_values, padding_mask, original_lengths, original_rates)
            prepared_vocals = [one_vocal(self._prepared_vocals(vocal, sampling_rate, *features))]
            sheets = lead_sheets_of(1, lead_sheet, tempo, beats, chords, key)
            encoder_outputs = self.encode(prepared_vocals, sheets, options, progress=reports)
        encoded = variations_of(self.encoder, one_vocal(encoder_outputs), options)[0]
        self._announce_total(reports, [len(encoded.tokens)], options)

        length = encoded.length(self.sampling_rate)
        decoder = CodecStream(self.codec_interface)
        separator = None
        if options.stems:
            assert self.separator is not None
            separator = SeparatorStream(self.separator, self.sampling_rate)
        chain: StageChain | None = None
        decoded = 0  # samples that have been decoded
        sent = 0  # samples that have been yielded; a separator holds some back
        done = 0  # frames of codes that have been decoded
        while sent < length:
            audio = torch.zeros(1, 0)
            # not around `yield`: between two chunks, the caller has its own random state and number of threads
            with self._seeded_torch(options, encoded.seed):
                if chain is None:
                    chain = self._chain([encoded], options, reports, batch_size=1)
                codes = chain.advance()
                if codes.shape[1] > done:
                    samples = decoder.decode(codes[None, :, done:], chain.finished, reports.repeat_last)[0]
                    audio = samples[:, : length - decoded].float().cpu()
                    decoded += audio.shape[1]
                    if separator is not None:
                        audio = separator.separate(audio, last=chain.finished)
            done = codes.shape[1]
            sent += audio.shape[-1]
            if audio.shape[-1]:
                yield without_one_channel(audio)

    def _prepared_vocals(
        self: "HAFMForVocalAccompaniment",
        vocals: Any,
        sampling_rate: int | None,
        input_values: Any,
        padding_mask: Any,
        original_lengths: Any,
        original_rates: Any,
    ) -> list[PreparedVocal]:
        """The vocals in the form in which the model listens to them; the arguments are those of `generate`.

        Raises:
            ValueError: neither or both of `vocals` and `input_values` are given, or a vocal cannot be used.
        """
        if (vocals is None) is (input_values is None):
            raise ValueError("There is no vocal, or two; give either vocals or the feature extractor's input_values.")
        extractor = self.feature_extractor()
        if input_values is None:
            return extractor.vocals(vocals, sampling_rate, padding_mask)
        return extractor.unpadded(input_values, padding_mask, original_lengths, original_rates)

    def _kept_instrumental(
        self: "HAFMForVocalAccompaniment",
        instrumental: Any,
        sampling_rate: int | None,
        keep: Spans,
        encoder_outputs: Sequence[HAFMEncoderOutput],
    ) -> KeptInstrumental | None:
        """The spans of an instrumental to keep; None if there is no instrumental.

        Args:
            instrumental (float [N] or [C, N], or None): existing accompaniment.
            sampling_rate: its rate in Hz; None for the model's.
            keep: the spans, (start, stop) in seconds.
            encoder_outputs: must be a single one, whose length is that of the song.

        Raises:
            ValueError: there are spans without an instrumental, several vocals, or spans outside the instrumental.
        """
        if instrumental is None:
            if len(keep):
                raise ValueError("keep names spans of an instrumental; give the instrumental as well.")
            return None
        if len(encoder_outputs) != 1:
            raise ValueError(f"An instrumental belongs to one vocal, and {len(encoder_outputs)} were given.")
        rate = check_sampling_rate(sampling_rate or self.sampling_rate)
        audio = instrumental_channels_first(instrumental, self.config.codec_format.output_channels)
        return KeptInstrumental(audio, rate, keep, encoder_outputs[0].length(rate) / rate)

    def _vocals_at_once(self, options: GenerationOptions) -> int:
        """Number of vocals whose `num_samples` accompaniments each are generated together, as one batch."""
        return max(ROWS_AT_ONCE // options.num_samples, 1)

    def _announce_total(
        self: "HAFMForVocalAccompaniment", reports: ProgressReports, tokens: Sequence[int], options: GenerationOptions
    ) -> None:
        """Announces the number of steps of the first stage, which is reported before the first step.

        Args:
            reports: receives the number.
            tokens: number of semantic tokens of each vocal.
            options: of which `num_samples` is used.
        """
        # the total is that of the first batch
        tokens_of_songs: list[int] = []
        for num_tokens in tokens[: self._vocals_at_once(options)]:
            tokens_of_songs += [num_tokens] * options.num_samples
        reports.expect(*steps_of_first_stage(self.stages, tokens_of_songs))

    def _seeded_torch(
        self: "HAFMForVocalAccompaniment", options: GenerationOptions, seed: int
    ) -> AbstractContextManager[None]:
        """Context in which the parts compute, with torch seeded by `seed`.

        No part of the package draws from torch's generator, but `generate()` of transformers and a stage or codec of
        the user's may. The number of threads is `options.threads`, or else suits the stages. The caller's random state
        and number of threads are restored afterwards.
        """
        return seeded_torch(self.device, seed, options.threads or suitable_threads(self.stages.values()))

    def _chain(
        self: "HAFMForVocalAccompaniment",
        encoder_outputs: Sequence[HAFMEncoderOutput],
        options: GenerationOptions,
        reports: ProgressReports,
        kept: KeptInstrumental | None = None,
        batch_size: int = ROWS_AT_ONCE,
    ) -> StageChain:
        """The chain of stages over encoder outputs, each of which is a variation of a vocal.

        Args:
            encoder_outputs: what the stages read of each variation.
            options: the generation options.
            reports: called with the stages' progress.
            kept: the spans to keep, if there are any; they are tokenised here.
            batch_size: largest batch of windows.
        """
        stages = self.stages
        codec = self.codec_interface
        kept_codes = None
        if kept is not None:
            rate = self.encoder.common_frame_rate
            frames = len(encoder_outputs[0].tokens) * rate // self.semantic_tokenizer.config.frame_rate
            kept_codes = kept.tokens(self.semantic_tokenizer, codec, stages, frames, rate, reports.repeat_last)
        if options.skip_fine:
            stages = without_stage("fine", stages)
        return StageChain(
            stages,
            encoder_outputs,
            options,
            codec=codec,
            kept_codes=kept_codes,
            progress=reports,
            batch_size=batch_size,
        )

    def _song_of_codes(
        self: "HAFMForVocalAccompaniment",
        chain: StageChain,
        number: int,
        encoded: HAFMEncoderOutput,
        options: GenerationOptions,
        kept: KeptInstrumental | None,
        reports: ProgressReports,
    ) -> dict[str, Any]:
        """One song of a finished chain as the fields of `HAFMAccompanimentOutput`, by name.

        Args:
            chain: the chain, which has run to its end.
            number: index of the song in it.
            encoded: what its stages have read of the song.
            options: of which `stems` is used.
            kept: the spans to keep, if there are any.
            reports: repeats the last report between pieces of the work.
        """
        # int64 [codebooks, codec frames]
        codes = chain.codes(number)
        length = encoded.length(self.sampling_rate)
        # not as a batch: memory use grows with the length of a song
        audio = self.codec_interface.decode(codes[None], length, reports.repeat_last)[0].float().cpu()
        if kept is not None:
            audio = torch.from_numpy(kept.paste_into(audio.t().numpy(), self.sampling_rate)).t().contiguous()
        decoded = {
            "audio": without_one_channel(audio),
            "vocal_semantic": encoded.tokens.cpu(),
            "instrumental_semantic": chain.codes_of("instrumental_semantic", number)[0].cpu(),
            "codes": codes.cpu(),
            "lead_sheets": encoded.lead_sheet,
        }
        if options.stems:
            assert self.separator is not None
            separated = self.separator.separate(audio, self.sampling_rate, reports.repeat_last)
            stems = zip(self.stems, separated, strict=True)
            decoded["stems"] = {name: without_one_channel(stem) for name, stem in stems}
        return decoded


def lead_sheets_of(
    vocals: int,
    lead_sheet: GivenLeadSheet | Sequence[GivenLeadSheet | None] | None,
    tempo: float | None,
    beats: Any,
    chords: Any,
    key: str | None,
) -> list[LeadSheet | None]:
    """What is known of the song of each of several vocals, from the arguments of a call.

    Args:
        vocals: number of vocals.
        lead_sheet: a lead sheet or a dict of its fields; for several vocals, a list with one or None for each.
        tempo, beats, chords, key: parts of it, which take precedence (`lead_sheet.files.known_lead_sheet`).

    Returns:
        For each vocal a lead sheet, or None if nothing is known.

    Raises:
        ValueError: there are several vocals, and not a lead sheet or None for each.
    """
    given_sheets = lead_sheet if isinstance(lead_sheet, (list, tuple)) else [lead_sheet]
    sheets = [known_lead_sheet(given, tempo, beats, chords, key) for given in given_sheets]
    if len(sheets) == vocals:
        return sheets
    if any(sheets):
        raise ValueError(f"A lead sheet belongs to one vocal, and {vocals} were given.")
    return [None] * vocals


def without_stage(skipped: str, stages: Mapping[str, HAFMStageForCausalLM]) -> dict[str, HAFMStageForCausalLM]:
    """Leaves out a stage, and the stages that read a token stream which is then missing.

    Args:
        skipped: name of the stage to leave out.
        stages: by name, in the order in which they run.

    Returns:
        The remaining stages, by name and in the same order.
    """
    table = parts.stage_parts()
    # token streams that exist when a stage runs
    streams = {parts.VOCAL_STREAM}
    remaining = {}
    for name, stage in stages.items():
        if name != skipped and streams.issuperset(table[name].reads):
            remaining[name] = stage
            streams.add(table[name].writes)
    return remaining


def variations_of(
    encoder: HAFMVocalEncoder, encoded: HAFMEncoderOutput, options: GenerationOptions, keeps_spans: bool = False
) -> list[HAFMEncoderOutput]:
    """What the stages read for each of the `num_samples` accompaniments of a vocal.

    If no style is given, each accompaniment gets the next of the song's `suiting_styles`, over and over.

    Args:
        encoder: the model's encoder.
        encoded: what it has returned for the vocal.
        options: of which `num_samples` is used.
        keeps_spans: whether spans of an instrumental are kept; then no style is chosen.
    """
    variations = []
    for number in range(options.num_samples):
        variation = replace(encoded, variation=number)
        # empty if a style was given, or the model has none
        if encoded.suiting_styles and not keeps_spans:
            variation = encoder.in_style(variation, encoded.suiting_styles[number % len(encoded.suiting_styles)])
        variations.append(variation)
    return variations


def one_vocal(vocals: Sequence[Any]) -> Any:
    """The only item of a list of vocals, in whatever form they are.

    Raises:
        ValueError: there are none or several.
    """
    if len(vocals) != 1:
        raise ValueError(f"A stream takes one vocal, and {len(vocals)} were given.")
    return vocals[0]


def without_one_channel(audio: torch.Tensor) -> torch.Tensor:
    """Audio (float32 […, channels, N]) without its channel axis ([…, N]) if it is mono."""
    return audio.squeeze(-2) if audio.shape[-2] == 1 else audio


def check_supported(options: GenerationOptions, model: Any) -> None:
    """Refuses options that a model does not support.

    Args:
        options: the options of a generation.
        model (`HAFMForVocalAccompaniment`): may be without weights.

    Raises:
        ValueError: naming the option, or the available styles.
    """
    supported = supported_needs(model)
    for name, option in options_by_name(GenerationOptions).items():
        value = getattr(options, name)
        is_set = value not in (None, option.default)
        if is_set and option.needs_one_of and supported.isdisjoint(option.needs_one_of):
            why = " This model reads the voice only." if model.encoder.reads_voice_only else ""
            raise ValueError(f"{name} is {value!r}, which this model does not support; leave {name} out.{why}")
    if options.style not in (None, AUTO_STYLE):
        index_of_style(options.style, model.styles)


def supported_needs(model: Any) -> set[str]:
    """Those values of `Option.needs_one_of` that a model offers.

    They are the names of the lead-sheet rows that its stages read and, if it has a separator, "stem".
    """
    rows = model.encoder.lead_sheet_rows_read
    if model.separator is None:
        return rows
    return rows | {"stem"}
