# SPDX-License-Identifier: Apache-2.0
"""Original checkpoints: an independent implementation's files become models with its logits, or are refused."""

import os
import pickle
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pytest
import soundfile
import torch
import yaml
from sklearn.cluster import MiniBatchKMeans
from transformers import EncodecConfig, EncodecModel, HubertConfig, HubertModel

from convert_checkpoint import candidate, convert
from faults import Tally
from hafm_hf import HAFMForVocalAccompaniment
from hub_stand_in import TOKEN, Repository, reaching, stand_in
from original_hafm import evidence
from original_hafm.download import KMEANS_FILE, STAGE_FILES
from original_hafm.evidence import Search, Verdict, crops_of
from original_hafm.kmeans import read_kmeans
from original_hafm.layout import CHOICES, LENGTH, PAPER, Layout
from original_hafm.mapping import map_keys
from original_hafm.reading import read_checkpoint
from original_hafm.tokenizer import choose_tokenizer
from programs import REPOSITORY
from recipes.original import material, stage
from recipes.original.stage import DrawnLayout, OriginalStage, save, with_layout
from torture.test_hostile_checkpoints import Payload

# training steps: enough for segments to make the 0.01 nats of difference that a choice needs; 300 steps do not suffice
STEPS = 400
# the coarse stage of a retrained layout must also learn from where in the sequence tokens come
LONGER = 900


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory, bundled: Any) -> SimpleNamespace:
    """Paths of a folder of pairs, a HuBERT, a codec and a k-means file, and `tokens`, a list of the pairs' songs."""
    folder = tmp_path_factory.mktemp("originals")
    paths = {"pairs": folder / "pairs", "hubert": folder / "hubert", "codec": folder / "codec"}
    kmeans = folder / KMEANS_FILE
    material.write_pairs(paths["pairs"])
    material.write_hubert(paths["hubert"], bundled)
    material.write_kmeans(kmeans, paths["hubert"], paths["pairs"])
    material.write_codec(paths["codec"], paths["pairs"])
    tokens = material.tokens_of(paths["pairs"], kmeans, paths["hubert"], paths["codec"], folder / "tokenizer")
    return SimpleNamespace(**paths, kmeans=kmeans, tokens=tokens)


def train(drawn: DrawnLayout, songs: Any, steps: int = STEPS) -> dict[str, tuple[Any, Any]]:
    """Trains the three stages on the pairs' tokens.

    Args:
        drawn: the layout.
        songs: the fixture of this name.
        steps: training steps of the coarse stage; the others have `STEPS`.

    Returns:
        by stage: its weights and AdamW's second moments, each by the original's key.
    """
    trained = {}
    for name in STAGE_FILES:
        torch.manual_seed(1)
        original = OriginalStage(name, drawn, material.CLUSTERS, material.CODES)
        moments = stage.trained(original, songs.tokens, steps if name == "coarse" else STEPS)
        trained[name] = ({key: value.detach() for key, value in original.state_dict().items()}, moments)
    return trained


@pytest.fixture(scope="module")
def base(songs: Any) -> dict[str, tuple[Any, Any]]:
    """Weights and second moments of stages trained in the default layout."""
    return train(DrawnLayout(), songs)


