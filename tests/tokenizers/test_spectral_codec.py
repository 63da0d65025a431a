# SPDX-License-Identifier: Apache-2.0
"""The spectral codec: its STFT, no constant spectral lines in the output, reproducible noise, and its codebooks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from hafm_hf import BUNDLED_MODEL
from hafm_hf.audio.files import read_audio
from hafm_hf.audio.samples import resample
from hafm_hf.tokenizers.codecs import CodecStream, as_codec, load_codec
from hafm_hf.tokenizers.configuration_codec import HAFMSpectralConfig, codec_format
from hafm_hf.tokenizers.modeling_spectral_codec import (
    HAFMSpectralModel,
    SideBranch,
    Spectrum,
    _band_weights,
)
from tiny_models import tiny_spectral_codec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# below it, the bins of a short window are wider than the spacing of the lines
LOWEST_LINE_HZ = 600
# multiples of the frame rate, 75 Hz, at which a constant output has lines
LINE_SPACINGS_HZ = (75, 150, 300, 600)


def line_excess(audio: torch.Tensor, sampling_rate: int, spacing: float) -> float:
    """How far multiples of `spacing` Hz stand out of the mean log spectrum of `audio` (float [N]), in dB.

    It is their level above their surroundings, minus that of frequencies beside them, for which it is that of noise.
    """
    size = int(0.34 * sampling_rate)
    frames = audio.unfold(0, size, size // 2) * torch.hann_window(size)
    levels = 10 * torch.log10(torch.fft.rfft(frames, 4 * size).abs().square() + 1e-12).mean(0).numpy()
    # Hz from one bin to the next
    step = sampling_rate / (4 * size)

    def excess(frequencies: np.ndarray) -> float:
        """How far, in dB, the spectrum within 4 Hz of these frequencies rises above that 10 to 37 Hz away."""
        excesses = []
        for frequency in frequencies:
            bins = np.arange(int((frequency - 40) / step), int((frequency + 40) / step))
            away = np.abs(bins * step - frequency)
            around = levels[bins[(away >= 10) & (away <= 37)]]
            excesses.append(levels[bins[away <= 4]].max() - np.median(around))
        return float(np.mean(excesses))

    top = 0.45 * sampling_rate
    lines = np.arange(LOWEST_LINE_HZ, top, spacing)
    beside_lines = np.arange(LOWEST_LINE_HZ + 29.3, top, spacing)
    return excess(lines) - excess(beside_lines)


@pytest.mark.parametrize(("window", "hop", "channels"), [(1280, 320, 1), (1764, 588, 2), (96, 32, 1), (100, 40, 2)])
@pytest.mark.parametrize("frames", [1, 2, 17])
def test_spectra_have_whole_frames_and_resynthesise_audio(window: int, hop: int, channels: int, frames: int) -> None:
    config = HAFMSpectralConfig(window_length=window, hop_length=hop, audio_channels=channels)
    spectrum = Spectrum(config.input_format, config.compression)
    audio = torch.randn(3, channels, frames * hop)
    spectra = spectrum.analyse(audio)
    assert spectra.shape == (3, frames, channels * config.num_bins)
    torch.testing.assert_close(spectrum.expand(spectrum.compress(spectra)), spectra, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(spectrum.synthesise(spectra), audio, atol=1e-4, rtol=1e-3)
    # a single sample of the last frame counts as a whole one
    begun_frame = audio[..., : -(hop - 1)]
    assert spectrum.analyse(begun_frame).shape == spectra.shape


@pytest.mark.parametrize("noise_bands", [0, 8])
def test_centring_removes_constant_lines_from_the_decoders_output(noise_bands: int) -> None:
    model = tiny_spectral_codec(noise_bands=noise_bands)
    # like trained decoders, it outputs a constant where it cannot predict
    torch.nn.init.normal_(model.decoder.mid.last.bias, std=0.7)
    codes = torch.randint(model.config.codebook_size, (1, 8, 1_000))
    before = as_codec(model).decode(codes)[0, 0]
    latents = model.quantizer.decode(torch.randint(model.config.codebook_size, (4, 8, 64)))
    model.decoder.train()
    with torch.no_grad():
        # as in training, it tracks the mean of its output
        for _ in range(600):
            model.decoder(latents)
    model.eval()
    after = as_codec(model).decode(codes)[0, 0]
    for spacing in LINE_SPACINGS_HZ:
        # without the mean there are lines, so the measure can detect them
        assert line_excess(before, 24_000, spacing) > 3.0
        assert line_excess(after, 24_000, spacing) < 0.5


def test_a_constant_spectrum_gets_no_gradient() -> None:
    model = tiny_spectral_codec().train()
    latents = torch.randn(2, model.config.codebook_dim, 40)
    spectra = torch.randn(2, 40, model.config.num_bins, dtype=torch.complex64, requires_grad=True)
    weights = torch.randn_like(spectra)
    (model.decoder._centred(spectra) * weights).real.sum().backward()
    assert spectra.grad is not None
    # the same change of a bin in every frame: the mean of its gradients
    assert float(spectra.grad.mean((0, 1)).abs().max()) < 1e-5 < float(spectra.grad.abs().mean())
    assert model.decoder(latents).requires_grad


def test_noise_depends_only_on_the_frames_position_in_the_song() -> None:
    model = tiny_spectral_codec(noise_bands=8)
    assert model.decoder.mid.noise is not None
    # loud noise
    torch.nn.init.constant_(model.decoder.mid.noise.bias, 3.0)
    latents = torch.randn(1, model.config.codebook_dim, 60)
    with torch.no_grad():
        audio = model.decoder(latents)
        again = model.decoder(latents)
        later = model.decoder(latents, first_frame=5)
        batch = model.decoder(latents.repeat(2, 1, 1), first_frame=torch.tensor([0, 5]))
    assert torch.equal(audio, again)
    assert not torch.allclose(audio, later, atol=1e-3)
    torch.testing.assert_close(batch, torch.cat([audio, later]))


def test_phase_jitter_removes_lines_from_high_frequencies_only() -> None:
    model = tiny_spectral_codec(noise_bands=0)
    # a constant output, and no tracked mean to remove it, gives lines
    torch.nn.init.normal_(model.decoder.mid.last.bias, std=0.7)
    codes = torch.randint(model.config.codebook_size, (1, 8, 1_000))
    plain = as_codec(model).decode(codes)[0, 0]
    model.config.phase_jitter = 1.0
    jittered, again = (as_codec(model).decode(codes)[0, 0] for _ in range(2))
    assert torch.equal(jittered, again)
    for spacing in LINE_SPACINGS_HZ:
        assert line_excess(jittered, 24_000, spacing) < line_excess(plain, 24_000, spacing) - 3.0
    changed, power = (torch.fft.rfft(sound).abs().square() for sound in (jittered - plain, plain))
    hertz = torch.linspace(0, 12_000, len(power))
    # on either side of the range over which the jitter grows, 2 to 4 kHz
    lows, highs = hertz < 1_900, hertz > 4_100
    assert changed[lows].sum() < 1e-3 * power[lows].sum()
    assert changed[highs].sum() > 0.5 * power[highs].sum()


def test_each_codebook_codes_the_residual_of_the_earlier_ones() -> None:
    model = tiny_spectral_codec()
    latents = torch.randn(2, model.config.codebook_dim, 30)
    codes = model.quantizer.encode(latents)
    residual = latents.clone()
    for index in range(model.config.num_codebooks):
        distances = torch.cdist(residual.transpose(1, 2), model.quantizer.codebooks[index][None])
        assert torch.equal(distances.argmin(-1), codes[:, index])
        residual = latents - model.quantizer.decode(codes[:, : index + 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window_length": 500}, "window_length is 500; it must lie between 640"),
        ({"window_length": 1281}, "differ by an even number"),
        ({"kernel_size": 4}, "kernel_size 4 must be odd"),
        ({"compression": 0.0}, "compression 0.0 must be above 0"),
        ({"noise_bands": 700}, "noise_bands is 700"),
        ({"phase_jitter": 4.0}, "phase_jitter is 4.0"),
        ({"codebook_size": 1}, "codebook_size is 1"),
        ({"audio_channels": 3}, "audio_channels is 3"),
        ({"output_audio_channels": 3}, "output_audio_channels is 3"),
        ({"output_sampling_rate": 44_000}, "output_sampling_rate is 44000; .* must be whole numbers"),
        ({"output_sampling_rate": 0}, "output_sampling_rate is 0"),
    ],
)
def test_invalid_sizes_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        HAFMSpectralConfig(**wrong)


def test_the_model_passes_audio_through_all_its_codebooks() -> None:
    model = tiny_spectral_codec()
    audio = 0.3 * torch.randn(2, 1, 3_000)
    codec = as_codec(model)
    with torch.no_grad():
        output = model(audio)
    # ten whole frames of 320 samples
    assert output.shape == (2, 1, 3_200)
    torch.testing.assert_close(output, codec.decode(codec.encode(audio)))
    assert isinstance(model, HAFMSpectralModel)


def test_the_bundled_codec_adds_no_constant_lines() -> None:
    codec = load_codec(BUNDLED_MODEL / "codec")
    band, rate = read_audio(EXAMPLES / "vocal_accompanied_folk.ogg", seconds=20.0)
    audio = torch.from_numpy(resample(band, rate, codec.format.sampling_rate)).reshape(1, 1, -1)
    for codebooks in (8, 4):
        left, right = codec.decode(codec.encode(audio, codebooks))[0]
        for part in ((left + right) / 2, (left - right) / 2):
            for spacing in LINE_SPACINGS_HZ:
                assert line_excess(part, codec.format.output_sampling_rate, spacing) < 0.7


# the output format of a codec that reads mono at 24 kHz
WIDE = {"output_sampling_rate": 44_100, "output_audio_channels": 2}


def test_by_default_a_codec_plays_the_format_that_it_reads() -> None:
    config = HAFMSpectralConfig()
    assert config.output_format == config.input_format
    assert codec_format(config).output_sampling_rate == 24_000
    assert codec_format(config).output_channels == 1


def test_a_wider_output_has_the_inputs_frames_and_distance_of_frequencies() -> None:
    config = HAFMSpectralConfig(**WIDE)
    read, played = config.input_format, config.output_format
    assert (played.hop_length, played.window_length, played.num_bins) == (588, 2352, 1177)
    assert played.sampling_rate / played.window_length == read.sampling_rate / read.window_length
    assert codec_format(config).frame_rate == played.sampling_rate / played.hop_length


def test_a_codec_reads_mono_and_plays_stereo_at_another_rate() -> None:
    codec = as_codec(tiny_spectral_codec(**WIDE))
    codes = codec.encode(0.3 * torch.randn(2, 1, 3_000))
    assert codes.shape == (2, 8, 10)
    assert codec.decode(codes).shape == (2, 2, 5_880)
    assert codec.decode(codes, length=5_000).shape == (2, 2, 5_000)


def test_streamed_decoding_of_a_wider_output_equals_decoding_at_once() -> None:
    codec = as_codec(tiny_spectral_codec(**WIDE))
    codes = torch.randint(codec.format.codebook_size, (1, 8, 90))
    stream = CodecStream(codec)
    first, second, third = codes.split([40, 7, 43], dim=-1)
    parts = [stream.decode(first, last=False), stream.decode(second, last=False), stream.decode(third, last=True)]
    torch.testing.assert_close(torch.cat(parts, dim=-1), codec.decode(codes), atol=1e-4, rtol=1e-3)


def test_spectra_of_stereo_are_those_of_the_mean_and_half_the_difference_of_its_channels() -> None:
    config = HAFMSpectralConfig(audio_channels=2)
    mono = Spectrum(HAFMSpectralConfig().input_format, config.compression)
    left, right = torch.randn(2, 1, 1, 3_200)
    spectra = Spectrum(config.input_format, config.compression).analyse(torch.cat([left, right], dim=1))
    middle, side = spectra.chunk(2, dim=-1)
    torch.testing.assert_close(middle, mono.analyse((left + right) / 2))
    torch.testing.assert_close(side, mono.analyse((left - right) / 2))


def stereo_codec(**options: Any) -> tuple[HAFMSpectralModel, SideBranch]:
    """A spectral codec that plays 44.1 kHz stereo with a silent side, and the branch that estimates that side.

    The seed of its random weights also fixes what a test draws after it.
    """
    model = tiny_spectral_codec(**WIDE, **options)
    side = model.decoder.side
    assert side is not None
    for weight in (*side.last.parameters(), *side.pan.parameters()):
        torch.nn.init.zeros_(weight)
    if side.noise is not None:
        torch.nn.init.zeros_(side.noise.weight)
        # inaudible
        torch.nn.init.constant_(side.noise.bias, -30.0)
    return model, side


@pytest.mark.parametrize("noise_bands", [0, 8])
def test_a_pan_makes_one_side_louder_and_keeps_the_mean_of_both(noise_bands: int) -> None:
    model, side = stereo_codec(noise_bands=noise_bands, phase_jitter=1.0)
    codes = torch.randint(model.config.codebook_size, (1, 8, 40))
    left, right = as_codec(model).decode(codes)[0]
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)
    mid = left
    # pan = tanh(bias), as its weights are 0
    pan = 0.6
    torch.nn.init.constant_(side.pan.bias, float(np.arctanh(pan)))
    left, right = as_codec(model).decode(codes)[0]
    torch.testing.assert_close(left, (1 + pan) * mid, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(right, (1 - pan) * mid, atol=1e-4, rtol=1e-3)


def test_phase_jitter_leaves_an_instrument_on_its_side() -> None:
    # side equals mid: everything is on the left
    model, side = stereo_codec(noise_bands=0, phase_jitter=1.0, side_layers=3)
    side.load_state_dict(model.decoder.mid.state_dict(), strict=False)
    for weight in side.mid_states.parameters():
        torch.nn.init.zeros_(weight)
    left, right = as_codec(model).decode(torch.randint(model.config.codebook_size, (1, 8, 40)))[0]
    assert right.square().mean() < 1e-6 * left.square().mean()


def test_the_side_does_not_change_the_mid() -> None:
    model, side = stereo_codec(noise_bands=8)
    codes = torch.randint(model.config.codebook_size, (1, 8, 40))
    before = as_codec(model).decode(codes)[0]
    for weight in side.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    after = as_codec(model).decode(codes)[0]
    torch.testing.assert_close(after.mean(0), before.mean(0), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(after[0], before[0], atol=1e-3)


def test_learning_the_side_does_not_train_the_mid() -> None:
    model, side = stereo_codec(noise_bands=8)
    torch.nn.init.normal_(side.last.weight)
    left, right = model.train().decoder(torch.randn(1, model.config.codebook_dim, 40))[0]
    (left - right).square().sum().backward()
    of_mid = [weight.grad for weight in model.decoder.mid.blocks.parameters()]
    of_side = [weight.grad for weight in side.parameters() if weight.requires_grad]
    assert all(gradient is None or not gradient.any() for gradient in of_mid)
    assert any(gradient is not None and gradient.any() for gradient in of_side)


def test_noise_bands_have_the_same_width_in_mel_above_the_inputs_bandwidth() -> None:
    narrow = HAFMSpectralConfig(noise_bands=32)
    wide = HAFMSpectralConfig(noise_bands=32, **WIDE)
    assert (narrow.num_noise_bands, wide.num_noise_bands) == (32, 39)
    below, all_bands = (
        _band_weights(config.num_noise_bands, config.output_format.num_bins, rate / 2, 32, 12_000.0)
        for config, rate in ((narrow, 24_000), (wide, 44_100))
    )
    # the 641 bins from 0 to 12 kHz
    torch.testing.assert_close(all_bands[:32, :641], below)
    torch.testing.assert_close(all_bands.sum(0), torch.ones(1_177))


def test_a_saved_codec_keeps_its_output_format(tmp_path: Path) -> None:
    tiny_spectral_codec(**WIDE).save_pretrained(tmp_path)
    assert load_codec(tmp_path).format.output_sampling_rate == 44_100
    assert load_codec(tmp_path).format.output_channels == 2
