# SPDX-License-Identifier: Apache-2.0
"""The composite: vocal → semantic tokens → three stages → codec → accompaniment.

It owns the parts and chains them; it spans the whole path of the data. What it estimates of a vocal stands in
`listening`, the run of a song in `song`, the spans of an older one to keep in `kept`, what can be asked in `options`,
files in `saving`.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..audio import check_sampling_rate, pad_end
from ..audio.feature_extraction_hafm import channel_rows, mono_rows
from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.vocabulary import STEMS
from ..modeling.heartbeat import Heartbeat, Progress
from ..modeling.modeling_hafm import HAFMStageForCausalLM
from ..modeling.stage_table import STAGES
from ..modeling.threads import suitable_threads, torch_threads
from ..modeling.windows import ROWS_AT_ONCE, DecodingOptions, default_decoding
from ..tokenizers.codecs import CodecStream, as_codec
from ..tokenizers.configuration_codec import CodecFormat, codec_format
from .configuration_accompaniment import HAFMConfig
from .kept import KeptInstrumental, Span
from .listening import ListeningMixin
from .modeling_separator import HAFMSeparatorModel, SeparatorStream
from .options import GenerationOptions
from .saving import OPTIONAL_PARTS, CompositeSavingMixin, check_names, part_classes
from .song import SongRun, Sound

Samples = torch.Tensor | np.ndarray


@dataclass
class HAFMAccompanimentOutput(ModelOutput):
    """What `HAFMForVocalAccompaniment.generate` returns; lists hold one entry a vocal and sample, samples innermost.

    Args:
        audio: instrumentals, float32 [N] each, [C, N] of a codec of several channels, as long as their vocal.
        sampling_rate: samples a second of `audio`.
        vocal_semantic: int64 [T_v] each, at 50 Hz.
        instrumental_semantic: int64 [T_v] each, at 50 Hz.
        codes: int64 [Q, T_a] each, the codec's codebooks at its frame rate; Q is 8, or 4 without the fine stage.
            Of a band of stems [P, Q, T_a].
        borders: seconds at which one window of the coarse or fine stage takes over from the one before.
        lead_sheets: `LeadSheet` of each as the stages were told it; None where nothing was.
        stems: by name (float32 [N] or [C, N]) of each band that was played so; their sum is its `audio`.
    """

    audio: list[torch.Tensor]
    sampling_rate: int = None  # type: ignore[assignment]
    vocal_semantic: list[torch.Tensor] = None  # type: ignore[assignment]
    instrumental_semantic: list[torch.Tensor] = None  # type: ignore[assignment]
    codes: list[torch.Tensor] = None  # type: ignore[assignment]
    borders: list[tuple[float, ...]] = None  # type: ignore[assignment]
    lead_sheets: list[LeadSheet | None] = None  # type: ignore[assignment]
    stems: list[dict[str, torch.Tensor]] | None = None


class Generation:
    """A call of `generate` or `stream`: its options, and what holds while it computes.

    Args:
        model: the composite.
        options: what is asked for.
        progress: as for `generate`.

    Raises:
        ValueError: for options that exclude each other, or that the model cannot obey.
    """

    def __init__(
        self, model: "HAFMForVocalAccompaniment", options: GenerationOptions, progress: Progress | None
    ) -> None:
        model.check_streams(options)
        self.options = options
        self.stems: tuple[str, ...] = STEMS[:1]
        self.num_samples, self.device = options.num_samples, model.device
        self.seed = int(torch.randint(2**31, ())) if options.seed is None else options.seed
        self.stages = {name: stage for name, stage in model.stages.items() if name != "fine" or not options.skip_fine}
        self.threads = options.threads or suitable_threads(self.stages.values())
        decoding = options.decoding or default_decoding(self.stages.values())
        names = ("guidance_scale", "lead_sheet_guidance", "temperature", "top_k", "quantization", "compile")
        self.decoding = DecodingOptions(decoding, **{name: getattr(options, name) for name in names})
        self.heartbeat = Heartbeat(model, progress)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around what takes long. Between the chunks of a stream the caller's random state and threads hold."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch_threads(self.threads), self.heartbeat:
            torch.manual_seed(self.seed)
            yield


class HAFMForVocalAccompaniment(ListeningMixin, CompositeSavingMixin, PreTrainedModel):
    """Semantic tokenizer, semantic, coarse and fine stage, and codec, as one model that takes and returns audio.

    Without a `fine` stage it plays the coarse codebooks alone. A `harmony`, which estimates chords, and a `separator`,
    which takes bands apart, may be there as well.

    Args:
        config (`HAFMConfig`): configurations of the parts.
        parts (`dict[str, PreTrainedModel]`, *optional*): parts that exist already, by name.
    """

    config_class = HAFMConfig
    config: HAFMConfig
    main_input_name = "vocals"
    input_modalities = ("audio",)
    _no_split_modules: list[str] = []
    _supports_sdpa = True
    codec: PreTrainedModel
    separator: HAFMSeparatorModel

    def __init__(self, config: HAFMConfig, parts: dict[str, PreTrainedModel] | None = None) -> None:
        super().__init__(config)
        for name, part_class in part_classes(config).items():
            part = (parts or {}).get(name)
            setattr(self, name, part_class(getattr(config, f"{name}_config")) if part is None else part)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing of its own to initialise: each part has done so."""

    @classmethod
    def can_generate(cls) -> bool:
        """False for GenerationMixin's purposes: `generate` here takes audio and chains the stages' own."""
        return False

    @classmethod
    def from_parts(cls, **parts: PreTrainedModel) -> "HAFMForVocalAccompaniment":
        """Joins a `semantic_tokenizer`, `semantic` and `coarse` stage, a `codec`, and others if given.

        Raises:
            ValueError: if a part that every composite has is missing.
            StrictDataclassClassValidationError: if their vocabularies or rates do not fit each other.
        """
        check_names(parts)
        configs: dict[str, Any] = {f"{name}_config": None for name in OPTIONAL_PARTS}
        configs |= {f"{name}_config": part.config for name, part in parts.items()}
        # a composite's configuration sets its parts' attention too, to none at all unless it is told theirs
        attention = {name: config._attn_implementation for name, config in configs.items() if config is not None}
        config = HAFMConfig(**configs, attn_implementation=attention)
        return cls(config, parts)

    @property
    def codec_format(self) -> CodecFormat:
        """Rates, codebooks and channels of the codec, and so of what comes out."""
        return codec_format(self.config.codec_config)

    @property
    def sampling_rate(self) -> int:  # type: ignore[override]
        """Samples a second of the codec, and so of what comes out."""
        return self.codec_format.sampling_rate

    @property
    def stages(self) -> dict[str, HAFMStageForCausalLM]:
        """The stages by name, in the order in which they run."""
        return {name: getattr(self, name) for name in part_classes(self.config) if name in STAGES}

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part, and their `total`."""
        counts = {name: sum(p.numel() for p in getattr(self, name).parameters()) for name in part_classes(self.config)}
        return counts | {"total": sum(counts.values())}

    @torch.no_grad()
    def generate(
        self,
        vocals: Samples | Sequence[Samples] | None = None,
        sampling_rate: int | None = None,
        *,
        input_values: Samples | None = None,
        padding_mask: torch.Tensor | None = None,
        instrumental: Samples | Mapping[str, Samples] | None = None,
        keep: Sequence[Span] = (),
        lead_sheet: LeadSheet | None = None,
        options: GenerationOptions | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> HAFMAccompanimentOutput:
        """Generates an instrumental for each vocal.

        Vocals and samples are rows of one batch, up to `ROWS_AT_ONCE` of them. What a row becomes depends on the seed
        and the number of its sample alone, not on what else is in the batch (up to rounding: a batch of another size
        may add numbers in another order).

        Args:
            vocals (float [B, N], [B, 1, N], [N], or a list of [N]): mono, in −1 … 1.
            sampling_rate (Hz): of the vocals and the instrumental.
            input_values (float [B, N], *optional*): the vocals as the feature extractor has them, at the codec's rate.
            padding_mask (bool [B, N] or [N], *optional*): False where a batch is padding, on either side.
            instrumental (float [N], *optional*): accompaniment of the one vocal, of which spans are kept; its stems by
                name where the band is to be played so.
            keep (sequence of (start, stop) in s): the spans of `instrumental` to keep; the rest is generated from
                their tokens, and joins them by a short cross-fade.
            lead_sheet: tempo, beats or chords of the one vocal, as far as they are known.
            options: what is asked for; `kwargs` are fields of it by name (`seed=1`, `top_k=50`) that go before.
            progress: called with (stage, steps done, steps in all) after every step, and with the same again while
                something takes longer; what it raises ends the generation.

        Returns:
            `HAFMAccompanimentOutput`; each instrumental lasts as long as its vocal, to the sample.

        Raises:
            ValueError: on vocals, options, spans or a lead sheet that cannot be used, saying why.
        """
        generation = Generation(self, GenerationOptions.of(options, kwargs), progress)
        rows = self._rows(input_values if vocals is None else vocals, padding_mask, lead_sheet)
        rate = check_sampling_rate(self.sampling_rate if vocals is None else sampling_rate)
        generation.stems = self.played(generation.options, instrumental)
        with generation.computing():
            kept = self._kept(rows, rate, instrumental, keep)
        rendered: list[dict[str, Any]] = []
        at_once = max(ROWS_AT_ONCE // (generation.num_samples * len(self._rows_of(generation.stems))), 1)
        for first in range(0, len(rows), at_once):
            batch = rows[first : first + at_once]
            with generation.computing():
                song = self._song(generation, batch, rate, lead_sheet, kept)
                song.run()
                lengths = [self._length(vocal, rate) for vocal in batch]
                rendered += self._decode(song, lengths, kept, generation.stems)
        lists = {name: [each[name] for each in rendered] for name in rendered[0]}
        return HAFMAccompanimentOutput(sampling_rate=self.sampling_rate, **lists)

    @torch.no_grad()
    def stream(
        self,
        vocal: Samples,
        sampling_rate: int | None = None,
        *,
        lead_sheet: LeadSheet | None = None,
        options: GenerationOptions | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> Generator[torch.Tensor, None, None]:
        """Generates the instrumental of one vocal and hands it out as soon as a window of the last stage is done.

        The chunks together are what `generate` returns, up to rounding. Closing the iterator ends the generation.

        Args:
            vocal (float [N]): mono, in −1 … 1.
            sampling_rate (Hz), lead_sheet, options, progress, kwargs: as for `generate`; there is one sample.

        Yields:
            float32 [n] at the codec's rate, [C, n] of several channels, on the CPU; with `stems=True` [S, n] or
                [S, C, n] in the order of `stems`, whose sum over S is the band.

        Raises:
            ValueError: as for `generate`.
        """
        generation = Generation(self, GenerationOptions.of(options, kwargs), progress)
        if generation.num_samples > 1:
            raise ValueError(f"num_samples is {generation.num_samples}; a stream is one sample.")
        (row,), rate = self._rows(vocal, None, lead_sheet), check_sampling_rate(sampling_rate)
        generation.stems = self.played(generation.options)
        with generation.computing():
            song = self._song(generation, [row], rate, lead_sheet, at_once=len(self._rows_of(generation.stems)))
        length, done, decoded, sent = self._length(row, rate), 0, 0, 0
        codec = CodecStream(as_codec(self.codec))
        separator = SeparatorStream(self.separator) if self.separates and generation.options.stems else None
        while sent < length:
            audio = torch.zeros(1, 1, 0)
            with generation.computing():
                codes = song.advance()
                if codes.shape[2] > done:
                    new = codec.decode(codes[:, :, done:], last=song.finished)
                    audio = new[..., : length - decoded].float().cpu()
                    decoded += audio.shape[2]
                    if separator is not None:
                        audio = separator.separate(audio[0], last=song.finished)
            done, sent = codes.shape[2], sent + audio.shape[2]
            if audio.shape[2]:
                stems = audio[:, 0] if audio.shape[1] == 1 else audio
                yield stems if generation.options.stems else stems.sum(0)

    def _rows(self, vocals: Any, padding_mask: Any, lead_sheet: LeadSheet | None) -> list[np.ndarray]:
        """The vocals without their padding, float32 [N] each.

        Raises:
            ValueError: on no vocal or one that is not mono, a mask of another shape, or a lead sheet for several.
        """
        rows = [] if vocals is None else mono_rows(vocals, padding_mask)
        if not rows:
            raise ValueError("There is no vocal; give vocals, or what the feature extractor makes of them.")
        if lead_sheet is not None and len(rows) != 1:
            raise ValueError(f"A lead sheet belongs to one vocal, and {len(rows)} were given.")
        return rows

    def played(
        self, options: GenerationOptions, instrumental: Samples | Mapping[str, Samples] | None = None
    ) -> tuple[str, ...]:
        """What the band comes as: its stems, or the mix as one.

        Where the options leave it open it is as the instrumental is given of which spans are kept, and without one as
        `config.plays_stems` says.

        Raises:
            ValueError: the instrumental is given otherwise, or a stem of it is missing.
        """
        given = None if instrumental is None else isinstance(instrumental, Mapping)
        wanted = self.config.plays_stems if given is None else given
        wanted = wanted if options.stems is None else options.stems
        stems = self.stems if wanted else STEMS[:1]
        if not stems:
            raise ValueError("This model plays no stems apart; give the instrumental as one.")
        if given is not None and given != wanted:
            raise ValueError(
                "A band of stems keeps spans of stems: give instrumental as {'drums': …, 'bass': …, …}."
                if wanted
                else "stems is False, and the instrumental is given by stems; give it as one."
            )
        if isinstance(instrumental, Mapping) and set(instrumental) != set(stems):
            raise ValueError(f"The instrumental has {', '.join(instrumental)}; it needs {', '.join(stems)}.")
        return stems

    def _rows_of(self, stems: tuple[str, ...]) -> tuple[str, ...]:
        """What the acoustic stages play, a row each, for a band that comes as these stems."""
        return STEMS[:1] if self.separates else stems

    def _kept(
        self,
        rows: list[np.ndarray],
        rate: int,
        instrumental: Samples | Mapping[str, Samples] | None,
        keep: Sequence[Span],
    ) -> KeptInstrumental | None:
        """What is kept of an instrumental, if there is one; raises ValueError where that cannot be."""
        if instrumental is None:
            if len(keep):
                raise ValueError("keep names spans of an instrumental; give the instrumental as well.")
            return None
        if len(rows) != 1:
            raise ValueError(f"An instrumental belongs to one vocal, and {len(rows)} were given.")
        given = [instrumental[stem] for stem in self.stems] if isinstance(instrumental, Mapping) else [instrumental]
        parts = [channel_rows(each, self.codec_format.channels) for each in given]
        audio = np.stack([pad_end(part.T, max(each.shape[1] for each in parts)).T for part in parts])
        kept = KeptInstrumental(audio, rate, keep, len(rows[0]) / rate, self.sampling_rate)
        codebooks = {name: stage.config.num_codebooks for name, stage in self.stages.items() if STAGES[name].acoustic}
        units = self.units(len(rows[0]), rate)
        kept.tokenize(self.semantic_tokenizer, self.codec, codebooks, units, self.units_per_second, self.separates)
        return kept

    def _song(
        self,
        generation: Generation,
        vocals: Sequence[np.ndarray],
        rate: int,
        lead_sheet: LeadSheet | None,
        kept: KeptInstrumental | None = None,
        at_once: int = ROWS_AT_ONCE,
    ) -> SongRun:
        """The run of a batch of songs, which has listened to its vocals."""
        song = SongRun(
            generation.stages,
            [self.units(len(vocal), rate) for vocal in vocals],
            self.units_per_second,
            generation.decoding,
            generation.seed,
            generation.num_samples,
            self._rows_of(generation.stems),
            self._sounds(),
            None if kept is None else kept.flat,
            generation.heartbeat.report,
            at_once,
        )
        sheets = [self.asked_lead_sheet(vocal, rate, lead_sheet, generation.options) for vocal in vocals]
        heard = zip(vocals, sheets, strict=True)
        song.listen([self.hear_voice(vocal, rate, generation.seed, sheet) for vocal, sheet in heard])
        return song

    def _sounds(self) -> dict[str, Sound]:
        """What codes of the acoustic stages sound like, by the codec's vectors."""
        sounds: dict[str, Sound] = {}
        first = 0
        for name, stage in self.stages.items():
            if STAGES[name].acoustic:
                sounds[name] = partial(as_codec(self.codec).code_vectors, first_codebook=first)
                first += stage.config.num_codebooks
        return sounds

    def _length(self, vocal: np.ndarray, rate: int) -> int:
        """Samples of the instrumental of a vocal."""
        return round(len(vocal) * self.sampling_rate / rate)

    def _decode(
        self, song: SongRun, lengths: Sequence[int], kept: KeptInstrumental | None, stems: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """What the output has of each song of a finished run.

        Args:
            song: the run.
            lengths: of its vocals, in samples of the output.
            kept: of an instrumental.
            stems: what the band comes as.
        """
        for number, voice in enumerate(song.voices):
            codes, length = song.codes(number), lengths[number // song.num_samples]
            # one by one: a song is long
            parts = [as_codec(self.codec).decode(row[None], length)[0].float().cpu() for row in codes]
            if len(parts) < len(stems):
                parts = [*self.separator.separate(parts[0])]
            if kept is not None:
                parts = [kept.splice(part, place) for place, part in enumerate(parts)]
            band = {stem: _channels(part) for stem, part in zip(stems, parts, strict=True)}
            rendered = {
                "audio": reduce(torch.add, band.values()),
                "vocal_semantic": voice.tokens.cpu(),
                "instrumental_semantic": song.stream("instrumental_semantic", number)[0].cpu(),
                "codes": (codes if len(codes) > 1 else codes[0]).cpu(),
                "borders": song.borders(number),
                "lead_sheets": voice.lead_sheet,
            }
            yield rendered | ({"stems": band} if len(stems) > 1 else {})


def _channels(audio: torch.Tensor) -> torch.Tensor:
    """Audio (float32 [C, N]) as it is handed out: [N] of one channel."""
    return audio[0] if len(audio) == 1 else audio
