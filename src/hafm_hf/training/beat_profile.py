"""When an accompaniment's tokens change along the singer's beat: what `generation_hafm.BeatGuidance` weighs.

Counted on a token corpus, at the beat that the vocal's tokens tell (`beat_hafm`), not at the true one: where that beat
is often wrong the profile is flat, and guidance by it is weak.
"""

import os
from collections.abc import Iterable, Iterator

import torch
from transformers import GenerationConfig

from ..semantic_tokenizer_hafm import HAFMSemanticTokenizer
from .data import load_token_corpus, read_stream

PROFILE_PARTS = 24


def change_profile(songs: Iterable[tuple[torch.Tensor, torch.Tensor]], parts: int = PROFILE_PARTS) -> list[float]:
    """How much likelier than usual tokens change in each part of the beat, as a logarithm: `parts` numbers.

    Args:
        songs: phase (float [T], of the vocal) and tokens (int64 [T], of the accompaniment) of each song.
        parts: of the beat.

    Raises:
        ValueError: nothing ever changes, or some part of the beat has no frame.
    """
    changes, frames = torch.zeros(parts), torch.zeros(parts)
    for phase, tokens in songs:
        part = (phase[1:] * parts).long().clamp(max=parts - 1)
        frames += torch.bincount(part, minlength=parts)
        changes += torch.bincount(part, weights=(tokens[1:] != tokens[:-1]).float(), minlength=parts)
    if not changes.any() or not frames.all():
        raise ValueError("These songs do not tell how tokens change along the beat: there are too few of them.")
    # half a change more, so that a part without any has a logarithm
    rate = (changes + 0.5) / frames
    return [round(float(value), 3) for value in torch.log(rate / (changes.sum() / frames.sum()))]


def corpus_phases(
    corpus: str | os.PathLike[str], tokenizer: HAFMSemanticTokenizer, rows: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Phase of the vocal (float32 [T]) and tokens of the instrumental (int64 [T]) of the first training rows."""
    dataset, _ = load_token_corpus(corpus, "train")
    for row in range(min(rows, len(dataset))):
        vocal, instrumental = (
            torch.from_numpy(read_stream(dataset, row, column)[0].astype("int64"))
            for column in ("vocal_semantic", "instrumental_semantic")
        )
        yield tokenizer.beat_phase(tokenizer.beat_places(vocal)), instrumental


def fit_beat_profile(
    model: str | os.PathLike[str], corpus: str | os.PathLike[str], weight: float, rows: int
) -> list[float]:
    """Writes `beat_profile` and `beat_guidance` into the semantic stage's generation config of a composite's folder.

    Args:
        model: folder of a composite, whose tokenizer made the corpus.
        corpus: folder of token shards.
        weight: `beat_guidance`.
        rows: of the corpus, at most.

    Returns:
        the profile.

    Raises:
        ValueError: the tokenizer has no rhythm network, or the corpus tells nothing.
    """
    tokenizer = HAFMSemanticTokenizer.from_pretrained(model, subfolder="semantic_tokenizer")
    profile = change_profile(corpus_phases(corpus, tokenizer, rows))
    config = GenerationConfig.from_pretrained(model, subfolder="semantic")
    config.beat_guidance, config.beat_profile = weight, profile
    config.save_pretrained(os.path.join(model, "semantic"))
    return profile