@pytest.fixture(autouse=True)
def short_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter measures on crops of 0.4 or 1 s, as these originals are trained on, instead of 1 or 2 s."""
    for name, seconds in stage.SECONDS.items():
        monkeypatch.setitem(evidence.CROP_SECONDS, name, seconds)


def write(folder: Path, base: Any, drawn: DrawnLayout, kmeans: Path | None = None, **save_options: Any) -> Path:
    """Writes checkpoints of the stages in a layout, and a copy of the k-means.

    Args:
        folder: for the files.
        base: weights and second moments of each stage in the default layout.
        drawn: the layout.
        kmeans: file to copy; None: there is none.
        save_options: of `original.stage.save`.
    """
    for name, (state, moments) in base.items():
        file = folder / STAGE_FILES[name]
        save(file, with_layout(name, state, drawn), with_layout(name, moments, drawn, moments=True), **save_options)
    if kmeans is not None:
        (folder / KMEANS_FILE).write_bytes(kmeans.read_bytes())
    return folder


def found_in(folder: Path, songs: Any) -> tuple[dict[str, Any], dict[str, Any], Verdict]:
    """The candidate stages of a folder and their crops, both by stage, and what the search for a layout finds."""
    stages = {name: candidate(name, read_checkpoint(folder / file)) for name, file in STAGE_FILES.items()}
    crops = {name: crops_of(name, songs.tokens, each.model, stage.SECONDS[name]) for name, each in stages.items()}
    return stages, crops, Search(stages, crops).run()


def layout_of(drawn: DrawnLayout) -> dict[str, Any]:
    """The value that the search must find for each of its choices, for an original of this layout."""
    segments = {(0, 1, 2): 0, (1, 2, 0): 1, (1, 0, 2): 2, (2, 1, 0): 3}[drawn.segments]
    null = {"segment": 0, "zeros": 1, "mask": 2}[drawn.null]
    numbers = {
        "gate": drawn.gate,
        "split": int(drawn.by_head),
        "norms": int(drawn.plus_one),
        "sources": int(drawn.exchanged),
        "quantizer": int(drawn.quantizer == "input"),
        "input_table": int(drawn.table == "slot"),
        "first_table": int(drawn.first == "first"),
        "segments": segments,
        "null": null,
    }
    values = {choice: CHOICES[choice][number] for choice, number in numbers.items()}
    return {**values, "order": drawn.qkv, "distance": drawn.distance or LENGTH}


@torch.no_grad()
def faults_of(folder: Path, states: dict[str, Any], drawn: DrawnLayout, songs: Any) -> list[str]:
    """Searches the layout of the checkpoints in a folder, and compares the models made of them with the originals.

    Args:
        folder: of the checkpoints.
        states: the originals' weights by stage.
        drawn: the originals' layout.
        songs: the fixture of this name.

    Returns:
        a sentence for each wrong decision and for each stage with other logits; empty if all is right.
    """
    stages, crops, verdict = found_in(folder, songs)
    faults = list(verdict.faults)
    expected = layout_of(drawn)
    for each in verdict.decisions:
        if each.decided and each.value != expected[each.choice]:
            faults.append(f"{each.choice} is {expected[each.choice]}, and was decided to be {each.value}")
    for name, found in stages.items():
        original = OriginalStage(name, drawn, material.CLUSTERS, material.CODES).eval()
        original.load_state_dict(states[name])
        conditioning = crops[name].conditioning[:3]
        labels = crops[name].labels[:3]
        for null in (False, True):
            # one flag for each of the three crops
            nulls = torch.full((3,), null)
            model = found.lay_out(verdict.layout)
            logits = model(conditioning_ids=conditioning, labels=labels, null_conditioning=nulls).logits
            apart = float((logits - original(conditioning, labels, nulls)).abs().max())
            if apart > 1e-4:
                faults.append(f"{name}, null {null}: logits are {apart:.2g} apart")
    return faults


def drawings() -> list[tuple[DrawnLayout, dict[str, Any]]]:
    """Twenty layouts, each with options of `stage.save`: two chosen ones, then random ones, always the same."""
    draw = random.Random(4)
    chosen = [
        (
            DrawnLayout(1, "kvq", True, "input", "slot", segments=(1, 2, 0), plus_one=True, null="mask"),
            {"style": "short", "prefix": "module."},
        ),
        (DrawnLayout(0, "vqk", first="first", segments=(1, 0, 2)), {"prefix": "_orig_mod."}),
    ]
    options: dict[str, list[Any]] = {
        "gate": [0, 1],
        "qkv": ["qkv", "qvk", "kqv", "kvq", "vqk", "vkq"],
        "by_head": [False, True],
        "quantizer": ["slot", "input"],
        "table": ["input", "slot"],
        "first": ["last", "first"],
        "segments": [(0, 1, 2), (1, 2, 0), (1, 0, 2), (2, 1, 0)],
        "plus_one": [False, True],
        "null": ["zeros", "segment", "mask"],
    }
    while len(chosen) < 20:
        drawn = DrawnLayout(**{name: draw.choice(values) for name, values in options.items()})
        how = {"style": draw.choice(["long", "short"]), "prefix": draw.choice(["", "module.", "module._orig_mod."])}
        chosen.append((drawn, how))
    return chosen


# the base's weights cannot be moved to these layouts, so stages are trained in them
RETRAINED: tuple[tuple[DrawnLayout, dict[str, Any]], ...] = (
    (DrawnLayout(exchanged=True, null="segment"), {}),
    (DrawnLayout(distance=128, gate=1, null="mask", first="first"), {"style": "short"}),
)


@pytest.mark.fault("layouts of original checkpoints", cut=3, full=23)
def test_layouts_are_found_and_logits_equal_the_originals(tally: Tally, tmp_path: Path, base: Any, songs: Any) -> None:
    """The paper's own layout first, then drawn ones, then, with --torture, retrained ones."""
    cases = [(DrawnLayout(), {}), *drawings()]
    if tally.tries < 20:
        cases = cases[: tally.tries]
    for number, (drawn, how) in enumerate(cases):
        folder = write(tmp_path / str(number), base, drawn, **how)
        states = {name: with_layout(name, state, drawn) for name, (state, _) in base.items()}
        if faults := faults_of(folder, states, drawn, songs):
            tally.lose(f"{drawn}: {faults}")
        else:
            tally.survived()
    retrained = RETRAINED if tally.tries > 20 else ()
    for drawn, how in retrained:
        trained = train(drawn, songs, LONGER)
        for name, (state, moments) in trained.items():
            save(tmp_path / "retrained" / STAGE_FILES[name], state, moments, **how)
        states = {name: state for name, (state, _) in trained.items()}
        if faults := faults_of(tmp_path / "retrained", states, drawn, songs):
            tally.lose(f"{drawn}: {faults}")
        else:
            tally.survived()


