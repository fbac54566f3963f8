import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, BertConfig, BertForMaskedLM, GPT2LMHeadModel, LlamaConfig, LlamaModel

from ropewalk import ConfigError, Hierarchical, UnsupportedError
from ropewalk.models.attach import detach
from ropewalk.models.stretch import TABLES, stretch

ROWS = 8  # positions that a table has rows for
LONG = ROWS * ROWS
ALPHA = 0.4
PAD = 1
# vocabulary row 1 is padding; these families keep the rows up to it, OPT the first two
OFFSET = {kind: 2 for kind in TABLES if "roberta" in kind} | {"camembert": 2, "data2vec-text": 2, "mpnet": 2, "opt": 2}
NAMES = {"distilbert": ("dim", "n_layers", "n_heads"), "gpt2": ("n_embd", "n_layer", "n_head")}


def tiny(kind: str, positions: int = ROWS) -> Any:
    """A random model of a family, float64, with rows for `positions`."""
    rows = positions if kind == "opt" else positions + OFFSET.get(kind, 0)
    width, layers, heads = NAMES.get(kind, ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    wanted = {width: 16, layers: 2, heads: 2, "vocab_size": 40, "max_position_embeddings": rows, "pad_token_id": PAD}
    wanted |= {"bos_token_id": 2, "eos_token_id": 3, "initializer_range": 0.3, "init_std": 0.3}
    sizes = {"intermediate_size": 16, "hidden_dim": 16, "ffn_dim": 16, "n_inner": 16, "embedding_size": 16}
    sizes |= {"word_embed_proj_dim": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}
    config = AutoConfig.for_model(kind)
    for name, value in (wanted | sizes).items():
        if hasattr(config, name):
            setattr(config, name, value)
    torch.manual_seed(0)
    return AutoModel.from_config(config, dtype=torch.float64).eval()


def tokens(length: int, batch: int = 2) -> Tensor:
    return torch.randint(4, 40, (batch, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def run(model: Any, ids: Tensor, **more: Any) -> Tensor:
    return model(input_ids=ids, **more).last_hidden_state


def by_formula(table: Tensor) -> Tensor:
    """All positions that n rows make, row by row: u_i = (p_i - a p_0) / (1 - a) and q = a u_coarse + (1 - a) u_fine."""
    u = [(row - ALPHA * table[0]) / (1 - ALPHA) for row in table]
    return torch.stack([ALPHA * u[i] + (1 - ALPHA) * u[j] for i in range(len(u)) for j in range(len(u))])


@pytest.fixture(params=sorted(TABLES))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_long_texts_equal_those_of_a_stock_model_with_that_long_a_table(kind: str) -> None:
    model, stock, ids = tiny(kind), tiny(kind, LONG), tokens(LONG)
    place = f"{'decoder.' if kind == 'opt' else ''}{TABLES[kind]}.weight"
    weights = dict(model.state_dict())
    rows = weights[place]
    first = len(rows) - ROWS
    assert first == OFFSET.get(kind, 0)
    weights[place] = torch.cat([rows[:first], by_formula(rows[first:])])
    stock.load_state_dict(weights)
    assert stretch(model) == Hierarchical(16, ROWS, ALPHA, first)
    # two roundings of float64 apart at the input, and two small layers after it
    torch.testing.assert_close(run(model, ids), run(stock, ids), rtol=0, atol=1e-10)
    ids[:, -5:] = PAD
    seen = ids.ne(PAD).long()
    padded = run(model, ids, attention_mask=seen)
    torch.testing.assert_close(padded, run(stock, ids, attention_mask=seen), rtol=0, atol=1e-10)


def test_what_fits_the_table_is_unchanged_and_the_rest_was_refused(kind: str) -> None:
    model, ids = tiny(kind), tokens(ROWS)
    padded = torch.cat([ids[:, :-3], torch.full((2, 3), PAD)], dim=1)
    seen = padded.ne(PAD).long()
    before = run(model, ids), run(model, padded, attention_mask=seen)
    with pytest.raises((IndexError, RuntimeError)):
        run(model, tokens(ROWS + 1))
    stretch(model)
    assert torch.equal(run(model, ids), before[0])
    assert torch.equal(run(model, padded, attention_mask=seen), before[1])


def test_detach_gives_everything_back(kind: str) -> None:
    model, twin, ids = tiny(kind), tiny(kind), tokens(ROWS)
    config = copy.deepcopy(model.config.to_dict())
    stretch(model)
    run(model, tokens(LONG))
    assert model.config.to_dict() == config
    assert list(model.state_dict()) == list(twin.state_dict())
    detach(model)
    for (name, buffer), (other, stock) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(buffer, stock)
    assert torch.equal(run(model, ids), run(twin, ids))
    with pytest.raises((IndexError, RuntimeError)):
        run(model, tokens(ROWS + 1))


def test_past_the_last_position_there_is_one_clear_error(kind: str) -> None:
    model = tiny(kind)
    stretch(model)
    says = rf"position that Hierarchical reads must be a row of its table, from 0 to {LONG - 1}, got {LONG}"
    for length in (LONG + 1, LONG + 9):
        with pytest.raises(ConfigError, match=says.removesuffix(f"{LONG}")):
            run(model, tokens(length))
    with pytest.raises(ConfigError, match=says):
        run(model, tokens(LONG + 1))


def test_given_positions_are_used() -> None:
    model = tiny("bert")
    stretch(model)
    ids, where = tokens(5), torch.tensor([[0, 9, 63, 3, 17]])
    made = model.embeddings(input_ids=ids, position_ids=where)
    bare = model.embeddings.word_embeddings(ids) + model.embeddings.token_type_embeddings.weight[0]
    table = by_formula(model.embeddings.position_embeddings.weight)
    torch.testing.assert_close(made, model.embeddings.LayerNorm(bare + table[where]), rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match="got -1"):
        run(model, ids, position_ids=where - 1)


def test_a_half_precision_table_keeps_its_rows_and_its_dtype() -> None:
    model, ids = tiny("roberta").bfloat16(), tokens(ROWS)
    before = run(model, ids)
    stretch(model)
    assert torch.equal(run(model, ids), before)
    assert run(model, tokens(LONG)).dtype == torch.bfloat16


def test_cached_decoding_past_the_table_equals_prefill() -> None:
    base = tiny("gpt2")
    model = GPT2LMHeadModel(base.config).double().eval()
    stretch(model)
    ids = tokens(3 * ROWS)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        start = model(input_ids=ids[:, :5], use_cache=True)
        steps, cache = [start.logits], start.past_key_values
        for t in range(5, 3 * ROWS):
            steps.append(model(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-10)


def test_tuning_on_long_texts_reaches_the_trained_rows() -> None:
    model = tiny("bert")
    stretch(model)
    where = torch.tensor([[5 * ROWS + 2]])
    model.embeddings(input_ids=tokens(1, 1), position_ids=where)[..., 0].sum().backward()
    moved = model.embeddings.position_embeddings.weight.grad.abs().sum(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [0, 2, 5]


def test_it_compiles_whole() -> None:
    model, ids = tiny("bert"), tokens(3 * ROWS)
    stretch(model)
    compiled = torch.compile(model.embeddings, fullgraph=True, backend="eager")
    assert torch.equal(compiled(input_ids=ids), model.embeddings(input_ids=ids))


def test_a_copy_has_its_own_undo() -> None:
    model = tiny("bert")
    stretch(model)
    twin = copy.deepcopy(model)
    long = run(model, tokens(LONG))
    detach(twin)
    assert torch.equal(run(model, tokens(LONG)), long)
    with pytest.raises(RuntimeError):
        run(twin, tokens(ROWS + 1))
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.zero_()
    assert not torch.equal(run(model, tokens(ROWS)), run(twin, tokens(ROWS)))


def test_a_model_with_a_head_and_another_alpha() -> None:
    config = BertConfig(**tiny("bert").config.to_dict())
    model, ids = BertForMaskedLM(config).eval(), tokens(LONG)
    assert stretch(model, alpha=0.2).alpha == 0.2
    with torch.no_grad():
        once = model(input_ids=ids).logits
        stretch(model, alpha=0.3)
        assert (model(input_ids=ids).logits - once).abs().max() > 1e-3
        with pytest.raises(ConfigError, match=r"Hierarchical\.alpha"):
            stretch(model, alpha=0.5)
        stretch(model, alpha=0.2)
        assert torch.equal(model(input_ids=ids).logits, once)


def test_an_unknown_architecture_is_named_with_those_that_are_served() -> None:
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    with pytest.raises(UnsupportedError, match=r"cannot stretch architecture 'llama'; served are .*bert.*gpt2.*opt"):
        stretch(LlamaModel(config))
