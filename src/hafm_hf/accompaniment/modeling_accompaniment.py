"""The composite: vocal → semantic tokens → three stages → codec → accompaniment.

It spans the whole path of the data. Saved, it is one repository with a subfolder for each part, so that every part
keeps its own configuration and generation settings and loads by itself with `subfolder=`.
"""

import json
import math
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..audio import pad_end, resample
from ..audio.feature_extraction_hafm import HAFMFeatureExtractor, channel_rows, mono_rows
from ..codec import CodecStream, as_codec, codec_class
from ..configuration_hafm import CodecFormat, HAFMConfig, codec_format
from ..decoding.windows import ROWS_AT_ONCE, DecodingOptions
from ..hub.loading import BUNDLED_MODEL as BUNDLED_MODEL
from ..hub.loading import HUB_OPTIONS, load_strictly, model_source, write_checksums
from ..hub.mixin import SHIM_NAME, UPLOAD_OPTIONS, HAFMHubMixin, write_repository_files
from ..jobs.heartbeat import Heartbeat
from ..jobs.threads import GenerationThreads
from ..lead_sheet.beats import at_rate, profile_at
from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.modeling_harmony import HAFMHarmonyModel
from ..semantic_tokenizer import HAFMSemanticTokenizer
from ..stages.guidance import SongGuidance
from ..stages.modeling_hafm import HAFMCoarseForCausalLM, HAFMFineForCausalLM, HAFMSemanticForCausalLM
from .song import STAGES, KeptInstrumental, Progress, SongRun, Span

PARTS: dict[str, type[PreTrainedModel]] = {
    "semantic_tokenizer": HAFMSemanticTokenizer,
    "semantic": HAFMSemanticForCausalLM,
    "coarse": HAFMCoarseForCausalLM,
    "fine": HAFMFineForCausalLM,
    # its class is that of its family, by its configuration
    "codec": PreTrainedModel,
}
# a composite may have these too
OPTIONAL_PARTS: dict[str, type[PreTrainedModel]] = {"harmony": HAFMHarmonyModel}


@dataclass
class HAFMAccompanimentOutput:
    """What `HAFMForVocalAccompaniment.generate` returns; lists hold one entry a vocal and sample, samples innermost.

    Args:
        sampling_rate: samples a second of `audio`.
        audio: instrumentals, float32 [N] each, [C, N] of a codec of several channels, as long as their vocal.
        vocal_semantic: int64 [T_v] each, at 50 Hz.
        instrumental_semantic: int64 [T_v] each, at 50 Hz.
        codes: int64 [Q, T_a] each, the codec's codebooks at its frame rate; Q is 8, or 4 without the fine stage.
        borders: seconds at which one window of the coarse or fine stage takes over from the one before.
    """

    sampling_rate: int
    audio: list[torch.Tensor] = field(default_factory=list)
    vocal_semantic: list[torch.Tensor] = field(default_factory=list)
    instrumental_semantic: list[torch.Tensor] = field(default_factory=list)
    codes: list[torch.Tensor] = field(default_factory=list)
    borders: list[tuple[float, ...]] = field(default_factory=list)


