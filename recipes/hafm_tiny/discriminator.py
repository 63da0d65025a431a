# SPDX-License-Identifier: Apache-2.0
"""EnCodec's adversarial loss: discriminators on complex spectrograms at several scales.

Défossez et al. 2022, arXiv 2210.13438, section 3.4: hinge losses, feature matching relative to real features, and a
discriminator that is updated in two of three steps. The networks here are smaller than the paper's, as the codecs are.
Dimensions: B clips, N samples, F frequencies, T frames.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

Features = list[torch.Tensor]
# exponent that compresses magnitudes: decoded sound differs mostly 40 dB below its peaks, which become 12 dB. Without
# it, discriminators of accompaniments had not improved after 500 steps (docs/log.md)
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
        shapes = [(3, channels, 1, 1), (channels, channels, 2, 1), (channels, channels, 2, 2)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inner, outer, (9, 3), stride=(stride, 1), dilation=(1, spread), padding=(4, spread)))
            for inner, outer, stride, spread in shapes
        )
        self.last = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=1))

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, Features]:
        """Audio (float [B, 1, N]) → logits of how real each patch is, float [B, 1, F, T], and the layers' features."""
        window: torch.Tensor = self.window  # type: ignore[assignment]
        spectrum = torch.stft(
            audio[:, 0], self.size, self.size // 4, window=window, normalized=True, return_complex=True
        )
        magnitudes = spectrum.abs() + 1e-5  # [B, F, T]
        # the phase is kept
        compressed = torch.view_as_real(spectrum * magnitudes ** (COMPRESSION - 1)).permute(0, 3, 1, 2)
        hidden = torch.cat([compressed, magnitudes[:, None] ** COMPRESSION], dim=1)
        features = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.last(hidden), features


class MultiScaleDiscriminator(nn.Module):
    """A `SpectrogramDiscriminator` for each STFT size."""

    def __init__(self, sizes: tuple[int, ...] = (256, 512, 1024)) -> None:
        super().__init__()
        self.scales = nn.ModuleList(SpectrogramDiscriminator(size) for size in sizes)

    def loss(self, real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """The discriminators' loss: hinge losses of real and generated audio (float [B, 1, N]), mean over scales."""
        losses = []
        for scale in self.scales:
            real_logits, _ = scale(real)
            generated_logits, _ = scale(generated.detach())
            losses.append(F.relu(1 - real_logits).mean() + F.relu(1 + generated_logits).mean())
        return torch.stack(losses).mean()

    def judge(self, real: torch.Tensor, generated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The codec's losses.

        Args:
            real (float [B, 1, N]): audio.
            generated (float [B, 1, N]): what the codec makes of it.

        Returns:
            The hinge loss of being recognised as generated, and the distance of the layers' features, relative to
            those of real audio: two scalars, means over all scales.
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
