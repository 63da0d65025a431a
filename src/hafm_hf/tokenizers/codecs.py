# SPDX-License-Identifier: Apache-2.0
"""The codec: codes of the coarse and fine stages to and from audio, for two families of transformers and one of ours.

`as_codec` gives a codec's model the small interface (`Codec`) that all else
here uses; rates, channels and codebooks come from its configuration. EnCodec (Défossez et al. 2022, arXiv 2210.13438)
at 24 kHz is the paper's: 75 frames a second, 8 codebooks for 6 kbps, 32 for 24 kbps. DAC: Kumar et al. 2023, arXiv
2306.06546. Dimensions: B batch, C channels, N samples, Q codebooks, T frames, D width of the decoder's input.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from ..pretrained.loading import HUB_OPTIONS, load_strictly
from .configuration_codec import check_codec_config, codec_format
from .modeling_spectral_codec import HAFMSpectralModel

ENCODEC_24KHZ = "facebook/encodec_24khz"
# decoded at once: no layer takes a CPU a tenth of a second with hafm-tiny's codec, so that it can be ended between two
STRETCH_SECONDS = 5.0
# frames to each side that EnCodec's convolutions can see, generously
CONTEXT_FRAMES = 16
# samples to each side that the residual units behind one of DAC's strides can see: kernels of 7, dilated by 1, 3, 9
DAC_UNIT_REACH = 39
# what makes the audio of a stretch: (its frames [B, D, n], whether it is the last) → [B, C, samples], or None so far
StretchDecoder = Callable[[torch.Tensor, bool], torch.Tensor | None]


class Codec(ABC):
    """What the package asks of a codec. A family is one subclass, its entry in FAMILIES, and checks of its config.

    Args:
        model: the codec, in evaluation mode.
    """

    # the class of transformers that it is made for, which is imported when it is needed, or ours
    model_class: ClassVar[str | type[PreTrainedModel]]

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.format = codec_format(model.config)

    @abstractmethod
    def codebook(self, index: int) -> torch.Tensor:
        """What each code of a codebook adds to the decoder's input: [codes, D]."""

    @abstractmethod
    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        """Codes int64 [B, Q, T] of audio [B, C, T · hop] or a little less."""

    @abstractmethod
    def _decoder(self) -> StretchDecoder:
        """What decodes one song stretch by stretch; it keeps what it needs of the past."""

    @torch.no_grad()
    def encode(self, audio: torch.Tensor, num_codebooks: int | None = None) -> torch.Tensor:
        """Codes int64 [B, Q, ⌈N / hop⌉] of audio, float [B, C, N] at the codec's rate.

        Args:
            audio: float [B, C, N].
            num_codebooks: Q, the first of the codec's codebooks; all of them if None.

        Raises:
            ValueError: on another shape, no samples, or more codebooks than there are.
        """
        wanted = self.format.num_codebooks if num_codebooks is None else num_codebooks
        if audio.ndim != 3 or audio.shape[1] != self.format.channels or audio.shape[2] == 0:
            raise ValueError(
                f"audio has shape {list(audio.shape)}; it must be [batch, {self.format.channels}, samples], not empty."
            )
        if not 1 <= wanted <= self.format.num_codebooks:
            raise ValueError(f"num_codebooks is {wanted}; this codec has 1 to {self.format.num_codebooks}.")
        return self._encode(audio.to(self.model.dtype), wanted)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, length: int | None = None) -> torch.Tensor:
        """Audio float [B, C, length] of codes int64 [B, Q, T]; Q may be smaller than the codec's number of codebooks.

        Codes of any length are decoded in stretches, so that memory beside the result does not grow with them.

        Args:
            codes: int64 [B, Q, T].
            length: samples to return, at most hop · T; all of them if None.

        Raises:
            ValueError: on another shape, codes out of range, or a length beyond the codes.
        """
        samples = codes.shape[-1] * self.format.hop_length
        if length is not None and not 0 <= length <= samples:
            raise ValueError(f"length is {length}; {codes.shape[-1]} frames hold {samples} samples.")
        stream = CodecStream(self)
        shape = (len(codes), self.format.channels, samples)
        audio = torch.empty(shape, dtype=torch.promote_types(self.model.dtype, torch.float32), device=codes.device)
        done = 0
        parts = codes.split(max(round(STRETCH_SECONDS * self.format.frame_rate), CONTEXT_FRAMES), dim=-1)
        for number, part in enumerate(parts, start=1):
            decoded = stream.decode(part, last=number == len(parts))
            audio[..., done : done + decoded.shape[-1]] = decoded
            done += decoded.shape[-1]
        return audio[..., :length]

    @torch.no_grad()
    def code_vectors(self, codes: torch.Tensor, first_codebook: int = 0) -> torch.Tensor:
        """What codes add to the decoder's input: float32 [T, D], the sum of their vectors.

        Args:
            codes (int64 [T, Q]): of consecutive codebooks.
            first_codebook: which of the codec's the first of them is.
        """
        columns = enumerate(codes.t(), start=first_codebook)
        return torch.stack([F.embedding(column, self.codebook(index)) for index, column in columns]).float().sum(0)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """The decoder's input [B, D, T] of codes int64 [B, Q, T].

        Raises:
            ValueError: on another shape, or codes out of range.
        """
        codebooks = self.format.num_codebooks
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= codebooks or codes.shape[2] == 0:
            raise ValueError(f"codes have shape {list(codes.shape)}; they must be [batch, 1 to {codebooks}, frames].")
        if int(codes.min()) < 0 or int(codes.max()) >= self.format.codebook_size:
            raise ValueError(f"codes must lie between 0 and {self.format.codebook_size - 1}.")
        embedded = [F.embedding(each, self.codebook(index)) for index, each in enumerate(codes.unbind(1))]
        return reduce(torch.add, embedded).transpose(1, 2)


