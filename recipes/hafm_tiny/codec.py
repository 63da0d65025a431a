# SPDX-License-Identifier: Apache-2.0
"""Training an EnCodec-shaped codec from nothing, on a CPU if need be.

transformers' EncodecModel is inference only: what it lacks, and what this file adds, is the training side of residual
vector quantization (k-means start, moving averages, replacement of dead codes, codebook dropout; Défossez et al. 2022,
arXiv 2210.13438, sections 3.2 and A.2) and the losses. Order matters: under spectral losses from the first step the
codec stalls at a constant texture, so it learns the waveform first (relative squared error), is quantized next, and
the losses that hear drums are ramped in last: of the spectrum, and of the waveform after pre-emphasis. The waveform
alone is bass and chords; cymbals are forty decibels below them, and a codec that has no reason to keep them doesn't.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EncodecModel, PreTrainedModel

from hafm_hf.audio.analysis import mel_filters
from hafm_hf.tokenizers.codecs import as_codec
from hafm_hf.tokenizers.configuration_codec import codec_format

from .clusters import kmeans, nearest
from .discriminator import MultiScaleDiscriminator
from .figures import log_mel, scale_invariant_sdr
from .song_pool import PCM_SCALE, Song, SongPool
from .state import cosine_learning_rate


@dataclass
class CodecTrainingArguments:
    """How a codec is trained; steps are optimiser steps, shares are of drawn crops.

    Below 0, `quantize_from` means a codec that is trained already: its codebooks go on from where they are.
    `stem_share` is of the crops without the voice: one stem of the band instead of its mix.
    `waveform_weight` is of the waveform's error: what can't be predicted from the codes, which is most of what lies
    above 1.5 kHz, it would rather have silent than wrong, and a decoder that is trained last needs little of it.
    `emphasis_weight` is of the waveform's error after pre-emphasis, `mel_weight` of the distance of log-mel energies;
    both come in with the spectral loss.
    From step `adversarial_from` on (0: never) discriminators judge what it decodes. With `decoder_only` encoder and
    codebooks stay as they are, and with them the codes of every corpus and every stage that was trained on them.
    """

    steps: int = 3700
    batch_size: int = 8
    crop_seconds: float = 0.5
    learning_rate: float = 1e-3
    final_learning_rate: float = 5e-5
    warmup_steps: int = 50
    quantize_from: int = 450
    spectral_from: int = 1850
    spectral_ramp: int = 400
    waveform_weight: float = 1.0
    spectral_weight: float = 0.8
    emphasis_weight: float = 0.5
    mel_weight: float = 0.0
    commitment_weight: float = 0.3
    adversarial_from: int = 0
    adversarial_weight: float = 0.02
    matching_weight: float = 0.05
    discriminator_learning_rate: float = 3e-4
    codebook_decay: float = 0.98
    dead_code_share: float = 0.1
    start_batches: int = 64
    vocal_share: float = 0.15
    mix_share: float = 0.15
    stem_share: float = 0.0
    decoder_only: bool = False
    seed: int = 0


def draw_batch(pool: SongPool, arguments: CodecTrainingArguments, step: int) -> torch.Tensor:
    """The batch of `step`, float [B, 1, N] of vocals, mixes and bands: depends on seed, step and the songs."""
    rng = np.random.default_rng([arguments.seed, step])
    num_samples = int(arguments.crop_seconds * pool.sampling_rate)
    rows: list[np.ndarray] = []
    while len(rows) < arguments.batch_size:
        song, start = pool.draw(rng, num_samples)
        kind, gain = rng.random(), 10 ** (rng.uniform(-6, 3) / 20)
        vocal = song.vocal[start : start + num_samples] / np.float32(PCM_SCALE)
        band = _band(song, arguments.stem_share, rng)[start : start + num_samples] / np.float32(PCM_SCALE)
        shares = (arguments.vocal_share, arguments.vocal_share + arguments.mix_share)
        crop = vocal if kind < shares[0] else (vocal + band) / 2 if kind < shares[1] else band
        # near-silence teaches nothing under a relative error, and pauses of the singer would be a third of the batch
        if np.sqrt(np.mean(crop**2)) > 3e-3:
            rows.append(crop * np.float32(gain))
    return torch.from_numpy(np.stack(rows)).unsqueeze(1)


def _band(song: Song, stem_share: float, rng: np.random.Generator) -> np.ndarray:
    """The song's band, or (with this probability) one of its stems, int16 [N]."""
    if stem_share and song.stems and rng.random() < stem_share:
        return list(song.stems.values())[int(rng.integers(len(song.stems)))]
    return song.instrumental