def test_what_the_tokens_do_not_distinguish_is_called_undetermined(tmp_path: Path, base: Any, songs: Any) -> None:
    _, _, verdict = found_in(write(tmp_path, base, DrawnLayout()), songs)
    decisions = {each.choice: each for each in verdict.decisions}
    assert set(decisions) == set(CHOICES) - {"tables", "streams"}
    # crops are shorter than all but the smallest of these distances
    assert not decisions["distance"].decided
    assert verdict.layout.distance == LENGTH
    table = evidence.described(verdict)
    assert "| largest distance of the position bias | length | *undetermined*;" in table


def test_only_stages_that_two_layouts_lay_out_differently_count_as_evidence(
    tmp_path: Path, base: Any, songs: Any
) -> None:
    stages, crops, _ = found_in(write(tmp_path, base, DrawnLayout()), songs)
    search = Search(stages, crops)
    # with one source there is nothing to exchange, so that only the coarse stage differs
    exchanged = replace(PAPER, segments="sources exchanged, then target")
    assert len(search.difference("segments", PAPER, exchanged)) == len(crops["coarse"].labels)
    targets_first = replace(PAPER, segments="target, then sources")
    assert len(search.difference("segments", PAPER, targets_first)) == sum(len(each.labels) for each in crops.values())
    assert not search.difference("segments", PAPER, PAPER).any()


def test_tables_without_a_telling_name_are_told_apart_by_evidence(tmp_path: Path, base: Any, songs: Any) -> None:
    for name, (state, moments) in base.items():
        # the target's tables come first, and no name says so
        keys = sorted(state, key=lambda key: not key.startswith("target_embeddings"))
        # new names by old ones, which keep the tables' numbers only
        plain = {key: key.replace("target_embeddings", "a").replace("cond_embeddings", "b") for key in keys}
        for number, stream in enumerate(("vocal_semantic", "inst_semantic")):
            plain = {key: value.replace(stream, str(number)) for key, value in plain.items()}
        plain = {key: value.replace("coarse_", "") for key, value in plain.items()}
        renamed = [{plain[key]: values[key] for key in keys} for values in (state, moments)]
        save(tmp_path / STAGE_FILES[name], renamed[0], renamed[1])
    stages, _, verdict = found_in(tmp_path, songs)
    assert stages["semantic"].guessed == {"tables"}
    assert stages["coarse"].guessed == {"streams"}
    assert verdict.layout.tables == "exchanged"
    assert next(each for each in verdict.decisions if each.choice == "tables").decided


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_read_exactly_with_a_remark(tmp_path: Path, base: Any, dtype: torch.dtype) -> None:
    checkpoint = read_checkpoint(write(tmp_path, base, DrawnLayout(), dtype=dtype) / STAGE_FILES["coarse"])
    state = candidate("coarse", checkpoint).state
    expected = base["coarse"][0]["norm.weight"].to(dtype).float()
    assert torch.equal(state["model.norm.weight"], expected)
    assert checkpoint.remarks == [f"Its weights are stored in {str(dtype).removeprefix('torch.')}."]


