# SPDX-License-Identifier: Apache-2.0
"""Make the part of a composite that estimates which chords a vocal asks for, from songs with labels and their tokens.

    python recipes/fit_harmony.py --tokenizer TOKENIZER --corpus CORPUS --tokens TOKENS --out RUN [--songs POP909]
    hafm assemble OUT … --harmony RUN/harmony

CORPUS is what recipes/build_song_corpus.py writes, TOKENS the shards that `hafm prepare` made of it with
TOKENIZER, which knows the beat (recipes/fit_vocal_space.py). With --songs, the folder that CORPUS was rendered from,
the network learns all of all training songs; without, what was rendered.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from hafm_hf.cli.training import run_recipe
from hafm_hf.listening.configuration_harmony import HAFMHarmonyConfig
from hafm_hf.listening.modeling_harmony import HAFMHarmonyModel
from hafm_hf.pretrained.loading import fingerprint, write_checksums
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.harmony import HarmonyArguments, HarmonyTrainer, TokenCounts, harmony_scores, melody_of
from hafm_tiny.song_pool import labelled_rows, load_labels

logger = logging.get_logger(__name__)
# about ten seconds and about half a minute
SCORED_BEATS = (16, 48)


@dataclass
class Folders:
    """What is read, and where the result goes."""

    tokenizer: str = field(default="", metadata={"help": "folder or hub id of the semantic tokenizer"})
    corpus: str = field(default="", metadata={"help": "rendered songs"})
    tokens: str = field(default="", metadata={"help": "their token shards"})
    songs: str = field(default="", metadata={"help": "folder of songs in POP909's layout, learnt as a whole"})
    validation_songs: int = field(default=50, metadata={"help": "of SONGS, as in build_song_corpus.py"})
    test_songs: int = field(default=59, metadata={"help": "of SONGS, as in build_song_corpus.py"})
    out: str = field(default="", metadata={"help": "gets harmony/, the part"})
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuses what is not named, and sets what holds for the whole process."""
        for name in ("tokenizer", "corpus", "tokens", "out"):
            if not getattr(self, name):
                raise ValueError(f"Name the --{name}.")
        torch.set_num_threads(self.threads)


def whole_songs(folders: Folders) -> Iterator[tuple[str, dict[str, Any]]]:
    """Split and labels of whole songs, in the splits that they were rendered in; those for test are left alone."""
    from hafm_tiny.songs.midi_song import SongError, list_songs, read_song
    from hafm_tiny.songs.song_corpus import split_songs

    paths = {path.name: path for path in list_songs(Path(folders.songs))}
    for name, split in split_songs(list(paths), folders.validation_songs, folders.test_songs).items():
        if split == "test":
            continue
        try:
            song = read_song(paths[name])
        except SongError as error:
            logger.warning("skipped %s: %s", name, error)
            continue
        labels = {
            "notes": [[note.start, note.end, note.pitch] for note in song.melody],
            "chords": [[chord.start, chord.end, chord.label] for chord in song.chords],
            "beats": list(song.beats),
        }
        yield split, labels


def counted(tokens: str, tokenizer: HAFMSemanticTokenizerModel, labels: dict[str, dict[str, Any]]) -> TokenCounts:
    """The table, from the training shards."""
    counts = TokenCounts(tokenizer.config.num_clusters, tokenizer.config.frame_rate)
    for row, song in labelled_rows(tokens, labels, ["vocal_semantic"]):
        counts.add(torch.tensor(row["vocal_semantic"]), song, row["start"])
    return counts


def main() -> None:
    """Counts, trains and saves."""
    folders, arguments = parse_dataclasses((Folders, HarmonyArguments))
    tokenizer = HAFMSemanticTokenizerModel.from_pretrained(folders.tokenizer).eval()
    if not tokenizer.config.rhythm_channels:
        raise ValueError("This tokenizer does not know the beat: recipes/fit_vocal_space.py makes one that does.")
    labels = {split: load_labels(Path(folders.corpus), split) for split in ("train", "validation")}
    config = HAFMHarmonyConfig(
        num_clusters=tokenizer.config.num_clusters,
        channels=arguments.channels,
        num_layers=arguments.layers,
        semantic_tokenizer=fingerprint(tokenizer),
    )
    torch.manual_seed(arguments.seed)
    model = HAFMHarmonyModel(config)
    counted(folders.tokens, tokenizer, labels["train"]).write_to(model)
    melodies = {split: [melody_of(each) for each in found.values()] for split, found in labels.items()}
    if folders.songs:
        melodies = {"train": [], "validation": []}
        for split, whole in whole_songs(folders):
            melodies[split].append(melody_of(whole))
    logger.info("%s", {split: f"{len(found)} songs" for split, found in melodies.items()})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {"chord_nats_in_training": HarmonyTrainer(model.to(device), melodies["train"], arguments).train()}
    longest = max(map(len, melodies["validation"]), default=0)
    for beats in (beats for beats in SCORED_BEATS if beats <= longest):
        scores = harmony_scores(model, melodies["validation"], beats)
        figures |= {f"{name}_{beats}": value for name, value in scores.items()}
    out = Path(folders.out) / "harmony"
    model.cpu().half().save_pretrained(out)
    write_checksums(out)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s is in %s", json.dumps(figures), out)


if __name__ == "__main__":
    run_recipe(main)
