# SPDX-License-Identifier: Apache-2.0
"""Crops and batches: aligned streams, and samples that do not depend on how the work is divided."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch

from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.corpus.tokens import TokenCorpusInfo, write_shard
from hafm_hf.lead_sheet.lead_sheet import ROW_SIZES, LeadSheet, rows_by_frame
from hafm_hf.training.arguments import CorruptionArguments, StageArguments
from hafm_hf.training.data import GlobalBatchSampler, TokenCrops, check_vocabularies, load_token_corpus, read_stream
from hafm_hf.training.lead_sheets import _parsed, misheard, with_rows_dropped
from hafm_hf.training.stages import make_stage
from integration.test_train_faults import full_disk
from pretrained.test_offline import without
from tiny_models import CLUSTERS, CODES
from training.toy_corpus import INFO, toy_config, toy_excerpt, write_toy_corpus


def make_crops(folder: Path, stage: str, seconds: float = 1.6, seed: int = 3) -> TokenCrops:
    """Training crops of `seconds` from a toy corpus."""
    corpus, info = load_token_corpus(folder, "train", cache_dir=folder / "cache")
    return TokenCrops(corpus, info, toy_config(stage), seconds, seed)


# of 1.6 s: 80 frames at 50 Hz, 120 at 75 Hz, where coarse and fine have 3 and 2 codebooks
@pytest.mark.parametrize(("stage", "streams", "tokens"), [("semantic", 1, 80), ("coarse", 2, 360), ("fine", 3, 240)])
def test_a_crop_has_whole_frames_at_both_rates(corpus: Path, stage: str, streams: int, tokens: int) -> None:
    sample = make_crops(corpus, stage)[7]
    conditioning_frames = 120 if stage == "fine" else 80
    assert sample["conditioning_ids"].shape == (streams, conditioning_frames)
    assert sample["labels"].shape == (tokens,)


def test_the_streams_of_a_crop_start_at_the_same_time(corpus: Path) -> None:
    crops = make_crops(corpus, "coarse")
    parities = set()
    for number in range(40):
        sample = crops[number]
        vocal, instrumental = sample["conditioning_ids"]
        sounding = vocal[torch.arange(120) * 50 // 75]
        codes = sample["labels"].view(120, 3)
        # as `toy_excerpt` derives them from the vocal
        assert torch.equal(instrumental, (vocal * 3 + 1) % 40)
        assert torch.equal(codes, torch.stack([(sounding * (q + 1)) % 30 for q in range(3)], dim=1))
        _, cell = crops.crop_at(number)
        parities.add(cell % 2)
    assert parities == {0, 1}  # crops also start at odd multiples of 40 ms, where frames of both rates align
    # the fine stage reads the coarse codes of its own frames
    fine = make_crops(corpus, "fine")
    # its excerpt, and where it starts in it, in cells of 40 ms (three frames at 75 Hz)
    crop = fine.crop_at(5)
    row, cell = crop
    acoustic = read_stream(fine.corpus, row, "acoustic")[:, cell * 3 : cell * 3 + 120]
    sample = fine.read(crop)
    assert np.array_equal(sample["conditioning_ids"], acoustic[:3])
    assert np.array_equal(sample["labels"].view(120, 2).T, acoustic[3:])


def test_the_fine_stages_target_begins_with_the_codebook_of_its_configuration(corpus: Path) -> None:
    rows, info = load_token_corpus(corpus, "train", cache_dir=corpus / "cache")
    assert toy_config("fine").first_codebook == 3, "after those that it reads"
    crops = TokenCrops(rows, info, toy_config("fine", first_codebook=2), 1.6)
    crop = crops.crop_at(5)
    row, cell = crop
    acoustic = read_stream(rows, row, "acoustic")[:, cell * 3 : cell * 3 + 120]
    assert np.array_equal(crops.read(crop)["labels"].view(120, 2).T, acoustic[2:4])
    with pytest.raises(ValueError, match="needs codebook 6 of acoustic; the corpus has 5"):
        check_vocabularies(toy_config("fine", first_codebook=4), INFO)


def test_an_epoch_samples_excerpts_by_length_and_is_reproducible(corpus: Path) -> None:
    crops = make_crops(corpus, "semantic")
    rows = [crops.crop_at(number)[0] for number in range(len(crops))]
    assert np.bincount(rows).tolist() == (crops.cells // crops.frames).tolist()
    rows_of_second_epoch = [crops.crop_at(number)[0] for number in range(len(crops), 2 * len(crops))]
    assert sorted(rows_of_second_epoch) == sorted(rows)
    assert rows_of_second_epoch != rows
    again = make_crops(corpus, "semantic")
    other = make_crops(corpus, "semantic", seed=4)
    # reading in another order changes nothing
    _ = again[0]
    assert all(torch.equal(crops[n]["labels"], again[n]["labels"]) for n in (31, 2, 90))
    assert any(crops.crop_at(n) != other.crop_at(n) for n in range(5))


def test_any_division_of_the_global_batch_has_the_same_samples_per_step() -> None:
    def step_samples(accumulation: int, world_size: int) -> list[list[int]]:
        """The sorted samples of each of the steps 2 to 6, over all processes and micro-batches."""
        steps: list[list[int]] = [[] for _ in range(5)]
        for rank in range(world_size):
            sampler = GlobalBatchSampler(12, accumulation, rank, world_size, first_step=2, last_step=7)
            for number, samples in enumerate(sampler):
                steps[number // accumulation] += samples
        return [sorted(samples) for samples in steps]

    whole = step_samples(1, 1)
    # of step 2, with 12 samples a step
    assert whole[0] == list(range(24, 36))
    assert step_samples(1, 3) == step_samples(2, 2) == step_samples(4, 1) == whole
    # also for unequal parts: sizes differ by one, and mean losses are weighted by size
    assert step_samples(1, 8) == step_samples(1, 5) == step_samples(3, 3) == whole
    # process 2 of 5
    sampler = GlobalBatchSampler(12, 1, 2, 5, last_step=1)
    assert [len(samples) for samples in sampler] == [3]
    assert sampler.largest == 3
    # 3 of 12 samples, over the mean share of 5 processes
    assert sampler.weight(3) == 3 * 5 / 12
    assert GlobalBatchSampler(12, 2, 0, 3).weight(2) == 1.0


# a quarter of the history is swapped for that of another track, a stranger
SWAPPED = CorruptionArguments(history_swap=0.25)


def test_strangers_are_reproducible_targets_from_another_track(corpus: Path) -> None:
    rows, info = load_token_corpus(corpus, "train", cache_dir=corpus / "cache")
    crops, again = (TokenCrops(rows, info, toy_config("coarse"), 1.6, 3, SWAPPED) for _ in range(2))
    plain = make_crops(corpus, "coarse")
    for number in (0, 5, 31):
        sample = crops[number]
        stranger = crops.crop_of_other_track(number)
        assert crops.tracks([stranger]) != crops.tracks([crops.crop_at(number)])
        assert torch.equal(sample["strangers"], crops.read(stranger)["labels"])
        assert torch.equal(sample["strangers"], again[number]["strangers"])
        assert torch.equal(sample["labels"], plain[number]["labels"])
    for corruption in (SWAPPED, CorruptionArguments(lead_sheet_other_voice=0.1)):
        with pytest.raises(ValueError, match="of another track needs crops of two"):
            TokenCrops(rows.select([2]), info, toy_config("coarse"), 1.6, corruption=corruption)


def test_a_stage_with_other_vocabularies_rates_or_tokenizers_is_refused() -> None:
    for changes in ({"conditioning_codebook_sizes": [[41]]}, {"codebook_sizes": [39]}, {"frame_rate": 75}):
        with pytest.raises(ValueError, match="tokenise the corpus again"):
            check_vocabularies(toy_config("semantic", **changes), INFO)
    corpus = dataclasses.replace(INFO, semantic_tokenizer="0123", codec="4567")
    known = {"semantic_tokenizer": "0123"}
    check_vocabularies(toy_config("semantic", tokenizers=known), corpus)
    check_vocabularies(toy_config("semantic", tokenizers=known), INFO)  # without fingerprints in the corpus
    with pytest.raises(ValueError, match="tokens of the codec 89ab, the corpus holds those of 4567"):
        check_vocabularies(toy_config("coarse", tokenizers={**known, "codec": "89ab"}), corpus)


def test_a_stage_trains_on_the_tokens_of_another_tokenizer_only_with_new_tokens(tmp_path: Path) -> None:
    # the tokenizers' fingerprints differ
    corpus = dataclasses.replace(INFO, semantic_tokenizer="0123")
    trained = stage_parts()["semantic"].model_class(toy_config("semantic", tokenizers={"semantic_tokenizer": "89ab"}))
    trained.save_pretrained(tmp_path)
    stage = make_stage(StageArguments(init_from=str(tmp_path)), corpus, crop_seconds=10.0)
    with pytest.raises(ValueError, match="--new_tokens true"):
        check_vocabularies(stage.config, corpus)
    stage = make_stage(StageArguments(init_from=str(tmp_path), new_tokens=True), corpus, 10.0)
    check_vocabularies(stage.config, corpus)
    assert stage.config.tokenizers == {"semantic_tokenizer": "0123"}, "as its checkpoints will record"
    assert all(torch.equal(a, b) for a, b in zip(stage.parameters(), trained.parameters(), strict=True))


def test_a_stage_continues_with_its_own_codebooks_and_window(corpus: Path, tmp_path: Path, tiny_model: Path) -> None:
    stage_parts()["fine"].model_class(toy_config("fine", window_seconds=1.6)).save_pretrained(tmp_path)
    config = make_stage(StageArguments("fine", init_from=str(tmp_path)), INFO, None).config
    assert TokenCrops(*load_token_corpus(corpus, "train", cache_dir=corpus / "cache"), config, None).seconds == 1.6
    assert (config.conditioning_codebook_sizes, config.codebook_sizes) == ([[30] * 3], [30] * 2)
    with pytest.raises(ValueError, match="cannot continue with fine_codebooks 3: its weights need 2"):
        make_stage(StageArguments("fine", init_from=str(tmp_path), coarse_codebooks=3, fine_codebooks=3), INFO, None)
    info = TokenCorpusInfo(50, 75, num_clusters=CLUSTERS, codebook_size=CODES, num_codebooks=8)
    loaded = make_stage(StageArguments("coarse", init_from=str(tiny_model)), info, 5.0).state_dict()
    published = stage_parts()["coarse"].model_class.from_pretrained(tiny_model, subfolder="coarse").state_dict()
    assert loaded.keys() == published.keys()
    assert all(torch.equal(loaded[name], published[name]) for name in loaded)


def test_a_trained_stage_accepts_other_dropouts_but_no_other_shape(tmp_path: Path) -> None:
    stage_parts()["semantic"].model_class(toy_config("semantic", conditioning_dropout=0.05)).save_pretrained(tmp_path)
    arguments = StageArguments(init_from=str(tmp_path))
    assert make_stage(arguments, INFO, 10.0).config.conditioning_dropout == 0.05
    stage = make_stage(dataclasses.replace(arguments, conditioning_dropout=0.3, attention_dropout=0.2), INFO, 10.0)
    assert (stage.config.conditioning_dropout, stage.config.attention_dropout) == (0.3, 0.2)
    tokens = {"conditioning_ids": torch.zeros(1, 1, 50, dtype=torch.int64), "use_cache": False}
    torch.manual_seed(0)
    draws = [stage.train()(input_ids=torch.zeros(1, 9, dtype=torch.int64), **tokens).logits for _ in range(2)]
    assert not torch.equal(*draws), "attention dropout acts"
    for name, value in (("position_scheme", "index"), ("hidden_size", 48)):
        with pytest.raises(ValueError, match=f"cannot continue with {name} {value!r}"):
            make_stage(StageArguments(init_from=str(tmp_path), **{name: value}), INFO, 10.0)  # type: ignore[arg-type]
    same = dataclasses.replace(arguments, position_scheme="time", hidden_size=24)
    assert make_stage(same, INFO, 10.0).config.position_scheme == "time"
    without(stage, tmp_path, ["heads.weight"])
    with pytest.raises(ValueError, match="missing keys heads.weight"):
        make_stage(arguments, INFO, 10.0)


def test_shards_with_and_without_extra_columns_are_read_together(tmp_path: Path) -> None:
    write_toy_corpus(tmp_path)
    table = parquet.read_table(tmp_path / "train-00000.parquet")
    old = table.select(["track", "start", "duration", "vocal_semantic", "instrumental_semantic", "acoustic"])
    parquet.write_table(old, tmp_path / "train-00000.parquet")
    more = parquet.read_table(tmp_path / "train-00001.parquet")
    more = more.append_column("mood", [["bright"] * len(more)])
    parquet.write_table(more, tmp_path / "train-00001.parquet")
    crops = make_crops(tmp_path, "coarse")
    assert len(crops.corpus) == 12
    assert crops[3]["labels"].shape == (360,)


def test_a_full_cache_disk_is_not_reported_as_damaged_shards(corpus: Path, tmp_path: Path) -> None:
    with full_disk(20_000), pytest.raises(OSError, match=r"can't be cached in .*kept \(.*name another --cache_dir"):
        load_token_corpus(corpus, "train", tmp_path / "kept")


SHEET = LeadSheet(
    beats=[0.0, 0.5, 1.0, 1.5, 2.0], beats_per_bar=4, chords=[(0.0, 2.0, "C"), (2.0, 8.0, "Am7")], style="waltz",
    sections=[(0.0, 8.0, "full")],
)  # fmt: skip
STREAMS = {name: ROW_SIZES[name] for name in ("chord", "beat")}


@pytest.fixture(scope="module")
def sheets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three excerpts of 8 s, with lead sheets except for the first."""
    folder = tmp_path_factory.mktemp("sheets")
    rows = [toy_excerpt(f"song_{at}", 8.0, at) for at in range(3)]
    text = json.dumps(SHEET.to_dict())
    with_sheets = [dataclasses.replace(row, lead_sheet=text) for row in rows[1:]]
    write_shard(folder / "train-00000.parquet", [rows[0], *with_sheets], INFO)
    return folder


