# SPDX-License-Identifier: Apache-2.0
"""Codecs: audio to the codes of the coarse and fine stages and back, with transformers' EnCodec and DAC or our own.

`as_codec` wraps a codec model in `Codec`, the small interface that the rest of the package uses; rates, channels and
codebooks come from the model's configuration. EnCodec (Défossez et al. 2022, arXiv 2210.13438) at 24 kHz is the
paper's: 75 frames a second, 8 codebooks for 6 kbps, 32 for 24 kbps. DAC: Kumar et al. 2023, arXiv 2306.06546.
Dimensions: B batch, C channels, N samples, Q codebooks, T frames, D width of the decoder's input.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from ..pretrained.loading import HUB_OPTIONS, load_strictly
from ..stopping import CheckStop, stoppable
from .configuration_codec import HAFMSpectralConfig, check_codec_config, codec_format
from .modeling_spectral_codec import HAFMSpectralModel, SpectralDecoder

# decoded at a time, which takes a CPU under half a second; `check_stop` can end a job between two pieces
PIECE_SECONDS = 2.0
# upper bound on the receptive field of EnCodec's convolutions, in frames to each side
CONTEXT_FRAMES = 16
# receptive field, in samples to each side, of DAC's residual units after a stride: kernels of 7, dilated by 1, 3, 9
DAC_UNIT_REACH = 39
# decodes one piece: (frames [B, D, n], whether they are the last) → [B, C, samples], or None if none are final yet
PieceDecoder = Callable[[torch.Tensor, bool], torch.Tensor | None]


class Codec(ABC):
    """Interface of a codec. To add a family, write a subclass, register it in FAMILIES, and check its configuration.

    Args:
        model: the codec, in evaluation mode.
    """

    # the model's class: the name of one in transformers, which is imported lazily, or our own
    model_class: ClassVar[str | type[PreTrainedModel]]

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.format = codec_format(model.config)

    @abstractmethod
    def codebook(self, index: int) -> torch.Tensor:
        """Vectors of the codes of the codebook `index`: [codes, width of the decoder's input]."""

    @abstractmethod
    def _encode(self, audio: torch.Tensor, num_codebooks: int, check_stop: CheckStop | None) -> torch.Tensor:
        """Encodes audio that `encode` has checked.

        Args:
            audio: float [B, C, N], N samples of C channels.
            num_codebooks: Q, how many codebooks to use, from the first.
            check_stop: called between pieces of the work, where the family has any.

        Returns:
            Codes int64 [B, Q, T], T = ⌈N / hop⌉ frames.
        """

    @abstractmethod
    def new_decoder(self) -> PieceDecoder:
        """A new streaming decoder for one song, which keeps its own state between pieces."""

    @torch.no_grad()
    def encode(
        self, audio: torch.Tensor, num_codebooks: int | None = None, check_stop: CheckStop | None = None
    ) -> torch.Tensor:
        """Encodes audio as codes int64 [B, Q, ⌈N / hop⌉]: batch, codebooks, frames.

        Args:
            audio: float [B, C, N], N samples of C channels at the codec's rate.
            num_codebooks: Q, how many of the codec's codebooks to use, from the first; all of them if None.
            check_stop: called between pieces of the work, where the family has any; an exception ends it.

        Raises:
            ValueError: on another shape, no samples, or more codebooks than the codec has.
        """
        if num_codebooks is None:
            num_codebooks = self.format.num_codebooks
        if audio.ndim != 3 or audio.shape[1] != self.format.channels or audio.shape[2] == 0:
            raise ValueError(
                f"audio has shape {list(audio.shape)}; it must be [batch, {self.format.channels}, samples], not empty."
            )
        if not 1 <= num_codebooks <= self.format.num_codebooks:
            raise ValueError(f"num_codebooks is {num_codebooks}; this codec has 1 to {self.format.num_codebooks}.")
        return self._encode(audio.to(self.model.dtype), num_codebooks, check_stop)

    @torch.no_grad()
    def decode(
        self, codes: torch.Tensor, length: int | None = None, check_stop: CheckStop | None = None
    ) -> torch.Tensor:
        """Decodes codes to audio float [B, C, length], C channels, at the codec's output rate.

        Decoding goes piece by piece, so that memory, apart from the result, does not grow with the song.

        Args:
            codes: int64 [B, Q, T], T frames of the first Q codebooks.
            length: samples to return, at most output hop · T; all of them if None.
            check_stop: called before each piece; an exception that it raises ends the decoding.

        Raises:
            ValueError: on another shape, codes out of range, or a length beyond the codes.
        """
        samples = codes.shape[-1] * self.format.output_hop_length
        if length is not None and not 0 <= length <= samples:
            raise ValueError(f"length is {length}; {codes.shape[-1]} frames hold {samples} samples.")
        shape = (len(codes), self.format.output_channels, samples)
        audio = torch.empty(shape, dtype=torch.promote_types(self.model.dtype, torch.float32), device=codes.device)
        done = 0
        for decoded in CodecStream(self).pieces(codes, True, check_stop):
            audio[..., done : done + decoded.shape[-1]] = decoded
            done += decoded.shape[-1]
        return audio[..., :length]

    @torch.no_grad()
    def code_vectors(self, codes: torch.Tensor, first_codebook: int = 0) -> torch.Tensor:
        """Sum of the codes' vectors over codebooks: float32 [T, D], D the width of the decoder's input.

        Args:
            codes (int64 [T, Q]): T frames of Q consecutive codebooks.
            first_codebook: index in the codec of the first of these codebooks.
        """
        return self.embed(codes.t()[None], first_codebook)[0].t().float()

    def embed(self, codes: torch.Tensor, first_codebook: int = 0) -> torch.Tensor:
        """The decoder's input: the sum of the codes' vectors over codebooks, float [B, D, T] of width D.

        Args:
            codes (int64 [B, Q, T]): T frames of Q consecutive codebooks.
            first_codebook: index in the codec of the first of these codebooks.

        Raises:
            ValueError: on another shape, or codes out of range.
        """
        codebooks = self.format.num_codebooks
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= codebooks or codes.shape[2] == 0:
            raise ValueError(f"codes have shape {list(codes.shape)}; they must be [batch, 1 to {codebooks}, frames].")
        if int(codes.min()) < 0 or int(codes.max()) >= self.format.codebook_size:
            raise ValueError(f"codes must lie between 0 and {self.format.codebook_size - 1}.")
        vectors = []
        for index, codes_of_book in enumerate(codes.unbind(1), start=first_codebook):
            vectors.append(F.embedding(codes_of_book, self.codebook(index)))  # [B, T, D]
        return reduce(torch.add, vectors).transpose(1, 2)


class EncodecCodec(Codec):
    """EnCodec: causal at 24 kHz, non-causal at 32 kHz."""

    model_class = "EncodecModel"

    def codebook(self, index: int) -> torch.Tensor:
        """Vectors of the codes of the codebook `index`: [codes, width of the decoder's input]."""
        return self.model.quantizer.layers[index].codebook.embed

    def _encode(self, audio: torch.Tensor, num_codebooks: int, check_stop: CheckStop | None) -> torch.Tensor:
        """Codes int64 [B, Q, T] of audio (float [B, C, N]), in the first `num_codebooks` codebooks.

        The same as those of EnCodec's own `encode`, but `check_stop` is called before each layer.
        """
        codes = []
        hidden = audio
        for layer in stoppable(self.model.encoder.layers, check_stop):
            hidden = layer(hidden)
        # each codebook encodes the residual of those before it
        residual = hidden
        for layer in stoppable(self.model.quantizer.layers[:num_codebooks], check_stop):
            codes.append(layer.encode(residual))
            residual = residual - layer.decode(codes[-1])
        return torch.stack(codes, dim=1)

    def new_decoder(self) -> PieceDecoder:
        """A streaming decoder for one song; unless convolutions are causal, it waits for the frames that follow."""
        future = 0 if self.model.config.use_causal_conv else CONTEXT_FRAMES
        return _RecurrentDecoder(self.model.decoder, future, self.format.hop_length)


class DacCodec(Codec):
    """DAC: non-causal convolutions, and low-dimensional code vectors that are projected to the decoder's width."""

    model_class = "DacModel"

    def codebook(self, index: int) -> torch.Tensor:
        """Vectors of the codes of the codebook `index`, projected to the decoder's width: [codes, width]."""
        quantizer = self.model.quantizer.quantizers[index]
        return quantizer.out_proj(quantizer.codebook.weight.t()[None])[0].t()

    def _encode(self, audio: torch.Tensor, num_codebooks: int, check_stop: CheckStop | None) -> torch.Tensor:
        """Codes int64 [B, Q, T] of audio (float [B, C, N]), in the first `num_codebooks` codebooks.

        The model encodes the audio, padded to whole frames, at once: `check_stop` is not called.
        """
        padded = F.pad(audio, (0, -audio.shape[-1] % self.format.hop_length))
        return self.model.encode(padded, num_codebooks).audio_codes[:, :num_codebooks]

    def new_decoder(self) -> PieceDecoder:
        """A streaming decoder for one song, with the reach of DAC's convolutions as context on both sides."""
        hop = self.format.hop_length
        # of the layers so far: steps per frame, and receptive field in frames to each side
        steps_per_frame = 1
        reach = self.model.decoder.conv1.kernel_size[0] / 2
        for ratio in self.model.config.upsampling_ratios:
            # a transposed convolution reaches one step of its input to each side; residual units follow it
            reach += 1 / steps_per_frame
            steps_per_frame *= ratio
            reach += DAC_UNIT_REACH / steps_per_frame

        def decode(frames: torch.Tensor, first: int) -> torch.Tensor:
            """Audio [B, C, n · hop] of n frames [B, D, n]; their position in the song, `first`, does not matter."""
            audio = self.model.decoder(frames)
            # odd strides lose a few samples
            return F.pad(audio, (0, frames.shape[-1] * hop - audio.shape[-1]))

        return Piecewise(decode, math.ceil(reach) + 1, math.ceil(reach) + 1, hop)


class SpectralCodec(Codec):
    """Our STFT-domain codec: non-causal convolutions over frames, and noise that depends on a frame's position.

    It may decode to another rate and number of channels than it encodes from.
    """

    model_class = HAFMSpectralModel

    def codebook(self, index: int) -> torch.Tensor:
        """Vectors of the codes of the codebook `index`: [codes, width of the decoder's input]."""
        return self.model.quantizer.codebooks[index]

    def _encode(self, audio: torch.Tensor, num_codebooks: int, check_stop: CheckStop | None) -> torch.Tensor:
        """Codes int64 [B, Q, T] of audio (float [B, C, N]), all at once: `check_stop` is not called."""
        return self.model.quantizer.encode(self.model.encoder(audio), num_codebooks)

    def new_decoder(self) -> PieceDecoder:
        """A streaming decoder for one song, which waits for the frames that a frame's audio depends on."""
        return _SpectralDecoder(self.model.decoder, self.model.config, self.format.output_hop_length)


class CodecStream:
    """Decodes the codes of a song piece by piece; up to rounding, the result is that of `Codec.decode`.

    A non-causal codec holds the last frames back until the frames after them have arrived or the song has ended.

    Args:
        codec: the codec that made the codes.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._decode = codec.new_decoder()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, last: bool = False, check_stop: CheckStop | None = None) -> torch.Tensor:
        """Decodes the next codes to the audio that has become final, float [B, C, samples] of C channels.

        The codes of the first call must be at least 7 frames, or the whole song: EnCodec pads the beginning of a song
        by reflection, by the kernel of its first convolution.

        Args:
            codes: int64 [B, Q, T], T > 0 frames of the first Q codebooks.
            last: whether the song ends with these codes.
            check_stop: called before each piece of some PIECE_SECONDS that the codes are cut into; an exception that
                it raises ends the decoding.

        Raises:
            ValueError: on another shape, or codes out of range.
        """
        return torch.cat(list(self.pieces(codes, last, check_stop)), dim=-1)

    def pieces(self, codes: torch.Tensor, last: bool, check_stop: CheckStop | None) -> Iterator[torch.Tensor]:
        """Decodes the next codes piece by piece.

        Args:
            codes: int64 [B, Q, T], T > 0 frames; the first ones of a song at least 7 frames, as for `decode`.
            last: whether the song ends with these codes.
            check_stop: called before each piece; an exception that it raises ends the decoding.

        Yields:
            For each piece the audio that has become final: float [B, C, samples]; no samples if none has.
        """
        # length of a piece
        frames = max(round(PIECE_SECONDS * self.codec.format.frame_rate), CONTEXT_FRAMES)
        cut_codes = codes.split(frames, dim=-1)
        for number, piece in enumerate(stoppable(cut_codes, check_stop), start=1):
            ends_song = last and number == len(cut_codes)
            audio = self._decode(self.codec.embed(piece), ends_song)
            if audio is None:
                shape = (len(codes), self.codec.format.output_channels, 0)
                audio = codes.new_zeros(shape, dtype=self.codec.model.dtype)
            yield audio


class Piecewise:
    """Applies a function with limited context, such as a stack of convolutions, to frames that arrive piece by piece.

    Args:
        function: maps n frames (float [B, D, n]), and the index of the first of them in the song, to n · hop output
            steps (float [B, D', n · hop]).
        past, future: how many frames before and after a frame its output depends on, or upper bounds.
        hop: output steps per frame.
    """

    def __init__(
        self, function: Callable[[torch.Tensor, int], torch.Tensor], past: int, future: int, hop: int = 1
    ) -> None:
        self.function = function
        self.past = past
        self.future = future
        self.hop = hop
        self.frames: torch.Tensor | None = None
        # index in the song of the first frame in `frames`; how many of `frames` have been output
        self.start = 0
        self.done = 0

    def __call__(self, frames: torch.Tensor, last: bool) -> torch.Tensor | None:
        """Applies the function to the next frames of a song.

        Args:
            frames (float [B, D, n]): n frames that follow those of the call before.
            last: whether the song ends with them.

        Returns:
            float [B, D', m · hop] for the m frames whose context is now complete; None if there are none.
        """
        # after those kept from earlier calls: context, and frames that have not been output yet
        if self.frames is not None:
            frames = torch.cat([self.frames, frames], dim=-1)
        self.frames = frames
        # number of these frames whose context is complete
        final = frames.shape[-1]
        if not last:
            final -= self.future
        if final <= self.done:
            return None
        result = self.function(frames, self.start)[..., self.done * self.hop : final * self.hop]
        dropped = max(final - self.past, 0)
        self.frames = frames[..., dropped:]
        self.start += dropped
        self.done = final - dropped
        return result


class _RecurrentDecoder:
    """EnCodec's decoder, piece by piece: a convolution, an LSTM whose state is carried over, and upsampling layers.

    Args:
        decoder: the decoder of an `EncodecModel`.
        future: frames after a frame that its convolutions depend on, or an upper bound; 0 if they are causal.
        hop: samples per frame.
    """

    def __init__(self, decoder: Any, future: int, hop: int) -> None:
        first, self.lstm, *others = decoder.layers
        rest = torch.nn.Sequential(*others)
        self.first = Piecewise(lambda frames, _: first(frames), CONTEXT_FRAMES, future)
        self.rest = Piecewise(lambda frames, _: rest(frames), CONTEXT_FRAMES, future, hop)
        self.state: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, frames: torch.Tensor, last: bool) -> torch.Tensor | None:
        """Decodes the next frames (float [B, width, n]) of a song, which ends with them if `last`.

        Returns:
            The audio that has become final, float [B, channels, samples]; None if there is none.
        """
        hidden = self.first(frames, last)
        if hidden is None:
            return None
        hidden = hidden.permute(2, 0, 1)  # [T, B, D]
        recurrent, self.state = self.lstm.lstm(hidden, self.state)
        # with EnCodec's residual around the LSTM
        return self.rest((recurrent + hidden).permute(1, 2, 0), last)


class _SpectralDecoder:
    """The spectral codec's decoder, piece by piece: its blocks, then the synthesis, each with its own context.

    Args:
        decoder, config: of a `HAFMSpectralModel`.
        hop: samples per frame of the output.
    """

    def __init__(self, decoder: SpectralDecoder, config: HAFMSpectralConfig, hop: int) -> None:
        blocks = config.blocks_reach
        window = config.window_reach
        self.hidden = Piecewise(lambda frames, _: decoder.hidden(frames).transpose(1, 2), blocks, blocks)
        # the position of the first frame in the song selects the noise
        self.sound = Piecewise(lambda states, first: decoder.sound(states.transpose(1, 2), first), window, window, hop)

    def __call__(self, frames: torch.Tensor, last: bool) -> torch.Tensor | None:
        """Decodes the next frames (float [B, width, n]) of a song, which ends with them if `last`.

        Returns:
            The audio that has become final, float [B, channels, samples]; None if there is none.
        """
        hidden = self.hidden(frames, last)
        if hidden is None:
            return None
        return self.sound(hidden, last)


# by the `model_type` of their configurations
FAMILIES: dict[str, type[Codec]] = {"encodec": EncodecCodec, "dac": DacCodec, "hafm_spectral": SpectralCodec}


def as_codec(model: PreTrainedModel) -> Codec:
    """Wraps a codec model in the interface of its family.

    Raises:
        ValueError: an unknown family, or an unusable configuration.
    """
    check_codec_config(model.config)
    return FAMILIES[model.config.model_type](model)


def codec_class(config: PreTrainedConfig | dict[str, Any]) -> type[PreTrainedModel]:
    """The model class for a codec's configuration; no other class of transformers is imported.

    Raises:
        ValueError: an unknown family.
    """
    family = config.get("model_type") if isinstance(config, dict) else config.model_type
    if family not in FAMILIES:
        raise ValueError(f"{family} is not a supported codec; choose from {', '.join(FAMILIES)}.")
    model_class = FAMILIES[family].model_class
    if isinstance(model_class, str):
        return getattr(transformers, model_class)
    return model_class


def load_codec(name_or_path: str | os.PathLike[str], **kwargs: Any) -> Codec:
    """Loads a codec from the Hub, a folder, or a composite's `subfolder="codec"`, in evaluation mode.

    Args:
        name_or_path: Hub id or folder of a codec of a supported family.
        kwargs: as for `from_pretrained`.

    Raises:
        ValueError: weights are missing, unexpected or of another shape, or the family is unknown.
    """
    hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
    config, _ = PreTrainedConfig.get_config_dict(str(name_or_path), **hub)
    return as_codec(load_strictly(codec_class(config), name_or_path, **kwargs).eval())
