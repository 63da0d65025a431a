# SPDX-License-Identifier: Apache-2.0
"""`pipeline("vocal-accompaniment")`: files, URLs, bytes or arrays in, instrumental and mix out.

It wraps `HAFMForVocalAccompaniment.generate` with what users need: reading, checking and resampling audio, and mixing.
A call goes through `preprocess` (read a vocal), `_forward` (listen to a batch of vocals, and generate) and
`postprocess` (resample, and mix).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitInfo
from torch.utils.data import Dataset
from transformers import Pipeline
from transformers.utils import logging

from .. import audio
from ..audio.feature_extraction_hafm import HAFMFeatureExtractor, PreparedVocal, are_several
from ..lead_sheet.files import known_lead_sheet
from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.vocabulary import STEMS
from ..listening.encoder import HAFMEncoderOutput
from ..pretrained.redaction import first_line
from ..stopping import CheckStop, stoppable
from .chain import ProgressReports
from .generation_accompaniment import one_vocal, variations_of
from .kept_instrumental import KeptInstrumental
from .options import MEDIAN_BALANCE, GenerationOptions, MixOptions, options_by_name

logger = logging.get_logger(__name__)

# mix options that change the length or the sampling rate of a song, the only ones that a stream takes
LENGTH_OPTIONS = ("output_rate", "tail", "intro_bars", "outro_bars")
# a mix further below the requested loudness than this is worth a warning
TOO_QUIET_LU = 0.5
# usual names of the audio column of a dataset row
COLUMN_NAMES = ("vocal", "vocals", "audio")


class HAFMPipeline(Pipeline):
    """Accompanies singing voices; registered by `import hafm_hf` as the task "vocal-accompaniment".

    Example:

    ```python
    >>> import hafm_hf
    >>> from transformers import pipeline
    >>> accompany = pipeline("vocal-accompaniment")
    >>> song = accompany("vocal.wav", seed=1)
    >>> song["mix"], song["sampling_rate"]
    ```
    """

    _load_tokenizer = False
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    # the model already has the feature extractor that it was saved with
    _load_feature_extractor = False
    # names of the parameters of a call that clients of a server may set
    public_parameters = (
        *(name for name, option in options_by_name(GenerationOptions).items() if not option.internal),
        *options_by_name(MixOptions),
        *("seconds", "lead_sheet", "tempo", "beats", "chords", "key"),
    )

    def __init__(self, model: Any, feature_extractor: Any = None, **kwargs: Any) -> None:
        if not hasattr(model, "feature_extractor"):
            raise ValueError(f"{type(model).__name__} is not a whole model; load the composite that it is a part of.")
        if isinstance(feature_extractor, (str, os.PathLike)):
            feature_extractor = HAFMFeatureExtractor.from_pretrained(feature_extractor)
        extractor = model.feature_extractor()
        if feature_extractor is not None:
            # a feature extractor saved by an early version has the codec's rate
            settings = {**feature_extractor.to_dict(), "sampling_rate": extractor.sampling_rate}
            extractor = HAFMFeatureExtractor(**settings)
        super().__init__(model, feature_extractor=extractor, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Generates an instrumental for one vocal or each of several.

        Args:
            inputs: a path (also `hf://…`), http(s) URL, file object, the bytes of a file, samples with `sampling_rate`
                (an array or tensor [N] or [N, channels], a list of N numbers), a dict with "array" or "raw" and
                "sampling_rate" (or "bytes" or "path", as `datasets` returns undecoded audio), or a row of `datasets`
                that contains such a dict or an AudioDecoder; or a list, a column or a Dataset of these. For a
                generator (`(row for row in dataset)`) songs are yielded one by one. Cast to
                `datasets.Audio(decode=False)` to read rows without torchcodec.
            sampling_rate (int, Hz): sampling rate of arrays, including the instrumental.
            seconds (float): use only this much from the start of each vocal.
            lead_sheet (`LeadSheet` or a dict of its fields): for all vocals, as far as it is known.
            tempo (float, BPM), beats (seconds, or a file of them), chords ((start s, stop s, label) each, a .lab file,
                or by the bar: "C | Am | F G"), key ("Am"): parts of the lead sheet, which take precedence over it.
            files (bool): whether beats and chords may name files; set to False for untrusted input. Default True.
            instrumental: existing accompaniment of a single vocal, in any form of `inputs`, with spans to keep.
            keep (list of (start, stop) in s): the spans to keep; the rest is generated anew.
            progress (callable(stage: str, done: int, total: int)): called with each stage's progress; an exception
                raised in it ends the generation.
            kwargs: fields of `GenerationOptions` (`seed`, `num_samples`, `guidance_scale` …); defaults come from each
                stage's generation config (`model.coarse.generation_config`). Also fields of `MixOptions`
                (`balance="auto"`, `loudness=-16`, `tail=2`, `intro_bars=4`, `outro_bars=4`, `output_rate`,
                `vocal_gain_db`, `instrumental_gain_db`).

        Returns:
            For each vocal a dict, or with num_samples > 1 a list of dicts: "audio" (float32 [N], the instrumental, as
            long as the vocal with its `tail` or its intro and outro), "mix" and "vocals" (float32 [N], or [N, 2] for a
            stereo vocal) and their "sampling_rate" (Hz): the vocal's own, or the model's if that is higher. If the
            codec plays two channels, "audio" and "mix" are [N, 2]. Nothing clips, the mix has true peaks of at most
            −1 dBTP, and neither it nor the instrumental starts or ends with a click. "lead_sheet" (`LeadSheet`): as
            far as it was given or estimated, and "vocal_start" (s), where the vocal begins after an intro; times of
            both, and of `keep`, count from the start of the song. With `stems=True`, "stems" is a dict of drums, bass,
            chords and pads, which sum to "audio".

        Raises:
            HAFMAudioError: if a vocal cannot be used. A silent one can: it gets an instrumental and a warning.
            ValueError: if parameters are out of range or do not apply, as for `HAFMForVocalAccompaniment.generate`.
            ModuleNotFoundError: if balance or loudness is given and pyloudnorm is not installed.
        """
        if not isinstance(inputs, Dataset) and are_several(inputs):
            inputs = list(inputs)
            if not inputs:
                return []
            if len(inputs) > 1 and kwargs.get("instrumental") is not None:
                raise ValueError(f"An instrumental belongs to one vocal, and {len(inputs)} were given.")
        elif isinstance(inputs, (list, tuple)):
            # the samples of one vocal; transformers takes every list for a batch
            inputs = {"array": inputs}
        return super().__call__(inputs, **kwargs)

    def stream(self, vocal: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """Accompanies one vocal and yields the instrumental while it is generated.

        Args:
            vocal: a single vocal, in any form that a call accepts.
            kwargs: sampling_rate, seconds, lead_sheet, tempo, beats, chords, key, files, progress, output_rate,
                tail, intro_bars, outro_bars and the fields of `GenerationOptions`, as for a call; they take precedence
                over the pipeline's own. `num_samples` must be 1.

        Yields:
            For each chunk a dict: "audio" (float32 [n] or [n, channels], the next piece of the instrumental, at the
            level generated), "vocals" (float32 [n] or [n, 2], the same piece of the vocal), "sampling_rate" (Hz),
            "vocal_start" (s), "lead_sheet" (with the style, if the model has any), and the length of the whole song,
            "seconds"; with `stems=True` also "stems".

        Raises:
            HAFMAudioError: if the vocal cannot be used.
            TypeError: for any other parameter.
            ValueError: as for a call.
        """
        useless = {*options_by_name(MixOptions), "instrumental", "keep"} - {*LENGTH_OPTIONS}
        if given := sorted(useless & {*kwargs, *self._preprocess_params, *self._forward_params}):
            raise TypeError(f"A stream has no use for {given[0]!r}; a call has.")
        if are_several(vocal):
            vocal = one_vocal(vocal)
        preprocess_params, forward_params, _ = self._sanitize_parameters(**kwargs)
        sounds = self.preprocess(vocal, **{**self._preprocess_params, **preprocess_params})
        forward_params = {**self._forward_params, **forward_params}
        options = forward_params["options"]
        mix = forward_params["mix"]
        progress = forward_params.get("progress")
        (encoded,) = self._encode([sounds["prepared"]], options, mix, forward_params.get("lead_sheet"), progress)
        encoded = variations_of(self.model.encoder, encoded, options)[0]
        chunks = self.model.stream(encoder_outputs=[encoded], options=options, progress=progress)

        model_rate = self.model.sampling_rate
        rate = self._output_rate(sounds["vocal_rate"], mix)
        whole_vocal = self._vocal_for_mix(sounds["vocal"], sounds["vocal_rate"], rate, encoded)
        done = 0  # samples yielded so far, at `rate`
        for instrumental in audio.resample_pieces(map(side_by_side, chunks), model_rate, rate):
            piece = audio.fade_instrumental(
                instrumental[: len(whole_vocal) - done], rate, done, len(whole_vocal), encoded.fade
            )
            chunk: dict[str, Any] = {
                "audio": piece,
                "vocals": whole_vocal[done : done + len(piece)],
                "sampling_rate": rate,
                "vocal_start": encoded.before,
                "lead_sheet": encoded.lead_sheet,
                "seconds": len(whole_vocal) / rate,
            }
            if options.stems:
                chunk["stems"] = stems_of(piece)
                chunk["audio"] = reduce(np.add, chunk["stems"].values())
            if len(piece):
                yield chunk
            done += len(piece)

    def join(self, chunks: Iterable[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Joins streamed chunks into the song of a call, up to rounding.

        Args:
            chunks: all chunks that `stream` has yielded for a vocal.
            options: balance, loudness and the gains, as for a call.

        Raises:
            TypeError: for an option of the stream, such as tail.
        """
        if given := sorted({*LENGTH_OPTIONS} & {*options}):
            raise TypeError(f"{given[0]} is of no use any more; give it to the stream.")
        chunks = list(chunks)
        instrumental = np.concatenate([chunk["audio"] for chunk in chunks])
        vocal = np.concatenate([chunk["vocals"] for chunk in chunks])
        names = chunks[0].get("stems", ())
        mix = MixOptions.of(self._postprocess_params.get("mix"), options)
        stems = {name: np.concatenate([chunk["stems"][name] for chunk in chunks]) for name in names}
        song = _mixed(vocal[: len(instrumental)], instrumental, chunks[0]["sampling_rate"], mix, stems)
        return song | {name: chunks[0][name] for name in ("lead_sheet", "vocal_start")}

    def _sanitize_parameters(
        self,
        sampling_rate: int | None = None,
        seconds: float | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        instrumental: Any = None,
        keep: Sequence[tuple[float, float]] | None = None,
        lead_sheet: LeadSheet | dict[str, Any] | None = None,
        tempo: float | None = None,
        beats: Any = None,
        chords: Any = None,
        key: str | None = None,
        files: bool | None = None,
        options: GenerationOptions | None = None,
        **given: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Checks all options before any vocal is read; those of a call take precedence over the pipeline's own.

        Args:
            sampling_rate, seconds, progress, instrumental, keep, lead_sheet, tempo, beats, chords, key, files: as for
                a call.
            options: a whole `GenerationOptions`, in which fields in `given` are replaced.
            given: fields of `GenerationOptions` and `MixOptions` by name.

        Returns:
            The arguments of `preprocess`, `_forward` and `postprocess`, in this order, as far as they are given.
        """
        # parameters of the pipeline itself, none yet while it is created
        preprocess_defaults = getattr(self, "_preprocess_params", {})
        forward_defaults = getattr(self, "_forward_params", {})
        mix_options = {name: given.pop(name) for name in options_by_name(MixOptions) if name in given}
        mix = MixOptions.of(forward_defaults.get("mix"), mix_options)
        if mix.balance is not None or mix.loudness is not None:
            audio.require_pyloudnorm()
        options = GenerationOptions.of(options or forward_defaults.get("options"), given)
        if isinstance(lead_sheet, (list, tuple)):
            raise ValueError("lead_sheet is a list; give a LeadSheet or a dict, which holds for all vocals of a call.")
        if lead_sheet is None:
            lead_sheet = forward_defaults.get("lead_sheet")
        if files is None:
            files = preprocess_defaults.get("files", True)
        sheet = known_lead_sheet(lead_sheet, tempo, beats, chords, key, files=files)
        if isinstance(instrumental, Mapping) and "mix" in instrumental:
            # a song that a call has returned: without "array", its "vocals" would be read
            instrumental = {**instrumental, "array": instrumental["audio"]}

        to_read = {"sampling_rate": sampling_rate, "seconds": seconds, "instrumental": instrumental, "files": files}
        to_generate = {"progress": progress, "keep": keep, "lead_sheet": sheet}
        preprocess_params = {name: value for name, value in to_read.items() if value is not None}
        forward_params = {name: value for name, value in to_generate.items() if value is not None}
        return preprocess_params, forward_params | {"options": options, "mix": mix}, {"mix": mix}

    def preprocess(
        self,
        input_: Any,
        sampling_rate: int | None = None,
        seconds: float | None = None,
        instrumental: Any = None,
        files: bool = True,
    ) -> dict[str, Any]:
        """Reads and checks one vocal, and the instrumental if there is one.

        Args:
            input_, sampling_rate (Hz), seconds, instrumental: as for a call.
            files: unused here; `_sanitize_parameters` has applied it.

        Returns:
            "prepared" (`PreparedVocal`), and the vocal as it was recorded: "vocal" (float32 [N] or [N, 2]) and
            "vocal_rate" (Hz); "instrumental" (float32 [channels, N], in the channels that the codec plays) and
            "instrumental_rate" (Hz), None without one.
        """
        vocal, rate, name = self._read(input_, sampling_rate, seconds)
        vocal = audio.without_offset(vocal)
        prepared = self.feature_extractor.prepare(audio.with_channels(vocal, 1), rate)
        if audio.is_silent(prepared.samples):
            logger.warning(f"{name} is silent; the instrumental has no voice to follow.")
        instrumental_samples = None
        instrumental_rate = None
        if instrumental is not None:
            samples, instrumental_rate, _ = self._read(instrumental, sampling_rate)
            samples = audio.with_channels(samples, self.model.config.codec_format.output_channels)
            instrumental_samples = audio.in_columns(samples).T
        return {
            "prepared": prepared,
            "vocal": vocal,
            "vocal_rate": rate,
            "instrumental": instrumental_samples,
            "instrumental_rate": instrumental_rate,
        }

    def _encode(
        self,
        prepared: list[PreparedVocal],
        options: GenerationOptions,
        mix: MixOptions,
        lead_sheet: LeadSheet | None = None,
        progress: Any = None,
    ) -> list[HAFMEncoderOutput]:
        """Listens to vocals, as `preprocess` has prepared them.

        Args:
            prepared: the vocals.
            options: the generation options.
            mix: of which intro, outro and tail are used.
            lead_sheet: what is known; it holds for every song.
            progress: as for a call.

        Returns:
            What the stages read of each song.

        Raises:
            HAFMAudioError: one is too long with its intro and outro.
            ValueError: as for `HAFMForVocalAccompaniment.encode`.
        """
        encoded = self.model.encode(
            prepared,
            [lead_sheet] * len(prepared),
            options,
            intro_bars=mix.intro_bars,
            outro_bars=mix.outro_bars,
            tail=mix.tail,
            progress=progress,
        )
        if mix.intro_bars or mix.outro_bars:
            rate = self.model.sampling_rate
            for song in encoded:
                longest = self.feature_extractor.max_seconds
                audio.check_duration(song.length(rate), rate, "the vocal with its bars", max_seconds=longest)
        return encoded

    def _read(
        self, input_: Any, sampling_rate: int | None = None, seconds: float | None = None
    ) -> tuple[audio.Samples, int, str]:
        """Reads and checks an input.

        Args:
            input_: in any form that a call accepts.
            sampling_rate: in Hz, of samples that come without one.
            seconds: use only this much from the start.

        Returns:
            Samples (float32 [N] or [N, 2]; more channels are averaged), their rate in Hz, and a name for messages.

        Raises:
            HAFMAudioError: if it cannot be used.
        """
        extractor = self.feature_extractor
        source, rate, name = unwrapped(input_, sampling_rate)
        reading: dict[str, Any] = {"seconds": seconds, "name": name, "mono": False}
        reading |= {"min_seconds": extractor.min_seconds, "max_seconds": extractor.max_seconds}
        if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(source, "read"):
            samples, rate = audio.read_audio(source, **reading)
        else:
            samples, rate = audio.check_sound(source, sampling_rate=rate, **reading)
        if samples.ndim > 1 and samples.shape[1] != 2:
            samples = audio.with_channels(samples, 1)
        return samples, rate, name

    def _forward(
        self,
        input_tensors: dict[str, Any],
        options: GenerationOptions,
        mix: MixOptions,
        lead_sheet: LeadSheet | None = None,
        keep: Sequence[tuple[float, float]] = (),
        progress: Any = None,
    ) -> dict[str, Any]:
        """Generates the `num_samples` accompaniments of each vocal.

        Args:
            input_tensors: from `preprocess`, with `batch_size` > 1 lists of values.
            options, mix, lead_sheet, keep, progress: from `_sanitize_parameters`.

        Returns:
            "generated": for one vocal a dict, for several a list of dicts. Each has "variations", a list of dicts with
            "audio" (float32 [N] or [channels, N]), "lead_sheet" and, if requested, "stems" (tensors of that shape by
            name); "encoded" (`HAFMEncoderOutput`); "kept" (`KeptInstrumental`, or None); "vocal" and "vocal_rate" (as
            from `preprocess`); and "check_stop", which repeats the last report of progress.
        """
        prepared = input_tensors["prepared"]
        vocals = input_tensors["vocal"]
        rates = input_tensors["vocal_rate"]
        instrumental = input_tensors["instrumental"]
        instrumental_rate = input_tensors["instrumental_rate"]
        # with batch_size > 1, transformers collates what is not a tensor to lists
        several = isinstance(prepared, list)
        if several:
            if any(samples is not None for samples in instrumental):
                raise ValueError(f"An instrumental belongs to one vocal, and {len(vocals)} were given.")
            instrumental = None
            instrumental_rate = None
        else:
            prepared = [prepared]
            vocals = [vocals]
            rates = [rates]
        reports = ProgressReports(progress)
        encoded = self._encode(prepared, options, mix, lead_sheet, reports)
        output = self.model.generate(
            sampling_rate=instrumental_rate,
            encoder_outputs=encoded,
            instrumental=instrumental,
            keep=keep,
            options=options,
            progress=reports,
        )
        kept = None
        if instrumental is not None:
            seconds = encoded[0].length(instrumental_rate) / instrumental_rate
            kept = KeptInstrumental(instrumental, instrumental_rate, keep, seconds)

        variations = []
        for number, generated_audio in enumerate(output.audio):
            variation = {"audio": generated_audio, "lead_sheet": output.lead_sheets[number]}
            if output.stems is not None:
                variation["stems"] = output.stems[number]
            variations.append(variation)
        generated = []
        for number, (vocal, vocal_rate) in enumerate(zip(vocals, rates, strict=True)):
            first = number * options.num_samples
            generated.append(
                {
                    "variations": variations[first : first + options.num_samples],
                    "encoded": encoded[number],
                    "kept": kept,
                    "vocal": vocal,
                    "vocal_rate": vocal_rate,
                    "check_stop": reports.repeat_last,
                }
            )
        return {"generated": generated if several else generated[0]}

    def postprocess(self, model_outputs: dict[str, Any], mix: MixOptions) -> dict[str, Any] | list[dict[str, Any]]:
        """Resamples the songs of one vocal that `_forward` has generated, pastes the spans to keep, and mixes them.

        Args:
            model_outputs: from `_forward`, for one vocal.
            mix: how to mix, and the output rate.

        Returns:
            The song as `__call__` returns it; for several samples, a list of songs.
        """
        generated = model_outputs["generated"]
        encoded = generated["encoded"]
        kept = generated["kept"]
        check_stop = generated["check_stop"]
        model_rate = self.model.sampling_rate
        rate = self._output_rate(generated["vocal_rate"], mix)
        vocal = self._vocal_for_mix(generated["vocal"], generated["vocal_rate"], rate, encoded)

        songs = []
        for variation in generated["variations"]:
            # float32 [N] or [channels, N] each: the stems, or the instrumental as the only track
            generated_tracks = variation.get("stems", {"": variation["audio"]}).values()
            tracks = []
            for track in stoppable(generated_tracks, check_stop):
                samples = audio.resample(np.ascontiguousarray(track.numpy().T), model_rate, rate)
                samples = audio.pad_end(samples[: len(vocal)], len(vocal))
                tracks.append(audio.fade_instrumental(samples, rate, 0, len(vocal), encoded.fade))
            instrumental = reduce(np.add, tracks)
            if kept is not None:
                # pasted at the song's rate, as it may be above the codec's; the stems share the difference, so that
                # they still sum to the instrumental
                pasted = kept.paste_into(instrumental, rate)
                difference = (pasted - instrumental) / np.float32(len(tracks))
                tracks = [samples + difference for samples in tracks]
                instrumental = pasted
            stems = {}
            if "stems" in variation:
                stems = dict(zip(STEMS, tracks, strict=True))
            song = _mixed(vocal, instrumental, rate, mix, stems, check_stop)
            songs.append(song | {"lead_sheet": variation["lead_sheet"], "vocal_start": encoded.before})
        return songs[0] if len(songs) == 1 else songs

    def _output_rate(self, vocal_rate: int, mix: MixOptions) -> int:
        """Sampling rate of the songs for a vocal at `vocal_rate`, in Hz."""
        return mix.output_rate or max(vocal_rate, self.model.sampling_rate)

    def _vocal_for_mix(
        self, vocal: audio.Samples, vocal_rate: int, rate: int, encoded: HAFMEncoderOutput
    ) -> audio.Samples:
        """Resamples a vocal and puts silence before and after it where the band plays alone.

        Args:
            vocal (float32 [N] or [N, 2]): at `vocal_rate` Hz.
            vocal_rate, rate: its sampling rate and that of the result, in Hz.
            encoded: of which `before` and `after` are used, the seconds of silence.

        Returns:
            float32 [M] or [M, 2], M the length of the song at `rate`.
        """
        samples = audio.resample(vocal, vocal_rate, rate)
        silence = (round(encoded.before * rate), round(encoded.after * rate))
        if not any(silence):
            return samples
        # none along the channels, if there are any
        return np.pad(samples, [silence] + [(0, 0)] * (samples.ndim - 1))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Saves model and feature extractor as one repository.

        Unlike the inherited method it does not write `custom_pipelines` to the config: with it `pipeline()` would
        require `trust_remote_code` even if hafm_hf is installed.
        """
        self.model.feature_extractor_config = self.feature_extractor.to_dict()
        self.model.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """Uploads model and feature extractor as one repository; card and options are those of the model's method."""
        self.model.feature_extractor_config = self.feature_extractor.to_dict()
        return self.model.push_to_hub(repo_id, **kwargs)


def side_by_side(chunk: torch.Tensor) -> np.ndarray:
    """Arranges all channels of all stems of a chunk as columns, so that they are resampled at once.

    Args:
        chunk (float32 [N], [channels, N], [stems, N] or [stems, channels, N]): as `stream` of the model yields it.

    Returns:
        float32 [N] or [N, stems · channels].
    """
    if chunk.ndim > 1:
        chunk = chunk.flatten(0, -2)
    return np.ascontiguousarray(chunk.numpy().T)


def stems_of(piece: audio.Samples) -> dict[str, audio.Samples]:
    """Splits a piece of a stream into its stems.

    Args:
        piece (float32 [N, stems · channels]): as arranged by `side_by_side`.

    Returns:
        float32 [N] or [N, channels] by the name of the stem.
    """
    stems = {}
    for name, stem in zip(STEMS, np.split(piece, len(STEMS), axis=1), strict=True):
        stems[name] = stem[:, 0] if stem.shape[1] == 1 else stem
    return stems


def _mixed(
    vocal: audio.Samples,
    instrumental: audio.Samples,
    rate: int,
    options: MixOptions,
    stems: dict[str, audio.Samples],
    check_stop: CheckStop | None = None,
) -> dict[str, Any]:
    """Mixes a vocal and an instrumental into a song, the result of a call.

    Args:
        vocal, instrumental (float32 [N] or [N, channels] each): of the same length.
        rate (Hz): sampling rate of both.
        options: of which gains, balance and loudness are used.
        stems: stems of the instrumental by name; may be empty.
        check_stop: called between pieces of the work; an exception that it raises ends it.

    Returns:
        "audio", "mix", "vocals", "sampling_rate" (Hz) and, if there are stems, "stems", as a call returns them.
    """
    # the instrumental is turned down before mixing, so that the mix is made from the "audio" returned
    turned_down = audio.turned_down(instrumental)
    if stems and turned_down is not instrumental:
        gain = np.abs(turned_down).max() / np.abs(instrumental).max()
        stems = {name: stem * gain for name, stem in stems.items()}
    instrumental = turned_down
    instrumental_db = options.instrumental_gain_db
    # a quiet vocal is turned up, rather than the instrumental lowered until nothing can be heard
    turned_up_db = audio.quiet_gain_db(vocal, rate)
    if options.balance is not None:
        balance = MEDIAN_BALANCE if isinstance(options.balance, str) else options.balance
        instrumental_db += audio.balance_gain_db(vocal, instrumental, rate, balance, check_stop) + turned_up_db
    vocal_db = options.vocal_gain_db + turned_up_db
    gains = {"vocal_gain_db": vocal_db, "instrumental_gain_db": instrumental_db}
    mix = audio.mix_audio(vocal, instrumental, **gains, check_stop=check_stop)
    if options.loudness is not None:
        mix = audio.to_loudness(mix, rate, options.loudness, check_stop)
        reached = audio.loudness(mix, rate)
        if options.loudness - reached > TOO_QUIET_LU:
            logger.warning(f"The mix has {reached:.1f} LUFS instead of {options.loudness:g}: its peaks are limited.")
    song = {"audio": instrumental, "mix": audio.fade_edges(mix, rate), "vocals": vocal, "sampling_rate": rate}
    if stems:
        song["stems"] = stems
    return song


def unwrapped(vocal: Any, sampling_rate: Any = None) -> tuple[Any, Any, str]:
    """Takes the file or the samples of a vocal out of the forms that a call accepts.

    Args:
        vocal: in any form that `HAFMPipeline.__call__` accepts.
        sampling_rate: in Hz, of samples that come without one.

    Returns:
        A path, URL, file object, bytes or samples; the samples' rate in Hz if known, else None; a name for messages.

    Raises:
        HAFMAudioError: for a dict without audio, or if decoding fails.
    """
    if hasattr(vocal, "get_all_samples"):
        return _read_torchcodec(vocal)
    if not isinstance(vocal, Mapping):
        return vocal, sampling_rate, audio.source_name(vocal)
    name = audio.source_name(vocal.get("path"))
    for key in ("array", "raw"):
        if vocal.get(key) is not None:
            return vocal[key], vocal.get("sampling_rate", sampling_rate), name
    for column in COLUMN_NAMES:
        if vocal.get(column) is not None:
            return unwrapped(vocal[column], vocal.get("sampling_rate", sampling_rate))
    for key in ("bytes", "path"):
        if vocal.get(key) is not None:
            return vocal[key], None, name
    raise audio.HAFMAudioError(
        'A dict needs "array" and "sampling_rate", or "bytes" or "path", or such a dict as its "vocal" or "audio".'
    )


def _read_torchcodec(decoder: Any) -> tuple[np.ndarray, int, str]:
    """Samples of a torchcodec AudioDecoder (float32 [channels, N]), their rate in Hz, and a name for messages."""
    name = audio.source_name(getattr(getattr(decoder, "metadata", None), "path", None))
    try:
        samples = decoder.get_all_samples()
        return samples.data.numpy(), samples.sample_rate, name
    except Exception as error:
        raise audio.HAFMAudioError(
            f"{name} cannot be decoded by torchcodec ({first_line(error)}); cast its column to "
            "datasets.Audio(decode=False) to read it without torchcodec."
        ) from error