def sheet_crops(folder: Path, corruption: CorruptionArguments | None = None, stage: str = "coarse") -> TokenCrops:
    """Crops of 1.6 s from a corpus with lead sheets, for a stage that reads the streams STREAMS."""
    corpus, info = load_token_corpus(folder, "train", cache_dir=folder / "cache")
    return TokenCrops(corpus, info, toy_config(stage, lead_sheet_streams=STREAMS), 1.6, 3, corruption)


def test_crops_have_the_lead_sheet_of_their_own_time_and_require_one(sheets_folder: Path) -> None:
    crops = sheet_crops(sheets_folder)
    assert _parsed('{"style": [[0, 5, "jazz"], [5, 9, "folk"]]}', ("folk",)).styles == ((5, 9, "folk"),)
    whole = rows_by_frame(SHEET, list(STREAMS), 400, 50)
    rows = set()
    for number in range(12):
        row, cell = crops.crop_at(number)
        ids = crops[number]["conditioning_ids"]
        assert ids.shape == (4, 80)
        rows.add(row)
        if row == 0:
            assert not ids[2:].any()
        else:
            assert torch.equal(ids[2:], whole[:, 2 * cell : 2 * cell + 80])
    assert rows == {0, 1, 2}
    bare = crops.corpus.remove_columns("lead_sheet")
    with pytest.raises(ValueError, match="reads chord, beat, but the corpus has no lead sheets"):
        TokenCrops(bare, INFO, crops.config, 1.6)


