# SPDX-License-Identifier: Apache-2.0
"""How much of the music a semantic tokenizer's tokens carry: linear probes on tokens (one-hot) and on features.

    python recipes/probe_tokens.py --tokenizer TOKENIZER --corpus CORPUS [--real DIR] [--out probe.json]

Probes are fitted on songs of the train split and scored on the test split, whose singer the train split doesn't have:
pitch class and octave-exact pitch of the sung note, its onset, the place in the beat of the vocal, and the chord root
of the instrumental. --real takes a folder of two-channel clips of real singers (left the accompaniment, right the
voice, as in MIR-1K); the probes fitted on rendered voices are scored there against the pitch that pyworld finds.
Vocals get their noise, as at generation. A linear probe on one-hot tokens gives each token its most frequent class.
"""

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyworld
import soundfile
import soxr
import torch
from sklearn.linear_model import LogisticRegression

from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_tiny.song_pool import PCM_SCALE, SongPool
from hafm_tiny.targets import IGNORED, LOWEST_NOTE, PITCH_CLASSES, beat_parts, frame_targets

logger = logging.getLogger("probe_tokens")
# parts of the beat that are told apart; chance is a quarter
QUARTERS = 4


@dataclass
class Frames:
    """Frames of many clips: tokens int64 [M], features float32 [M, D], and labels int64 [M] by name (−1 unknown)."""

    tokens: np.ndarray
    features: np.ndarray
    labels: dict[str, np.ndarray]


def join(parts: list[Frames]) -> Frames:
    """All frames of the parts, in order."""
    return Frames(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.features for part in parts]),
        {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels},
    )


