# SPDX-License-Identifier: Apache-2.0
"""Each stage can memorise eight real clips and then generates them: training and decoding agree."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.pretrained.loading import BUNDLED_MODEL
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.training.data import TokenCrops, load_token_corpus
from integration.training_runs import train_here

CLIPS = 8
# crop by stage: long enough for a phrase, short enough to memorise in seconds
SECONDS = {"semantic": 1.0, "coarse": 0.48, "fine": 0.48}
# training steps; semantic tokens repeat, and their changes are learnt last
STEPS = {"semantic": 220, "coarse": 80, "fine": 80}


@pytest.fixture(scope="module")
def corpora(shared_data: Path, bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each stage, a corpus of eight clips of real singing with accompaniment, one excerpt per clip."""
    files = sorted((shared_data / "mir1k_dev").glob("*.flac"))[::15][:CLIPS]
    if len(files) < CLIPS:
        pytest.skip(f"no {CLIPS} karaoke clips in {shared_data / 'mir1k_dev'}")
    tokenizer = HAFMSemanticTokenizerModel.from_pretrained(BUNDLED_MODEL, subfolder="semantic_tokenizer").eval()
    codec = load_codec(BUNDLED_MODEL, subfolder="codec")
    info = TokenCorpusInfo(
        semantic_frame_rate=tokenizer.config.frame_rate,
        acoustic_frame_rate=codec.format.frame_rate,
        num_clusters=tokenizer.config.num_clusters,
        codebook_size=codec.format.codebook_size,
        num_codebooks=8,
    )
    excerpts: dict[str, list[TokenExcerpt]] = {stage: [] for stage in SECONDS}
    for number, file in enumerate(files):
        # the second second, at 16 kHz
        stereo, rate = soundfile.read(file, start=16_000, frames=16_000, dtype="float32")
        band, voice = stereo.T
        semantic = [tokenizer.encode(torch.from_numpy(np.ascontiguousarray(x))) for x in (voice, band)]
        at_codec_rate = torch.from_numpy(soxr.resample(band, rate, codec.format.sampling_rate))[None]
        codes = codec.encode(at_codec_rate[:, None], info.num_codebooks)[0]
        for stage, seconds in SECONDS.items():
            semantic_frames = round(seconds * 50)
            vocal, instrumental = (tokens[:semantic_frames].numpy().astype(np.int16) for tokens in semantic)
            acoustic = codes[:, : round(seconds * 75)].numpy().astype(np.int16)
            excerpts[stage].append(TokenExcerpt(f"clip {number}", 0.0, seconds, vocal, instrumental, acoustic))
    folder = tmp_path_factory.mktemp("real")
    for stage, rows in excerpts.items():
        (folder / stage).mkdir()
        write_shard(folder / stage / "train-00000.parquet", rows, info)
    return {stage: folder / stage for stage in SECONDS}


@pytest.mark.parametrize(
    ("stage", "pattern"), [*((stage, "flat") for stage in SECONDS), ("coarse", "delay"), ("fine", "delay")]
)
def test_a_stage_memorises_eight_real_clips_and_generates_them(
    stage: str, pattern: str, corpora: dict[str, Path], tmp_path: Path
) -> None:
    train_here(
        corpora[stage],
        tmp_path,
        stage=stage,
        codebook_pattern=pattern,
        hidden_size=96,
        head_dim=32,
        crop_seconds=SECONDS[stage],
        global_batch=CLIPS,
        max_steps=STEPS[stage],
        warmup_steps=10,
        learning_rate=1e-2,
        history_dropout=0.0,
        history_dropout_end=0.0,
        conditioning_dropout=0.0,
        validation_split="none",
        logging_steps=20,
        save_steps=1000,
    )
    model = stage_parts()[stage].model_class.from_pretrained(tmp_path / "final").eval()
    corpus, info = load_token_corpus(corpora[stage], "train", corpora[stage] / "cache")
    crops = TokenCrops(corpus, info, model.config, SECONDS[stage])
    clips = [crops.read(crop) for crop in crops.fixed_crops()]
    assert len(clips) == CLIPS
    conditioning = torch.stack([clip["conditioning_ids"] for clip in clips])
    labels = torch.stack([clip["labels"] for clip in clips])
    with torch.no_grad():
        logits = model(conditioning_ids=conditioning, labels=labels).logits
    predicted = model.pattern.tokens(logits.argmax(dim=-1))
    assert (predicted == labels).float().mean() > 0.95
    generated = model.generate(conditioning_ids=conditioning, do_sample=False, guidance_scale=1.0)
    assert torch.equal(model.codes_of(generated).transpose(1, 2).flatten(1), labels)