def test_lead_sheets_are_corrupted_and_dropped_at_the_configured_rates(sheets_folder: Path) -> None:
    corruption = CorruptionArguments(
        lead_sheet_dropout=0.2, lead_sheet_dropout_all=0.1, lead_sheet_half_beat=0.15, lead_sheet_octave=0.2
    )
    crops, again = (sheet_crops(sheets_folder, corruption) for _ in range(2))
    for number in (3, 11):
        assert torch.equal(crops[number]["conditioning_ids"], again[number]["conditioning_ids"])
    generators = [np.random.default_rng((1, number)) for number in range(2000)]
    disturbed = [misheard(SHEET, corruption, generator) for generator in generators]
    first_two = np.array([np.asarray(sheet.beats)[:2] for sheet in disturbed])
    first = first_two[:, 0]
    spacings = np.diff(first_two)[:, 0]
    assert np.mean(first == 0.25) == pytest.approx(0.15, abs=0.03), "half a beat late"
    assert np.mean(np.isclose(spacings, 0.25)) == pytest.approx(0.1, abs=0.025), "the tempo doubled"
    assert np.mean(np.isclose(spacings, 1.0)) == pytest.approx(0.1, abs=0.025), "the tempo halved"
    fast = LeadSheet(beats=np.arange(0.0, 3.0, 0.15).tolist())
    assert all(misheard(fast, corruption, generator).has_beats for generator in generators)
    streams = rows_by_frame(SHEET, list(STREAMS), 80, 50)
    dropped = torch.stack(
        [~with_rows_dropped(streams, corruption, generator).any(dim=1) for generator in generators]
    ).double()  # [samples, streams]
    # all at once at a rate of 0.1, and otherwise each at 0.2
    assert dropped.mean(dim=0).tolist() == pytest.approx([0.28, 0.28], abs=0.04)
    assert float(dropped.all(dim=1).double().mean()) == pytest.approx(0.1 + 0.9 * 0.2**2, abs=0.03)


