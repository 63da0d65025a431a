"""The codec: EnCodec through transformers' EncodecModel, 24 kHz audio to and from codes at 75 Hz.

Last on the path of the data: it turns the codes of the coarse and fine stages into audio, and audio into the codes
they are trained on. 6 kbps are 8 codebooks, 3 kbps are 4 (Défossez et al. 2022, arXiv 2210.13438). Dimensions: B
batch, N samples, Q codebooks, T_a frames at 75 Hz.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import EncodecModel

from .hub.loading import load_strictly

ENCODEC_24KHZ = "facebook/encodec_24khz"
# decoded at once: no layer takes a CPU a tenth of a second with hafm-tiny's codec, so that it can be ended between two
STRETCH_SECONDS = 5.0
# frames of the past that the decoder's convolutions can see, generously
CONTEXT_FRAMES = 16
# encodec's names → transformers': wrappers of the convolutions are flattened, lists are called layers, and codebooks
# lose a level
RENAMINGS: tuple[tuple[str, str], ...] = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.conv\.conv\.", ".conv."),
    (r"\.convtr\.convtr\.", ".conv."),
    (r"\.(conv|convtr)\.norm\.", ".norm."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)


def load_encodec(name_or_path: str | os.PathLike[str] = ENCODEC_24KHZ, **kwargs: Any) -> EncodecModel:
    """Load an EnCodec from the hub, a folder, or a composite's `subfolder="codec"`, in evaluation mode.

    Args:
        name_or_path: hub id or folder.
        kwargs: as for `EncodecModel.from_pretrained`.

    Raises:
        ValueError: when weights are missing, unexpected or of another shape, or the codec is stereo, chunked or
            normalising.
    """
    codec = load_strictly(EncodecModel, name_or_path, **kwargs)
    if codec.config.audio_channels != 1 or codec.config.chunk_length_s is not None or codec.config.normalize:
        # a normalising codec would need its scale again at decoding, and codes carry none
        raise ValueError(
            f"{name_or_path} is not a mono codec without chunks and normalisation: use {ENCODEC_24KHZ} or one like it."
        )
    return codec.eval()


@torch.no_grad()
def encode_codes(codec: EncodecModel, waveform: torch.Tensor, num_codebooks: int) -> torch.Tensor:
    """Codes int64 [B, Q, ⌈N / 320⌉] of mono audio, float [B, N] at the codec's rate.

    Args:
        codec: EncodecModel.
        waveform: float [B, N].
        num_codebooks: Q, the first of the codec's codebooks.

    Raises:
        ValueError: on another shape, no samples, or more codebooks than there are.
    """
    if waveform.ndim != 2 or waveform.shape[1] == 0:
        raise ValueError(f"waveform has shape {list(waveform.shape)}; it must be [batch, samples] with samples.")
    if not 1 <= num_codebooks <= codec.config.num_quantizers:
        raise ValueError(f"num_codebooks is {num_codebooks}; this codec has 1 to {codec.config.num_quantizers}.")
    embeddings = codec.encoder(waveform[:, None].to(codec.dtype))
    codes = []
    for layer in codec.quantizer.layers[:num_codebooks]:
        codes.append(layer.encode(embeddings))
        embeddings = embeddings - layer.decode(codes[-1])
    return torch.stack(codes, dim=1)


@torch.no_grad()
def code_vectors(codec: EncodecModel, codes: torch.Tensor, first_codebook: int = 0) -> torch.Tensor:
    """What codes add to the decoder's input: float32 [T_a, D], the sum of their vectors.

    Args:
        codec: EncodecModel.
        codes (int64 [T_a, Q]): of consecutive codebooks.
        first_codebook: which of the codec's the first of them is.
    """
    layers = codec.quantizer.layers[first_codebook : first_codebook + codes.shape[1]]
    vectors = [layer.codebook.decode(column) for layer, column in zip(layers, codes.t(), strict=True)]
    return torch.stack(vectors).float().sum(0)


@torch.no_grad()
def decode_codes(codec: EncodecModel, codes: torch.Tensor, length: int | None = None) -> torch.Tensor:
    """Audio float [B, length] of codes int64 [B, Q, T_a]; Q may be smaller than the codec's number of codebooks.

    Codes of any length are decoded in stretches, so that memory beside the result does not grow with them.

    Args:
        codec: EncodecModel.
        codes: int64 [B, Q, T_a].
        length: samples to return, at most 320 · T_a; all of them if None.

    Raises:
        ValueError: on another shape, codes out of range, or a length beyond the codes.
    """
    samples = codes.shape[-1] * codec.config.hop_length
    if length is not None and not 0 <= length <= samples:
        raise ValueError(f"length is {length}; {codes.shape[-1]} frames hold {samples} samples.")
    stream = CodecStream(codec)
    audio = torch.empty(len(codes), samples, dtype=codec.dtype, device=codes.device)
    done = 0
    for part in codes.split(max(round(STRETCH_SECONDS * codec.config.frame_rate), CONTEXT_FRAMES), dim=-1):
        decoded = stream.decode(part)
        audio[:, done : done + decoded.shape[1]] = decoded
        done += decoded.shape[1]
    return audio[:, :length]


class CodecStream:
    """Decodes codes stretch by stretch to the audio that they give at once, up to rounding.

    EnCodec's decoder is causal: what it needs of the past is the state of its LSTM, and a few frames before it and
    behind it for the convolutions.

    Args:
        codec: EncodecModel with causal convolutions.

    Raises:
        ValueError: for another codec.
    """

    def __init__(self, codec: EncodecModel) -> None:
        if not codec.config.use_causal_conv or codec.config.norm_type != "weight_norm":
            raise ValueError("Only a causal EnCodec without group norm can be decoded in stretches.")
        self.codec = codec
        self.state: tuple[torch.Tensor, torch.Tensor] | None = None
        self.embeddings: torch.Tensor | None = None
        self.hidden: torch.Tensor | None = None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Audio float [B, 320 · n] of the next codes, int64 [B, Q, n].

        The first stretch of several needs to hold as many frames as the first convolution's kernel, 7: EnCodec pads
        the beginning of a song by reflection.

        Raises:
            ValueError: on another shape, or codes out of range.
        """
        config = self.codec.config
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= config.num_quantizers or codes.shape[2] == 0:
            raise ValueError(
                f"codes have shape {list(codes.shape)}; they must be [batch, 1 to {config.num_quantizers}, frames]."
            )
        if int(codes.min()) < 0 or int(codes.max()) >= config.codebook_size:
            raise ValueError(f"codes must lie between 0 and {config.codebook_size - 1}.")
        first, lstm, *rest = self.codec.decoder.layers
        embeddings, fresh = self._behind(self.embeddings, self.codec.quantizer.decode(codes.transpose(0, 1)))
        self.embeddings = embeddings[..., -CONTEXT_FRAMES:]
        frames = first(embeddings)[..., fresh:].permute(2, 0, 1)
        recurrent, self.state = lstm.lstm(frames, self.state)
        hidden, fresh = self._behind(self.hidden, (recurrent + frames).permute(1, 2, 0))
        self.hidden = hidden[..., -CONTEXT_FRAMES:]
        audio = hidden
        for layer in rest:
            audio = layer(audio)
        return audio[:, 0, fresh * config.hop_length :]

    @staticmethod
    def _behind(past: torch.Tensor | None, frames: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Frames with those that came before them, and how many those are."""
        if past is None:
            return frames, 0
        return torch.cat([past, frames], dim=-1), past.shape[-1]


def scale_invariant_sdr(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """SI-SDR in dB [B] of float [B, N] (Le Roux et al. 2019, arXiv 1811.02508)."""
    target = target - target.mean(dim=-1, keepdim=True)
    output = output - output.mean(dim=-1, keepdim=True)
    scale = (output * target).sum(-1, keepdim=True) / target.pow(2).sum(-1, keepdim=True).clamp_min(1e-12)
    projection = scale * target
    ratio = projection.pow(2).sum(-1) / (output - projection).pow(2).sum(-1).clamp_min(1e-12)
    return 10 * torch.log10(ratio.clamp_min(1e-12))


def convert_encodec_state_dict(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the original `encodec` package under the names of transformers' EncodecModel, values untouched.

    Args:
        state: `encodec.EncodecModel.encodec_model_24khz(…).state_dict()`, or the published `.th` file read with
            `torch.load(path, weights_only=True)`.

    Raises:
        ValueError: on a key that isn't EnCodec's.
    """
    converted = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in RENAMINGS:
            name = re.sub(pattern, replacement, name)
        if not re.match(r"^(encoder|decoder|quantizer)\.layers\.", name):
            raise ValueError(f"{key} is not a weight of EnCodec.")
        converted[name] = value
    return converted
