"""MLX-LM: the formulas of its rope_utils, which config fields its models read, and periods where these do not do."""

import json
import math
from typing import Any

import pytest
from stock import LENGTH, LLAMA, ROTARY, every, published, scalings, with_scaling

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf, mlx
from ropewalk.formats.compare import disagreement
from ropewalk.formats.mlx_models import READERS
from ropewalk.scalings.yarn import mscale
from ropewalk.spectrum import for_length

# model types whose code reads no scaling, or one that cannot say all of them
BASE_ALONE = ("cohere-r7b", "pythia-160m")


def read(config: dict[str, Any] = LLAMA, **rope: Any) -> Rotary:
    return mlx.read({}, {**config, "rope_scaling": rope})[0]


@pytest.mark.parametrize("name", ROTARY)
def test_every_scaling_survives(name: str) -> None:
    config = published(name)
    pairs = next(e for e in hf.read(config) if e != ()).dim // 2
    for scaling in scalings(pairs, 4096):
        encodings = with_scaling(config, scaling)
        payload, losses = mlx.write(encodings, config, LENGTH)
        payload = json.loads(json.dumps(payload, allow_nan=False))
        assert disagreement(encodings, mlx.read(payload, config), LENGTH) is None, scaling
        assert bool(payload["ropes"]) == bool(losses)
        if name in BASE_ALONE and scaling in ((), (rw.NTK(4.0),)):
            assert losses == ()


def test_the_formulas_of_rope_utils() -> None:
    assert read(type="linear", factor=4.0).scaling == (rw.Linear(4.0),)
    assert read(rope_type="dynamic", factor=2.0).scaling == (rw.DynamicNTK(2.0, 8192),)
    # lengths and turns that are not given: 1, 4 and 8192 for Llama 3, 4096 for YaRN
    assert read(rope_type="llama3", factor=8.0).scaling == (rw.Llama3(8.0, 8192),)
    yarn = read(rope_type="yarn", factor=4.0)
    assert yarn.spectrum() == Rotary(128, 5e5, (rw.Yarn(4.0, 4096),)).spectrum()
    # the two weights default to 1 and 0, and 0 counts as given
    assert read(rope_type="yarn", factor=4.0, mscale=0).spectrum().magnitude == 1.0
    both = read(rope_type="yarn", factor=4.0, mscale=0.5, mscale_all_dim=0.7).spectrum().magnitude
    assert math.isclose(both, mscale(4.0, 0.5) / mscale(4.0, 0.7), rel_tol=1e-15)
    # neither of these is read
    other = read(rope_type="yarn", factor=4.0, attention_factor=3.0, truncate=False)
    assert other == yarn
    # the older name of the type wins
    assert read(type="default", rope_type="linear", factor=4.0).scaling == ()
    with pytest.raises(UnsupportedError, match="MLX-LM stops on rope_type 'ntk'"):
        read(type="ntk")


def test_longrope_takes_the_long_list_at_every_length() -> None:
    lists = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64, "original_max_position_embeddings": 1024}
    e = read(rope_type="longrope", attention_factor=9.0, **lists)
    assert e.spectrum().inv_freq == Rotary(128, 5e5, (rw.Linear(2.0),)).spectrum().inv_freq
    # sqrt(1 + ln(8192 / 1024) / ln(1024)) = sqrt(1.3)
    assert math.isclose(e.spectrum().magnitude, math.sqrt(1.3), rel_tol=1e-15)
    config = published("phi-3-mini-128k")
    _, losses = mlx.write(hf.read(config), config, 131072)
    assert len(losses) == 1
    rule = hf.read(config)[0].scaling[0]
    gap = max(abs(a / b - 1) for a, b in zip(rule.short_factor, rule.long_factor, strict=True))
    assert losses[0].frequency == pytest.approx(gap, rel=1e-12)


def test_proportional_rounds_its_pairs_up() -> None:
    for fraction, turning in ((0.25, 16), (0.5, 32), (0.26, 17), (0.999, 64)):
        e = read(rope_type="proportional", partial_rotary_factor=fraction, factor=2.0)
        rates = e.spectrum().inv_freq
        plain = Rotary(128, 5e5).spectrum().inv_freq
        assert rates == tuple(f / 2 if i < turning else 0.0 for i, f in enumerate(plain))


def test_a_magnitude_is_imposed_by_the_first_weight() -> None:
    payload, losses = mlx.write(every(rw.Yarn(4.0, 4096, magnitude=0.87)), LLAMA, LENGTH)
    assert (payload["ropes"], losses) == ([], ())
    rope = payload["config"]["rope_scaling"]
    assert rope["mscale_all_dim"] == 0.0
    assert math.isclose(rope["mscale"], (0.87 - 1) / (0.1 * math.log(4)), rel_tol=1e-12)
    assert not {"attention_factor", "truncate", "partial_rotary_factor"} & set(rope)


def test_divisors_go_through_the_long_list_with_a_length_that_gives_the_magnitude() -> None:
    rule = rw.Rescale(tuple(1 + i / 64 for i in range(64)), 1.1)
    payload, losses = mlx.write(every(rule), LLAMA, LENGTH)
    assert (payload["ropes"], losses) == ([], ())
    rope = payload["config"]["rope_scaling"]
    first = rope["original_max_position_embeddings"]
    assert math.isclose(1 + math.log(LENGTH / first) / math.log(first), 1.1**2, rel_tol=1e-12)
    assert rope["long_factor"] == pytest.approx(rule.factors, rel=1e-14)