def test_voices_are_swapped_only_with_a_lead_sheet_and_a_stage_that_reads_voices(sheets_folder: Path) -> None:
    # the fine stage reads no voice
    never = sheet_crops(sheets_folder, CorruptionArguments(lead_sheet_other_voice=0.0), "fine")
    always = sheet_crops(sheets_folder, CorruptionArguments(lead_sheet_other_voice=1.0), "fine")
    assert all(torch.equal(never[n]["conditioning_ids"], always[n]["conditioning_ids"]) for n in range(9))
    crops = sheet_crops(sheets_folder, CorruptionArguments(lead_sheet_other_voice=0.5))
    unchanged = sheet_crops(sheets_folder, CorruptionArguments())
    # whether the crop has a lead sheet, and whether its voice is another
    swapped = []
    for number in range(60):
        ids_read = crops[number]["conditioning_ids"]
        ids = unchanged[number]["conditioning_ids"]
        assert torch.equal(ids_read[1:], ids[1:])
        assert torch.equal(crops[number]["labels"], unchanged[number]["labels"])
        has_sheet = crops.crop_at(number)[0] > 0
        swapped.append((has_sheet, not torch.equal(ids_read[0], ids[0])))
    assert np.mean([other for has_sheet, other in swapped if has_sheet]) == pytest.approx(0.5, abs=0.2)
    assert not any(other for has_sheet, other in swapped if not has_sheet)


def test_excerpts_shorter_than_a_crop_are_named_and_refused_if_all_are(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"No train excerpt fills a crop of 9.0 s; the longest is 8.00 s"):
        make_crops(corpus, "semantic", seconds=9.0)
    crops = make_crops(corpus, "semantic", seconds=4.0)
    (message,) = [record.getMessage() for record in caplog.records if "shorter" in record.getMessage()]
    said = "4 of 12 excerpts are shorter than a crop of 4 s and are not used: train_0_0, train_0_3,"
    assert message.startswith(said)
    assert len(crops.cells) == 12