class EncodecCodec(Codec):
    """EnCodec: causal at 24 kHz, or seeing both sides (32 kHz)."""

    model_class = "EncodecModel"

    def codebook(self, index: int) -> torch.Tensor:
        return self.model.quantizer.layers[index].codebook.embed

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        codes, embeddings = [], self.model.encoder(audio)
        for layer in self.model.quantizer.layers[:num_codebooks]:
            codes.append(layer.encode(embeddings))
            embeddings = embeddings - layer.decode(codes[-1])
        return torch.stack(codes, dim=1)

    def _decoder(self) -> StretchDecoder:
        future = 0 if self.model.config.use_causal_conv else CONTEXT_FRAMES
        return _RecurrentDecoder(self.model.decoder, future, self.format.hop_length)


class DacCodec(Codec):
    """DAC: convolutions that see both sides, codes of few dimensions that a matrix brings to the decoder's width."""

    model_class = "DacModel"

    def codebook(self, index: int) -> torch.Tensor:
        quantizer = self.model.quantizer.quantizers[index]
        return quantizer.out_proj(quantizer.codebook.weight.t()[None])[0].t()

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        padded = F.pad(audio, (0, -audio.shape[-1] % self.format.hop_length))
        return self.model.encode(padded, num_codebooks).audio_codes[:, :num_codebooks]

    def _decoder(self) -> StretchDecoder:
        hop, rate, reach = self.format.hop_length, 1, self.model.decoder.conv1.kernel_size[0] / 2
        for ratio in self.model.config.upsampling_ratios:
            reach, rate = reach + 1 / rate, rate * ratio
            reach += DAC_UNIT_REACH / rate

        def decode(frames: torch.Tensor, first: int) -> torch.Tensor:
            audio = self.model.decoder(frames)
            # odd strides give a few samples less
            return F.pad(audio, (0, frames.shape[-1] * hop - audio.shape[-1]))

        return Stretches(decode, math.ceil(reach) + 1, math.ceil(reach) + 1, hop)


class SpectralCodec(Codec):
    """Ours, in the STFT domain: convolutions over frames that see both sides, and noise that goes by the frame."""

    model_class = HAFMSpectralModel

    def codebook(self, index: int) -> torch.Tensor:
        return self.model.quantizer.codebooks[index]

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        return self.model.quantizer.encode(self.model.encoder(audio), num_codebooks)

    def _decoder(self) -> StretchDecoder:
        reach = self.model.config.decoder_reach()
        # which noise a frame gets depends on its place in the song
        return Stretches(self.model.decoder, reach, reach, self.format.hop_length)