def relative_error(target: torch.Tensor, output: torch.Tensor, floor: float = 0.25) -> torch.Tensor:
    """Mean over rows of ‖x − y‖² / (‖x‖² + floor · mean power of the batch), for float [B, 1, N].

    Without the floor quiet rows, whose error can be many times their power, take over the gradient once the codec is
    quantized: its norm rose fortyfold in a trial.
    """
    error = (target - output).pow(2).mean(dim=(1, 2))
    power = target.pow(2).mean(dim=(1, 2))
    return (1 + floor) * (error / (power + floor * power.mean() + 1e-6)).mean()


def emphasised(audio: torch.Tensor, coefficient: float = 0.97) -> torch.Tensor:
    """Pre-emphasis of float [B, 1, N]: x[n] − c · x[n − 1], 36 dB between the lowest frequencies and the highest."""
    return audio[..., 1:] - coefficient * audio[..., :-1]


def spectral_distance(
    target: torch.Tensor, output: torch.Tensor, sizes: tuple[int, ...] = (256, 1024, 4096)
) -> torch.Tensor:
    """STFT distance of float [B, 1, N]: relative L1 of magnitudes plus L1 of log magnitudes, mean over `sizes`.

    Windows longer than the audio are left out; at 24 kHz the longest one tells semitones apart from 400 Hz on.
    """
    total = target.new_zeros(())
    sizes = tuple(size for size in sizes if size <= target.shape[-1])
    for size in sizes:
        window = torch.hann_window(size, device=target.device)
        magnitudes = [
            torch.stft(x.squeeze(1), size, size // 4, window=window, return_complex=True).abs()
            for x in (target, output)
        ]
        # the floor follows the clip's level: noise below −60 dB of it is not worth bits
        floor = 1e-3 * magnitudes[0].amax(dim=(1, 2), keepdim=True) + 1e-5
        logs = [torch.log(magnitude + floor) for magnitude in magnitudes]
        linear = (magnitudes[0] - magnitudes[1]).abs().mean() / (magnitudes[0].mean() + 1e-5)
        total = total + linear + (logs[0] - logs[1]).abs().mean()
    return total / len(sizes)


def mel_distance(
    target: torch.Tensor, output: torch.Tensor, sampling_rate: int, sizes: tuple[int, ...] = (256, 512, 1024, 2048)
) -> torch.Tensor:
    """L1 of log-mel energies of float [B, 1, N] at several scales (Défossez et al. 2022, section 3.4).

    A mel band holds many bins, so that its energy says how loud noise is, whatever its samples are.
    """
    total = target.new_zeros(())
    for size in sizes:
        window = torch.hann_window(size, device=target.device)
        filters = torch.from_numpy(mel_filters(size, sampling_rate, size // 32, 0.0)).to(target)
        energies = [
            torch.einsum(
                "fm,bft->bmt",
                filters,
                torch.stft(x.squeeze(1), size, size // 4, window=window, return_complex=True).abs().pow(2),
            )
            for x in (target, output)
        ]
        floor = 1e-6 * energies[0].amax(dim=(1, 2), keepdim=True) + 1e-8
        total = total + 0.5 * ((energies[0] + floor).log() - (energies[1] + floor).log()).abs().mean()
    return total / len(sizes)


@torch.no_grad()
def start_codec(codec: EncodecModel, batch: torch.Tensor) -> None:
    """Scale every convolution so that float [B, 1, N] passes at unit variance, and zero the biases (Mishkin and Matas
    2016).

    As initialised, biases outweigh the audio (RMS about 0.1) after a few layers, the output hardly depends on the
    input, and training sits on that plateau for a long time. The last layer starts at a third of the target's level.
    """
    last = codec.decoder.layers[-1].conv
    level = 0.3 * float(batch.std())

    def normalize(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        wanted = level if module is last else 1.0
        output = output - module.bias[:, None]
        module.bias.zero_()
        factor = wanted / output.std().clamp_min(1e-8)
        module.weight = module.weight * factor
        return output * factor

    handles = [
        module.register_forward_hook(normalize)
        for module in codec.modules()
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))
    ]
    codec.decoder(codec.encoder(batch))
    for handle in handles:
        handle.remove()


class QuantizerTraining:
    """The training side of an EncodecModel's residual vector quantizer; it updates the codebooks in place.

    Args:
        codec: the model whose quantizer is trained.
        decay: of the moving averages.
        dead_share: a code used less than this share of the mean usage is replaced by a vector of the batch.
    """

    def __init__(self, codec: EncodecModel, decay: float, dead_share: float) -> None:
        self.codebooks: list[Any] = [layer.codebook for layer in codec.quantizer.layers]
        self.decay = decay
        self.dead_share = dead_share

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, generator: torch.Generator, iterations: int = 8) -> None:
        """Set every codebook by k-means of what the earlier ones leave of float [M, D]."""
        residual = vectors.clone()
        for codebook in self.codebooks:
            embed = kmeans(residual, codebook.codebook_size, iterations, generator)
            codebook.embed.copy_(embed)
            codebook.embed_avg.copy_(embed)
            codebook.cluster_size.fill_(1.0)
            residual = residual - embed[nearest(residual, embed)]

    def quantize(
        self, embeddings: torch.Tensor, num_codebooks: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantize embeddings [B, D, T], row b with its first num_codebooks[b] codebooks, and update those codebooks.

        Returns the quantized embeddings with straight-through gradients, and the commitment loss.
        """
        batch, width, frames = embeddings.shape
        vectors = embeddings.transpose(1, 2).reshape(-1, width)
        depth = num_codebooks.repeat_interleave(frames)
        residual = vectors.detach().clone()
        quantized = torch.zeros_like(residual)
        for index, codebook in enumerate(self.codebooks):
            rows = (depth > index).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            active = residual[rows]
            codes = nearest(active, codebook.embed)
            chosen = codebook.embed[codes]
            quantized[rows] += chosen
            residual[rows] -= chosen
            self._update(codebook, active, codes, generator)
        # not relative to the embeddings' own power: that would let them grow without bound, away from their codebooks
        commitment = (vectors - quantized).pow(2).mean()
        straight_through = vectors + (quantized - vectors).detach()
        return straight_through.view(batch, frames, width).transpose(1, 2), commitment

    @torch.no_grad()
    def _update(self, codebook: Any, vectors: torch.Tensor, codes: torch.Tensor, generator: torch.Generator) -> None:
        size, average, embed = codebook.cluster_size, codebook.embed_avg, codebook.embed
        counts = torch.bincount(codes, minlength=len(embed)).to(size.dtype)
        sums = torch.zeros_like(embed).index_add_(0, codes, vectors)
        size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        average.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        embed.copy_(average / size.clamp_min(1e-6).unsqueeze(1))
        mean = size.mean()
        dead = (size < self.dead_share * mean).nonzero().squeeze(1)[: len(vectors)]
        if len(dead):
            drawn = vectors[torch.randperm(len(vectors), generator=generator)[: len(dead)].to(vectors.device)]
            # a replaced code starts at half the mean usage: it has a while to be found, without outweighing real ones
            size[dead] = 0.5 * mean
            embed[dead] = drawn
            average[dead] = drawn * (0.5 * mean)


class CodecTrainer:
    """One step after another of the recipe; everything random is a function of seed and step.

    Args:
        codec: EncodecModel with weights as initialised.
        pool: training songs at the codec's rate.
        arguments: see CodecTrainingArguments.
    """

    def __init__(self, codec: EncodecModel, pool: SongPool, arguments: CodecTrainingArguments) -> None:
        self.codec, self.pool, self.arguments = codec, pool, arguments
        self.quantizer = QuantizerTraining(codec, arguments.codebook_decay, arguments.dead_code_share)
        codec.encoder.requires_grad_(not arguments.decoder_only)
        # the last convolution brings unit variance down to the level of audio: its weights are small, and so are its
        # steps
        last = {id(parameter) for parameter in codec.decoder.layers[-1].parameters()}
        trained = [p for p in codec.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) not in last], "scale": 1.0},
            {"params": [p for p in trained if id(p) in last], "scale": 0.1},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.discriminator: MultiScaleDiscriminator | None = None
        if arguments.adversarial_from:
            self.discriminator = MultiScaleDiscriminator().to(self.device)
            self.judging = torch.optim.AdamW(
                self.discriminator.parameters(), lr=arguments.discriminator_learning_rate, betas=(0.5, 0.9)
            )
        self.step = 0

    @property
    def device(self) -> torch.device:
        return next(self.codec.parameters()).device

    def train_step(self) -> dict[str, float]:
        """Take one step and return its losses."""
        arguments, step = self.arguments, self.step
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        rate = cosine_learning_rate(
            step, arguments.steps, arguments.learning_rate, arguments.final_learning_rate, arguments.warmup_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        if step == arguments.quantize_from and not arguments.decoder_only:
            self._start_quantizer(generator)
        target = draw_batch(self.pool, arguments, step).to(self.device)
        loss, report = self._loss(target, step, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.codec.parameters() if p.grad is not None])
        # each tensor by itself: the gradient of the last layer's scale is a thousand times the others', and under a
        # common norm it silences them
        for parameter in self.codec.parameters():
            if parameter.requires_grad:
                nn.utils.clip_grad_norm_(parameter, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return {**report, "gradient_norm": float(norm), "learning_rate": rate}

    def _loss(
        self, target: torch.Tensor, step: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        arguments = self.arguments
        embeddings, loss, report = self._embeddings(target, step, generator)
        output = self.codec.decoder(embeddings)[..., : target.shape[-1]]
        waveform = relative_error(target, output)
        loss = loss + arguments.waveform_weight * waveform
        report["waveform"] = float(waveform.detach())
        if step >= arguments.spectral_from:
            ramp = min(1.0, (step - arguments.spectral_from + 1) / arguments.spectral_ramp)
            spectral = spectral_distance(target, output)
            emphasis = relative_error(emphasised(target), emphasised(output))
            weighted = arguments.spectral_weight * spectral + arguments.emphasis_weight * emphasis
            if arguments.mel_weight:
                mel = mel_distance(target, output, self.codec.config.sampling_rate)
                weighted = weighted + arguments.mel_weight * mel
                report["mel"] = float(mel.detach())
            loss = loss + ramp * weighted
            report |= {"spectral": float(spectral.detach()), "emphasis": float(emphasis.detach())}
        if self.discriminator is not None and step >= arguments.adversarial_from:
            loss = loss + self._adversarial_loss(self.discriminator, target, output, generator, report)
        return loss, report

    def _embeddings(
        self, target: torch.Tensor, step: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """What the decoder gets for float [B, 1, N], and the loss of the quantizer, if it learns."""
        arguments, nothing = self.arguments, target.new_zeros(())
        if arguments.decoder_only:
            return self._frozen_embeddings(target, self._draw_depth(len(target), generator)), nothing, {}
        embeddings = self.codec.encoder(target)
        if step < arguments.quantize_from:
            return embeddings, nothing, {}
        depth = self._draw_depth(len(target), generator).to(target.device)
        embeddings, commitment = self.quantizer.quantize(embeddings, depth, generator)
        return embeddings, arguments.commitment_weight * commitment, {"commitment": float(commitment.detach())}

    @torch.no_grad()
    def _frozen_embeddings(self, target: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """What the codes of each row (float [B, 1, N]) stand for, of its first depth[b] codebooks: float [B, D, T]."""
        codes = self.codec.quantizer.encode(self.codec.encoder(target))
        rows = [self.codec.quantizer.decode(codes[: int(n), row : row + 1]) for row, n in enumerate(depth)]
        return torch.cat(rows)

    def _adversarial_loss(
        self,
        discriminator: MultiScaleDiscriminator,
        target: torch.Tensor,
        output: torch.Tensor,
        generator: torch.Generator,
        report: dict[str, float],
    ) -> torch.Tensor:
        # a discriminator that learns in every step wins too early (Défossez et al. 2022, section 3.4)
        if float(torch.rand(1, generator=generator)) < 2 / 3:
            judged = discriminator.loss(target, output)
            self.judging.zero_grad(set_to_none=True)
            judged.backward()
            self.judging.step()
            report["discriminator"] = float(judged.detach())
        discriminator.requires_grad_(False)
        hinge, matching = discriminator.judge(target, output)
        discriminator.requires_grad_(True)
        report |= {"adversarial": float(hinge.detach()), "matching": float(matching.detach())}
        return self.arguments.adversarial_weight * hinge + self.arguments.matching_weight * matching

    def _draw_depth(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Codebook dropout: half of the rows use all codebooks, a quarter the coarse half, the others any number."""
        total = len(self.quantizer.codebooks)
        choice = torch.rand(rows, generator=generator)
        anything = torch.randint(1, total + 1, (rows,), generator=generator)
        half = torch.full_like(anything, (total + 1) // 2)
        return torch.where(choice < 0.5, torch.full_like(anything, total), torch.where(choice < 0.75, half, anything))

    @torch.no_grad()
    def _start_quantizer(self, generator: torch.Generator) -> None:
        arguments = self.arguments
        vectors = []
        for index in range(arguments.start_batches):
            # steps beyond the run's end: crops that training will not see
            batch = draw_batch(self.pool, arguments, 10_000_000 + index).to(self.device)
            vectors.append(self.codec.encoder(batch).transpose(1, 2).flatten(0, 1))
        self.quantizer.start(torch.cat(vectors), generator)

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to take the very next step."""
        state = {"codec": self.codec.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        if self.discriminator is not None:
            state |= {"discriminator": self.discriminator.state_dict(), "judging": self.judging.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.codec.load_state_dict(state["codec"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator is not None and "discriminator" in state:
            self.discriminator.load_state_dict(state["discriminator"])
            self.judging.load_state_dict(state["judging"])
        self.step = int(state["step"])


@torch.no_grad()
def evaluate_codec(
    codec: PreTrainedModel, pool: SongPool, depths: tuple[int, ...] = (8, 4, 2), seconds: float = 5.0, clips: int = 40
) -> dict[str, Any]:
    """How well instrumental clips are decoded again.

    Returns:
        means over clips: `si_sdr_db` at each number of codebooks, `si_sdr_db_unquantized`, `log_mel_db` (mean distance
        of log-mel spectrograms at the most codebooks, dB), and `styles`: the same of each style alone and, where the
        pool holds stems, of the bands whose stems were decoded apart (STYLE/stems); every codebook's `perplexity`.
    """
    pool.require(seconds)
    rng = np.random.default_rng(0)
    num_samples = int(seconds * pool.sampling_rate)
    codec.eval()
    form = codec_format(codec.config)
    counts = torch.zeros(form.num_codebooks, form.codebook_size)
    found: dict[str, list[dict[str, float]]] = {}
    # no more than the songs hold, or a short pool would be measured again and again
    for _ in range(min(clips, math.ceil(sum(song.num_samples for song in pool.songs) / num_samples))):
        song, start = pool.draw(rng, num_samples)
        if np.abs(song.instrumental[start : start + num_samples]).max() < 300:
            continue
        style = str(song.labels.get("style", ""))
        bands = {style: [song.instrumental]} | ({f"{style}/stems": list(song.stems.values())} if song.stems else {})
        for name, band in bands.items():
            parts = np.stack([part[start : start + num_samples] for part in band]) / np.float32(PCM_SCALE)
            figures = _decoded_again(codec, parts, depths, counts if name == style else None)
            found.setdefault(name, []).append(figures)
    codec.train()
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(1)
    every = [row for name, rows in found.items() if not name.endswith("/stems") for row in rows]
    return {
        **_mean_figures(every, depths),
        "styles": {name: _mean_figures(rows, depths) for name, rows in sorted(found.items())},
        "perplexity": [round(value, 1) for value in entropy.exp().tolist()],
    }


def _decoded_again(
    codec: Any, parts: np.ndarray, depths: tuple[int, ...], counts: torch.Tensor | None
) -> dict[str, float]:
    """Figures of the sum of parts (float32 [P, N]), each coded and decoded by itself; adds the codes to `counts`."""
    device, size = next(codec.parameters()).device, parts.shape[1]
    target, audio = parts.sum(axis=0), torch.from_numpy(parts).to(device)[:, None]
    whole = as_codec(codec)
    codes = whole.encode(audio)
    if counts is not None:
        for index, row in enumerate(codes.unbind(1)):
            counts[index] += torch.bincount(row.flatten().cpu(), minlength=counts.shape[1])
    outputs = {depth: whole.decode(codes[:, :depth]) for depth in depths}
    outputs[0] = codec.decoder(codec.encoder(audio))
    sums = {depth: output[:, 0, :size].sum(dim=0, keepdim=True).cpu() for depth, output in outputs.items()}
    wanted = torch.from_numpy(target)[None]
    figures = {str(depth): scale_invariant_sdr(wanted, output).item() for depth, output in sums.items()}
    mels = [log_mel(x, codec.config.sampling_rate) for x in (target, sums[max(depths)][0].numpy())]
    return figures | {"log_mel": float(np.abs(mels[0] - mels[1]).mean())}


def _mean_figures(rows: list[dict[str, float]], depths: tuple[int, ...]) -> dict[str, Any]:
    means = {name: round(float(np.mean([row[name] for row in rows])), 2) for name in rows[0]} if rows else {}
    return {
        "si_sdr_db": {depth: means.get(str(depth)) for depth in depths},
        "si_sdr_db_unquantized": means.get("0"),
        "log_mel_db": means.get("log_mel"),
        "clips": len(rows),
    }
