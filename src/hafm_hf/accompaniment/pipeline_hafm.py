"""`pipeline("vocal-accompaniment")`: files, URLs, bytes or arrays in, instrumental and mix out.

The last station of the path of the data: it adds to `HAFMForVocalAccompaniment.generate` what a person needs around
it: reading, the limits of length, mixing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Pipeline
from transformers.utils import logging

from .. import audio
from ..lead_sheet.known import KNOWN, known_lead_sheet
from .inputs import as_sound, as_vocals, is_file
from .options import PUBLIC_OPTIONS, GenerationOptions

logger = logging.get_logger(__name__)

# of one vocal, beside the options of generation and what is known of the song
SONG_PARAMETERS = ("instrumental", "keep")


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
    _load_feature_extractor = True
    # what those who serve strangers let them choose
    public_parameters = (*PUBLIC_OPTIONS, "seconds", "vocal_gain_db", "instrumental_gain_db", *KNOWN)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Generates an instrumental for one vocal or each of several.

        Args:
            inputs: a path, an http(s) URL, the bytes of a file, an array or tensor of samples ([N] or [N, channels],
                with `sampling_rate`), a pair of both in either order, a dict with "array" or "raw" and "sampling_rate"
                (or, as `datasets` hands out undecoded audio, "bytes"; "path" names it in errors), a row of `datasets`
                with such a dict or an AudioDecoder in it, or a list of these. Of a data set or a column of one the
                songs come one by one, as an iterator, and torchcodec is not needed.
            sampling_rate (int, Hz): rate of arrays.
            seconds (float): use only this much from the start of each vocal.
            vocal_gain_db, instrumental_gain_db (float, dB): levels in the mix. Default 0.
            lead_sheet (`LeadSheet` or a dict of its fields): of the one vocal, as far as it is known.
            tempo (float, beats a minute), beats (seconds, or a file of them), chords ((start s, stop s, label) each, a
                .lab file, or one a bar: "C | Am | F | G"): parts of it by themselves, which go before.
            files (bool): whether beats and chords may name files; not for those who serve strangers. Default True.
            instrumental: an accompaniment of the one vocal, as `inputs` are given, to keep spans of.
            keep (list of (start, stop) in s): those spans; the rest is generated anew.
            progress (callable(stage: str, done: int, total: int)): told how far each stage is; what it raises ends the
                generation.
            kwargs: the fields of `GenerationOptions` (`seed`, `num_samples`, `guidance_scale` …); what is not given is
                left to each stage's generation config (`model.coarse.generation_config`).

        Returns:
            For each vocal a dict, or with num_samples > 1 a list of dicts: "audio" (float32 [N], the instrumental, as
            long as the vocal), "mix" (float32 [N]), "vocals" (float32 [N]) and "sampling_rate" (Hz) of all three.
            "audio" and "mix" of a model with a codec of C channels are [N, C]. Nothing in them clips.

        Raises:
            HAFMAudioError: a vocal that cannot be used. Silence is none: it gets an instrumental and a warning.
            ValueError: parameters out of range or without use, as for `HAFMForVocalAccompaniment.generate`.
        """
        inputs = as_vocals(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def stream(
        self, vocal: Any, *, sampling_rate: int | None = None, seconds: float | None = None, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """Accompanies one vocal and hands out the instrumental as it comes into being.

        Args:
            vocal: as for a call, but one.
            sampling_rate (int, Hz), seconds (float): as for a call.
            kwargs: lead_sheet, tempo, beats, chords, progress and the fields of `GenerationOptions`, as for a call, of
                one sample.

        Yields:
            For each chunk a dict: "audio" (float32 [n] or [n, C], the next piece of the instrumental, as loud as the
            model made it), "vocals" (float32 [n], the same piece of the vocal) and "sampling_rate" (Hz) of both.

        Raises:
            HAFMAudioError: a vocal that cannot be used.
            TypeError: on another parameter.
            ValueError: as for a call.
        """
        kwargs["lead_sheet"] = known_lead_sheet(**{name: kwargs.pop(name, None) for name in KNOWN})
        features = self.preprocess(vocal, sampling_rate=sampling_rate, seconds=seconds)
        voice, rate = features["input_values"][0].numpy(), self.feature_extractor.sampling_rate
        done = 0
        for chunk in self.model.stream(voice, rate, **kwargs):
            piece = np.ascontiguousarray(chunk.numpy().T)
            yield {"audio": piece, "vocals": voice[done : done + len(piece)], "sampling_rate": rate}
            done += len(piece)

    def join(self, chunks: Sequence[dict[str, Any]], **gains: float) -> dict[str, Any]:
        """The song that a call would have returned, up to rounding.

        Args:
            chunks: all that `stream` has yielded for a vocal.
            gains: vocal_gain_db, instrumental_gain_db (dB), as for a call.
        """
        generated, vocal = (
            torch.from_numpy(np.concatenate([chunk[key] for chunk in chunks])) for key in ("audio", "vocals")
        )
        mask = torch.ones_like(vocal[None], dtype=torch.bool)
        outputs = {"audio": generated.mT[None, None] if generated.ndim == 2 else generated[None, None]}
        song = self.postprocess({**outputs, "vocals": vocal[None], "padding_mask": mask}, **gains)
        assert isinstance(song, dict)
        return song

    def _sanitize_parameters(
        self,
        sampling_rate: int | None = None,
        seconds: float | None = None,
        vocal_gain_db: float | None = None,
        instrumental_gain_db: float | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        files: bool = True,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # refused before a vocal is read
        known = {name: generate_kwargs.pop(name, None) for name in KNOWN}
        generate_kwargs["lead_sheet"] = known_lead_sheet(**known, files=files)
        others = (*SONG_PARAMETERS, "lead_sheet")
        GenerationOptions.of(given={k: v for k, v in generate_kwargs.items() if k not in others})
        if sampling_rate is not None:
            audio.check_sampling_rate(sampling_rate)
        preprocess = {"sampling_rate": sampling_rate, "seconds": seconds}
        forward = {"progress": progress, **generate_kwargs}
        postprocess = {"vocal_gain_db": vocal_gain_db, "instrumental_gain_db": instrumental_gain_db}
        given = [{k: v for k, v in each.items() if v is not None} for each in (preprocess, forward, postprocess)]
        return given[0], given[1], given[2]

    def preprocess(
        self, input_: Any, sampling_rate: int | None = None, seconds: float | None = None
    ) -> dict[str, torch.Tensor]:
        """Reads one vocal: {"input_values": float32 [1, N], "padding_mask": bool [1, N]} at the model's rate."""
        extractor = self.feature_extractor
        source, rate, name = as_sound(input_, sampling_rate)
        if is_file(source):
            limits = {"min_seconds": extractor.min_seconds, "max_seconds": extractor.max_seconds}
            source, rate = audio.read_audio(source, seconds=seconds, name=name, **limits)
        features = extractor([audio.to_mono(source, name=name)], rate, seconds=seconds, name=name)
        if audio.is_silent(features["input_values"][0].numpy()):
            logger.warning(f"{name} is silent; the instrumental follows nothing.")
        return dict(features)

    def _read_instrumental(self, input_: Any) -> torch.Tensor:
        """An instrumental to keep parts of, at the model's rate: float32 [N], or [C, N] in its codec's channels."""
        channels, model_rate = self.model.codec_format.channels, self.feature_extractor.sampling_rate
        if channels == 1:
            return self.preprocess(input_)["input_values"][0]
        source, rate, name = as_sound(input_)
        if is_file(source):
            source, rate = audio.read_audio(source, name=name, mono=False)
        samples = audio.with_channels(audio.to_samples(source, name=name, mono=False), channels)
        rate = audio.check_sampling_rate(rate, name)
        return torch.from_numpy(audio.resample(samples, rate, model_rate).T.copy())

    def _forward(self, input_tensors: dict[str, torch.Tensor], **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """One instrumental per vocal and sample: "audio" [B, K, N] or [B, K, C, N], "vocals" and "padding_mask"."""
        vocals, mask = input_tensors["input_values"], input_tensors["padding_mask"]
        rate = self.feature_extractor.sampling_rate
        if generate_kwargs.get("instrumental") is not None:
            generate_kwargs["instrumental"] = self._read_instrumental(generate_kwargs["instrumental"])
        output = self.model.generate(vocals, rate, padding_mask=mask, **generate_kwargs)
        if output.sampling_rate != rate:
            raise ValueError(
                f"The feature extractor works at {rate} Hz and the codec at {output.sampling_rate} Hz; "
                "save both from one composite."
            )
        samples = len(output.audio) // len(vocals)
        if len(output.audio) == 1 and output.audio[0].shape == vocals[0].shape:
            return {"audio": output.audio[0][None, None], "vocals": vocals, "padding_mask": mask}
        channels = output.audio[0].shape[:-1]
        generated = vocals.new_zeros(len(vocals), samples, *channels, vocals.shape[1])
        for number, instrumental in enumerate(output.audio):
            generated[number // samples, number % samples, ..., : instrumental.shape[-1]] = instrumental
        return {"audio": generated, "vocals": vocals, "padding_mask": mask}

    def postprocess(
        self,
        model_outputs: dict[str, torch.Tensor],
        vocal_gain_db: float = 0.0,
        instrumental_gain_db: float = 0.0,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The songs of one vocal ({"audio": [1, K, N], …} of `_forward`), mixed."""
        length = int(model_outputs["padding_mask"].count_nonzero())
        vocal = model_outputs["vocals"][0, :length].numpy()
        songs = []
        for generated in model_outputs["audio"][0]:
            # The instrumental is turned down before it is mixed, so that "audio" + "vocals" is the mix again.
            instrumental = audio.limit_peak(np.ascontiguousarray(generated[..., :length].numpy().T))
            mix = audio.mix_audio(
                vocal, instrumental, vocal_gain_db=vocal_gain_db, instrumental_gain_db=instrumental_gain_db
            )
            rate = self.feature_extractor.sampling_rate
            songs.append({"audio": instrumental, "sampling_rate": rate, "mix": mix, "vocals": vocal})
        return songs[0] if len(songs) == 1 else songs

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Saves model and feature extractor as one repository.

        Unlike the inherited method it writes no `custom_pipelines` into the config: with them `pipeline()` would ask
        for `trust_remote_code` even where hafm_hf is installed.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.feature_extractor.save_pretrained(save_directory)
