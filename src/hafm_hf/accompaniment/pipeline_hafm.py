# SPDX-License-Identifier: Apache-2.0
"""`pipeline("vocal-accompaniment")`: files, URLs, bytes or arrays in, instrumental and mix out.

It wraps `HAFMForVocalAccompaniment.generate` with what users need: reading, checking and resampling audio, and mixing.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitInfo
from torch.utils.data import Dataset
from transformers import Pipeline
from transformers.utils import logging

from .. import audio
from ..audio.feature_extraction_hafm import HAFMFeatureExtractor, are_several
from ..lead_sheet.files import KNOWN, known_lead_sheet
from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.vocabulary import STEMS
from ..pretrained.redaction import first_line
from .ends import Ends, add_bars
from .kept import KeptInstrumental
from .options import MEDIAN_BALANCE, MIX_OPTIONS, PUBLIC_OPTIONS, GenerationOptions, MixOptions
from .song import one_vocal

logger = logging.get_logger(__name__)

# mix options that change the length or the sampling rate of a song; a stream takes these only
LENGTH_OPTIONS = ("output_rate", "tail", "intro_bars", "outro_bars")
AS_IT_IS = MixOptions()
# usual names of the audio column of a dataset row
COLUMN_NAMES = ("vocal", "vocals", "audio")


@dataclass(frozen=True)
class Take:
    """A vocal as it was given, carried along with the model's inputs; shared by all samples.

    Args:
        samples (float32 [N], or [N, 2] for a stereo vocal), rate (Hz): the vocal.
        ends: silence around the vocal, in which the band plays alone.
        lead_sheet: lead sheet of the song, as far as it was given.
        sheets: lead sheet of each sample, with estimated parts and the style drawn.
        kept: spans of an existing instrumental to splice into the song, at its own rate.
    """

    samples: audio.Samples
    rate: int
    ends: Ends = Ends()
    lead_sheet: LeadSheet | None = None
    sheets: Sequence[LeadSheet] = ()
    kept: KeptInstrumental | None = None


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
    # the model already has the one that it was saved with
    _load_feature_extractor = False
    # what clients of a server may set
    public_parameters = (*PUBLIC_OPTIONS, *MIX_OPTIONS, "seconds", *KNOWN)

    def __init__(self, model: Any, feature_extractor: Any = None, **kwargs: Any) -> None:
        if not hasattr(model, "feature_extractor"):
            raise ValueError(f"{type(model).__name__} is not a whole model; load the composite that it is a part of.")
        if isinstance(feature_extractor, (str, os.PathLike)):
            feature_extractor = HAFMFeatureExtractor.from_pretrained(feature_extractor)
        super().__init__(model, feature_extractor=feature_extractor or model.feature_extractor(), **kwargs)

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
            codec has two channels, "audio" and "mix" are [N, 2]. Nothing clips, the mix has true peaks of at most
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
            For each chunk a dict: "audio" (float32 [n] or [n, C], the next piece of the instrumental, at the level
            generated), "vocals" (float32 [n] or [n, 2], the same piece of the vocal), "sampling_rate" (Hz),
            "vocal_start" (s) and the length of the whole song, "seconds"; with `stems=True` also "stems".

        Raises:
            HAFMAudioError: if the vocal cannot be used.
            TypeError: for any other parameter.
            ValueError: as for a call.
        """
        useless = {*MIX_OPTIONS, "instrumental", "keep"} - {*LENGTH_OPTIONS}
        if found := sorted(useless & {*kwargs, *self._forward_params}):
            raise TypeError(f"A stream has no use for {found[0]!r}; a call has.")
        before, how, _ = self._sanitize_parameters(**kwargs)
        before, how = {**self._preprocess_params, **before}, {**self._forward_params, **how}
        features = self.preprocess(one_vocal(vocal) if are_several(vocal) else vocal, **before)
        take, mix = features["take"], before["mix"]
        model_rate, rate = self.feature_extractor.sampling_rate, self._output_rate(take, mix)
        voice, done = self._voice(take, rate), 0
        chunks = self.model.stream(input_values=features["input_values"], lead_sheet=take.lead_sheet, **how)
        # the channels of all stems side by side, so that they are resampled together
        bands = (np.ascontiguousarray((c.flatten(0, -2) if c.ndim > 1 else c).numpy().T) for c in chunks)
        for band in audio.resample_pieces(bands, model_rate, rate):
            piece = audio.fade_band(band[: len(voice) - done], rate, done, len(voice), take.ends.fade)
            song = {"audio": piece, "vocals": voice[done : done + len(piece)], "sampling_rate": rate}
            song |= {"vocal_start": take.ends.before, "seconds": len(voice) / rate}
            if how["options"].stems:
                parts = np.split(piece, len(STEMS), axis=1)
                stems = dict(zip(STEMS, [p[:, 0] if p.shape[1] == 1 else p for p in parts], strict=True))
                song |= {"audio": reduce(np.add, stems.values()), "stems": stems}
            if len(piece):
                yield song
            done += len(piece)

    def join(self, chunks: Iterable[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Joins streamed chunks into the song of a call, up to rounding, without "lead_sheet".

        Args:
            chunks: all chunks that `stream` has yielded for a vocal.
            options: balance, loudness and the gains, as for a call.

        Raises:
            TypeError: for an option of the stream, such as tail.
        """
        if found := sorted({*LENGTH_OPTIONS} & {*options}):
            raise TypeError(f"{found[0]} is of no use any more; give it to the stream.")
        chunks = list(chunks)
        band, voice = (np.concatenate([chunk[key] for chunk in chunks]) for key in ("audio", "vocals"))
        names, mix = chunks[0].get("stems", ()), MixOptions.of(self._postprocess_params.get("mix"), options)
        stems = {name: np.concatenate([chunk["stems"][name] for chunk in chunks]) for name in names}
        song = _song(voice[: len(band)], band, chunks[0]["sampling_rate"], mix, stems)
        return song | {"vocal_start": chunks[0]["vocal_start"]}

    def _sanitize_parameters(
        self,
        sampling_rate: int | None = None,
        seconds: float | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        instrumental: Any = None,
        keep: Sequence[tuple[float, float]] | None = None,
        files: bool | None = None,
        options: GenerationOptions | None = None,
        **given: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Checks all options before any vocal is read; those of a call take precedence over the pipeline's own."""
        own = getattr(self, "_preprocess_params", {}) | getattr(self, "_forward_params", {})
        mix = MixOptions.of(own.get("mix"), {name: given.pop(name) for name in MIX_OPTIONS if name in given})
        known = {name: given.pop(name, None) for name in KNOWN}
        known["lead_sheet"] = own.get("lead_sheet") if known["lead_sheet"] is None else known["lead_sheet"]
        if isinstance(known["lead_sheet"], (list, tuple)):
            raise ValueError("lead_sheet is a list; give a LeadSheet or a dict, which holds for all vocals of a call.")
        files = own.get("files", True) if files is None else files
        sheet = known_lead_sheet(**known, files=files)
        options = GenerationOptions.of(options or own.get("options"), given)
        read = {"sampling_rate": sampling_rate, "seconds": seconds, "files": files, "mix": mix, "lead_sheet": sheet}
        if isinstance(instrumental, Mapping) and "mix" in instrumental:
            # a song that a call has returned; its "vocals" would be read first
            instrumental = {**instrumental, "array": instrumental["audio"]}
        if instrumental is not None:
            instrumental = (instrumental, own.get("sampling_rate") if sampling_rate is None else sampling_rate)
        forward = {"progress": progress, "instrumental": instrumental, "keep": keep}
        read, forward = ({key: each[key] for key in each if each[key] is not None} for each in (read, forward))
        return read, forward | {"options": options}, {"mix": mix}

    def preprocess(
        self,
        input_: Any,
        sampling_rate: int | None = None,
        seconds: float | None = None,
        mix: MixOptions = AS_IT_IS,
        lead_sheet: LeadSheet | None = None,
        files: bool = True,
    ) -> dict[str, Any]:
        """Reads and checks one vocal, and pads it with silence in which the band plays alone.

        Args:
            input_, sampling_rate (Hz), seconds, lead_sheet: as for a call.
            mix: mix options; `tail`, `intro_bars` and `outro_bars` are used.
            files: unused here; `_sanitize_parameters` has applied it.

        Returns:
            {"input_values": float32 [1, N], "padding_mask": bool [1, N]} at the model's rate, and "take" (`Take`), the
            vocal as it was given.
        """
        extractor = self.feature_extractor
        samples, rate, name = self._read(input_, sampling_rate, seconds)
        mono = audio.with_channels(samples, 1)
        ends = self._ends(mono, rate, mix, lead_sheet)
        features = extractor.batch([_between(mono, rate, ends)], rate)
        read = features["input_values"][0].numpy()
        if audio.is_silent(read):
            logger.warning(f"{name} is silent; the instrumental has no voice to follow.")
        # avoids holding an hour of audio twice
        same = samples.ndim == 1 and rate == extractor.sampling_rate
        first = round(ends.before * rate)
        sound = read[first : first + len(mono)] if same else samples
        return {**features, "take": Take(sound, rate, ends, ends.sheet)}

    def _ends(self, mono: audio.Samples, rate: int, mix: MixOptions, lead_sheet: LeadSheet | None) -> Ends:
        """Silence around a mono vocal (float32 [N]) for the mix options; its lead sheet determines the bars' length.

        Raises:
            ValueError: if bars are requested of a model without beats, or would make the song too long.
        """
        seconds = len(mono) / rate
        if not mix.intro_bars and not mix.outro_bars:
            return Ends(sheet=lead_sheet).with_tail(seconds, mix.tail)
        if self.model.known_streams.isdisjoint(MIX_OPTIONS["intro_bars"].streams):
            raise ValueError("This model cannot follow beats; leave intro_bars and outro_bars out.")
        sheet = self.model.complete_lead_sheet(mono, rate, lead_sheet)
        ends = add_bars(sheet, mono, rate, mix.intro_bars, mix.outro_bars)
        longest, length = self.feature_extractor.max_seconds, len(mono) + round((ends.before + ends.after) * rate)
        audio.check_duration(length, rate, "the vocal with its bars", max_seconds=longest)
        return ends if mix.outro_bars else ends.with_tail(seconds, mix.tail)

    def _read(
        self, input_: Any, sampling_rate: int | None = None, seconds: float | None = None
    ) -> tuple[audio.Samples, int, str]:
        """Reads and checks an input: samples (float32 [N] or [N, 2]; more channels are averaged), rate in Hz and name.

        Raises:
            HAFMAudioError: if it cannot be used.
        """
        extractor = self.feature_extractor
        source, rate, name = as_sound(input_, sampling_rate)
        is_file = isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(source, "read")
        read = audio.read_audio if is_file else audio.check_sound
        given = {} if is_file else {"sampling_rate": rate}
        limits = {"min_seconds": extractor.min_seconds, "max_seconds": extractor.max_seconds}
        samples, rate = read(source, **given, seconds=seconds, name=name, mono=False, **limits)
        return samples if samples.ndim == 1 or samples.shape[1] == 2 else audio.with_channels(samples, 1), rate, name

    def _forward(self, input_tensors: dict[str, Any], options: GenerationOptions, **given: Any) -> dict[str, Any]:
        """Generates K samples per vocal: "audio" [B, K, N] or [B, K, C, N], "padding_mask" and "take".

        If stems are requested, also "stems", [B, K, S, N] or [B, K, S, C, N].
        """
        vocals, mask, takes = (input_tensors[name] for name in ("input_values", "padding_mask", "take"))
        rate = self.feature_extractor.sampling_rate
        kept = None
        if self.model.sampling_rate != rate:
            raise ValueError(
                f"The feature extractor works at {rate} Hz and the codec at {self.model.sampling_rate} Hz; "
                "save both from one composite."
            )
        if given.get("instrumental") is not None:
            sound, own_rate, _ = self._read(*given["instrumental"])
            sound = audio.with_channels(sound, self.model.codec_format.channels)
            seconds = int(mask.count_nonzero()) / rate
            kept = KeptInstrumental(sound.reshape(len(sound), -1).T, own_rate, given.get("keep", ()), seconds)
            given["instrumental"] = kept
        # the collation of a batch makes a list of its takes
        takes = takes if isinstance(takes, list) else [takes]
        known = [take.lead_sheet for take in takes]
        songs = self.model.generate(input_values=vocals, padding_mask=mask, options=options, lead_sheet=known, **given)
        sheets, count = songs.lead_sheets, options.num_samples
        takes = [replace(take, sheets=sheets[n * count :][:count], kept=kept) for n, take in enumerate(takes)]
        made = {"audio": _padded(songs.audio, len(vocals), vocals.shape[1]), "padding_mask": mask}
        made["take"] = takes if isinstance(input_tensors["take"], list) else takes[0]
        if songs.stems is not None:
            parts = [torch.stack(list(stems.values())) for stems in songs.stems]
            made["stems"] = _padded(parts, len(vocals), vocals.shape[1])
        return made

    def postprocess(self, model_outputs: dict[str, Any], mix: MixOptions) -> dict[str, Any] | list[dict[str, Any]]:
        """Mixes the songs of one vocal ({"audio": [1, K, N], …} from `_forward`)."""
        take = model_outputs["take"]
        split = "stems" in model_outputs
        model_rate, rate = self.feature_extractor.sampling_rate, self._output_rate(take, mix)
        length, voice = int(model_outputs["padding_mask"].count_nonzero()), self._voice(take, rate)
        songs = []
        for generated, sheet in zip(model_outputs["stems" if split else "audio"][0], take.sheets, strict=True):
            bands = []
            for sound in generated if split else [generated]:
                band = audio.resample(np.ascontiguousarray(sound[..., :length].numpy().T), model_rate, rate)
                band = audio.pad_end(band[: len(voice)], len(voice))
                bands.append(audio.fade_band(band, rate, 0, len(voice), take.ends.fade))
            if take.kept is not None:
                bands = _spliced(bands, take.kept, rate)
            stems = dict(zip(STEMS, bands, strict=True)) if split else {}
            about = {"lead_sheet": sheet, "vocal_start": take.ends.before}
            songs.append(_song(voice, reduce(np.add, bands), rate, mix, stems) | about)
        return songs[0] if len(songs) == 1 else songs

    def _output_rate(self, take: Take, mix: MixOptions) -> int:
        """Sampling rate of the songs of a take, in Hz."""
        return mix.output_rate or max(take.rate, self.feature_extractor.sampling_rate)

    def _voice(self, take: Take, rate: int) -> audio.Samples:
        """The vocal of a take resampled to `rate` (Hz), padded with silence: float32 [N] or [N, 2]."""
        return _between(audio.resample(take.samples, take.rate, rate), rate, take.ends)

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


def _between(vocal: audio.Samples, rate: int, ends: Ends) -> audio.Samples:
    """Pads a vocal (float32 [N] or [N, 2]) with the silence of `ends`."""
    before, after = round(ends.before * rate), round(ends.after * rate)
    return vocal if not before + after else np.pad(vocal, [(before, after)] + [(0, 0)] * (vocal.ndim - 1))


def _padded(sounds: Sequence[torch.Tensor], vocals: int, length: int) -> torch.Tensor:
    """Pads sounds ([…, n ≤ N] each, B vocals × K samples) to [B, K, …, N]; a single one of full length is a view."""
    if len(sounds) == 1 and sounds[0].shape[-1] == length:
        return sounds[0][None, None]
    made = sounds[0].new_zeros(len(sounds), *sounds[0].shape[:-1], length)
    for row, sound in zip(made, sounds, strict=True):
        row[..., : sound.shape[-1]] = sound
    return made.unflatten(0, (vocals, -1))


def _spliced(bands: list[audio.Samples], kept: KeptInstrumental, rate: int) -> list[audio.Samples]:
    """Splices kept spans of the instrumental into a band, or into the sum of its stems (float32 [N] or [N, C] each).

    The difference is spread evenly over the stems, so that they still sum to the instrumental.
    """
    band = reduce(np.add, bands)
    whole = kept.splice(torch.from_numpy(band.reshape(len(band), -1).T), rate).numpy().T.reshape(band.shape)
    return [whole] if len(bands) == 1 else [stem + (whole - band) / np.float32(len(bands)) for stem in bands]


def _song(
    voice: audio.Samples, band: audio.Samples, rate: int, options: MixOptions, stems: dict[str, audio.Samples]
) -> dict[str, Any]:
    """Mixes a vocal and a band (float32 [N] or [N, C] each, at `rate` Hz) into a song; `stems` may be empty."""
    # the instrumental is limited before mixing, so that the mix is made from the "audio" returned
    limited = audio.limit_peak(band)
    if stems and limited is not band:
        turned_down = np.abs(limited).max() / np.abs(band).max()
        stems = {name: stem * turned_down for name, stem in stems.items()}
    band = limited
    gain = options.instrumental_gain_db
    if options.balance is not None:
        balance = MEDIAN_BALANCE if isinstance(options.balance, str) else options.balance
        gain += audio.balance_gain_db(voice, band, rate, balance)
    mix = audio.mix_audio(voice, band, vocal_gain_db=options.vocal_gain_db, instrumental_gain_db=gain)
    if options.loudness is not None:
        mix = audio.to_loudness(mix, rate, options.loudness)
        if options.loudness - (reached := audio.loudness(mix, rate)) > 0.5:
            logger.warning(f"The mix has {reached:.1f} LUFS instead of {options.loudness:g}: its peaks are limited.")
    song = {"audio": band, "mix": audio.fade_edges(mix, rate), "vocals": voice, "sampling_rate": rate}
    return song | ({"stems": stems} if stems else {})


def as_sound(vocal: Any, sampling_rate: Any = None) -> tuple[Any, Any, str]:
    """The file or the samples of a vocal, the samples' rate if known (Hz), and a name for error messages.

    Args:
        vocal: in any form that `HAFMPipeline.__call__` accepts.
        sampling_rate: rate of samples that come without one.

    Raises:
        HAFMAudioError: for a dict without audio, or if decoding fails.
    """
    if hasattr(vocal, "get_all_samples"):
        return _decoded(vocal)
    if not isinstance(vocal, Mapping):
        return vocal, sampling_rate, audio.source_name(vocal)
    name = audio.source_name(vocal.get("path"))
    for key in ("array", "raw"):
        if vocal.get(key) is not None:
            return vocal[key], vocal.get("sampling_rate", sampling_rate), name
    for column in COLUMN_NAMES:
        if vocal.get(column) is not None:
            return as_sound(vocal[column], sampling_rate)
    for key in ("bytes", "path"):
        if vocal.get(key) is not None:
            return vocal[key], None, name
    raise audio.HAFMAudioError(
        'A dict needs "array" and "sampling_rate", or "bytes" or "path", or such a dict as its "vocal" or "audio".'
    )


def _decoded(decoder: Any) -> tuple[np.ndarray, int, str]:
    """Samples of a torchcodec AudioDecoder (float32 [C, N]), their rate, and a name."""
    name = audio.source_name(getattr(getattr(decoder, "metadata", None), "path", None))
    try:
        samples = decoder.get_all_samples()
        return samples.data.numpy(), samples.sample_rate, name
    except Exception as error:
        raise audio.HAFMAudioError(
            f"{name} cannot be decoded by torchcodec ({first_line(error)}); cast its column to "
            "datasets.Audio(decode=False) to read it without torchcodec."
        ) from error
