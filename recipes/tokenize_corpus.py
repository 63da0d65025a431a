"""Turns a rendered song corpus into Parquet token shards; run again to continue or to add songs.

python recipes/tokenize_corpus.py --songs SONGS --tokens TOKENS --semantic_tokenizer DIR --codec DIR --workers 2

SONGS holds {train,validation,test}/ITEM/ with vocal.flac and instrumental.flac. The plan (which items make which
shard) is kept in TOKENS/plan.json, so that finished shards are never made again; new items get shards of their own. A
worker is a process with one thread, and works on every n-th missing shard.
"""

import json
import logging
import multiprocessing
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from transformers import EncodecModel, HfArgumentParser

from hafm_hf.codec import encode_codes, load_encodec
from hafm_hf.corpus.tokens import SPLITS, TokenCorpusInfo, TokenExcerpt, excerpt_bounds, write_shard
from hafm_hf.loading import fingerprint
from hafm_hf.semantic_tokenizer_hafm import HAFMSemanticTokenizer

logger = logging.getLogger("hafm_hf.recipes.tokenize_corpus")


@dataclass
class TokenizeArguments:
    """Where songs are read and tokens are written, and with what."""

    songs: str = field(metadata={"help": "folder of the rendered corpus"})
    tokens: str = field(metadata={"help": "folder of the token shards"})
    semantic_tokenizer: str = field(default="", metadata={"help": "folder or hub name"})
    codec: str = field(default="", metadata={"help": "folder or hub name of an EncodecModel"})
    splits: list[str] = field(default_factory=lambda: ["validation", "test", "train"])
    workers: int = 1
    items_per_shard: int = 8
    max_items: int | None = field(default=None, metadata={"help": "at most this many items of a split"})
    longest_excerpt: float = field(default=90.0, metadata={"help": "seconds"})
    shortest_excerpt: float = field(default=12.0, metadata={"help": "seconds; shorter items are left out"})
    num_codebooks: int = 8


class Tokenizers:
    """Semantic tokenizer and codec, loaded once in each worker."""

    def __init__(self, arguments: TokenizeArguments) -> None:
        self.semantic = HAFMSemanticTokenizer.from_pretrained(arguments.semantic_tokenizer).eval()
        self.codec: EncodecModel = load_encodec(arguments.codec)
        config = self.semantic.config
        self.info = TokenCorpusInfo(
            semantic_frame_rate=config.frame_rate,
            acoustic_frame_rate=round(self.codec.config.frame_rate),
            num_clusters=config.num_clusters,
            codebook_size=self.codec.config.codebook_size,
            num_codebooks=arguments.num_codebooks,
            semantic_tokenizer=fingerprint(self.semantic),
            codec=fingerprint(self.codec),
        )

    def semantic_tokens(self, waveform: np.ndarray, sampling_rate: int, seed: int | None) -> np.ndarray:
        """Waveform (float32 [N]) → int16 [T_v]; with `seed`, noise is added first, as the paper does to vocals."""
        resampled = soxr.resample(waveform, sampling_rate, self.semantic.config.sampling_rate)
        tokens = self.semantic.encode(torch.from_numpy(resampled), noise=seed is not None, seed=seed)
        return tokens.cpu().numpy().astype(np.int16)

    def excerpt(
        self, track: str, start: float, vocal: np.ndarray, instrumental: np.ndarray, sampling_rate: int
    ) -> TokenExcerpt:
        """Tokenises two waveforms (float32 [N]) of one instant, cut to whole cells of the common grid already."""
        seconds = len(vocal) / sampling_rate
        frames = round(seconds * self.info.semantic_frame_rate)
        codes = round(seconds * self.info.acoustic_frame_rate)
        seed = zlib.crc32(f"{track} {start:.2f}".encode())
        at_codec_rate = soxr.resample(instrumental, sampling_rate, self.codec.config.sampling_rate)
        batch = torch.from_numpy(at_codec_rate)[None]
        acoustic = encode_codes(self.codec, batch, self.info.num_codebooks)[0, :, :codes]
        return TokenExcerpt(
            track=track,
            start=start,
            duration=seconds,
            vocal_semantic=self.semantic_tokens(vocal, sampling_rate, seed)[:frames],
            instrumental_semantic=self.semantic_tokens(instrumental, sampling_rate, None)[:frames],
            acoustic=acoustic.cpu().numpy().astype(np.int16),
        )

    def item(self, folder: Path, arguments: TokenizeArguments) -> list[TokenExcerpt]:
        """All excerpts of one item of the corpus."""
        vocal, sampling_rate = soundfile.read(folder / "vocal.flac", dtype="float32")
        instrumental, other_rate = soundfile.read(folder / "instrumental.flac", dtype="float32")
        if sampling_rate != other_rate or vocal.shape != instrumental.shape or vocal.ndim != 1:
            raise ValueError(f"{folder}: vocal and instrumental must be mono, of one rate and one length.")
        bounds = excerpt_bounds(
            len(vocal) / sampling_rate, arguments.longest_excerpt, arguments.shortest_excerpt, self.info.grid
        )
        excerpts = []
        for start, length in bounds:
            cut = slice(round(start * sampling_rate), round((start + length) * sampling_rate))
            excerpts.append(self.excerpt(folder.name, start, vocal[cut], instrumental[cut], sampling_rate))
        return excerpts


