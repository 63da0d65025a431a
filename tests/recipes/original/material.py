# SPDX-License-Identifier: Apache-2.0
"""What originals are trained on and saved beside: the examples as pairs, a HuBERT, a k-means, a codec, tokens."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from sklearn.cluster import MiniBatchKMeans
from transformers import HubertModel

from hafm_hf.audio import resample
from hafm_hf.corpus.tokenizing import TokenizerOptions, Tokenizers, fit_rate
from original_hafm.evidence import Song, read_pairs, tokenized
from original_hafm.kmeans import read_kmeans
from original_hafm.tokenizer import tokenizer_of
from programs import REPOSITORY
from tiny_models import tiny_codec

# semantic tokens, codes of a codebook, and HuBERT's layer of the features
CLUSTERS, CODES, LAYER = 40, 32, 4
# songs into which the long example is cut
PIECES = 4


def write_pairs(folder: Path) -> None:
    """Writes the examples' voices and bands, each into a folder of vocals.wav and accompaniment.wav."""
    examples = REPOSITORY / "examples"
    for voice in sorted([examples / "vocal.wav", *examples.glob("*.flac")]):
        sung, rate = soundfile.read(voice, dtype="float32")
        stems = sorted((examples / "bands").glob(f"{voice.stem}_*.ogg"))
        stereo = sum(soundfile.read(stem, dtype="float32")[0] for stem in stems)
        band = resample(stereo.mean(axis=1), soundfile.info(stems[0]).samplerate, rate)
        length = min(len(sung), len(band))
        pieces = PIECES if voice.stem == "whole_song" else 1
        for piece in range(pieces):
            part = slice(length * piece // pieces, length * (piece + 1) // pieces)
            song = folder / f"{voice.stem}_{piece}"
            song.mkdir(parents=True)
            soundfile.write(song / "vocals.wav", sung[part], rate)
            soundfile.write(song / "accompaniment.wav", band[part], rate)


def write_hubert(folder: Path, bundled: Any) -> None:
    """Saves the HuBERT of the loaded bundled model."""
    hubert = HubertModel(bundled.semantic_tokenizer.config.hubert_config)
    # not strict: the tokenizer has no final norm
    hubert.load_state_dict(bundled.semantic_tokenizer.hubert.state_dict(), strict=False)
    hubert.save_pretrained(folder)


def write_kmeans(path: Path, hubert: Path, pairs: Path) -> None:
    """Writes a pickled MiniBatchKMeans, fitted to the features of `LAYER` of the pairs in a folder."""
    blank = tokenizer_of_width(hubert)
    features = []
    for _, vocal, instrumental, rate in read_pairs(pairs):
        for sound, noise in ((vocal, True), (instrumental, False)):
            waveform = torch.from_numpy(fit_rate(sound, rate, 16_000, len(sound) / rate))
            features.append(blank.extract_features(waveform, noise=noise, seed=0).numpy())
    fitted = MiniBatchKMeans(CLUSTERS, batch_size=2048, n_init=1, random_state=0).fit(np.concatenate(features))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(fitted))


def write_codec(folder: Path, pairs: Path) -> None:
    """Saves a small EnCodec whose codebooks are fitted to the instrumentals, each to the rest of those before it."""
    codec = tiny_codec(codebook_size=CODES, target_bandwidths=[0.375 * number for number in (4, 8)])
    with torch.no_grad():
        sounds = [torch.from_numpy(instrumental)[None, None] for _, _, instrumental, _ in read_pairs(pairs)]
        rest = torch.cat([codec.encoder(sound)[0].t() for sound in sounds]).numpy()
        for layer in codec.quantizer.layers[:8]:
            fitted = MiniBatchKMeans(CODES, batch_size=2048, n_init=1, random_state=0).fit(rest)
            layer.codebook.embed.copy_(torch.from_numpy(fitted.cluster_centers_))
            rest = rest - fitted.cluster_centers_[fitted.predict(rest)]
    codec.save_pretrained(folder)


def tokenizer_of_width(hubert: Path) -> Any:
    """A tokenizer of `LAYER` of a saved HuBERT, with `CLUSTERS` centroids that are not fitted yet."""
    from fit_kmeans import tokenizer_from_hubert

    return tokenizer_from_hubert(hubert, layer=LAYER, num_clusters=CLUSTERS)


def tokens_of(pairs: Path, kmeans: Path, hubert: Path, codec: Path, scratch: Path) -> list[Song]:
    """The tokens of the pairs' segments.

    Args:
        pairs, hubert, codec: folders.
        kmeans: its file.
        scratch: folder for the tokenizer made of HuBERT and k-means.
    """
    tokenizer_of(read_kmeans(kmeans), str(hubert), LAYER).save_pretrained(scratch)
    return tokenized(
        read_pairs(pairs), Tokenizers(TokenizerOptions(semantic_tokenizer=str(scratch), codec=str(codec)))
    )
