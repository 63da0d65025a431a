# SPDX-License-Identifier: Apache-2.0
"""EnCodec's adversarial loss: discriminators on complex spectrograms at several scales.

Défossez et al. 2022, arXiv 2210.13438, section 3.4: hinge losses, feature matching relative to real features, and a
discriminator that is updated in two of three steps. The networks here are smaller than the paper's, as the codecs are.
Dimensions: B clips, N samples, F frequencies (fewer than the STFT's after strides), T frames.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

Features = list[torch.Tensor]
# exponent that compresses magnitudes: decoded sound mostly differs from real sound 40 dB below its peaks, which become
# 12 dB. Without it, discriminators of accompaniments had not improved after 500 steps (docs/log.md)
COMPRESSION = 0.3


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over one STFT with compressed magnitudes: real part, imaginary part and magnitude.

    Args:
        size: window of the STFT, in samples; the hop is a quarter of it.
        channels: width of the hidden layers.
    """

    def __init__(self, size: int, channels: int = 16) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        # channels in and out, stride over frequencies, dilation over frames; kernels of 9 frequencies and 3 frames
        shapes = [(3, channels, 1, 1), (channels, channels, 2, 1), (channels, channels, 2, 2)]
        self.layers = nn.ModuleList(
            weight_norm(
                nn.Conv2d(inputs, outputs, (9, 3), stride=(stride, 1), dilation=(1, dilation), padding=(4, dilation))
            )
            for inputs, outputs, stride, dilation in shapes
        )
        self.last = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=1))

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, Features]:
        """Judges patches of the spectrogram of mono audio.

        Args:
            audio (float [B, 1, N]): B clips of N samples.

        Returns:
            Logits of whether each patch is real (float [B, 1, F, T]), and each layer's output (float [B, channels, F,
            T]); T frames, and F frequencies, halved by each layer with stride 2.
        """
        window: torch.Tensor = self.window  # type: ignore[assignment]
        spectrum = torch.stft(
            audio[:, 0], self.size, self.size // 4, window=window, normalized=True, return_complex=True
        )
        magnitudes = spectrum.abs() + 1e-5  # [B, F, T]
        # only magnitudes are compressed, phases stay; real and imaginary parts: [B, 2, F, T]
        compressed = torch.view_as_real(spectrum * magnitudes ** (COMPRESSION - 1)).permute(0, 3, 1, 2)
        hidden = torch.cat([compressed, magnitudes[:, None] ** COMPRESSION], dim=1)
        features = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.last(hidden), features


class MultiScaleDiscriminator(nn.Module):
    """A `SpectrogramDiscriminator` for each scale.

    Args:
        sizes: window of each one's STFT, in samples.
    """

    def __init__(self, sizes: tuple[int, ...] = (256, 512, 1024)) -> None:
        super().__init__()
        self.scales = nn.ModuleList(SpectrogramDiscriminator(size) for size in sizes)

    def loss(self, real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """The discriminators' loss, which does not train the codec: the mean of their hinge losses.

        Args:
            real (float [B, 1, N]): B clips of N samples.
            generated (float [B, 1, N]): the codec's reconstruction of them.
        """
        losses = []
        for scale in self.scales:
            real_logits, _ = scale(real)
            generated_logits, _ = scale(generated.detach())
            losses.append(F.relu(1 - real_logits).mean() + F.relu(1 + generated_logits).mean())
        return torch.stack(losses).mean()

    def judge(self, real: torch.Tensor, generated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The codec's adversarial losses.

        Args:
            real (float [B, 1, N]): B clips of N samples.
            generated (float [B, 1, N]): the codec's reconstruction of them.

        Returns:
            The hinge loss, which is low if generated audio is taken for real, and the feature-matching loss, the L1
            distance of the layers' outputs relative to those for real audio: two scalars, means over all scales.
        """
        hinges = []
        distances = []
        for scale in self.scales:
            with torch.no_grad():
                _, real_features = scale(real)
            logits, generated_features = scale(generated)
            hinges.append(F.relu(1 - logits).mean())
            for generated_feature, real_feature in zip(generated_features, real_features, strict=True):
                distance = (generated_feature - real_feature).abs().mean()
                distances.append(distance / real_feature.abs().mean().clamp_min(1e-6))
        return torch.stack(hinges).mean(), torch.stack(distances).mean()
