# SPDX-License-Identifier: Apache-2.0
"""The semantic tokenizer: HuBERT up to one layer, then k-means. Audio at 16 kHz in, tokens at 50 Hz out.

It produces the vocal semantic tokens (from the noisy vocal, as in SingSong) that condition the semantic stage, and
the instrumental semantic tokens that the stage learns to predict (paper, section "Tokens"). Dimensions: B batch,
N samples, T_v (or T) frames at 50 Hz, F frames of the descriptors' measurements at 100 Hz, D width of HuBERT, P width
of the vocal projection (D without one); with the beat, vocal centroids have P + 4 dimensions. Phase vectors are cosine
and sine of the beat phase, then of twice that phase, the shorter, the less certain it is.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import HubertConfig, HubertModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from ..lead_sheet.lead_sheet import phase_vectors
from ..pretrained.saving import HAFMModelMixin
from ..stopping import CheckStop, stoppable
from .beat_tracker import PHASE_VECTOR_SIZE, HAFMBeatTracker, HAFMRhythmNetwork
from .configuration_semantic_tokenizer import HAFMSemanticTokenizerConfig
from .pitch_contour import DESCRIPTORS, PitchContour, VocalAnalyser, pitch_contour

NORMALIZATION_EPSILON = 1e-7
# frames that go through the convolutions at once: four seconds
CONVOLVED_FRAMES = 200


@dataclass
class HAFMSemanticTokenizerOutput(ModelOutput):
    """Output of `HAFMSemanticTokenizerModel`.

    Args:
        ids: semantic tokens, int64 [B, T_v].
    """

    ids: torch.Tensor | None = None


class HAFMSemanticTokenizerModel(HAFMModelMixin, PreTrainedModel):
    """HuBERT cut at `config.layer`, and k-means centroids as a buffer.

    Depending on the configuration, vocal centroids lie in a space of their own: a linear projection of the features,
    concatenated with the beat phase from a rhythm network (frame by frame, or along one beat track through the whole
    vocal). Such centroids are shorter than HuBERT's width and fill the beginning of their rows in the buffer.

    The features equal `HubertModel(…, output_hidden_states=True).hidden_states[layer]`. In the layer-norm variant
    (HuBERT-Large) the encoder's final norm follows the last layer, so the truncated network has none.
    """

    config_class = HAFMSemanticTokenizerConfig
    config: HAFMSemanticTokenizerConfig
    main_input_name = "input_values"
    base_model_prefix = "semantic_tokenizer"
    input_modalities = ("audio",)
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: HAFMSemanticTokenizerConfig) -> None:
        super().__init__(config)
        cut = cut_hubert_config(config.hubert_config, config.layer)
        hop = int(np.prod(cut.conv_stride))
        if hop * config.frame_rate != config.sampling_rate:
            raise ValueError(
                f"HuBERT steps {hop} samples a frame, but {config.sampling_rate} Hz at {config.frame_rate} frames a "
                f"second needs {config.sampling_rate / config.frame_rate:g}: change conv_stride or the rates."
            )
        self.hop = hop
        self.hubert = HubertModel(cut)
        if cut.do_stable_layer_norm:
            self.hubert.encoder.layer_norm = nn.Identity()
        # if separate, the vocal centroids come first, then the instrumental ones
        sources = (2,) if config.separate_centroids else ()
        self.register_buffer("centroids", torch.zeros(*sources, config.num_clusters, cut.hidden_size))
        width = config.vocal_projection_size + PHASE_VECTOR_SIZE * bool(config.rhythm_channels)
        if width > cut.hidden_size:
            raise ValueError(f"Vocal centroids have {width} dimensions; at most HuBERT's {cut.hidden_size} fit.")
        if config.vocal_projection_size:
            self.register_buffer("vocal_projection", torch.zeros(cut.hidden_size, config.vocal_projection_size))
        if config.rhythm_channels:
            # weight of the beat phase relative to the projected features
            self.register_buffer("rhythm_scale", torch.ones(()))
            self.analyser = VocalAnalyser(config.sampling_rate, config.frame_rate)
            self.beat_tracker = HAFMBeatTracker(config.frame_rate)
            if config.beat_line:
                # length of the track's phase vectors; the network's own are the shorter, the less certain it is
                self.register_buffer("line_scale", torch.ones(()))
            self.rhythm = HAFMRhythmNetwork(DESCRIPTORS, config.rhythm_channels, config.rhythm_layers)
        # samples that a frame depends on beyond its own hop, before and after it
        context = receptive_field(cut) - hop
        self.padding = (context // 2, context - context // 2)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises the rhythm network as torch does (HuBERT initialises itself), and buffers.

        The scales of the beat are 1; centroids and the vocal projection are 0 until they are fitted.
        """
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.LayerNorm)):
            module.reset_parameters()
        elif module is self:
            for name, buffer in self.named_buffers(recurse=False):
                if name.endswith("_scale"):
                    init.ones_(buffer)
                else:
                    init.zeros_(buffer)

    def num_frames(self, num_samples: int) -> int:
        """Number of frames (tokens) of a waveform, T_v = ⌈N / hop⌉; the hop is 320 samples at 16 kHz and 50 Hz."""
        return -(-num_samples // self.hop)

    @can_return_tuple
    @torch.no_grad()
    def forward(
        self,
        input_values: torch.Tensor,
        vocal: bool = False,
        seed: int | Sequence[int] | None = None,
        beat_phase: torch.Tensor | None = None,
        check_stop: CheckStop | None = None,
    ) -> HAFMSemanticTokenizerOutput:
        """Tokenises a batch of waveforms of the same length; up to rounding, they do not affect each other.

        Args:
            input_values (float [B, N]): mono audio at 16 kHz, N samples without padding.
            vocal: whether they are vocals: then Gaussian noise of `config.noise_std` is added to them, and the vocal
                centroids and the beat are used, if the tokenizer has them.
            seed: of the noise, one for all waveforms or one each; if None, the noise is drawn from torch's global
                generator.
            beat_phase (float [T_v] or [B, T_v]): beat phase of each frame of a vocal, from 0 to 1, if the beats are
                known or have already been estimated (`track_beats`); otherwise they are estimated.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Raises:
            ValueError: another shape, samples that are not finite, no centroids, or a beat phase for a tokenizer
                without `beat_line`.
        """
        if input_values.ndim != 2:
            raise ValueError(f"input_values has shape {list(input_values.shape)}; it must be [batch, samples], mono.")
        seeds = seed if isinstance(seed, Sequence) else [seed] * len(input_values)
        rows = [self._prepare(row, vocal, row_seed) for row, row_seed in zip(input_values, seeds, strict=True)]
        features = self._iterate_features(torch.stack(rows), self.num_frames(input_values.shape[1]), check_stop)
        tokens = self._tokens(features, input_values, vocal, beat_phase, check_stop)
        return HAFMSemanticTokenizerOutput(ids=tokens)

    def encode(
        self,
        waveform: torch.Tensor,
        vocal: bool = False,
        seed: int | None = None,
        beat_phase: torch.Tensor | None = None,
        check_stop: CheckStop | None = None,
    ) -> torch.Tensor:
        """Tokenises one waveform of any length, in bounded memory.

        Audio longer than `config.chunk_seconds` goes through HuBERT in overlapping chunks.

        Args:
            waveform (float [N]): mono audio at 16 kHz.
            vocal: whether it is a vocal, which gets noise and the vocal centroids.
            seed: of the noise; without it the noise is drawn from torch's global generator.
            beat_phase (float [T_v]): beat phase of each frame of a vocal, from 0 to 1; estimated if None.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Returns:
            int64 [T_v].

        Raises:
            ValueError: as for `forward`.
        """
        options = {"vocal": vocal, "seed": seed, "beat_phase": beat_phase, "check_stop": check_stop}
        return self(waveform[None], **options, return_dict=True).ids[0]

    @torch.no_grad()
    def extract_features(
        self,
        waveform: torch.Tensor,
        noise: bool = False,
        seed: int | None = None,
        check_stop: CheckStop | None = None,
    ) -> torch.Tensor:
        """Hidden states of one waveform, to which k-means is fitted.

        Args:
            waveform (float [N]): mono audio at 16 kHz.
            noise: whether to add the noise of vocals.
            seed: of the noise; if None, it is drawn from torch's global generator.
            check_stop: as for `forward`.

        Returns:
            float32 [T_v, D], T_v frames at 50 Hz, D HuBERT's width.
        """
        prepared = self._prepare(waveform, noise, seed)
        chunks = self._iterate_features(prepared[None], self.num_frames(len(waveform)), check_stop)
        features = [chunk[0] for chunk in chunks]
        if features:
            return torch.cat(features)
        # the waveform is empty
        return torch.zeros(0, self.centroids.shape[-1], device=waveform.device)

    @torch.no_grad()
    def describe(self, waveform: torch.Tensor, check_stop: CheckStop | None = None) -> torch.Tensor:
        """Descriptors of a mono vocal (float [N] at 16 kHz), the input of the rhythm network.

        `check_stop` is called between pieces of the work; an exception that it raises ends it.

        Returns:
            float32 [T_v, 10] at 50 Hz: pitch, level, their changes, and spectral flux (`VocalAnalyser.describe`).

        Raises:
            ValueError: the tokenizer has no rhythm network.
        """
        measured = self._measured(waveform, check_stop)
        return torch.from_numpy(self.analyser.describe(*measured)).to(waveform.device)

    @torch.no_grad()
    def measure_pitch_and_beats(
        self, waveform: torch.Tensor, check_stop: CheckStop | None = None
    ) -> tuple[np.ndarray, PitchContour, torch.Tensor]:
        """Pitches, pitch contour and the rhythm network's beat phases of a mono vocal (float [N] at 16 kHz).

        `check_stop` is called between pieces of the work; an exception that it raises ends it.

        Returns:
            Pitches in Hz, NaN if unvoiced, float32 [F] at 100 Hz; a `PitchContour` at 50 Hz; and phase vectors of the
            beat, float32 [T_v, 4] at 50 Hz (`HAFMRhythmNetwork.expected_phase_vectors`).

        Raises:
            ValueError: the tokenizer has no rhythm network.
        """
        measured = self._measured(waveform, check_stop)
        weight = self.rhythm.head.weight
        descriptors = torch.from_numpy(self.analyser.describe(*measured)).to(weight.device, weight.dtype)
        if check_stop is not None:
            check_stop()
        phase_vectors = self.rhythm.expected_phase_vectors(descriptors[None])[0]
        return measured[0], pitch_contour(*measured), phase_vectors

    def _measured(self, waveform: torch.Tensor, check_stop: CheckStop | None) -> tuple[np.ndarray, ...]:
        """Pitches, levels and mel bands of a mono vocal (float [N] at 16 kHz), from `VocalAnalyser.measure`.

        Returns:
            float32 [F], [F] and [F, 40], F frames at 100 Hz, which cover the vocal's frames at 50 Hz.

        Raises:
            ValueError: the tokenizer has no rhythm network.
        """
        self._check_rhythm()
        samples = waveform.detach().float().cpu().numpy()
        return self.analyser.measure(samples, self.num_frames(len(samples)), check_stop)

    @torch.no_grad()
    def quantize(
        self, features: torch.Tensor, vocal: bool = False, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Index int64 [..., T] of the centroid nearest to each feature, as by scikit-learn's `KMeans.predict`.

        Args:
            features (float [..., T, D]): of HuBERT, T frames of width D.
            vocal: whether these are a vocal's features, for which the vocal centroids and the beat are used, if the
                tokenizer has them.
            descriptors (float [..., T, 10], *optional*): of the vocal (`describe`); required if there is a rhythm
                network, which then sees these T frames only.

        Raises:
            ValueError: the centroids were never set, or the rhythm network lacks descriptors.
        """
        if vocal:
            features = self.vocal_space(features, descriptors)
        return self._nearest(features, vocal)

    @torch.no_grad()
    def vocal_space(self, features: torch.Tensor, descriptors: torch.Tensor | None = None) -> torch.Tensor:
        """Maps a vocal's features to the space of its centroids.

        Args:
            features (float [..., T, D]): of HuBERT, T frames of width D.
            descriptors (float [..., T, 10]): of the vocal (`describe`); required if there is a rhythm network.

        Returns:
            float [..., T, P + 4]: the projected features, of P dimensions, followed by the beat's phase vectors;
            [..., T, P] without a rhythm network. Without a projection, the features as they are, and P is D.
        """
        projected = self._projected(features)
        if self.config.rhythm_channels:
            return self._with_beat(projected, self._phase_vectors(descriptors))
        return projected

    def track_beats(
        self,
        phase_vectors: torch.Tensor,
        tempo: float | None = None,
        near_tempo: float | None = None,
        check_stop: CheckStop | None = None,
    ) -> torch.Tensor:
        """Follows the beat through a vocal: the beat phase of each frame along one beat track, float32 [T], 0 to 1.

        Args:
            phase_vectors (float [T, 4]): of the rhythm network (`measure_pitch_and_beats`), at 50 Hz.
            tempo (BPM): tempo that the track keeps to exactly; None for any.
            near_tempo (BPM): tempo to which it stays close; None for any.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Raises:
            ValueError: the tokenizer has no rhythm network.
        """
        self._check_rhythm()
        tracker = self.beat_tracker
        if near_tempo is not None:
            tracker = tracker.near(near_tempo)
        return tracker.follow(phase_vectors, tempo, check_stop)

    def _check_rhythm(self) -> None:
        """Raises ValueError if there is no rhythm network."""
        if not self.config.rhythm_channels:
            raise ValueError("This tokenizer has no rhythm network; fit one with recipes/fit_vocal_space.py.")

    def _projected(self, features: torch.Tensor) -> torch.Tensor:
        """Projects features (float [..., D]) by the vocal projection: float [..., P]; without one, as they are."""
        if self.config.vocal_projection_size:
            return features.float() @ self.vocal_projection.float()
        return features

    def _phase_vectors(self, descriptors: torch.Tensor | None, check_stop: CheckStop | None = None) -> torch.Tensor:
        """Phase vectors of the beat, estimated from descriptors of vocals.

        Args:
            descriptors (float [..., T, 10]): from `describe`; None is refused.
            check_stop: called between pieces of the work.

        Returns:
            float [vocals, T, 4], the leading dimensions flattened to one: from the rhythm network, or, with
            `beat_line`, along one beat track through each vocal.

        Raises:
            ValueError: there are no descriptors.
        """
        if descriptors is None:
            raise ValueError("This tokenizer estimates the beat from descriptors of the vocal; pass `describe`'s.")
        vocals = descriptors.view(-1, *descriptors.shape[-2:])
        vectors = self.rhythm.expected_phase_vectors(vocals.to(self.rhythm.head.weight.dtype))
        if self.config.beat_line and vectors.numel():
            phases = [self.track_beats(vectors_of_vocal, check_stop=check_stop) for vectors_of_vocal in vectors]
            vectors = torch.stack([self._track_vectors(phase).to(vectors) for phase in phases])
        return vectors

    def _track_vectors(self, beat_phase: torch.Tensor) -> torch.Tensor:
        """Phase vectors, `line_scale` long, of beat phases (float [..., T], 0 to 1): float32 [..., T, 4]."""
        return self.line_scale.float() * phase_vectors(beat_phase).to(self.line_scale.device)

    def _with_beat(self, projected: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Appends phase vectors of the beat, weighted by `rhythm_scale`, to projected features.

        Args:
            projected (float [..., T, P]): projected features of vocals.
            vectors (float [vocals, T, 4]): phase vectors of the same vocals; the leading dimensions may be flattened.

        Returns:
            float [..., T, P + 4].
        """
        beat = self.rhythm_scale.float() * vectors.view(*projected.shape[:-1], -1)
        return torch.cat([projected, beat], dim=-1)

    def _nearest(self, vectors: torch.Tensor, vocal: bool) -> torch.Tensor:
        """Index of the centroid nearest to each vector: int64 [...].

        Args:
            vectors (float [..., dimensions]): in the space of the centroids.
            vocal: whether to use the vocal centroids, where they are separate.

        Raises:
            ValueError: the centroids were never set.
        """
        centroids = self.centroids.float()
        if not bool(centroids.any()):
            raise ValueError("This tokenizer has no centroids: fit them with recipes/fit_kmeans.py.")
        if self.config.separate_centroids:
            # the vocal ones come first
            centroids = centroids[0 if vocal else 1]
        # vocal centroids may be shorter than their rows
        centroids = centroids[:, : vectors.shape[-1]]
        # squared distances less the squared norm of the vector, which is the same for all centroids
        return torch.argmin(centroids.pow(2).sum(1) - 2 * vectors.float() @ centroids.T, dim=-1)

    def _tokens(
        self,
        feature_chunks: Iterable[torch.Tensor],
        waveforms: torch.Tensor,
        vocal: bool,
        beat_phase: torch.Tensor | None,
        check_stop: CheckStop | None,
    ) -> torch.Tensor:
        """Tokens int64 [B, T_v] of waveforms, from their features.

        Args:
            feature_chunks (float [B, n, D] each): HuBERT's features, chunk after chunk.
            waveforms (float [B, N]): mono, at 16 kHz; the beat of vocals is estimated from them if it is not given.
            vocal: whether they are vocals.
            beat_phase (float [T_v] or [B, T_v]): beat phase of each frame of a vocal, from 0 to 1; None if not known.
            check_stop: called between pieces of the work.

        Raises:
            ValueError: no centroids, or a beat phase for a tokenizer without `beat_line`.
        """
        if beat_phase is not None and not self.config.beat_line:
            raise ValueError("This tokenizer has no beat line; leave beat_phase out.")
        needs_beat = vocal and self.config.rhythm_channels > 0
        # the beat is estimated over the whole waveform, until when only the projections of its chunks are kept
        if needs_beat:
            reduce_chunk = self._projected
        else:
            reduce_chunk = partial(self.quantize, vocal=vocal)
        reduced = [reduce_chunk(features) for features in feature_chunks]
        if not reduced:
            return torch.zeros(len(waveforms), 0, dtype=torch.int64)
        joined = torch.cat(reduced, dim=1)
        # without a beat, these are tokens
        if not needs_beat:
            return joined
        if beat_phase is None:
            descriptors = torch.stack([self.describe(waveform, check_stop) for waveform in waveforms])
            vectors = self._phase_vectors(descriptors, check_stop)
        else:
            vectors = self._track_vectors(beat_phase).expand(len(joined), -1, -1)  # [B, T_v, 4]
        return self._nearest(self._with_beat(joined, vectors), vocal)

    def _prepare(self, waveform: torch.Tensor, noise: bool, seed: int | None) -> torch.Tensor:
        """Adds noise to a waveform, normalises it as a whole, and pads it with zeros to T_v whole frames.

        Args:
            waveform (float [N]): mono audio at 16 kHz.
            noise: whether to add the noise of vocals, of `config.noise_std`.
            seed: of the noise; if None, it is drawn from torch's global generator.

        Returns:
            float32 [left + hop · T_v + right], with HuBERT's context (`self.padding`: left, right) as zeros.

        Raises:
            ValueError: samples that are not finite.
        """
        values = waveform.float()
        if not bool(torch.isfinite(values).all()):
            raise ValueError("The waveform holds NaN or infinite samples; HAFM needs finite ones.")
        # one buffer, changed in place, to keep few copies of up to an hour of audio in memory
        left, right = self.padding
        to_whole_frames = -len(values) % self.hop
        prepared = torch.zeros(left + len(values) + to_whole_frames + right, dtype=torch.float32)
        if noise:
            # drawn on the CPU and for the whole waveform, so that neither device nor chunks change it
            generator = None
            if seed is not None:
                generator = torch.Generator().manual_seed(int(seed))
            prepared[left : left + len(values)].normal_(generator=generator).mul_(self.config.noise_std)
        prepared = prepared.to(values.device)
        inner = prepared[left : left + len(values)].add_(values)
        if self.config.do_normalize and len(values):
            mean = inner.mean()
            deviation = torch.sqrt(inner.var(unbiased=False) + NORMALIZATION_EPSILON)
            inner.sub_(mean).div_(deviation)
        return prepared

    def _iterate_features(
        self, prepared: torch.Tensor, frames: int, check_stop: CheckStop | None
    ) -> Iterator[torch.Tensor]:
        """HuBERT's hidden states of waveforms, chunk after chunk.

        Args:
            prepared (float32 [B, left + hop · T_v + right]): waveforms, normalised and padded by `_prepare`.
            frames: T_v, their number of frames.
            check_stop: as for `forward`.

        Yields:
            float32 [B, frames, D]: the next frames, D HuBERT's width; the chunks together are [B, T_v, D].
        """
        config = self.config
        # settings that were changed after loading could leave no frame between the contexts of a chunk
        config.validate_sizes()
        # in frames; of each chunk, only the core between its contexts is used
        context = round(config.context_seconds * config.frame_rate)
        chunk = round(config.chunk_seconds * config.frame_rate)
        core = chunk - 2 * context
        if frames <= chunk:
            # a single chunk; at least 1, because `range` needs a step even without frames
            core = max(frames, 1)
            context = 0
        for start in range(0, frames, core):
            end = min(start + core, frames)
            first = max(start - context, 0)
            last = min(end + context, frames)
            # with the samples on both sides that the outermost frames depend on: zeros at the waveform's ends only
            samples = prepared[:, first * self.hop : last * self.hop + sum(self.padding)]
            hidden = self._hidden_states(samples.to(self.hubert.dtype), check_stop)
            yield hidden[:, start - first : end - first].float()

    def _hidden_states(self, samples: torch.Tensor, check_stop: CheckStop | None) -> torch.Tensor:
        """Hidden states of one chunk, as from `self.hubert`, but computed so that `check_stop` can end the work.

        It is called before each layer: a chunk takes HuBERT-Large seconds.

        Args:
            samples (float [B, left + hop · T + right]): T frames and their context, in HuBERT's dtype.
            check_stop: an exception that it raises ends the work.

        Returns:
            [B, T, D], D HuBERT's width.
        """
        encoder = self.hubert.encoder
        context = sum(self.padding)
        frames = (samples.shape[1] - context) // self.hop
        # frames that are convolved at once: all of them if group normalisation is over all
        size = frames
        if self.hubert.config.feat_extract_norm == "layer":
            size = CONVOLVED_FRAMES
        convolved = []
        for first in range(0, frames, size):
            last = min(first + size, frames)
            hidden = samples[:, None, first * self.hop : last * self.hop + context]
            for layer in stoppable(self.hubert.feature_extractor.conv_layers, check_stop):
                hidden = layer(hidden)
            convolved.append(hidden)
        hidden = self.hubert.feature_projection(torch.cat(convolved, dim=2).transpose(1, 2))  # [B, T, D]
        hidden = hidden + encoder.pos_conv_embed(hidden)
        # with `do_stable_layer_norm` (HuBERT-Large) this norm follows the last layer, and is left out
        if not self.hubert.config.do_stable_layer_norm:
            hidden = encoder.layer_norm(hidden)
        for layer in stoppable(encoder.layers, check_stop):
            hidden = layer(hidden)
        return hidden


def cut_hubert_config(config: HubertConfig, layer: int) -> HubertConfig:
    """A copy of HuBERT's `config` with the first `layer` layers, without masking, LayerDrop or dropout.

    Raises:
        ValueError: `layer` is not between 1 and the number of layers.
    """
    if not 1 <= layer <= config.num_hidden_layers:
        raise ValueError(f"layer is {layer}; this HuBERT has hidden states of layers 1 to {config.num_hidden_layers}.")
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = layer
    cut.apply_spec_augment = False
    cut.mask_time_prob = cut.mask_feature_prob = 0.0
    cut.layerdrop = 0.0
    # tokens are data: they must not change when the composite is put into training mode
    cut.hidden_dropout = cut.attention_dropout = cut.activation_dropout = cut.feat_proj_dropout = 0.0
    return cut


def receptive_field(config: HubertConfig) -> int:
    """Receptive field in samples of HuBERT's convolutions: 400 for the published models."""
    field = 1
    # samples between two outputs of the layers so far
    step = 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field