class HAFMForVocalAccompaniment(HAFMHubMixin, PreTrainedModel):
    """Semantic tokenizer, semantic, coarse and fine stage, and codec, as one model that takes and returns audio.

    A part that hears which chords the voice asks for may be there as well (`harmony`).

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
    # of the feature extractor that was loaded beside the model, to be saved with it again
    feature_extractor_config: dict[str, Any] = {}

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
        """Joins a `semantic_tokenizer`, `semantic`, `coarse` and `fine` stage, a `codec`, and if given a `harmony`.

        Raises:
            ValueError: if a part that every composite has is missing.
            StrictDataclassClassValidationError: if their vocabularies or rates do not fit each other.
        """
        missing = [name for name in PARTS if name not in parts]
        if missing:
            raise ValueError(f"Name every part; missing: {', '.join(missing)}.")
        configs = {f"{name}_config": part.config for name, part in parts.items()}
        # a composite's configuration sets its parts' attention too, to none at all unless it is told theirs
        attention = {name: config._attn_implementation for name, config in configs.items()}
        config = HAFMConfig(**configs, attn_implementation=attention)
        return cls(config, parts)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> "HAFMForVocalAccompaniment":
        """Loads a composite from a folder or the hub, part by part.

        Args:
            pretrained_model_name_or_path: folder or hub id; the bundled hafm-tiny if None or "hafm-tiny".
            kwargs: as for any `from_pretrained` (`revision`, `token`, `cache_dir`, `local_files_only` …). `dtype`
                (`torch_dtype` before) holds for the stages and is float32 if not given or "auto", however they are
                stored; tokenizer and codec stay in float32, so that tokens do not depend on it.

        Returns:
            The composite in evaluation mode; with `output_loading_info=True` a pair of it and a dict of what was
            missing, unexpected or misshapen: nothing, since that is refused.

        Raises:
            ValueError: if a part's weights are not exactly those that its configuration asks for.
            OSError: if a part or its safetensors file is missing.
        """
        source = model_source(pretrained_model_name_or_path)
        subfolder = kwargs.pop("subfolder", "")
        dtype = _stage_dtype(kwargs)
        attention = kwargs.pop("attn_implementation", None)
        informed = kwargs.pop("output_loading_info", False)
        for name in ("config", "use_safetensors", "trust_remote_code", "_from_auto", "adapter_kwargs"):
            kwargs.pop(name, None)
        hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        config = HAFMConfig.from_pretrained(source, subfolder=subfolder, **hub)
        parts = {}
        for name, part_class in part_classes(config).items():
            options = dict(kwargs, subfolder="/".join(filter(None, (subfolder, name))), use_safetensors=True)
            options["dtype"] = dtype if name in STAGES else torch.float32
            if name in STAGES and attention is not None:
                options["attn_implementation"] = attention
            parts[name] = load_strictly(part_class, source, **options)
        model = cls.from_parts(**parts)
        model.name_or_path = str(source)
        model.feature_extractor_config = _feature_extractor_config(source, subfolder=subfolder, **hub)
        # strict loading leaves nothing of these to tell
        problems: Any = {name: set() for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
        return (model.eval(), problems) if informed else model.eval()  # type: ignore[return-value]

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        *,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes config.json, feature extractor and the files of a hub repository, and each part into its subfolder.

        Args:
            save_directory: the folder.
            is_main_process: False in the other processes of a training; they write no files.
            state_dict: weights to write instead of the model's own, under the names that they have in it.
            push_to_hub: upload the model with its own weights, too.
            repo_id: where to; the folder's name if not given.
            kwargs: as for any `save_pretrained`, and when uploading those of `push_to_hub`.

        Raises:
            ValueError: if `state_dict` lacks weights of the model, or holds others.
        """
        upload = {name: kwargs.pop(name) for name in UPLOAD_OPTIONS if name in kwargs}
        if state_dict is not None and is_main_process:
            self._check_names(state_dict)
        folder = Path(save_directory)
        for name in part_classes(self.config):
            weights = None if state_dict is None else _weights_of(name, state_dict)
            part = getattr(self, name)
            # the others too, which may hold a share of the weights that the main process writes
            part.save_pretrained(folder / name, is_main_process=is_main_process, state_dict=weights, **kwargs)
        if not is_main_process:
            return
        for name in part_classes(self.config):
            write_checksums(folder / name)
        self._write_repository(folder)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.name, **upload)

    def _write_repository(self, folder: Path) -> None:
        """Everything of a repository that does not belong to one of the parts."""
        self.config.architectures = [type(self).__name__]
        config = _without_paths(self.config.to_dict())
        config["auto_map"] = {
            "AutoConfig": f"{SHIM_NAME}.HAFMConfig",
            "AutoModel": f"{SHIM_NAME}.HAFMForVocalAccompaniment",
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_repository_files(folder)
        extractor = {**self.feature_extractor_config, "sampling_rate": self.sampling_rate}
        HAFMFeatureExtractor(**extractor).save_pretrained(folder)

    def _check_names(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Refuses weights that are not, name by name, those of the model: parts without them cannot be loaded."""
        own = self.state_dict().keys()
        for problem, names in (("lacks", own - state_dict.keys()), ("should not hold", state_dict.keys() - own)):
            if names:
                raise ValueError(
                    f"state_dict {problem} {min(names)} ({len(names)} names in all); give all of model.state_dict(), "
                    "or nothing to save the model's own weights."
                )

    @property
    def codec_format(self) -> CodecFormat:
        """Rates, codebooks and channels of the codec, and so of what comes out."""
        return codec_format(self.config.codec_config)

    @property
    def sampling_rate(self) -> int:
        """Samples a second of the codec, and so of what comes out."""
        return self.codec_format.sampling_rate

    @property
    def units_per_second(self) -> int:
        """Largest rate that divides all token rates: 25 for 50 and 75 Hz. Songs are whole units long inside."""
        return math.gcd(self.config.semantic_config.frame_rate, self.config.coarse_config.frame_rate)

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part, and their `total`."""
        counts = {name: sum(p.numel() for p in getattr(self, name).parameters()) for name in part_classes(self.config)}
        return counts | {"total": sum(counts.values())}

    @torch.no_grad()
    def generate(
        self,
        vocals: torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray] | None = None,
        sampling_rate: int | None = None,
        *,
        input_values: torch.Tensor | np.ndarray | None = None,
        padding_mask: torch.Tensor | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        skip_fine: bool = False,
        decoding: str | None = None,
        weights: str | None = None,
        instrumental: torch.Tensor | np.ndarray | None = None,
        keep: Sequence[Span] = (),
        lead_sheet: LeadSheet | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> HAFMAccompanimentOutput:
        """Generates an instrumental for each vocal.

        Vocals and samples are rows of one batch, up to `ROWS_AT_ONCE` of them. Each row has random numbers of its own,
        from seed and number of the sample, so that what it becomes does not depend on what else is in the batch (up to
        rounding: a batch of another size may add numbers in another order).

        Args:
            vocals (float [B, N], [B, 1, N], [N], or a list of [N]): mono, in −1 … 1.
            sampling_rate (Hz): of the vocals and the instrumental; the codec's if None.
            input_values (float [B, N], *optional*): the vocals, as the feature extractor calls them.
            padding_mask (bool [B, N] or [N], *optional*): False where a batch is padding, on either side.
            seed: the same seed gives the same tokens on the same device; None draws one.
            num_samples: instrumentals a vocal.
            guidance_scale, temperature, top_k: override each stage's generation config.
            skip_fine: decode the coarse codebooks only, at 3 kbps.
            decoding: "fast" for our loop, "reference" for GenerationMixin's. None: fast on CPU and CUDA.
            weights: "int8" rounds the stages' matrices to 8 bits in the fast loop (CPU); None keeps their precision.
            instrumental (float [N], *optional*): accompaniment of the one vocal that is to be kept within `keep`.
            keep (sequence of (start, stop) in s): what to keep of `instrumental`; all else is generated. It is heard
                as it is; the rest is generated from its tokens before, and joins it by a short cross-fade.
            lead_sheet: tempo, beats or chords of the one vocal, as far as they are known; all else is heard.
            threads: of torch, while it is generated. None: one for a small model on a CPU unless OMP_NUM_THREADS is
                set, two for its decoding steps while two cores are free; torch's own number otherwise.
            progress: called with (stage, steps done, steps in all) after every step, and with the same again while
                something takes longer; what it raises ends the generation.

        Returns:
            `HAFMAccompanimentOutput`; each instrumental lasts as long as its vocal, to the sample.

        Raises:
            ValueError: on no vocal, an empty one or one that is not mono, a mask of another shape, options out of
                range, `keep` without an instrumental, an instrumental or a lead sheet for several vocals, or a lead
                sheet of which the model has no use.
        """
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        options = self._options(num_samples, guidance_scale, temperature, top_k, decoding, weights)
        torch_threads, options = self._threads(threads, options)
        vocals = input_values if vocals is None else vocals
        if vocals is None:
            raise ValueError("There is no vocal; give vocals, or what the feature extractor makes of them.")
        if instrumental is None and len(keep):
            raise ValueError("keep names spans of an instrumental; give the instrumental as well.")
        seed = int(torch.seed() % 2**31) if seed is None else seed
        output = HAFMAccompanimentOutput(self.sampling_rate)
        rows = mono_rows(vocals, padding_mask)
        if lead_sheet is not None and len(rows) != 1:
            raise ValueError(f"A lead sheet belongs to one vocal, and {len(rows)} were given.")
        beat = Heartbeat(self, progress)
        with torch_threads, beat:
            kept = None if instrumental is None else self._keep(rows, rate, instrumental, keep)
        at_once = max(ROWS_AT_ONCE // num_samples, 1)
        for first in range(0, len(rows), at_once):
            batch = rows[first : first + at_once]
            with seeded(seed, self.device), torch_threads, beat:
                song = SongRun(
                    self, batch, rate, seed, num_samples, options, skip_fine, kept, beat.report, lead_sheet=lead_sheet
                )
                song.run()
                for index in range(len(batch) * num_samples):
                    vocal = batch[index // num_samples]
                    length = round(len(vocal) * self.sampling_rate / rate)
                    streams = song.tokens(index)
                    audio = as_codec(self.codec).decode(streams["codes"][None], length)[0].float().cpu()
                    audio = audio if kept is None else kept.splice(audio)
                    output.audio.append(audio[0] if len(audio) == 1 else audio)
                    output.borders.append(song.borders(index))
                    for name, tokens in streams.items():
                        getattr(output, name).append(tokens.cpu())
        return output

    @torch.no_grad()
    def stream(
        self,
        vocal: torch.Tensor | np.ndarray,
        sampling_rate: int | None = None,
        *,
        seed: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        skip_fine: bool = False,
        decoding: str | None = None,
        weights: str | None = None,
        lead_sheet: LeadSheet | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Generator[torch.Tensor, None, None]:
        """Generates the instrumental of one vocal and hands it out as soon as a window of the last stage is done.

        The chunks together are what `generate` returns, up to rounding. Closing the iterator ends the generation.

        Args:
            vocal (float [N]): mono, in −1 … 1.
            sampling_rate (Hz), seed, guidance_scale, temperature, top_k, skip_fine, decoding, weights, lead_sheet,
                threads, progress: as for `generate`.

        Yields:
            float32 [n] at the codec's rate, [C, n] of several channels, on the CPU.

        Raises:
            ValueError: on an empty vocal, options out of range, or a lead sheet of which the model has no use.
        """
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        options = self._options(1, guidance_scale, temperature, top_k, decoding, weights)
        torch_threads, options = self._threads(threads, options)
        seed = int(torch.seed() % 2**31) if seed is None else seed
        (row,) = mono_rows(vocal, None)
        beat = Heartbeat(self, progress)
        with torch_threads, beat:
            song = SongRun(
                self, [row], rate, seed, 1, options, skip_fine, None, beat.report, at_once=1, lead_sheet=lead_sheet
            )
        length, done, sent = round(len(row) * self.sampling_rate / rate), 0, 0
        codec = CodecStream(as_codec(self.codec))
        while sent < length:
            audio = torch.zeros(1, 0)
            # between the chunks the caller's own number holds
            with seeded(seed, self.device), torch_threads, beat:
                codes = song.advance()
                if codes.shape[1] > done:
                    new = codec.decode(codes[None, :, done:], last=song.finished)
                    audio = new[0, :, : length - sent].float().cpu()
            done, sent = codes.shape[1], sent + audio.shape[1]
            if audio.shape[1]:
                yield audio[0] if len(audio) == 1 else audio

    def _threads(self, asked: int | None, options: DecodingOptions) -> tuple[GenerationThreads, DecodingOptions]:
        """The threads of a generation, and options whose steps are among them."""
        threads = GenerationThreads((getattr(self, name) for name in STAGES), asked)
        return threads, replace(options, threads=threads.steps)

    def _options(
        self,
        num_samples: int,
        guidance_scale: float | None,
        temperature: float | None,
        top_k: int | None,
        decoding: str | None,
        weights: str | None,
    ) -> DecodingOptions:
        check_options(num_samples, temperature, guidance_scale, top_k)
        if decoding is None:
            # on other devices the fast loop has not been tried
            decoding = "fast" if self.device.type in ("cpu", "cuda") else "reference"
        return DecodingOptions(decoding, guidance_scale, temperature, top_k, weights)

    def _keep(
        self, rows: list[np.ndarray], rate: int, instrumental: torch.Tensor | np.ndarray, keep: Sequence[Span]
    ) -> KeptInstrumental:
        if len(rows) != 1:
            raise ValueError(f"An instrumental belongs to one vocal, and {len(rows)} were given.")
        audio = channel_rows(instrumental, self.codec_format.channels)
        return KeptInstrumental(self, audio, rate, len(rows[0]), keep)

    def tokenize_vocal(
        self,
        vocal: np.ndarray,
        sampling_rate: int,
        seed: int | None = None,
        lead_sheet: LeadSheet | None = None,
    ) -> torch.Tensor:
        """Noisy vocal semantic tokens of a mono vocal (float32 [N]), padded to whole units: int64 [1, T_v].

        Tempo or beats of `lead_sheet` count instead of those that are heard.

        Raises:
            ValueError: on an empty vocal, or where the tokenizer has no beat line for the beats of a lead sheet.
        """
        if len(vocal) == 0:
            raise ValueError("The vocal is empty; HAFM needs samples to accompany.")
        tokenizer = self.semantic_tokenizer.config
        seconds = len(vocal) / sampling_rate
        units = math.ceil(round(seconds * self.units_per_second, 6))
        samples = resample(vocal, sampling_rate, tokenizer.sampling_rate)
        wanted = units * tokenizer.sampling_rate // self.units_per_second
        waveform = torch.from_numpy(pad_end(samples[:wanted], wanted)).to(self.semantic_tokenizer.device)
        return self.semantic_tokenizer.encode(waveform, noise=True, seed=seed, lead_sheet=lead_sheet)[None]

    def hear_lead_sheet(
        self, vocal: np.ndarray, sampling_rate: int, seed: int | None = None, lead_sheet: LeadSheet | None = None
    ) -> LeadSheet:
        """The beats that a vocal is heard in, and the likeliest chord of each: to be looked at, mended and given back.

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
        tokens = self.tokenize_vocal(vocal, sampling_rate, seed, lead_sheet)[0]
        tokenizer, part = self.semantic_tokenizer, getattr(self, "harmony", None)
        phase = tokenizer.beat_phase(tokenizer.beat_places(tokens), lead_sheet)
        rate = tokenizer.config.frame_rate
        chords = None if part is None else part.chords(tokens, phase).cpu()
        if chords is not None and lead_sheet is not None:
            chords = lead_sheet.add_chords(chords, rate)
        return LeadSheet.heard(phase, chords, rate)

    def song_guidance(
        self, vocal_semantic: torch.Tensor, lead_sheet: LeadSheet | None = None
    ) -> dict[str, SongGuidance]:
        """What the singer's beat and the chords that the voice asks for say of the accompaniment's tokens.

        Args:
            vocal_semantic (int64 [T_v]): a vocal's tokens, of the whole song.
            lead_sheet: beats and chords that are known. Where `harmony_guidance` is 0 chords get a weight of 1, those
                that are heard between them as well.

        Returns:
            By stage: "semantic" where its generation config has `beat_guidance` or `harmony_guidance`, or chords are
            known; "coarse" where its own has `beat_guidance`.

        Raises:
            ValueError: there is no `beat_profile`, no `beat_scores` or no `harmony` to weigh, or the tokenizer does
                not know the beat.
        """
        sheet = LeadSheet() if lead_sheet is None else lead_sheet
        beat, harmony, code_beat = self._guidance_weights(bool(sheet.chords))
        if not beat and not harmony and not code_beat:
            return {}
        tokenizer, config, guidance = self.semantic_tokenizer, self.semantic.generation_config, {}
        phase = tokenizer.beat_phase(tokenizer.beat_places(vocal_semantic), sheet)
        changes = beat * profile_at(phase, config.beat_profile) if beat else None
        if harmony:
            chords = sheet.add_chords(self.harmony.chords(vocal_semantic, phase), tokenizer.config.frame_rate)
            guidance["semantic"] = SongGuidance(changes, chords, self.harmony.token_scores, harmony)
        elif beat:
            guidance["semantic"] = SongGuidance(changes)
        if code_beat:
            frames = at_rate(phase, tokenizer.config.frame_rate, self.coarse.config.frame_rate)
            parts = self.coarse.beat_tokens(frames)
            guidance["coarse"] = SongGuidance(None, parts, self.coarse.beat_token_scores, code_beat)
        return guidance

    def _guidance_weights(self, chords_are_known: bool) -> tuple[float, float, float]:
        """Weights of the beat and of the chords for the semantic stage, and of the beat for the coarse one.

        Raises:
            ValueError: something is to be weighed that is not there.
        """
        semantic, coarse = self.semantic.generation_config, self.coarse.generation_config
        beat, code_beat = (getattr(config, "beat_guidance", 0.0) for config in (semantic, coarse))
        harmony = getattr(semantic, "harmony_guidance", 0.0) or float(chords_are_known)
        if beat and not getattr(semantic, "beat_profile", None):
            raise ValueError("beat_guidance needs a beat_profile: recipes/fit_beat_profile.py finds it in a corpus.")
        if code_beat and not self.coarse.config.beat_parts:
            raise ValueError("beat_guidance needs beat_scores: recipes/fit_code_beats.py counts them in songs.")
        if harmony and getattr(self, "harmony", None) is None:
            raise ValueError("Chords need a part that hears them: recipes/fit_harmony.py makes one.")
        return beat, harmony, code_beat


def part_classes(config: HAFMConfig) -> dict[str, type[PreTrainedModel]]:
    """The parts that a composite of this configuration has, by name."""
    there = {name: kind for name, kind in OPTIONAL_PARTS.items() if getattr(config, f"{name}_config") is not None}
    return PARTS | there | {"codec": codec_class(config.codec_config)}


def _stage_dtype(options: dict[str, Any]) -> Any:
    """Takes what a caller of `from_pretrained` asks for out of its options."""
    dtype, deprecated = options.pop("dtype", None), options.pop("torch_dtype", None)
    dtype = deprecated if dtype is None else dtype
    # pipeline() always asks for "auto"; weights stored in half to save space are not meant to be computed in it
    return torch.float32 if dtype in (None, "auto") else dtype


def _feature_extractor_config(source: str | os.PathLike[str], **hub: Any) -> dict[str, Any]:
    """Of the feature extractor beside a composite; empty where there is none."""
    try:
        return HAFMFeatureExtractor.get_feature_extractor_dict(source, **hub)[0]
    except OSError:
        return {}


def _weights_of(part: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A part's weights out of those of the composite, under the names that they have in the part."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folders its parts were loaded from: a repository is no place for them."""
    kept = {name: value for name, value in config.items() if name != "_name_or_path"}
    return {name: _without_paths(value) if isinstance(value, dict) else value for name, value in kept.items()}


def check_options(
    num_samples: int, temperature: float | None, guidance_scale: float | None, top_k: int | None
) -> None:
    """Refuses sampling options out of range; None is the model's own, and passes.

    Raises:
        ValueError: naming the option, its value and its range.
    """
    for name, value, kind in (
        ("num_samples", num_samples, Integral),
        ("temperature", temperature, Real),
        ("guidance_scale", guidance_scale, Real),
        ("top_k", top_k, Integral),
    ):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r}; it must be a {'whole ' if kind is Integral else ''}number.")
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; ask for at least 1.")
    if temperature is not None and not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be above 0.")
    if guidance_scale is not None and not 0 <= guidance_scale < math.inf:
        raise ValueError(f"guidance_scale is {guidance_scale}; it must be 0 or more (1 means no guidance).")
    if top_k is not None and top_k < 0:
        raise ValueError(f"top_k is {top_k}; it must be 0 (all tokens) or more.")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch inside the block and puts the caller's random state back behind it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
