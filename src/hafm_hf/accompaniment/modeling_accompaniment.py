# SPDX-License-Identifier: Apache-2.0
"""The composite: vocal → semantic tokens and lead sheet → three stages → codec → accompaniment.

`parts` loads its parts, `song` runs the stages over a batch of songs, and `options` holds the generation options.
"""

import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import FEATURE_EXTRACTOR_NAME, logging

from ..audio import check_sampling_rate, pad_end, resample
from ..audio.feature_extraction_hafm import HAFMFeatureExtractor, channels_first, mono_vocals
from ..lead_sheet.bars import likeliest_key
from ..lead_sheet.files import KNOWN, known_lead_sheet
from ..lead_sheet.lead_sheet import LeadSheet, lead_sheet_streams, place_of
from ..lead_sheet.vocabulary import STEMS
from ..listening.modeling_listener import HAFMListenerModel
from ..modeling.computing import computing, suitable_threads
from ..modeling.configuration_hafm import STAGES
from ..modeling.modeling_hafm import HAFMStageForCausalLM
from ..modeling.windows import ROWS_AT_ONCE
from ..pretrained.loading import HUB_OPTIONS, LOADING_FAULTS, find_file, model_source, write_checksums
from ..pretrained.saving import (
    HAFMHubMixin,
    read_style_sounds,
    write_auto_map,
    write_repository_files,
    write_style_sounds,
)
from ..tokenizers.beat_line import likeliest_tempo
from ..tokenizers.codecs import CodecStream, as_codec
from ..tokenizers.configuration_codec import CodecFormat, codec_format
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from ..tokenizers.pitch_line import PitchLine
from ..tokenizers.stopping import CheckStop
from .configuration_accompaniment import HAFMConfig
from .kept import KeptInstrumental
from .modeling_separator import HAFMSeparatorModel, SeparatorStream
from .options import OPTIONS, GenerationOptions
from .parts import OPTIONAL_PARTS, check_names, config_json, load_parts, part_classes
from .song import (
    HAFMAccompanimentOutput,
    drawn_style,
    given_vocals,
    one_vocal,
    requested_lead_sheet,
    without_one_channel,
)
from .stages import Progress, ProgressReports, SongConditioning, StageChain

logger = logging.get_logger(__name__)
# float [N], or [C, N] with several channels
Waveform = torch.Tensor | np.ndarray
# lead sheet streams that depend on the beats
BEAT_STREAMS = ("chord", "beat", "bar")


