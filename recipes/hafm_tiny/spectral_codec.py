# SPDX-License-Identifier: Apache-2.0
"""Training the spectral codec, freely or on the tokens of a codec that stages have learnt.

Freely, it is an autoencoder first, quantised once that has warmed up (k-means start, moving averages, replacement of
dead codes, codebook dropout; Défossez et al. 2022, arXiv 2210.13438, sections 3.2 and A.2). With a teacher, an
EnCodec, its codebooks are taken over and stay: half of the rows decode the teacher's codes, the other half those of
the new encoder, which learns the teacher's latent vectors and, through the decoder, what decodes to better sound.
Discriminators come last; codes that a model has generated, for which there is no right sound, are judged by them too,
and their levels are drawn to the songs'. The decoder alone may go on learning, from the codec's own codes, which stay.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import EncodecModel

from hafm_hf.listening.pitch_line import mel_filters
from hafm_hf.tokenizers.modeling_spectral_codec import HAFMSpectralModel

from .clusters import kmeans, nearest
from .codec import mel_distance, relative_error, spectral_distance
from .discriminator import MultiScaleDiscriminator
from .song_pool import PCM_SCALE, Song, SongPool
from .state import cosine_learning_rate
from .steps import in_half

# share of a batch in the running levels of bands and generated sound, and the distance, in nepers, that counts at most
LEVEL_MOMENTUM, MOST_APART = 0.02, 0.5
LEVEL_BANDS = 32
STFT_SIZES = (256, 1024, 4096, 8192)
# of a song that a teacher encodes at once, and what its recurrent layers hear before
PART_FRAMES, LEAD_FRAMES = 300, 150


@dataclass
class SpectralTrainingArguments:
    """How a spectral codec is trained; steps are optimiser steps.

    `own_codes_from`: with a teacher, the step from which half of the rows decode the new encoder's codes.
    `quantize_from`: without one, the step at which codebooks start.
    `adversarial_from`: the step from which discriminators learn; 0: never. What they say counts more and more during
    the following `adversarial_ramp` steps.
    `decoder_only`: encoder and codebooks stay, and with them every code; only for a codec that is trained already.
    """

    steps: int = 6000
    batch_size: int = 6
    varied_rows: int = field(default=2, metadata={"help": "rows more, of songs in other keys, mixes and colours"})
    crop_frames: int = 96
    learning_rate: float = 1e-3
    final_learning_rate: float = 5e-5
    warmup_steps: int = 100
    averaging: float = 0.998
    own_codes_from: int = 500
    quantize_from: int = 500
    start_batches: int = 64
    codebook_decay: float = 0.99
    dead_code_share: float = 0.1
    waveform_weight: float = 1.0
    spectral_weight: float = 0.5
    mel_weight: float = 0.2
    level_weight: float = 0.0
    free_level_weight: float = field(default=0.0, metadata={"help": "of levels of sound that a model has generated"})
    latent_weight: float = 0.5
    commitment_weight: float = 0.3
    adversarial_from: int = 0
    adversarial_ramp: int = 0
    adversarial_weight: float = 0.1
    matching_weight: float = 0.2
    discriminator_learning_rate: float = 3e-4
    judged_rows: int = field(default=3, metadata={"help": "of the batch, whose crops discriminators see"})
    discriminator_share: float = field(default=0.67, metadata={"help": "of the steps in which discriminators learn"})
    sizes: str = field(default="256,512,1024", metadata={"help": "of the discriminators' spectrograms, in samples"})
    records_share: float = field(default=0.35, metadata={"help": "of the crops that are drawn, if there are records"})
    decoder_only: bool = False
    seed: int = 0


def level_distance(target: torch.Tensor, output: torch.Tensor, sampling_rate: int, size: int = 1024) -> torch.Tensor:
    """Mean distance of the levels of mel bands over whole crops, float [B, 1, N], in nepers.

    Every other loss is content with sound that is too quiet where it cannot be right.
    """
    powers = [band_powers(x, sampling_rate, size) for x in (target, output)]
    floor = 1e-5 * powers[0].amax(dim=1, keepdim=True) + 1e-8
    return 0.5 * ((powers[0] + floor).log() - (powers[1] + floor).log()).abs().mean()


def band_powers(audio: torch.Tensor, sampling_rate: int, size: int = 1024) -> torch.Tensor:
    """Power of `LEVEL_BANDS` mel bands over whole crops: float [B, 1, N] → [B, bands]."""
    window = torch.hann_window(size, device=audio.device)
    filters = torch.from_numpy(mel_filters(size, sampling_rate, LEVEL_BANDS, 0.0)).to(audio)
    spectrum = torch.stft(audio[:, 0], size, size // 4, window=window, return_complex=True)
    return spectrum.abs().square().mean(-1) @ filters


class Batch(NamedTuple):
    """Crops float [B, C, N], the first frame of each, and of a teacher its latents [B, D, T] and codes [B, Q, T]."""

    audio: torch.Tensor
    first: torch.Tensor
    latents: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class Teacher:
    """An EnCodec whose codebooks are taken over: its latents and codes of whole songs, kept by name."""

    def __init__(self, model: EncodecModel) -> None:
        self.model = model.eval()
        self.codebooks = torch.stack([layer.codebook.embed for layer in model.quantizer.layers])
        self._known: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def of(self, name: str, samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents float16 [D, T] and codes int16 [Q, T] of a song's int16 samples [N]."""
        if name not in self._known:
            hop = self.model.config.hop_length
            audio = torch.from_numpy(samples / np.float32(PCM_SCALE))[None, None].to(self.model.device)
            parts = []
            # whole songs do not fit into a CPU's cache, which takes several times as long
            for start in range(0, audio.shape[-1] // hop, PART_FRAMES):
                before = max(0, start - LEAD_FRAMES)
                part = self.model.encoder(audio[..., before * hop : (start + PART_FRAMES) * hop])
                parts.append(part[..., start - before :])
            latents = torch.cat(parts, dim=-1)
            codes = self.model.quantizer.encode(latents)[:, 0]
            self._known[name] = (latents[0].half(), codes.short())
        return self._known[name]


class SpectralTrainer:
    """One step after another; everything random is a function of seed and step.

    Args:
        codec: with weights as initialised, or trained.
        pool: training songs at the codec's rate.
        arguments: see `SpectralTrainingArguments`.
        teacher: whose tokens the codec is to keep.
        generated: codes int64 [Q, T] that a model has generated.
        records: crops of these are drawn as well.
    """

    def __init__(
        self,
        codec: HAFMSpectralModel,
        pool: SongPool,
        arguments: SpectralTrainingArguments,
        teacher: Teacher | None = None,
        generated: Sequence[torch.Tensor] = (),
        records: Sequence[Song] = (),
    ) -> None:
        self.codec, self.pool, self.arguments, self.teacher = codec, pool, arguments, teacher
        self.records = records
        self.generated = [codes for codes in generated if codes.shape[1] > arguments.crop_frames]
        self.average = copy.deepcopy(codec).requires_grad_(False)
        self.step, self.quantized = 0, teacher is not None or arguments.decoder_only
        codec.encoder.requires_grad_(not arguments.decoder_only)
        if teacher is not None:
            codec.quantizer.codebooks.copy_(teacher.codebooks)
        self.counts = torch.ones(codec.quantizer.codebooks.shape[:2])
        self.sums = codec.quantizer.codebooks.clone()
        # of the songs and of generated sound: logarithms of the bands' shares of the power
        self.levels = torch.zeros(2, LEVEL_BANDS)
        trained = [parameter for parameter in codec.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, arguments.learning_rate, (0.8, 0.99), weight_decay=0.01)
        self.discriminator = MultiScaleDiscriminator(tuple(map(int, arguments.sizes.split(","))))
        self.judging = torch.optim.AdamW(
            self.discriminator.parameters(), arguments.discriminator_learning_rate, (0.5, 0.9)
        )

    def start(self, fresh: bool = True) -> None:
        """Measures the teacher's spread and, for a fresh codec, each frequency's usual level.

        A fresh one starts where its latents have the teacher's mean and spread.
        """
        batches = [self._draw(10_000_000 + index) for index in range(self.arguments.start_batches)]
        encoder, decoder = self.codec.encoder, self.codec.decoder
        if self.teacher is not None:
            latents = torch.cat([each.latents for each in batches if each.latents is not None]).transpose(1, 2)
            flat = latents.flatten(0, 1)
            self.spread = float(flat.var(0).mean())
        if not fresh:
            return
        spectra = torch.cat([encoder.spectrum.analyse(each.audio).flatten(0, 1) for each in batches])
        usual = spectra.abs().pow(2 * self.codec.config.compression).mean(0).div(2).sqrt()
        # bins above a lowpass hold next to nothing, and nothing is not worth learning
        usual = usual.clamp_min(1e-2 * float(usual.max()))
        encoder.spectrum.usual.copy_(usual)
        decoder.spectrum.usual.copy_(usual)
        if self.teacher is not None:
            with torch.no_grad():
                encoder.last.weight.mul_(flat.std(0)[:, None])
                encoder.last.bias.copy_(flat.mean(0))
                decoder.first.weight.div_(flat.std())
        self.average.load_state_dict(self.codec.state_dict())

    def train_step(self) -> dict[str, float]:
        """Takes one step and returns its losses."""
        arguments, step = self.arguments, self.step
        rate = cosine_learning_rate(
            step, arguments.steps, arguments.learning_rate, arguments.final_learning_rate, arguments.warmup_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        if self.teacher is None and step >= arguments.quantize_from and not self.quantized:
            self._start_codebooks(generator)
        loss, report = self._loss(self._draw(step), generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.codec.parameters(), 5.0)
        if torch.isfinite(norm):
            self.optimizer.step()
            with torch.no_grad():
                decay = min(arguments.averaging, (1 + step) / (10 + step))
                held = list(self.average.parameters())
                torch._foreach_lerp_(held, list(self.codec.parameters()), 1 - decay)
        self.step += 1
        return {**report, "gradient_norm": float(norm), "learning_rate": rate}

    def averaged(self) -> HAFMSpectralModel:
        """The codec with its weights averaged over the last steps, and the mean of what these decode."""
        for held, now in zip(self.average.buffers(), self.codec.buffers(), strict=True):
            held.copy_(now)
        return self.average

    @torch.no_grad()
    def settle(self, batches: int = 300) -> HAFMSpectralModel:
        """`averaged`, with the mean of its output measured anew."""
        codec = self.averaged().train()
        for index in range(batches):
            batch = self._draw(20_000_000 + index)
            if batch.codes is not None and index % 2:
                codec.decoder(codec.quantizer.decode(batch.codes), batch.first[: len(batch.codes)])
            elif self.generated and index % 4 == 0:
                codes, first = self._draw_generated(torch.Generator().manual_seed(index), len(batch.audio))
                codec.decoder(codec.quantizer.decode(codes), first)
            else:
                latents = codec.encoder(batch.audio)
                codec.decoder(codec.quantizer.decode(codec.quantizer.encode(latents)), batch.first)
        return codec.eval()

    def _draw(self, step: int) -> Batch:
        """The batch of a step, of the bands alone."""
        rng, config = np.random.default_rng([self.arguments.seed, step]), self.codec.config
        frames, hop = self.arguments.crop_frames, config.hop_length
        audio: list[torch.Tensor] = []
        first: list[int] = []
        teachings: list[tuple[torch.Tensor, torch.Tensor]] = []
        while len(audio) < self.arguments.batch_size:
            song, start = self._draw_crop(rng, (frames + 1) * hop)
            start //= hop
            crop = song.instrumental[start * hop : (start + frames) * hop] / np.float32(PCM_SCALE)
            if np.sqrt(np.mean(crop**2)) < 3e-3:
                continue
            audio.append(torch.from_numpy(crop))
            first.append(start)
            if self.teacher is not None:
                known = self.teacher.of(song.name, song.instrumental)
                teachings.append((known[0][:, start : start + frames], known[1][:, start : start + frames]))
        audio += [torch.from_numpy(self._varied(rng, frames * hop)) for _ in range(self.arguments.varied_rows)]
        first += [int(place) for place in rng.integers(1000, size=self.arguments.varied_rows)]
        device = self.codec.device
        rows, places = torch.stack(audio)[:, None].to(device), torch.tensor(first, device=device)
        if not teachings:
            return Batch(rows, places)
        latents, codes = (torch.stack(each) for each in zip(*teachings, strict=True))
        return Batch(rows, places, latents.float().to(device), codes.long().to(device))

    def _draw_crop(self, rng: np.random.Generator, size: int) -> tuple[Song, int]:
        """A song or a record, and the first sample of a crop of `size`."""
        if not self.records or rng.random() >= self.arguments.records_share:
            return self.pool.draw(rng, size)
        record = self.records[int(rng.integers(len(self.records)))]
        return record, int(rng.integers(record.num_samples - size))

    def _varied(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Sound unlike the songs, float32 [N]: at another speed, two at once or with the voice, and equalised."""
        speed = 2 ** rng.uniform(-0.5, 0.5)
        needed = int(size * speed) + 2
        sound = np.zeros(size, np.float32)
        for source in range(1 + int(rng.random() < 0.4)):
            song, start = self._draw_crop(rng, needed)
            track = song.vocal if source and rng.random() < 0.6 else song.instrumental
            crop = track[start : start + needed].astype(np.float32)
            crop = np.interp(np.arange(size) * speed, np.arange(needed), crop).astype(np.float32)
            sound += crop / max(float(np.sqrt(np.mean(crop**2))), 100.0) * np.float32(10 ** rng.uniform(-0.4, 0.0))
        spectrum = np.fft.rfft(sound)
        places = np.log2(np.arange(len(spectrum)) + 20.0)
        curve = np.interp(places, np.linspace(places[0], places[-1], 8), rng.normal(0, 5, 8))
        spectrum *= 10 ** (curve / 20)
        if rng.random() < 0.3:
            # of a lower sampling rate
            spectrum[int(len(spectrum) * rng.uniform(0.3, 0.8)) :] = 0
        sound = np.fft.irfft(spectrum, size).astype(np.float32)
        level = 10 ** (rng.uniform(-30, -14) / 20)
        return (sound * np.float32(level / max(float(np.sqrt(np.mean(sound**2))), 1e-4))).clip(-1, 1)

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        arguments, target, first = self.arguments, batch.audio, batch.first
        report: dict[str, float] = {}
        with in_half(self.codec.device), torch.set_grad_enabled(not arguments.decoder_only):
            latents = self.codec.encoder(target).float()
        decoded = self._decoder_input(latents, batch, generator, report)
        loss = self._latent_loss(latents, decoded, batch, report)
        adversarial = bool(arguments.adversarial_from) and self.step >= arguments.adversarial_from
        if adversarial and self.generated:
            codes, other = self._draw_generated(generator, max(1, arguments.judged_rows // 2))
            decoded = torch.cat([decoded, self.codec.quantizer.decode(codes)])
            first = torch.cat([first, other])
        with in_half(self.codec.device):
            hidden = self.codec.decoder.hidden(decoded)
        whole = self.codec.decoder.sound(hidden.float(), first)
        output, free = whole[: len(target)], whole[len(target) :]
        terms = {
            "waveform": relative_error(target, output),
            "spectral": spectral_distance(target, output, STFT_SIZES),
            "mel": mel_distance(target, output, self.codec.config.sampling_rate),
            "level": level_distance(target, output, self.codec.config.sampling_rate),
        }
        for name, value in terms.items():
            report[name] = float(value.detach())
            loss = loss + getattr(arguments, f"{name}_weight") * value
        if len(free) and arguments.free_level_weight:
            loss = loss + arguments.free_level_weight * self._free_level_loss(target, free, report)
        if adversarial:
            rows = torch.randperm(len(target), generator=generator)[: arguments.judged_rows].to(target.device)
            loss = loss + self._adversarial_loss(target[rows], output[rows], free, generator, report)
        return loss, report

    def _free_level_loss(self, target: torch.Tensor, free: torch.Tensor, report: dict[str, float]) -> torch.Tensor:
        """Draws the levels of generated sound [B, 1, N] to the songs', of which single crops say little: by means of
        the last steps, whose differences are the gradient of this one's levels."""
        levels = []
        for held, sound in zip(self.levels, (target[: self.arguments.batch_size], free), strict=True):
            powers = band_powers(sound, self.codec.config.sampling_rate)
            shares = (powers / powers.sum(1, keepdim=True).clamp_min(1e-6) + 1e-6).log().mean(0)
            momentum = LEVEL_MOMENTUM if float(held.abs().sum()) else 1.0
            held.lerp_(shares.detach().cpu(), momentum)
            levels.append(shares)
        apart = self.levels[1] - self.levels[0]
        report["free_level"] = float(0.5 * apart.abs().mean())
        return (apart.clamp(-MOST_APART, MOST_APART).to(free.device) * levels[1]).mean()

    def _latent_loss(
        self, latents: torch.Tensor, decoded: torch.Tensor, batch: Batch, report: dict[str, float]
    ) -> torch.Tensor:
        """How far latents [B, D, T] are from the teacher's, or without one from what they are quantised to."""
        if batch.latents is not None:
            apart = (latents[: len(batch.latents)] - batch.latents).square().mean() / self.spread
            report["latent"] = float(apart.detach())
            return self.arguments.latent_weight * apart
        if not self.quantized or self.arguments.decoder_only:
            return latents.new_zeros(())
        commitment = (latents - decoded.detach()).square().mean()
        report["commitment"] = float(commitment.detach())
        return self.arguments.commitment_weight * commitment

    def _decoder_input(
        self, latents: torch.Tensor, batch: Batch, generator: torch.Generator, report: dict[str, float]
    ) -> torch.Tensor:
        """What the decoder gets: latents, or quantised ones with straight-through gradients."""
        if not self.quantized:
            return latents
        depth = self._draw_depth(len(latents), generator)
        if self.arguments.decoder_only:
            return self._to_depth(self.codec.quantizer.encode(latents), depth)
        if batch.codes is None:
            quantized = self._learn_codes(latents.detach(), depth, generator)
            return latents + (quantized - latents).detach()
        known = len(batch.codes)
        with torch.no_grad():
            codes = self.codec.quantizer.encode(latents)
            report["codes_alike"] = float((codes[:known, 0] == batch.codes[:, 0]).float().mean())
            # the varied rows have codes of the new encoder only
            theirs = self._to_depth(torch.cat([batch.codes, codes[known:]]), depth)
            quantized = self._to_depth(codes, depth)
        rows = torch.arange(len(latents), device=latents.device)
        own = (rows % 2 == 0) | (rows >= known) if self.step >= self.arguments.own_codes_from else rows < 0
        return torch.where(own[:, None, None], latents + (quantized - latents).detach(), theirs)

    def _to_depth(self, codes: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Vectors [B, D, T] of the first depth[b] of codes [B, Q, T]."""
        rows = [self.codec.quantizer.decode(codes[row : row + 1, : int(n)]) for row, n in enumerate(depth)]
        return torch.cat(rows)

    def _draw_depth(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Codebook dropout: of the rows 60 % use all codebooks, 20 % the coarse half, the others any number."""
        total = len(self.codec.quantizer.codebooks)
        choice, anything = (
            torch.rand(rows, generator=generator),
            torch.randint(1, total + 1, (rows,), generator=generator),
        )
        half = torch.full_like(anything, (total + 1) // 2)
        return torch.where(choice < 0.6, torch.full_like(anything, total), torch.where(choice < 0.8, half, anything))

    def _draw_generated(self, generator: torch.Generator, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        frames, codes, first = self.arguments.crop_frames, [], []
        for _ in range(rows):
            song = self.generated[int(torch.randint(len(self.generated), (1,), generator=generator))]
            start = int(torch.randint(song.shape[1] - frames, (1,), generator=generator))
            codes.append(song[:, start : start + frames].long())
            first.append(start)
        return torch.stack(codes), torch.tensor(first)

    def _adversarial_loss(
        self,
        target: torch.Tensor,
        output: torch.Tensor,
        free: torch.Tensor,
        generator: torch.Generator,
        report: dict[str, float],
    ) -> torch.Tensor:
        """What discriminators say of decoded crops [B, C, N], and of `free` ones that have no target."""
        judge, arguments = self.discriminator, self.arguments
        if float(torch.rand(1, generator=generator)) < arguments.discriminator_share:
            with in_half(self.codec.device):
                judged = judge.loss(target, output)
                if len(free):
                    judged = judged + 0.5 * judge.loss(target[: len(free)], free)
            self.judging.zero_grad(set_to_none=True)
            judged.float().backward()
            self.judging.step()
            report["discriminator"] = float(judged.detach())
        judge.requires_grad_(False)
        with in_half(self.codec.device):
            hinge, matching = judge.judge(target, output)
            loose = hinge.new_zeros(())
            if len(free):
                loose = torch.stack([torch.relu(1 - scale(free)[0]).mean() for scale in judge.scales]).mean()
        judge.requires_grad_(True)
        report |= {"adversarial": float(hinge.detach()), "matching": float(matching.detach())}
        loss = arguments.adversarial_weight * (hinge + 0.5 * loose) + arguments.matching_weight * matching
        since = self.step + 1 - arguments.adversarial_from
        return loss.float() * min(1.0, since / max(1, arguments.adversarial_ramp))

    @torch.no_grad()
    def _start_codebooks(self, generator: torch.Generator) -> None:
        """k-means of what each codebook's predecessors leave."""
        batches = [self._draw(10_000_000 + index).audio for index in range(self.arguments.start_batches)]
        residual = torch.cat([self.codec.encoder(each).transpose(1, 2).flatten(0, 1) for each in batches])
        for codebook in self.codec.quantizer.codebooks:
            codebook.copy_(kmeans(residual, len(codebook), 8, generator))
            residual = residual - codebook[nearest(residual, codebook)]
        self.counts.fill_(1.0)
        self.sums.copy_(self.codec.quantizer.codebooks)
        self.quantized = True

    @torch.no_grad()
    def _learn_codes(self, latents: torch.Tensor, depth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents [B, D, T] quantised, row b with depth[b] codebooks, each of which moves to what it coded."""
        vectors = latents.transpose(1, 2).flatten(0, 1)
        residual, deep = vectors.clone(), depth.repeat_interleave(latents.shape[-1])
        for index, codebook in enumerate(self.codec.quantizer.codebooks):
            rows = (deep > index).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            active = residual[rows]
            codes = nearest(active, codebook)
            residual[rows] -= codebook[codes]
            self._move(index, active, codes, generator)
        return (vectors - residual).unflatten(0, (len(latents), -1)).transpose(1, 2)

    def _move(self, index: int, vectors: torch.Tensor, codes: torch.Tensor, generator: torch.Generator) -> None:
        codebook, counts, sums = self.codec.quantizer.codebooks[index], self.counts[index], self.sums[index]
        decay = self.arguments.codebook_decay
        counts.mul_(decay).add_(torch.bincount(codes, minlength=len(codebook)), alpha=1 - decay)
        sums.mul_(decay).add_(torch.zeros_like(codebook).index_add_(0, codes, vectors), alpha=1 - decay)
        codebook.copy_(sums / counts.clamp_min(1e-6)[:, None])
        dead = (counts < self.arguments.dead_code_share * counts.mean()).nonzero().squeeze(1)[: len(vectors)]
        if len(dead):
            drawn = vectors[torch.randperm(len(vectors), generator=generator)[: len(dead)]]
            counts[dead] = 0.5 * counts.mean()
            codebook[dead] = drawn
            sums[dead] = drawn * counts[dead][:, None]

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to take the very next step."""
        names = ("codec", "average", "optimizer", "discriminator", "judging")
        state = {name: getattr(self, name).state_dict() for name in names}
        plain = ("step", "quantized", "spread", "counts", "sums", "levels")
        return state | {name: getattr(self, name) for name in plain if hasattr(self, name)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`."""
        for name in ("codec", "average", "optimizer", "discriminator", "judging"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("step", "quantized", "spread", "counts", "sums", "levels"):
            if name in state:
                setattr(self, name, state[name])