def tokenise(
    tokenizer: HAFMSemanticTokenizerModel, samples: np.ndarray, is_vocal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int64 [T] and features float32 [T, D] of float [N] samples."""
    waveform = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(tokenizer.device)
    heard = tokenizer(waveform[None], noise=is_vocal, seed=0, output_hidden_states=True, vocal=is_vocal)
    return heard.ids[0].cpu().numpy(), heard.hidden_states[-1][0].cpu().numpy()


def song_labels(targets: dict[str, np.ndarray], is_vocal: bool) -> dict[str, np.ndarray]:
    """Probe labels of one clip from its training targets."""
    if not is_vocal:
        chord = targets["chord"]
        return {"chord root": np.where(chord > 0, (chord - 1) % PITCH_CLASSES, -1)}
    note = np.where(targets["pitch"] > 0, targets["pitch"] - 1 + LOWEST_NOTE, -1)
    return {
        "pitch": note,
        "pitch class": np.where(note >= 0, note % PITCH_CLASSES, -1),
        # of the frames inside notes, those within the first 60 ms
        "onset": np.where(note >= 0, (targets["onset"] == 1).astype(np.int64), -1),
    }


def song_frames(
    tokenizer: HAFMSemanticTokenizerModel, pool: SongPool, clips: int, seconds: float
) -> Iterator[list[Frames]]:
    """For each randomly drawn clip, its vocal's and its instrumental's frames."""
    rng = np.random.default_rng(1)
    num_samples = int(seconds * pool.sampling_rate)
    for _ in range(clips):
        song, start = pool.draw(rng, num_samples)
        found = []
        for is_vocal in (True, False):
            stem = song.vocal if is_vocal else song.instrumental
            tokens, features = tokenise(tokenizer, stem[start : start + num_samples] / PCM_SCALE, is_vocal)
            times = start / pool.sampling_rate + (np.arange(len(tokens)) + 0.5) / tokenizer.config.frame_rate
            labels = song_labels(frame_targets(song, times, 0, is_vocal), is_vocal)
            beat = beat_parts(song.labels, times, QUARTERS)
            labels["quarter of the beat"] = np.where(beat == IGNORED, -1, beat)
            found.append(Frames(tokens, features, labels))
        yield found


def real_frames(tokenizer: HAFMSemanticTokenizerModel, folder: Path, clips: int) -> Frames:
    """Frames of real voices with the pitch that pyworld finds (harvest, nearest semitone)."""
    parts = []
    for path in sorted(folder.glob("*.flac"))[:clips]:
        samples, rate = soundfile.read(path, always_2d=True)
        voice = soxr.resample(samples[:, -1], rate, tokenizer.config.sampling_rate)
        tokens, features = tokenise(tokenizer, voice, is_vocal=True)
        f0, times = pyworld.harvest(
            voice, tokenizer.config.sampling_rate, f0_floor=65.0, f0_ceil=1000.0, frame_period=20.0
        )
        wanted = (np.arange(len(tokens)) + 0.5) / tokenizer.config.frame_rate
        index = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
        pitch = 69 + 12 * np.log2(np.maximum(f0[index], 1.0) / 440.0)
        note = np.where(f0[index] > 0, np.round(pitch).astype(np.int64), -1)
        labels = {"pitch": note, "pitch class": np.where(note >= 0, note % PITCH_CLASSES, -1)}
        parts.append(Frames(tokens, features, labels))
    return join(parts)


def token_classes(tokens: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """The most frequent class of each token, int64 [clusters]; of all tokens together where a token wasn't seen."""
    known = labels >= 0
    counts = np.zeros((clusters, labels.max() + 1), np.int64)
    np.add.at(counts, (tokens[known], labels[known]), 1)
    classes = counts.argmax(1)
    classes[counts.sum(1) == 0] = counts.sum(0).argmax()
    return classes


def score(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and the mean of the recalls of the classes that occur."""
    recalls = [float(np.mean(predicted[labels == value] == value)) for value in np.unique(labels)]
    return {
        "accuracy": round(float(np.mean(predicted == labels)), 4),
        "balanced": round(float(np.mean(recalls)), 4),
        "frames": len(labels),
    }


def probe(
    fitted: Frames, scored: dict[str, Frames], name: str, clusters: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of the token and the feature probe for one label on each set of frames."""
    classes = token_classes(fitted.tokens, fitted.labels[name], clusters)
    known = np.flatnonzero(fitted.labels[name] >= 0)
    known = np.random.default_rng(0).permutation(known)[:15_000]
    center, scale = fitted.features[known].mean(0), fitted.features[known].std(0) + 1e-5
    linear = LogisticRegression(max_iter=60, C=0.1)
    linear.fit((fitted.features[known] - center) / scale, fitted.labels[name][known])
    results = {}
    for where, frames in scored.items():
        rows = frames.labels[name] >= 0
        labels = frames.labels[name][rows]
        results[where] = {
            "tokens": score(classes[frames.tokens[rows]], labels),
            "features": score(linear.predict((frames.features[rows] - center) / scale), labels),
        }
    return results


def parse_arguments() -> argparse.Namespace:
    """Command line of this recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--real", type=Path, help="folder of two-channel clips, the voice in the last channel")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clips", type=int, default=120, help="for fitting; half as many for scoring")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--real-clips", type=int, default=120)
    parser.add_argument("--max-hours", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Tokenise, fit the probes, and report."""
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = HAFMSemanticTokenizerModel.from_pretrained(options.tokenizer, dtype=torch.float32).eval().to(device)
    sets: dict[str, list[Frames]] = {}
    for split, clips in (("train", options.clips), ("test", options.clips // 2)):
        pool = SongPool(options.corpus, split, tokenizer.config.sampling_rate, options.max_hours)
        pool.refresh()
        pool.require(options.seconds)
        pairs = list(song_frames(tokenizer, pool, clips, options.seconds))
        sets[split] = [join([pair[0] for pair in pairs]), join([pair[1] for pair in pairs])]
    clusters = tokenizer.config.num_clusters
    vocal = {"test songs": sets["test"][0]}
    if options.real is not None:
        vocal["real voices"] = real_frames(tokenizer, options.real, options.real_clips)
    results = {name: probe(sets["train"][0], vocal, name, clusters) for name in ("pitch class", "pitch")}
    for name in ("onset", "quarter of the beat"):
        results[name] = probe(sets["train"][0], {"test songs": sets["test"][0]}, name, clusters)
    results["chord root"] = probe(sets["train"][1], {"test songs": sets["test"][1]}, "chord root", clusters)
    used = {
        kind: int(len(np.unique(sets["test"][index].tokens))) for index, kind in enumerate(("vocal", "instrumental"))
    }
    report = {"probes": results, "used_clusters_on_test_songs": used}
    logger.info("%s", json.dumps(report, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