class HAFMForVocalAccompaniment(HAFMHubMixin, PreTrainedModel):
    """Semantic tokenizer, semantic, coarse and fine stage, and codec, as one model that takes and returns audio.

    Without a `fine` stage only the coarse codebooks are decoded. A `listener`, which estimates tempo, chords and
    key, the `ear` that it was trained with, and a `separator`, which splits the instrumental into stems, are optional.

    Args:
        config (`HAFMConfig`): configurations of the parts.
        parts (`dict[str, PreTrainedModel]`, *optional*): existing parts to use, by name; the others are created.

    Inputs of `generate`:
        vocals (float [B, N], [B, 1, N], [N], or a list of [N]): mono, in −1 … 1.
        sampling_rate (Hz): of the vocals and the instrumental.
        input_values (float [B, N], *optional*): the vocals as returned by the feature extractor, at the codec's rate.
        padding_mask (bool [B, N] or [N], *optional*): False for padding, on either side.
        instrumental (float [N] or [C, N], *optional*): accompaniment of a single vocal, with spans to keep. If it is
            a `KeptInstrumental`, `audio` in the output is as generated, and splicing is left to the caller.
        keep (sequence of (start, stop) in s): the spans of `instrumental` to keep; the rest is generated with their
            tokens as given, and joined to them by a short cross-fade.
        options: the generation options.
        lead_sheet, tempo, beats, chords, key: what is known of the song (`lead_sheet.files.known_lead_sheet`), for one
            vocal; for several, `lead_sheet` may be a list with a lead sheet or None for each.
        kwargs: fields of `options` by name (`seed=1`, `top_k=50`), which take precedence.
        progress: called with (stage, steps done, total steps) after every step, and with the same values again during
            long computations; an exception raised in it ends the generation.
    """

    config_class = HAFMConfig
    config: HAFMConfig
    main_input_name = "vocals"
    input_modalities = ("audio",)
    _no_split_modules: list[str] = []
    _supports_sdpa = True
    semantic_tokenizer: HAFMSemanticTokenizerModel
    codec: PreTrainedModel
    listener: HAFMListenerModel | None
    ear: HAFMSemanticTokenizerModel | None
    separator: HAFMSeparatorModel | None
    # of the feature extractor loaded with the model, so that it is saved again with it
    feature_extractor_config: dict[str, Any] = {}
    # an audio example (OGG) of each style by its name: `styles/NAME.ogg` in the repository
    style_sounds: dict[str, bytes] = {}

    def __init__(self, config: HAFMConfig, parts: dict[str, PreTrainedModel] | None = None) -> None:
        super().__init__(config)
        self.listener = self.ear = self.separator = None
        for name, part_class in part_classes(config).items():
            part = (parts or {}).get(name)
            setattr(self, name, part_class(getattr(config, f"{name}_config")) if part is None else part)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Does nothing: each part initialises its own weights."""

    def train(self, mode: bool = True) -> "HAFMForVocalAccompaniment":
        """Sets the mode of the stages only: in training mode the codec would update its running mean as it decodes."""
        super().train(mode)
        for name in part_classes(self.config).keys() - STAGES.keys():
            getattr(self, name).eval()
        return self

    @classmethod
    def can_generate(cls) -> bool:
        """False: this `generate` is not GenerationMixin's; it takes audio and chains the stages."""
        return False

    @classmethod
    def from_parts(cls, **parts: PreTrainedModel) -> "HAFMForVocalAccompaniment":
        """Joins a `semantic_tokenizer`, `semantic` and `coarse` stage, a `codec`, and optional parts.

        Raises:
            ValueError: if a required part is missing.
            StrictDataclassClassValidationError: if their vocabularies or rates do not match.
        """
        check_names(parts)
        configs: dict[str, Any] = {f"{name}_config": None for name in OPTIONAL_PARTS}
        configs |= {f"{name}_config": part.config for name, part in parts.items()}
        # the composite's configuration also sets its parts' attention implementation, and would reset it if not given
        attention = {name: config._attn_implementation for name, config in configs.items() if config is not None}
        config = HAFMConfig(**configs, attn_implementation=attention)
        return cls(config, parts)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a composite from a folder or the hub, part by part.

        Args:
            pretrained_model_name_or_path: folder or hub id; the bundled hafm-tiny if None or "hafm-tiny".
                (`pipeline()` does not accept that name; pass no model, or `hafm_hf.BUNDLED_MODEL`.)
            kwargs: as for any `from_pretrained` (`config`, `semantic_config={…}`, `revision`, `token`, `cache_dir` …).
                `attn_implementation` and `dtype` apply to the stages; `dtype` is float32 if not given or "auto",
                whatever the stored precision. Tokenizer and codec stay in float32, so that tokens do not depend on it.
                `device_map` is a single device, as such or as {"": device}, or "auto" or another of its strategies.

        Returns:
            The composite in evaluation mode; with `output_loading_info` also the loading faults, always empty.

        Raises:
            ValueError: if a part's weights do not match its configuration exactly, or if `device_map` or `dtype` names
                several devices or precisions.
            OSError: if a part or its safetensors file is missing.
        """
        source = model_source(pretrained_model_name_or_path, **kwargs)
        device, with_info = kwargs.pop("device_map", None), kwargs.pop("output_loading_info", False)
        if isinstance(device, Mapping):
            if set(device) != {""}:
                raise ValueError(f'device_map is {device}; a model has one device: "cuda", or {{"": "cuda"}}.')
            device = device[""]
        if device in ("auto", "balanced", "balanced_low_0", "sequential"):
            device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        for name in ("use_safetensors", "trust_remote_code", "_from_auto", "adapter_kwargs"):
            kwargs.pop(name, None)
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        stored = HAFMConfig.from_pretrained(source, **hub)
        model = cls.from_parts(**load_parts(source, stored, kwargs, **hub))
        model.name_or_path = str(source)
        # if there is none, `save_pretrained` writes the default one
        if find_file(source, FEATURE_EXTRACTOR_NAME, hub):
            model.feature_extractor_config = HAFMFeatureExtractor.get_feature_extractor_dict(source, **hub)[0]
        model.style_sounds = read_style_sounds(source, model.styles, **hub)
        model = model.eval() if device is None else model.eval().to(device)
        return (model, {kind: set() for kind in LOADING_FAULTS}) if with_info else model

    def _save_files(self, folder: Path, is_main_process: bool = True, **kwargs: Any) -> None:
        """Writes config.json, feature extractor, style examples, the files of a hub repository, and each part into
        its subfolder; in distributed training only the main process writes.

        Raises:
            TypeError: if a `state_dict` is given; load it into the model first.
        """
        if kwargs.pop("state_dict", None) is not None:
            raise TypeError("A composite saves its own weights; load the state_dict with load_state_dict first.")
        for name in part_classes(self.config):
            part = getattr(self, name)
            if getattr(part, "peft_config", None):
                raise ValueError(f"{name} has adapters, which a composite can't hold; merge them: merge_and_unload().")
            # a part that has been replaced brings its own
            setattr(self.config, f"{name}_config", part.config)
            # in every process: each may hold a shard of the weights that the main one writes
            part.save_pretrained(folder / name, is_main_process=is_main_process, **kwargs)
        if not is_main_process:
            return
        write_checksums(folder, only_again=True)
        self.config.architectures = [type(self).__name__]
        (folder / "config.json").write_text(config_json(self.config))
        write_auto_map(folder, self.config, type(self))
        write_repository_files(folder)
        write_style_sounds(folder, self.style_sounds)
        self.feature_extractor().save_pretrained(folder)

    def feature_extractor(self) -> HAFMFeatureExtractor:
        """The feature extractor that is saved with the model."""
        return HAFMFeatureExtractor(**{**self.feature_extractor_config, "sampling_rate": self.sampling_rate})

    @property
    def codec_format(self) -> CodecFormat:
        """Rates, codebooks and channels of the codec, and thus of the output."""
        return codec_format(self.codec.config)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the codec, and thus of the output, in Hz."""
        return self.codec_format.sampling_rate

    @property
    def stages(self) -> dict[str, HAFMStageForCausalLM]:
        """The stages by name, in the order in which they run."""
        return {name: getattr(self, name) for name in part_classes(self.config) if name in STAGES}

    @property
    def reading_stages(self) -> dict[str, HAFMStageForCausalLM]:
        """The stages that are conditioned on a lead sheet, by name."""
        return {name: stage for name, stage in self.stages.items() if stage.config.lead_sheet_streams}

    @property
    def known_streams(self) -> set[str]:
        """The lead sheet streams that the model's stages read, and "stem" if it has a separator; options that need
        any other are refused.
        """
        known = {stream for stage in self.reading_stages.values() for stream in stage.config.lead_sheet_streams}
        return known if self.separator is None else known | {"stem"}

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems that the instrumental can be split into; none without a separator."""
        return () if self.separator is None else STEMS

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles that the model can play."""
        configs = [stage.config for stage in self.reading_stages.values()]
        return next((tuple(config.styles) for config in configs if "style" in config.lead_sheet_streams), ())

    @property
    def units_per_second(self) -> int:
        """Greatest common divisor of the token rates: 25 for 50 and 75 Hz. Songs are padded to whole units."""
        return math.gcd(*(stage.config.frame_rate for stage in self.stages.values()))

    def units(self, samples: int, sampling_rate: int) -> int:
        """Number of units that `samples` take, rounded up."""
        return math.ceil(round(samples / sampling_rate * self.units_per_second, 6))

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part, and their `total`."""
        counts = {name: getattr(self, name).num_parameters() for name in part_classes(self.config)}
        return counts | {"total": sum(counts.values())}

    @torch.no_grad()
    def generate(
        self,
        vocals: Waveform | Sequence[Waveform] | None = None,
        sampling_rate: int | None = None,
        *,
        input_values: Waveform | None = None,
        padding_mask: torch.Tensor | None = None,
        instrumental: Waveform | KeptInstrumental | None = None,
        keep: Sequence[tuple[float, float]] = (),
        options: GenerationOptions | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> HAFMAccompanimentOutput:
        """Generates an instrumental for each vocal.

        The samples of all vocals are generated in batches of up to `ROWS_AT_ONCE` rows. A row depends only on its
        inputs, the seed and its sample number, not on the rest of the batch (up to rounding: the batch size may change
        the order of summation). The arguments are the class's inputs.

        Returns:
            `HAFMAccompanimentOutput`; each instrumental has exactly the length of its vocal.

        Raises:
            ValueError: if vocals, options, spans or a lead sheet cannot be used, saying why.
        """
        known = {name: kwargs.pop(name, None) for name in KNOWN}
        given = known.pop("lead_sheet")
        sheets = [known_lead_sheet(each, **known) for each in (given if isinstance(given, (list, tuple)) else [given])]
        options = GenerationOptions.of(options, kwargs)
        self.check_streams(options)
        rows, rate = given_vocals(self.sampling_rate, vocals, sampling_rate, input_values, padding_mask)
        if len(rows) != 1 and instrumental is not None or len(rows) != len(sheets) and any(sheets):
            raise ValueError(f"A lead sheet or an instrumental belongs to one vocal, and {len(rows)} were given.")
        sheets = sheets if len(sheets) == len(rows) else [None] * len(rows)
        # `rate` is the feature extractor's if the vocals are `input_values`
        kept = self._kept(instrumental, check_sampling_rate(sampling_rate or rate), keep, len(rows[0]) / rate)
        seed = self._seed(options)
        reports = ProgressReports(progress)
        # a caller that passes a KeptInstrumental splices it at a rate of its own; stems need the spliced mix here
        spliced = None if kept is instrumental and not options.stems else kept
        rendered: list[dict[str, Any]] = []
        vocals_at_once = max(ROWS_AT_ONCE // options.num_samples, 1)
        for first in range(0, len(rows), vocals_at_once):
            batch = rows[first : first + vocals_at_once]
            with self._computing(options, seed):
                songs, heard = self._songs(options, seed, batch, rate, sheets[first:], reports, kept is not None)
                tokens = (
                    None if kept is None else kept.tokens(self, self.units(len(rows[0]), rate), reports.check_stop)
                )
                chain = self._chain(options, songs, seed, reports, tokens)
                chain.run()
                lengths = [round(len(vocal) * self.sampling_rate / rate) for vocal in batch]
                lengths = [length for length in lengths for _ in range(options.num_samples)]
                rendered += self._decode(chain, heard, lengths, spliced, options.stems, reports)
        lists = {name: [each[name] for each in rendered] for name in rendered[0]}
        return HAFMAccompanimentOutput(sampling_rate=self.sampling_rate, **lists)

    @torch.no_grad()
    def stream(
        self,
        vocal: Waveform | None = None,
        sampling_rate: int | None = None,
        *,
        input_values: Waveform | None = None,
        padding_mask: torch.Tensor | None = None,
        options: GenerationOptions | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> Generator[torch.Tensor, None, None]:
        """Generates the instrumental of one vocal and yields audio as soon as a window of the last stage is done.

        The concatenated chunks equal the output of `generate`, up to rounding. Closing the iterator ends generation.

        Args:
            vocal (float [N]): mono, in −1 … 1.
            sampling_rate (Hz), input_values, padding_mask, options, progress, kwargs: the class's; one sample only.

        Yields:
            float32 [n] at the codec's rate, [C, n] with several channels, on the CPU; with `stems=True` [S, n] or
                [S, C, n] in the order of `stems`; they sum to the instrumental.

        Raises:
            ValueError: as for `generate`.
        """
        lead_sheet = known_lead_sheet(**{name: kwargs.pop(name, None) for name in KNOWN})
        options = GenerationOptions.of(options, kwargs)
        self.check_streams(options)
        if options.num_samples > 1:
            raise ValueError(f"num_samples is {options.num_samples}; a stream is one sample.")
        rows, rate = given_vocals(self.sampling_rate, vocal, sampling_rate, input_values, padding_mask)
        row = one_vocal(rows)
        seed = self._seed(options)
        reports = ProgressReports(progress)
        with self._computing(options, seed):
            songs, _ = self._songs(options, seed, [row], rate, [lead_sheet], reports)
            chain = self._chain(options, songs, seed, reports, batch_size=1)
        length = round(len(row) * self.sampling_rate / rate)
        done = decoded = sent = 0
        codec = CodecStream(as_codec(self.codec))
        separator = SeparatorStream(self.separator) if options.stems and self.separator is not None else None
        while sent < length:
            audio = torch.zeros(1, 0)
            with self._computing(options, seed):
                codes = chain.advance()
                if codes.shape[1] > done:
                    new = codec.decode(codes[None, :, done:], chain.finished, reports.check_stop)[0]
                    audio = new[:, : length - decoded].float().cpu()
                    decoded += audio.shape[1]
                    if separator is not None:
                        audio = separator.separate(audio, last=chain.finished)
            done, sent = codes.shape[1], sent + audio.shape[-1]
            if audio.shape[-1]:
                yield without_one_channel(audio)

    def _seed(self, options: GenerationOptions) -> int:
        return int(torch.randint(2**31, ())) if options.seed is None else options.seed

    def _computing(self, options: GenerationOptions, seed: int) -> Any:
        return computing(self.device, seed, options.threads or suitable_threads(self.stages.values()))

    def _kept(self, instrumental: Any, rate: int, keep: Sequence[tuple[float, float]], seconds: float) -> Any:
        """The `KeptInstrumental` for the inputs `instrumental` and `keep` and a vocal of `seconds`, or None.

        Raises:
            ValueError: if there are spans but no instrumental, or a span does not lie within it.
        """
        if instrumental is None and len(keep):
            raise ValueError("keep names spans of an instrumental; give the instrumental as well.")
        if isinstance(instrumental, KeptInstrumental | None):
            return instrumental
        audio = channels_first(instrumental, self.codec_format.channels)
        return KeptInstrumental(audio, rate, keep, seconds)

    def check_streams(self, options: GenerationOptions) -> None:
        """Refuses options that the model does not support.

        Raises:
            ValueError: naming the option, or the available styles.
        """
        known = self.known_streams
        for name, row in OPTIONS.items():
            value = getattr(options, name)
            if row.streams and value not in (None, False) and known.isdisjoint(row.streams):
                raise ValueError(f"{name} is {value!r}, which this model does not support; leave {name} out.")
        if options.style is not None:
            place_of(options.style, self.styles)

    def tokenize_vocal(
        self,
        vocal: np.ndarray,
        sampling_rate: int,
        seed: int | None = None,
        lead_sheet: LeadSheet | None = None,
        check_stop: CheckStop | None = None,
    ) -> torch.Tensor:
        """Tokenises a mono vocal (float32 [N]) with noise added, padded to whole units: int64 [1, T_v].

        The tempo or beats of `lead_sheet` replace the estimated ones.

        Raises:
            ValueError: if the vocal is empty, or beats are given but neither a stage nor the tokenizer uses them.
        """
        if not self.semantic_tokenizer.config.beat_line and not self.known_streams.isdisjoint(BEAT_STREAMS):
            lead_sheet = None
        waveform = self._waveform(vocal, sampling_rate)
        return self.semantic_tokenizer.encode(
            waveform, noise=True, seed=seed, lead_sheet=lead_sheet, check_stop=check_stop
        )[None]

    def _waveform(self, vocal: np.ndarray, sampling_rate: int) -> torch.Tensor:
        """Resamples a mono vocal (float32 [N]) for the tokenizer and pads it to whole units."""
        if len(vocal) == 0:
            raise ValueError("The vocal is empty; HAFM needs samples to accompany.")
        rate = self.semantic_tokenizer.config.sampling_rate
        samples = resample(vocal, sampling_rate, rate)
        wanted = self.units(len(vocal), sampling_rate) * rate // self.units_per_second
        return torch.from_numpy(pad_end(samples[:wanted], wanted)).to(self.semantic_tokenizer.device)

    def prepare_voice(
        self,
        vocal: np.ndarray,
        sampling_rate: int,
        seed: int | None = None,
        lead_sheet: LeadSheet | None = None,
        check_stop: CheckStop | None = None,
    ) -> tuple[SongConditioning, LeadSheet]:
        """The conditioning of the stages for a mono vocal (float32 [N]); the arguments are those of `tokenize_vocal`.

        Raises:
            ValueError: as for `tokenize_vocal`, or if chords are given and no stage reads them.
        """
        sheet = LeadSheet() if lead_sheet is None else lead_sheet
        if (sheet.chords or sheet.bars) and "chords" not in sheet.estimated and "chord" not in self.known_streams:
            raise ValueError("Chords are given, but no stage of this model reads any; leave chords out.")
        sheet = self.complete_lead_sheet(vocal, sampling_rate, sheet, check_stop)
        tokens = self.tokenize_vocal(vocal, sampling_rate, seed, sheet, check_stop)[0]
        return SongConditioning(tokens, self.lead_sheet_streams(tokens, sheet)), sheet

    def complete_lead_sheet(
        self,
        vocal: np.ndarray,
        sampling_rate: int,
        lead_sheet: LeadSheet | None = None,
        check_stop: CheckStop | None = None,
    ) -> LeadSheet:
        """Adds the model's estimates to what is known of a song; they can be corrected and passed back.

        Args:
            vocal (float32 [N]): mono.
            sampling_rate: in Hz.
            lead_sheet: what is known, or a dict of its fields.

        Returns:
            The lead sheet with beats if the tokenizer finds at least two, and chords and key if there is a `listener`.

        Raises:
            ValueError: if the vocal is empty or not mono, or chords are given by the bar and there are no beats.
        """
        (vocal,), sheet = mono_vocals(vocal), LeadSheet.given({} if lead_sheet is None else lead_sheet)
        gaps = [] if sheet.bars else sheet.chord_gaps(len(vocal) / sampling_rate)
        if self.listener is None and sheet.key and "key" not in sheet.estimated and gaps:
            logger.warning("The key changes no chords, since this model has no listener; give chords instead.")
        sheet, phase, line = self._with_beats(self._waveform(vocal, sampling_rate), sheet, bool(gaps), check_stop)
        if self.listener is None or line is None or phase is None or not gaps:
            return sheet
        rate = self.semantic_tokenizer.config.frame_rate
        found = LeadSheet.from_estimates(phase, self.listener.chords(line, phase, sheet), rate)
        sheet = sheet.with_chords_in_gaps(found, gaps) if sheet.chords else sheet.completed_by(found)
        key = likeliest_key(sheet)
        return sheet.completed_by(LeadSheet(key=key, estimated=["key"] if key else []))

    def listen(self, waveform: torch.Tensor, check_stop: CheckStop | None = None) -> tuple[PitchLine, torch.Tensor]:
        """`HAFMSemanticTokenizerModel.listen`, with the features of the `ear`, if there is one, in the pitch line."""
        line, places = self.semantic_tokenizer.listen(waveform, check_stop)
        if self.ear is not None:
            features = self.ear.extract_features(waveform.to(self.ear.device), check_stop=check_stop)
            line = replace(line, heard=features.cpu().numpy())
        return line, places

    def _with_beats(
        self, waveform: torch.Tensor, sheet: LeadSheet, listen: bool, check_stop: CheckStop | None
    ) -> tuple[LeadSheet, torch.Tensor | None, PitchLine | None]:
        """Adds beats; returns the lead sheet, its `LeadSheet.phase`, and the pitch line if it was computed."""
        tokenizer, line = self.semantic_tokenizer, None
        rate, frames = tokenizer.config.frame_rate, tokenizer.num_frames(len(waveform))
        phase = sheet.phase(frames, rate)
        if tokenizer.config.beat_line and (phase is None or listen):
            line, places = self.listen(waveform, check_stop)
            if phase is None:
                heard = self.listener if sheet.tempo is None else None
                near = None if heard is None else likeliest_tempo(heard.tempi, heard.tempo_of(line))
                phase = tokenizer.beat_phase(places, sheet, near, check_stop)
        if sheet.bars and phase is None:
            raise ValueError("Chords by the bar need beats, which this model does not estimate; give beats as well.")
        if phase is None:
            return sheet, None, line
        sheet = sheet.with_bars_placed(phase, rate)
        # a given tempo fixes the spacing of the estimated beats; where they lie is the estimate
        beats = replace(LeadSheet.from_estimates(phase, None, rate), downbeat=sheet.downbeat)
        sheet = replace(sheet, tempo=None if beats.beats else sheet.tempo).completed_by(beats)
        known = sheet.phase(frames, rate)
        return sheet, phase if known is None else known, line

    def lead_sheet_streams(self, vocal_semantic: torch.Tensor, sheet: LeadSheet) -> dict[str, torch.Tensor]:
        """Encodes a lead sheet as streams for the stages that are conditioned on it.

        Args:
            vocal_semantic (int64 [T_v]): vocal tokens of the whole song.
            sheet: its lead sheet, completed; parts that are missing are encoded as unknown.

        Returns:
            int64 [S, T_c] by the name of the stage.

        Raises:
            ValueError: for a style that the model does not have.
        """
        streams = {}
        for name, stage in self.reading_stages.items():
            config, rate = stage.config, stage.config.conditioning_frame_rate
            frames = len(vocal_semantic) * rate // self.semantic_tokenizer.config.frame_rate
            found = lead_sheet_streams(sheet, list(config.lead_sheet_streams), frames, rate, config.styles)
            streams[name] = found.to(stage.device)
        return streams

    def _songs(
        self,
        options: GenerationOptions,
        seed: int,
        vocals: Sequence[np.ndarray],
        rate: int,
        lead_sheets: Sequence[LeadSheet | None],
        reports: ProgressReports,
        kept: bool = False,
    ) -> tuple[list[SongConditioning], list[LeadSheet]]:
        """Listens to vocals: what the stages read for each sample of each, and its lead sheet.

        Each sample draws a style, the same for all stages, if the lead sheet names none; kept spans determine it.
        """
        songs, sheets = [], []
        for vocal, sheet in zip(vocals, lead_sheets, strict=False):
            asked = requested_lead_sheet(vocal, rate, sheet, options)
            song, heard = self.prepare_voice(vocal, rate, seed, asked, reports.check_stop)
            for sample in range(options.num_samples):
                sampled = replace(song, sample=sample)
                if self.styles and heard.style is None and not kept:
                    style = drawn_style(self.styles, seed, sample)
                    estimated = sorted({*heard.estimated, "style"})
                    sheets.append(replace(heard, style=style, estimated=estimated))
                    streams = self.lead_sheet_streams(song.vocal_semantic, sheets[-1])
                    songs.append(replace(sampled, lead_sheet_streams=streams))
                else:
                    songs.append(sampled)
                    sheets.append(heard)
        return songs, sheets

    def _chain(
        self,
        options: GenerationOptions,
        songs: Sequence[SongConditioning],
        seed: int,
        progress: Progress,
        kept: Mapping[str, torch.Tensor] | None = None,
        batch_size: int = ROWS_AT_ONCE,
    ) -> StageChain:
        stages = {name: stage for name, stage in self.stages.items() if name != "fine" or not options.skip_fine}
        codec = as_codec(self.codec)
        return StageChain(
            stages, songs, options, seed, codec=codec, kept=kept, progress=progress, batch_size=batch_size
        )

    def _decode(
        self,
        chain: StageChain,
        lead_sheets: Sequence[LeadSheet],
        lengths: Sequence[int],
        kept: KeptInstrumental | None,
        stems: bool,
        reports: ProgressReports,
    ) -> Iterator[dict[str, Any]]:
        """Decodes the songs of a finished run one by one; `lengths` are those of the vocals, in output samples."""
        for number, (sheet, length) in enumerate(zip(lead_sheets, lengths, strict=True)):
            codes = chain.codes(number)
            # not as a batch: memory use grows with the length of a song
            audio = as_codec(self.codec).decode(codes[None], length, reports.check_stop)[0].float().cpu()
            audio = audio if kept is None else kept.splice(audio, self.sampling_rate)
            rendered = {
                "audio": without_one_channel(audio),
                "vocal_semantic": chain.tokens("vocal_semantic", number)[0].cpu(),
                "instrumental_semantic": chain.tokens("instrumental_semantic", number)[0].cpu(),
                "codes": codes.cpu(),
                "lead_sheets": sheet,
            }
            if stems and self.separator is not None:
                parts = zip(self.stems, self.separator.separate(audio), strict=True)
                rendered["stems"] = {stem: without_one_channel(part) for stem, part in parts}
            yield rendered
