# SPDX-License-Identifier: Apache-2.0
"""Which chords a vocal asks for.

An optional part of the composite, between the semantic tokenizer and the lead sheet that the stages read. Dilated
convolutions look at a whole song, beat by beat: notes are counted in the cells of a beat (`beats` says where beats
are), and every beat gets a distribution over chords, as in Lim, Rhyu and Lee 2017 ("Chord generation from symbolic
melody using BLSTM networks").

Dimensions: B batch, T frames, N beats, K clusters of the tokenizer.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init

from ..lead_sheet.beats import begins_beat
from ..lead_sheet.chords import NUM_CHORDS, PITCH_CLASSES
from ..pretrained.saving import HAFMHubMixin
from .configuration_harmony import HAFMHarmonyConfig
from .rhythm import HAFMRhythmLayer

# parts of a beat that notes are counted in
CELLS = 4
# what is known of a frame's note: how likely none or each pitch class is sung, and that a note begins
NO_NOTE = 0
NOTE_NUMBERS = PITCH_CLASSES + 2


class HAFMHarmonyModel(HAFMHubMixin, PreTrainedModel):
    """Tokens of a vocal → chords, beat by beat.

    A buffer that no gradient reaches, `notes` (float [K, 14]), holds what each vocal token says of the sung note, as
    counted on a corpus.
    """

    config_class = HAFMHarmonyConfig
    config: HAFMHarmonyConfig
    # what earlier versions counted beside the notes
    _keys_to_ignore_on_load_unexpected = ["chord_scores"]
    main_input_name = "cells"
    base_model_prefix = "harmony"

    def __init__(self, config: HAFMHarmonyConfig) -> None:
        super().__init__(config)
        self.register_buffer("notes", torch.zeros(config.num_clusters, NOTE_NUMBERS))
        self.input = nn.Linear(CELLS * NOTE_NUMBERS, config.channels)
        self.layers = nn.ModuleList(
            [HAFMRhythmLayer(config.channels, 2**number, config.dropout) for number in range(config.num_layers)]
        )
        self.norm = nn.LayerNorm(config.channels)
        self.head = nn.Linear(config.channels, NUM_CHORDS)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Layers as torch initialises them; a table that says nothing."""
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.LayerNorm)):
            module.reset_parameters()
        elif module is self:
            init.zeros_(self.notes)

    def forward(self, cells: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Notes in the cells of beats (float [B, N, 56], `beat_cells`) → logits of chords, float [B, N, 25]."""
        hidden = self.input(cells)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(self.norm(hidden))

    @torch.no_grad()
    def chords(self, vocal_semantic: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """How likely each chord is at each frame of a song.

        Args:
            vocal_semantic (int64 [T]): the tokens of a vocal.
            phase (float [T]): where in the beat each frame lies, from 0 to 1 (the tokenizer's `beat_phase`).

        Returns:
            float32 [T, 25], on the model's device: no chord, 12 roots without a minor third, 12 with one.
        """
        device = self.head.weight.device
        if not len(vocal_semantic):
            return torch.zeros(0, NUM_CHORDS, device=device)
        cells, beat = beat_cells(self.notes[vocal_semantic.to(device)], phase.to(device))
        return self(cells[None].to(self.head.weight.dtype))[0].float().softmax(-1)[beat]


def beat_cells(notes: torch.Tensor, phase: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts the notes of a song in the cells of its beats.

    Args:
        notes (float [T, 14]): how likely no note or each pitch class is sung, and whether a note begins.
        phase (float [T]): where in the beat each frame lies, from 0 to 1.

    Returns:
        float32 [N, 56], for each quarter of each beat the mean of the notes and the likeliest beginning; of a quarter
        without a frame it says that nothing is sung. And the beat of each frame, int64 [T].
    """
    phase = phase.float()
    passed = F.pad(begins_beat(phase).cumsum(0), (1, 0))
    cell = passed * CELLS + (phase * CELLS).long().clamp(0, CELLS - 1)
    count = int(passed[-1] + 1) * CELLS
    sung, begins = notes[:, :-1].float(), notes[:, -1].float()
    frames = torch.bincount(cell, minlength=count)
    shares = sung.new_zeros(count, sung.shape[1]).index_add_(0, cell, sung) / frames.clamp_min(1)[:, None]
    shares[frames == 0, NO_NOTE] = 1.0
    beginning = begins.new_zeros(count).scatter_reduce(0, cell, begins, "amax")
    return torch.cat([shares, beginning[:, None]], dim=1).view(-1, CELLS * NOTE_NUMBERS), passed