def make_plan(arguments: TokenizeArguments) -> dict[str, list[str]]:
    """Which items (SPLIT/NAME) make which shard; extends the plan of an earlier run by the items that are new."""
    path = Path(arguments.tokens) / "plan.json"
    plan: dict[str, list[str]] = json.loads(path.read_text()) if path.is_file() else {}
    planned = {item for items in plan.values() for item in items}
    for split in arguments.splits:
        if split not in SPLITS:
            raise ValueError(f"{split!r} is no split; choose from {', '.join(SPLITS)}.")
        done = sum(name.startswith(split) for name in plan)
        found = (f"{split}/{labels.parent.name}" for labels in Path(arguments.songs, split).glob("*/labels.json"))
        # in a fixed random order, so that a corpus cut short anywhere is as varied as the whole
        items = sorted(found, key=lambda item: zlib.crc32(item.encode()))
        new = [item for item in items if item not in planned]
        room = None if arguments.max_items is None else arguments.max_items - (len(items) - len(new))
        new = new if room is None else new[: max(room, 0)]
        for number, begin in enumerate(range(0, len(new), arguments.items_per_shard), start=done):
            plan[f"{split}-{number:05d}.parquet"] = new[begin : begin + arguments.items_per_shard]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(plan, indent=1))
    temporary.rename(path)
    return plan


def work(arguments: TokenizeArguments, shards: dict[str, list[str]]) -> None:
    """Makes some shards, one after the other."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    torch.set_num_threads(1)
    tokenizers = Tokenizers(arguments)
    for name, items in shards.items():
        with torch.inference_mode():
            excerpts = [row for item in items for row in tokenizers.item(Path(arguments.songs, item), arguments)]
        rows = write_shard(Path(arguments.tokens, name), excerpts, tokenizers.info)
        logger.info("%s: %d excerpts, %.1f min", name, rows, sum(row.duration for row in excerpts) / 60)


def main() -> None:
    """Plans, then lets each worker make its share of the missing shards."""
    arguments = HfArgumentParser(TokenizeArguments).parse_args_into_dataclasses()[0]
    plan = make_plan(arguments)
    wanted = (name for name in plan if name.rsplit("-", 1)[0] in arguments.splits)
    missing = [name for name in wanted if not Path(arguments.tokens, name).exists()]
    shares = [{name: plan[name] for name in missing[i :: arguments.workers]} for i in range(arguments.workers)]
    if arguments.workers == 1:
        return work(arguments, shares[0])
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(arguments, share)) for share in shares if share]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(
            "A worker failed; its message stands above. Finished shards are kept: run the same command again."
        )


if __name__ == "__main__":
    main()
