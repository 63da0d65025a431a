"""What an accompaniment does along the beat: when its semantic tokens change, and which codes sound in each part.

Changes are counted on a token corpus at the beat that the vocal's tokens tell (`beats`), not at the true one:
where that beat is often wrong the profile is flat, and guidance by it is weak. Codes are counted at the true beat of
songs with labels, since a frame more or less decides whether a drum is heard in time.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig

from hafm_hf.hub.loading import write_checksums
from hafm_hf.semantic_tokenizer import HAFMSemanticTokenizer
from hafm_hf.stages.modeling_hafm import HAFMCoarseForCausalLM
from hafm_hf.training.data import load_token_corpus, read_stream

from .song_pool import labelled_rows, load_labels
from .targets import beat_phases

PROFILE_PARTS = 24
# a frame of 13 ms is a 48th of a beat at 94 beats a minute
CODE_PARTS = 48
# frames of usual codes that each part of the beat is given beside its own
CODE_SMOOTHING = 20.0


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


def code_scores(
    songs: Iterable[tuple[torch.Tensor, torch.Tensor]], codes: int, parts: int = CODE_PARTS
) -> torch.Tensor:
    """How much likelier than usual each code is in each part of the beat, as a logarithm: float32 [parts, codes].

    Args:
        songs: phase (float [T]) and codes (int64 [T], of the first codebook) of each song.
        codes: size of the codebook.
        parts: of the beat.

    Raises:
        ValueError: there is no frame.
    """
    counts = torch.zeros(parts, codes)
    for phase, heard in songs:
        part = (phase * parts).long().clamp(max=parts - 1)
        counts.index_put_((part, heard), torch.ones(len(heard)), accumulate=True)
    if not counts.any():
        raise ValueError("No code has a beat: do the token corpus and the songs belong together?")
    # half a frame of each code all through the beat, so that of codes that were never heard nothing is said
    counts += 0.5 / parts
    usual = counts.sum(0) / counts.sum()
    within = (counts + CODE_SMOOTHING * usual) / (counts.sum(1, keepdim=True) + CODE_SMOOTHING)
    return (within / usual).log()


def corpus_codes(
    tokens: str | os.PathLike[str], songs: str | os.PathLike[str], frame_rate: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Phase (float64 [T]) and first codebook (int64 [T]) of the training excerpts, as far as beats have labels."""
    for row, labels in labelled_rows(Path(tokens), load_labels(Path(songs), "train"), ["acoustic"]):
        codes = np.asarray(row["acoustic"][0], dtype=np.int64)
        phase = beat_phases(labels, row["start"] + (np.arange(len(codes)) + 0.5) / frame_rate)
        known = np.isfinite(phase)
        yield torch.from_numpy(phase[known]), torch.from_numpy(codes[known])


def fit_code_beats(
    stage: str | os.PathLike[str], tokens: str | os.PathLike[str], songs: str | os.PathLike[str], weight: float
) -> torch.Tensor:
    """Writes `beat_scores` and `beat_guidance` into the folder of a coarse stage.

    Args:
        stage: folder of a coarse stage.
        tokens: folder of the token shards that it has learnt.
        songs: folder of the rendered songs that they were made of, with labels.
        weight: `beat_guidance`.

    Returns:
        the scores, float32 [48, V].

    Raises:
        ValueError: the songs have no labels for these tokens.
    """
    trained = HAFMCoarseForCausalLM.from_pretrained(stage, dtype="auto")
    config = trained.config
    scores = code_scores(corpus_codes(tokens, songs, config.frame_rate), config.codebook_size)
    config.beat_parts = len(scores)
    trained.register_buffer("beat_scores", scores.to(trained.dtype))
    trained.generation_config.beat_guidance = weight
    trained.save_pretrained(stage)
    write_checksums(Path(stage))
    return scores
