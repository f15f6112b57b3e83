"""Reference log-probs: their values, what the cache tells apart, and what is left of a pass that was cut off."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from helpers import oracle
from helpers.example_pairs import token_pair
from helpers.tiny_runs import RENAMED, moved, tiny_model, token_pairs, trainer
from minordpo.data.stored import example_key
from minordpo.data.tokens import TokenExample, TokenResponse
from minordpo.engine import reference, reference_cache
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.logprobs import install
from minordpo.engine.models import POLICY_ADAPTER, REFERENCE_ADAPTER, causal_model, load_model, save_model
from minordpo.engine.reference import as_reference, fingerprint, reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.engine.weights import InitialWeights
from minordpo.errors import InputError
from minordpo.train.adapters import add_adapter

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


def computed(
    model: Any, pairs: list[TokenExample], cache: ReferenceCache, **options: Any
) -> list[np.ndarray]:
    install(causal_model(model))
    with attention_switched(causal_model(model), NAME):
        return reference_logps(model, pairs, cache, token_budget=options.pop("token_budget", 64), **options)


def no_cache() -> ReferenceCache:
    return ReferenceCache(None, "")


def key(model: Any, **changes: Any) -> str:
    weights = InitialWeights(model, None, new_adapter=changes.pop("new_adapter", False))
    return fingerprint(model, **{"autocast": "none", "weights": weights.policy} | changes)


def with_moved_adapter(model: Any) -> Any:
    """The model in a new adapter that changes it, as after some training."""
    adapted = add_adapter(model, LORA)
    for name, weight in adapted.named_parameters():
        if weight.requires_grad and "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return adapted


def adapted_model(folder: Path, *, seed: int = 5) -> Any:
    """A model with an SFT adapter that changes it, loaded as a user would load it."""
    save_model(tiny_model(), None, folder / "base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = with_moved_adapter(load_model(str(folder / "base")))
    save_model(adapted, None, folder / f"sft{seed}")
    return load_model(str(folder / f"sft{seed}"))


def test_values_are_those_of_the_stock_model():
    model, pairs = tiny_model(), token_pairs(5)
    expected = oracle.scored_logps(oracle.stock_copy(model), pairs)
    for number, logps in enumerate(computed(model, pairs, no_cache())):
        whole = torch.cat(expected[2 * number : 2 * number + 2]).detach().numpy()
        np.testing.assert_allclose(logps, whole, rtol=0, atol=1e-4)
        assert logps.dtype == np.float32


def test_equal_pairs_are_computed_once_and_get_equal_values(monkeypatch):
    pairs = token_pairs(2)
    rows = []
    packed = reference.packed_logps
    monkeypatch.setattr(reference, "packed_logps", lambda *a: rows.append(1) or packed(*a))
    found = computed(tiny_model(), [pairs[0], pairs[1], pairs[0], pairs[0]], no_cache())
    assert len(rows) == 2
    assert [np.array_equal(each, found[0]) for each in found] == [True, False, True, True]


def test_no_pairs_need_no_pass():
    assert list(computed(tiny_model(), [], no_cache())) == []


def test_a_pass_leaves_the_models_mode_as_it_was_and_has_no_dropout():
    model = tiny_model(attention_dropout=0.5)
    pairs = token_pairs(3)
    quiet = computed(model, pairs, no_cache())
    model.train()
    loud = computed(model, pairs, no_cache())
    assert model.training
    assert all(np.array_equal(a, b) for a, b in zip(quiet, loud, strict=True))


def test_a_second_pass_reads_what_the_first_wrote(tmp_path, monkeypatch):
    model, pairs = tiny_model(), token_pairs(5)
    first = computed(model, pairs, ReferenceCache(tmp_path, key(model)))
    monkeypatch.setattr(reference, "packed_logps", None)  # calling it would fail
    again = computed(model, pairs[::-1], ReferenceCache(tmp_path, key(model)))
    assert all(np.array_equal(a, b) for a, b in zip(first, again[::-1], strict=True))


def test_values_on_a_cpu_do_not_depend_on_which_others_were_missing(tmp_path):
    model, pairs = tiny_model(), token_pairs(6)
    whole = computed(model, pairs, no_cache())
    computed(model, pairs[2:4], ReferenceCache(tmp_path, "k"))
    pieces = computed(model, pairs, ReferenceCache(tmp_path, "k"))
    assert all(np.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_the_fingerprint_is_that_of_the_content_and_not_of_a_path(tmp_path):
    for name in ("one", "two"):
        save_model(tiny_model(), None, tmp_path / name)
    one, two = (load_model(str(tmp_path / name)) for name in ("one", "two"))
    assert key(one) == key(two) == key(tiny_model())


def test_the_fingerprint_is_the_same_before_and_after_the_engine_is_installed_and_training():
    model = tiny_model()
    before = key(model)
    install(model)
    with attention_switched(model, NAME):
        assert key(model.train()) == before


def test_the_fingerprint_changes_with_weights_config_precision_and_dtype():
    model = tiny_model()
    last = tiny_model()
    with torch.no_grad():
        last.model.norm.weight[-1] += 1e-6
    others = [
        key(tiny_model(seed=1)),
        key(last),
        key(tiny_model(rms_norm_eps=1e-3)),
        key(model, autocast="bfloat16"),
        key(tiny_model().bfloat16()),
    ]
    assert len({key(model), *others}) == 6


def test_the_engines_version_is_part_of_the_fingerprint(monkeypatch):
    before = key(tiny_model())
    monkeypatch.setattr(reference, "ENGINE_VERSION", reference.ENGINE_VERSION + 1)
    assert key(tiny_model()) != before


def response(ids: list[int], scored: list[int]) -> TokenResponse:
    return TokenResponse(np.array(ids, np.int32), np.array(scored, bool))


def test_a_pairs_key_changes_with_tokens_masks_and_where_the_prompt_ends():
    def made(prompt: list[int], chosen: TokenResponse, rejected: TokenResponse, row: int = 1) -> bytes:
        return example_key(token_pair(np.array(prompt, np.int32), chosen, rejected, row))

    a, b = response([4, 5], [1, 1]), response([6, 7, 8], [1, 1, 1])
    keys = [
        made([3], a, b),
        made([9], a, b),
        made([3], b, a),
        made([3], response([4, 6], [1, 1]), b),
        made([3], response([4, 5], [0, 1]), b),
        made([3, 4], response([5], [1]), b),
        made([3], a, response([6, 7], [1, 1])),
    ]
    assert len(set(keys)) == len(keys)
    assert made([3], a, b, row=7) == keys[0]
    assert all(len(each) == 16 for each in keys)


def test_another_mask_on_the_same_tokens_is_not_served_the_old_values(tmp_path):
    model, (pair, *_) = tiny_model(), token_pairs(1)
    computed(model, [pair], ReferenceCache(tmp_path, "k"))
    scored = pair.responses[0].scored.copy()
    scored[0] = False
    masked = dataclasses.replace(
        pair, responses=(TokenResponse(pair.responses[0].ids, scored), pair.responses[-1])
    )
    (found,) = computed(model, [masked], ReferenceCache(tmp_path, "k"))
    assert len(found) == scored.sum() + pair.responses[-1].scored.sum()


@pytest.mark.parametrize("damage", ["cut", "emptied", "garbage"])
def test_a_damaged_shard_is_ignored_and_its_pairs_computed_again(tmp_path, damage):
    model, pairs = tiny_model(), token_pairs(4)
    whole = list(computed(model, pairs, ReferenceCache(tmp_path, "k")))
    (shard,) = (tmp_path / "k").iterdir()
    content = shard.read_bytes()
    shard.write_bytes({"cut": content[:-20], "emptied": b"", "garbage": b"x" * 500}[damage])
    assert example_key(pairs[0]) not in ReferenceCache(tmp_path, "k")
    again = computed(model, pairs, ReferenceCache(tmp_path, "k"))
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
    assert example_key(pairs[0]) in ReferenceCache(tmp_path, "k")


def test_a_pass_that_stops_keeps_what_it_had(tmp_path, monkeypatch):
    model, pairs = tiny_model(), token_pairs(5)
    packed, rows = reference.packed_logps, []

    def stops(*args: Any) -> Any:
        rows.append(1)
        if len(rows) == 4:
            raise KeyboardInterrupt
        return packed(*args)

    monkeypatch.setattr(reference, "packed_logps", stops)
    with pytest.raises(KeyboardInterrupt):
        computed(model.train(), pairs, ReferenceCache(tmp_path, "k"))
    assert model.training
    kept = ReferenceCache(tmp_path, "k")
    assert [example_key(pair) in kept for pair in pairs] == [True, True, True, False, False]


def test_shards_are_written_as_the_pass_goes_so_that_a_kill_loses_one_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(reference_cache, "SHARD_SIZE", 2)
    cache = ReferenceCache(tmp_path, "k")
    for number in range(5):
        cache.add(bytes([number]) * 16, np.full(number + 1, number, np.float32))
    on_disk = ReferenceCache(tmp_path, "k")
    assert [bytes([number]) * 16 in on_disk for number in range(5)] == [True, True, True, True, False]
    assert on_disk[bytes([3]) * 16].tolist() == [3, 3, 3, 3]
    assert not list(tmp_path.rglob("*.writing"))


def test_a_shard_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    cache = ReferenceCache(tmp_path, "k")
    cache.add(b"a" * 16, np.zeros(2, np.float32))
    monkeypatch.setattr(reference_cache, "save_file", full)
    with pytest.raises(
        InputError, match=r"No space left on device\. Free some space, or name .* MINORDPO_CACHE"
    ):
        cache.flush()
    assert list((tmp_path / "k").iterdir()) == []


def test_a_new_adapters_random_weights_do_not_matter_to_the_fingerprint(tmp_path):
    keys = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = with_moved_adapter(tiny_model())
        keys.add(key(model, new_adapter=True))
    assert len(keys) == 1


def test_an_sft_adapters_weights_do_matter_to_the_fingerprint(tmp_path):
    models = {seed: add_adapter(adapted_model(tmp_path, seed=seed), LORA) for seed in (5, 6)}
    assert key(models[5], new_adapter=True) != key(models[6], new_adapter=True)
    torch.manual_seed(3)
    again = with_moved_adapter(adapted_model(tmp_path, seed=5))
    assert key(again, new_adapter=True) == key(models[5], new_adapter=True)


@pytest.mark.parametrize("sft", [False, True], ids=["on a base", "on an SFT adapter"])
def test_the_reference_of_a_moved_adapter_is_the_model_below_it(tmp_path, sft):
    below = adapted_model(tmp_path) if sft else tiny_model()
    pairs = token_pairs(3)
    expected = computed(below, pairs, no_cache())
    torch.manual_seed(8)
    model = with_moved_adapter(below)
    with as_reference(model, new_adapter=True):
        found = computed(model, pairs, no_cache())
    moved_away = computed(model, pairs, no_cache())
    for each, wanted, policy in zip(found, expected, moved_away, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=0, atol=1e-5)
        assert np.abs(policy - wanted).max() > 0.01


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
@pytest.mark.parametrize("sft", [False, True], ids=["on a base", "on an SFT adapter"])
def test_after_the_reference_the_adapters_are_as_before(tmp_path, sft, fails):
    model = add_adapter(adapted_model(tmp_path) if sft else tiny_model(), LORA)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name for name, on in before.items() if on} == {n for n in before if f".{POLICY_ADAPTER}." in n}
    active = list(model.base_model.active_adapters)
    assert active == ([REFERENCE_ADAPTER, POLICY_ADAPTER] if sft else [POLICY_ADAPTER])
    try:
        with as_reference(model, new_adapter=True):
            if sft:
                assert list(model.base_model.active_adapters) == [REFERENCE_ADAPTER]
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert list(model.base_model.active_adapters) == active
    assert not any(layer.disable_adapters for layer in model.modules() if isinstance(layer, LoraLayer))


def test_without_a_new_adapter_the_reference_is_the_model_itself():
    model = moved(tiny_model(), by=0.1)
    with as_reference(model, new_adapter=False):
        assert np.array_equal(
            computed(model, token_pairs(1), no_cache())[0], computed(model, token_pairs(1), no_cache())[0]
        )


def test_of_two_that_share_a_reference_the_second_waits_and_finds_it_computed(tmp_path: Path):
    first, second = ReferenceCache(tmp_path, "shared"), ReferenceCache(tmp_path, "shared")
    found: list[bool] = []

    def wait_for_it() -> None:
        with second.computed_once():
            found.append(b"a pair of tokens" in second)

    waiting = threading.Thread(target=wait_for_it)
    with first.computed_once():
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        first.add(b"a pair of tokens", np.zeros(3, np.float32))
        first.flush()
    waiting.join(30)
    assert found == [True]


def test_a_pass_waits_for_others_only_where_it_has_something_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    waited: list[str] = []
    locked = reference_cache.locked
    monkeypatch.setattr(
        reference_cache, "locked", lambda folder: waited.append(folder.name) or locked(folder)
    )
    for count in (4, 4, 5):
        made = trainer(tmp_path, pairs=token_pairs(count), cache=tmp_path / "cache")
        made.precompute_reference()
    assert len(waited) == 2