def without(*parts: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that leaves out of a state dict the keys that begin with one of `parts`."""
    return lambda state: {key: value for key, value in state.items() if not key.startswith(parts)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("layers.0."), "layer 0 of layers. is missing"),
        (without("layers.1.norm2"), "layers.1.norm2.weight is missing, which other layers have"),
        (without("norm"), r"our weights that nothing fills:\n  model.norm.weight \(40,\)"),
        (lambda state: {**state, "extra": torch.ones(3)}, r"left over:\n  extra \(3,\)"),
        (lambda state: {**state, "norm.weight": torch.ones(5)}, r"norm.weight \(5,\)"),
        (lambda state: {**state, "norm.weight": torch.full((40,), torch.nan)}, "norm.weight holds NaN"),
        (lambda state: {**state, "module.norm.weight": torch.ones(40)}, "two keys are the same"),
        (lambda state: {**state, "name": "Bob"}, "no 'model_state' of tensors"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_with_both_sides(
    tmp_path: Path, base: Any, change: Callable[[Any], Any], sentence: str
) -> None:
    torch.save({"model_state": change(dict(base["coarse"][0]))}, tmp_path / "ckpt_best.pt")
    with pytest.raises(ValueError, match=sentence):
        candidate("coarse", read_checkpoint(tmp_path / "ckpt_best.pt"))


def test_a_missing_last_layer_is_noticed_by_the_optimisers_number_of_tensors(tmp_path: Path, base: Any) -> None:
    file = write(tmp_path, base, DrawnLayout()) / STAGE_FILES["fine"]
    content = torch.load(file, weights_only=False)
    content["model_state"] = without("layers.1.")(content["model_state"])
    torch.save(content, file)
    with pytest.raises(ValueError, match="its optimiser trained 40: a part is missing"):
        read_checkpoint(file)


def test_a_mapping_overrules_names_and_shapes(tmp_path: Path, base: Any) -> None:
    state, _ = base["coarse"]
    strange = {
        key.replace("target_embeddings.", "zz").replace("layers.", "stack."): value for key, value in state.items()
    }
    strange["mask"] = torch.ones(7)
    swapped = {"model.layers.{}.attention_norm.weight": "stack.{}.norm2.weight"}
    swapped |= {"model.layers.{}.feed_forward_norm.weight": "stack.{}.norm1.weight"}
    # as it is read from a file; zz[] is a table for each codebook
    given = {"keys": {**swapped, "model.target_embedding.weight": "zz[].weight"}, "leave_out": ["mask"]}
    mapping = map_keys("coarse", strange, yaml.safe_load(yaml.safe_dump(given)))
    assert mapping.keys["model.layers.1.attention_norm.weight"] == ["stack.1.norm2.weight"]
    assert mapping.keys["model.target_embedding.weight"] == [f"zz{book}.weight" for book in range(4)]
    with pytest.raises(ValueError, match="may hold config, keys, leave_out"):
        map_keys("coarse", strange, {"key": {}})
    with pytest.raises(ValueError, match="nothing is to be left out, but does not exist"):
        map_keys("coarse", strange, {**given, "leave_out": ["mask", "nothing"]})


class Calls(Payload):
    """A payload whose unpickling creates `path` by calling `function`."""

    def __init__(self, path: Path, function: Any) -> None:
        """Takes the path that shows that code has run, and a function from `PAYLOADS`."""
        super().__init__(path)
        self.function = function

    def __reduce__(self) -> Any:
        """The call, with its arguments, that unpickling makes."""
        if self.function is os.system:
            return (os.system, (f"touch {self.path}",))
        if self.function is eval:
            return (eval, (f"open({str(self.path)!r}, 'w')",))
        return (self.function, (str(self.path),))


PAYLOADS: dict[str, Any] = {"system": os.system, "eval": eval, "mkdir": os.mkdir, "Popen": subprocess.Popen}


@pytest.mark.parametrize("function", PAYLOADS)
@pytest.mark.parametrize("kind", ["k-means", "checkpoint"])
def test_pickles_that_would_run_code_are_refused_by_name(tmp_path: Path, function: str, kind: str) -> None:
    trap = tmp_path / "trap"
    file = tmp_path / "file"
    payload = Calls(trap, PAYLOADS[function])
    if kind == "k-means":
        file.write_bytes(pickle.dumps(payload))
    else:
        torch.save({"model_state": {"norm.weight": torch.ones(3)}, "extra": payload}, file)
    with pytest.raises(ValueError, match=rf"{file} names \S*\b{function}\b"):
        read_kmeans(file) if kind == "k-means" else read_checkpoint(file)
    assert not trap.exists()


def test_unpickling_such_a_payload_without_our_reader_runs_its_code(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Calls(tmp_path / "trap", os.system)))
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("trick", ["in an attribute", "in joblib's array", "as a state", "by getattr"])
def test_traps_inside_a_kmeans_are_refused(tmp_path: Path, trick: str) -> None:
    trap = tmp_path / "trap"
    file = tmp_path / "kmeans"
    means = MiniBatchKMeans(2, n_init=1).fit(np.random.default_rng(0).standard_normal((20, 3)))
    payload: Any = Calls(trap, os.system)
    if trick == "in an attribute":
        means.labels_ = payload
        file.write_bytes(pickle.dumps(means))
    elif trick == "in joblib's array":
        means.labels_ = np.array([payload], dtype=object)
        joblib.dump(means, file)
    elif trick == "as a state":
        means.cluster_centers_ = np.array([[payload]], dtype=object)
        file.write_bytes(pickle.dumps(means))
    else:
        # builtins.getattr(sklearn's class, "__init__")
        file.write_bytes(b"cbuiltins\ngetattr\n(csklearn.cluster._kmeans\nKMeans\nS'__init__'\ntR.")
    with pytest.raises(ValueError, match=f"{file} (names|cannot be read)"):
        read_kmeans(file)
    assert not trap.exists()


@pytest.mark.parametrize("how", ["pickle", "protocol 2, old numpy", "joblib", "joblib, compressed"])
def test_kmeans_are_read_as_scikit_learn_holds_them(tmp_path: Path, how: str) -> None:
    frames = np.random.default_rng(0).standard_normal((300, 7)).astype(np.float32)
    means = MiniBatchKMeans(5, n_init=1, random_state=np.random.RandomState(3)).fit(frames)
    means.random_state_ = np.random.RandomState(1)
    file = tmp_path / "kmeans.pt"
    if how.startswith("joblib"):
        joblib.dump(means, file, compress=3 if "compressed" in how else 0)
    elif how == "pickle":
        file.write_bytes(pickle.dumps(means))
    else:
        file.write_bytes(pickle.dumps(means, protocol=2).replace(b"numpy._core.", b"numpy.core."))
    kmeans = read_kmeans(file)
    assert np.array_equal(kmeans.centroids, means.cluster_centers_)
    assert kmeans.distance == pytest.approx(means.inertia_ / 300)
    assert kmeans.frames == 300


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"x\x9c", zlib.compress(b"no"), pickle.dumps({"a": 1})])
def test_files_that_are_no_kmeans_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kmeans.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"kmeans.pt (cannot be read|holds no fitted k-means)"):
        read_kmeans(tmp_path / "kmeans.pt")


def test_the_layer_and_normalisation_are_those_that_the_kmeans_was_fitted_with(songs: Any) -> None:
    # every fourth segment, to be quick
    segments = evidence.read_pairs(songs.pairs)[::4]
    chosen = choose_tokenizer(read_kmeans(songs.kmeans), [str(songs.hubert)], [5, 4, 3], segments)
    assert chosen.decided
    assert chosen.model.config.layer == material.LAYER
    assert chosen.model.config.do_normalize
    # three layers, each with and without normalisation
    assert len(chosen.evidence) == 6


def test_another_hubert_is_refused(songs: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    HubertModel(HubertConfig.from_pretrained(songs.hubert)).save_pretrained(tmp_path)
    segments = evidence.read_pairs(songs.pairs)[::8]
    with pytest.raises(ValueError, match="another HuBERT or another k-means is meant"):
        choose_tokenizer(read_kmeans(songs.kmeans), [str(tmp_path)], [4], segments)


def test_a_kmeans_of_other_features_is_refused(songs: Any) -> None:
    means = read_kmeans(songs.kmeans)
    other = replace(means, centroids=np.random.default_rng(0).permuted(means.centroids, axis=1))
    segments = evidence.read_pairs(songs.pairs)[::8]
    with pytest.raises(ValueError, match="another HuBERT or another k-means is meant"):
        choose_tokenizer(other, [str(songs.hubert)], [4], segments)


def test_a_kmeans_of_another_width_is_refused(songs: Any) -> None:
    narrow = replace(read_kmeans(songs.kmeans), centroids=np.ones((40, 96), np.float32))
    with pytest.raises(ValueError, match="has 96 dimensions, and .* has 192; name another HuBERT"):
        choose_tokenizer(narrow, [str(songs.hubert)], [4], [])


def test_untrained_stages_are_refused_with_a_block_for_an_issue(tmp_path: Path, base: Any, songs: Any) -> None:
    untrained = {
        name: (OriginalStage(name, DrawnLayout(), material.CLUSTERS, material.CODES).state_dict(), moments)
        for name, (_, moments) in base.items()
    }
    folder = write(tmp_path / "original", untrained, DrawnLayout(), songs.kmeans)
    with pytest.raises(ValueError, match="Nothing fits: the semantic stage predicts real songs no better") as caught:
        convert(
            str(folder), tmp_path / "out", songs.pairs, False, [str(songs.hubert)], [4], str(songs.codec), None, None
        )
    block = str(caught.value).partition("\n")[2]
    assert block.startswith("```\nsource: ")
    assert "layers.1.qkv.weight (108, 40)" in block
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("pairs", "assume"), [(None, False), (Path("pairs"), True)])
def test_either_pairs_or_the_paper_is_needed(pairs: Path | None, assume: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Give either --pairs FOLDER"):
        convert("original", tmp_path / "out", pairs, assume, [], [], "codec", None, None)


def run(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments to the end, and returns its exit code and output."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


# prints the song's number of samples, its rate in Hz, and whether it sounds
SING = """
import sys
from transformers import pipeline
song = pipeline("vocal-accompaniment", model=sys.argv[1], trust_remote_code=True)(sys.argv[2], seed=1)
print(len(song["audio"]), song["sampling_rate"], bool(abs(song["audio"]).max() > 0))
"""


def test_a_checkpoint_on_the_hub_becomes_a_published_model_that_sings(tmp_path: Path, base: Any, songs: Any) -> None:
    folder = write(tmp_path / "original", base, DrawnLayout(1, "kvq", null="mask"), songs.kmeans, style="short")
    voice, rate = soundfile.read(songs.pairs / "vocal_0" / "vocals.wav", dtype="float32")
    soundfile.write(tmp_path / "voice.wav", voice[: 2 * rate], rate)
    with stand_in() as hub:
        repository = hub.repositories["authors/HAFM"] = Repository(f"{hub.url}/authors/HAFM", private=False)
        wanted = [*STAGE_FILES.values(), KMEANS_FILE]
        files = {name: (folder / name).read_bytes() for name in wanted}
        repository.branches["main"] = {**files, "samples/song.wav": b"RIFF"}
        options = ["--hubert", songs.hubert, "--layer", 4, "--codec", songs.codec, "--pairs", songs.pairs]
        options += ["--push-to-hub", "somebody/hafm-base"]
        environment = reaching(hub.url, TOKEN, tmp_path)
        recipe = REPOSITORY / "recipes" / "convert_checkpoint.py"
        made = run(recipe, "authors/HAFM", tmp_path / "model", *options, environment=environment)
        assert made.returncode == 0, made.stderr
        asked = [request.split()[1] for request in hub.requests if "authors/HAFM/resolve/" in request]
        pushed = hub.repositories["somebody/hafm-base"].branches["main"]
    assert {path.partition("/main/")[2] for path in asked} == set(wanted)
    assert b'model="somebody/hafm-base"' in pushed["README.md"]
    assert pushed["coarse/model.safetensors"] == (tmp_path / "model" / "coarse" / "model.safetensors").read_bytes()
    assert "not those of the known revision" in made.stdout
    assert "hafm accompany vocal.wav --model somebody/hafm-base --out songs" in made.stdout
    card = (tmp_path / "model" / "README.md").read_text()
    for words in (
        "never run on the published files",
        "| gate of the feed-forward | second half |",
        "reads the voice only",
    ):
        assert words in card
    sung = run("-c", SING, tmp_path / "model", tmp_path / "voice.wav")
    assert sung.stdout.split() == ["48000", "24000", "True"], sung.stderr
    model = HAFMForVocalAccompaniment.from_pretrained(tmp_path / "model")
    assert model.semantic_tokenizer.config.noise_std == 0.01
    for option in ({"style": "folk"}, {"stems": True}, {"tempo": 100.0}, {"chords": [(0.0, 1.0, "C")]}):
        with pytest.raises(ValueError, match="This model reads the voice only"):
            model.generate(voice[:rate], sampling_rate=rate, **option)


# sizes in bytes of the files that the authors published
PUBLISHED = {"semantic": 462_959_482, "coarse": 510_330_746, "fine": 529_361_274}
PUBLISHED_KMEANS = 1_658_731


@pytest.mark.fault("original checkpoints of the published size", cut=0, full=1)
def test_files_of_the_published_size_are_converted_in_two_minutes_and_4_gb(
    tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tally.tries:
        pytest.skip("with --torture only")
    # the published model's sizes
    for name, value in {"WIDTH": 512, "HEADS": 8, "HEAD": 64, "INNER": 1365, "LAYERS": 12}.items():
        monkeypatch.setattr(stage, name, value)
    original = tmp_path / "original"
    sizes = {}
    for name, file in STAGE_FILES.items():
        state = OriginalStage(name, DrawnLayout(), 500, 1024).state_dict()
        save(original / file, state, {key: torch.zeros_like(value) for key, value in state.items()})
        sizes[name] = (original / file).stat().st_size
    frames = np.random.default_rng(0).standard_normal((30_000, 768)).astype(np.float32)
    means = MiniBatchKMeans(500, batch_size=10_000, n_init=1, max_iter=2, init="random").fit(frames)
    (original / KMEANS_FILE).write_bytes(pickle.dumps(means))
    apart = {name: PUBLISHED[name] - size for name, size in sizes.items()}
    apart["kmeans"] = PUBLISHED_KMEANS - (original / KMEANS_FILE).stat().st_size
    # bytes
    if max(map(abs, apart.values())) > 20_000:
        tally.lose(f"sizes differ by {apart} bytes")
    HubertModel(HubertConfig()).save_pretrained(tmp_path / "hubert")
    EncodecModel(EncodecConfig()).save_pretrained(tmp_path / "codec")
    recipe = REPOSITORY / "recipes" / "convert_checkpoint.py"
    options = ["--assume-paper", "--hubert", tmp_path / "hubert", "--codec", tmp_path / "codec"]
    began = time.monotonic()
    command = [sys.executable, recipe, original, tmp_path / "out", *options]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    # ru_maxrss: KiB
    megabytes = usage.ru_maxrss / 1024
    tally.measured = f"{seconds:.0f} s, {megabytes:,.0f} MB, sizes {apart}"
    if status or seconds > 120 or megabytes > 4000:
        tally.lose(f"status {status}, {tally.measured}")
    else:
        tally.survived()


def test_every_choice_has_the_papers_value_by_default() -> None:
    assert all(getattr(Layout(), choice) == values[0] for choice, values in CHOICES.items())