class CodecStream:
    """Decodes the codes of a song stretch by stretch to the audio that they give at once, up to rounding.

    A codec that sees the future holds the last frames back until there is more, or the song has ended.

    Args:
        codec: whose codes they are.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec, self._decode = codec, codec._decoder()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Audio float [B, C, n] that is final with the next codes.

        The first stretch of several needs to hold as many frames as the first convolution's kernel, 7: EnCodec pads
        the beginning of a song by reflection.

        Args:
            codes: int64 [B, Q, T], T > 0.
            last: whether the song ends with them.

        Raises:
            ValueError: on another shape, or codes out of range.
        """
        audio = self._decode(self.codec.embed(codes), last)
        if audio is None:
            return codes.new_zeros((len(codes), self.codec.format.channels, 0), dtype=self.codec.model.dtype)
        return audio


class Stretches:
    """A function of frames that sees a few of them to each side, over what comes stretch by stretch.

    Args:
        function: [B, D, n] and the number of the first frame → [B, D', n · hop].
        past, future: frames that it sees, or more.
        hop: what a frame becomes.
    """

    def __init__(
        self, function: Callable[[torch.Tensor, int], torch.Tensor], past: int, future: int, hop: int = 1
    ) -> None:
        self.function, self.past, self.future, self.hop = function, past, future, hop
        self.frames: torch.Tensor | None = None
        # the number of the first frame that is kept; of those kept, how many are done
        self.start, self.done = 0, 0

    def __call__(self, frames: torch.Tensor, last: bool) -> torch.Tensor | None:
        """What the function gives of frames that have all that it sees; None where there are none yet."""
        self.frames = frames = frames if self.frames is None else torch.cat([self.frames, frames], dim=-1)
        final = frames.shape[-1] - (0 if last else self.future)
        if final <= self.done:
            return None
        result = self.function(frames, self.start)[..., self.done * self.hop : final * self.hop]
        dropped = max(final - self.past, 0)
        self.frames, self.start, self.done = frames[..., dropped:], self.start + dropped, final - dropped
        return result


class _RecurrentDecoder:
    """EnCodec's decoder: a convolution, an LSTM whose state goes on, and the convolutions that make sound."""

    def __init__(self, decoder: Any, future: int, hop: int) -> None:
        first, self.lstm, *others = decoder.layers
        rest = torch.nn.Sequential(*others)
        self.first = Stretches(lambda frames, _: first(frames), CONTEXT_FRAMES, future)
        self.rest = Stretches(lambda frames, _: rest(frames), CONTEXT_FRAMES, future, hop)
        self.state: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, frames: torch.Tensor, last: bool) -> torch.Tensor | None:
        hidden = self.first(frames, last)
        if hidden is None:
            return None
        hidden = hidden.permute(2, 0, 1)
        recurrent, self.state = self.lstm.lstm(hidden, self.state)
        return self.rest((recurrent + hidden).permute(1, 2, 0), last)


FAMILIES: dict[str, type[Codec]] = {"encodec": EncodecCodec, "dac": DacCodec, "hafm_spectral": SpectralCodec}


def as_codec(model: PreTrainedModel) -> Codec:
    """The interface of a codec's model.

    Raises:
        ValueError: an unknown family, or a configuration that cannot be used.
    """
    check_codec_config(model.config)
    return FAMILIES[model.config.model_type](model)


def codec_class(config: PreTrainedConfig | dict[str, Any]) -> type[PreTrainedModel]:
    """The class that a codec's configuration asks for; of transformers' own only that one is imported.

    Raises:
        ValueError: an unknown family.
    """
    kind = config.get("model_type") if isinstance(config, dict) else config.model_type
    if kind not in FAMILIES:
        raise ValueError(f"{kind} is no codec that is known; choose one of {', '.join(FAMILIES)}.")
    model_class = FAMILIES[kind].model_class
    return getattr(transformers, model_class) if isinstance(model_class, str) else model_class


def load_codec(name_or_path: str | os.PathLike[str] = ENCODEC_24KHZ, **kwargs: Any) -> Codec:
    """Load a codec from the hub, a folder, or a composite's `subfolder="codec"`, in evaluation mode.

    Args:
        name_or_path: hub id or folder of a codec of a family that is known.
        kwargs: as for `from_pretrained`.

    Raises:
        ValueError: when weights are missing, unexpected or of another shape, or it is of an unknown family.
    """
    hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
    config, _ = PreTrainedConfig.get_config_dict(str(name_or_path), **hub)
    return as_codec(load_strictly(codec_class(config), name_or_path, **kwargs).eval())