def test_what_no_config_says_becomes_periods() -> None:
    e = Rotary(128, 5e5, (rw.Yarn(4.0, 4096, truncate=False, magnitude=0.9),))
    config = published("cohere-r7b")
    own = hf.read(config)
    bent = Rotary(128, own[0].base, e.scaling, "interleaved")
    payload, losses = mlx.write(tuple(bent if e != () else () for e in own), config, LENGTH)
    (rope,) = payload["ropes"]
    assert rope["layers"] == [i for i, e in enumerate(own) if e != ()]
    s = bent.spectrum()
    assert [1 / period for period in rope["freqs"]] == pytest.approx(s.inv_freq, rel=1e-14)
    assert (rope["scale"], rope["dims"], rope["traditional"]) == (0.9, 128, True)
    # the figures are those of the config alone
    plain = own[0].spectrum()
    assert losses[0].frequency == pytest.approx(max(f / g - 1 for f, g in zip(plain.inv_freq, s.inv_freq, strict=True)))
    assert losses[0].magnitude == pytest.approx(1 / 0.9, rel=1e-15)


def test_layers_may_have_periods_of_their_own() -> None:
    mixed = (*every(rw.Linear(2.0))[:30], Rotary(128, 5e5), Rotary(128, 5e5, (rw.Proportional(0.25),)))
    payload, _ = mlx.write(mixed, LLAMA, LENGTH)
    # what the last layer means is what all would mean, so the others have periods
    got = mlx.read(json.loads(json.dumps(payload, allow_nan=False)), LLAMA)
    assert disagreement(mixed, got, LENGTH) is None
    assert sum(len(rope["layers"]) for rope in payload["ropes"]) < 32


def test_a_base_inside_the_dict_is_lost_where_the_model_reads_the_old_fields() -> None:
    plain = {k: v for k, v in LLAMA.items() if k not in ("rope_theta", "rope_scaling")}
    inside = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}
    found = mlx.effective({**plain, "rope_parameters": inside}, LENGTH)
    assert found.layers[0] == Rotary(128, 10000.0)
    assert found.ignored == ("MLX-LM's code of llama does not read 'rope_parameters'",)
    qwen = {k: v for k, v in published("qwen3-0.6b").items() if k not in ("rope_theta", "rope_scaling")}
    assert mlx.effective({**qwen, "rope_parameters": inside}, LENGTH).layers[0] == Rotary(128, 5e5, (rw.Linear(4.0),))
    with pytest.raises(UnsupportedError, match="stops on a config of 'qwen3' without 'rope_theta'"):
        mlx.effective({**qwen, "rope_parameters": {"rope_type": "default"}}, LENGTH)


def test_keys_that_mlx_passes_over_are_named() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0, "truncate": False}
    found = mlx.effective({**LLAMA, "rope_scaling": rope}, LENGTH)
    names = ("attention_factor", "truncate")
    assert found.ignored == tuple(f"MLX-LM does not read {name!r} with rope_type 'yarn'" for name in names)
    moe = {**LLAMA, "model_type": "mixtral", "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert mlx.effective(moe, LENGTH).layers[0] == Rotary(128, 5e5)
    assert mlx.effective(moe, LENGTH).ignored == ("MLX-LM's code of mixtral does not read 'rope_scaling'",)


def test_an_unknown_model_type_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="MLX-LM's code for model_type 'novel' is not known here"):
        mlx.write(every(), {**LLAMA, "model_type": "novel"}, LENGTH)


DICTS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    {"rope_type": "yarn", "factor": 16.0, "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.5, "mscale_all_dim": 0.7},
    {"rope_type": "longrope", "original_max_position_embeddings": 1024},
    {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0},
]


@pytest.mark.parametrize("rope", DICTS, ids=repr)
def test_mlx_itself_turns_by_what_is_read(rope: dict[str, Any]) -> None:
    """Runs where MLX and MLX-LM are installed; elsewhere the formulas are pinned above."""
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.models.rope_utils")
    lists = [1 + i / 64 for i in range(64)]
    rope = {**rope, "short_factor": lists, "long_factor": lists} if rope["rope_type"] == "longrope" else rope
    module = utils.initialize_rope(128, 5e5, False, rope, 8192)
    x = mx.concatenate([mx.ones((1, 1, 2, 64)), mx.zeros((1, 1, 2, 64))], axis=-1)
    row = module(x)[0, 0, 1].tolist()
    s = for_length(read(**rope), 8192).spectrum()
    for i, rate in enumerate(s.inv_freq):
        # float32: the angle, its cosine and the product are rounded once each, and powers lose a few more units
        assert math.isclose(math.hypot(row[i], row[i + 64]), s.magnitude, rel_tol=1e-6)
        assert math.isclose(math.atan2(row[i + 64], row[i]), rate, rel_tol=4e-6, abs_tol=1e-12)


def test_every_reader_is_a_model_type_that_is_read() -> None:
    for kind in READERS:
        config = {**LLAMA, "model_type": kind, "rope_scaling": None, "head_dim": 128}
        if kind == "gpt_neox":
            config |= {"rotary_emb_base": 5e5, "rotary_pct": 1.0}
        if kind == "ministral3":
            config |= {"rope_parameters": {"rope_theta": 5e5}}
        assert any(e != () for e in mlx.read({}, config)), kind
