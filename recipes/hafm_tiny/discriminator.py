# SPDX-License-Identifier: Apache-2.0
"""EnCodec's adversarial loss for the codec: discriminators on complex spectrograms at several scales.

Défossez et al. 2022, arXiv 2210.13438, section 3.4: hinge losses, feature matching relative to real features, and a
discriminator that learns in two steps of three. Networks here are smaller than the paper's, for codecs that are.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

Features = list[torch.Tensor]
# power of the magnitudes that are judged: decoded sound differs where it is 40 dB below its loudest, which become 12.
# As they are, discriminators of a band's sound are where they began after 500 steps (docs/log.md)
COMPRESSION = 0.3


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over one STFT, whose magnitudes are compressed: real and imaginary part, and the magnitudes alone.

    Args:
        size: of the STFT, in samples; the hop is a quarter of it.
        channels: of the hidden layers.
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
        """Audio (float [B, 1, N]) → how real each patch is, float [B, 1, F, T], and the features below it."""
        window: torch.Tensor = self.window  # type: ignore[assignment]
        spectrum = torch.stft(
            audio[:, 0], self.size, self.size // 4, window=window, normalized=True, return_complex=True
        )
        magnitudes = spectrum.abs() + 1e-5
        compressed = torch.view_as_real(spectrum * magnitudes ** (COMPRESSION - 1)).permute(0, 3, 1, 2)
        hidden = torch.cat([compressed, magnitudes[:, None] ** COMPRESSION], dim=1)
        features = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.last(hidden), features


class MultiScaleDiscriminator(nn.Module):
    """One `SpectrogramDiscriminator` a size."""

    def __init__(self, sizes: tuple[int, ...] = (256, 512, 1024)) -> None:
        super().__init__()
        self.scales = nn.ModuleList(SpectrogramDiscriminator(size) for size in sizes)

    def loss(self, real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """What the discriminators minimise: hinge losses of real and generated audio (float [B, 1, N])."""
        losses = [
            F.relu(1 - scale(real)[0]).mean() + F.relu(1 + scale(generated.detach())[0]).mean()
            for scale in self.scales
        ]
        return torch.stack(losses).mean()

    def judge(self, real: torch.Tensor, generated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the codec minimises: being taken for generated, and the relative distance of features."""
        hinges, distances = [], []
        for scale in self.scales:
            with torch.no_grad():
                wanted = scale(real)[1]
            verdict, features = scale(generated)
            hinges.append(F.relu(1 - verdict).mean())
            distances += [
                (one - other).abs().mean() / other.abs().mean().clamp_min(1e-6)
                for one, other in zip(features, wanted, strict=True)
            ]
        return torch.stack(hinges).mean(), torch.stack(distances).mean()
