"""Half and interleaved channel pairs: which rows of which tensors of a checkpoint change places, and how."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ropewalk.errors import UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.layers import rotary_of
from ropewalk.formats.layout import first, head_dim, layer_types, prepared

# q_proj and k_proj, one head after the other
SEPARATE = frozenset(
    "apertus arcee cohere cohere2 ernie4_5 exaone4 gemma gemma2 gemma3_text glm glm4 gpt_oss gptj granite helium llama "
    "mistral mixtral nemotron olmo olmo2 olmo3 phi qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 stablelm "
    "starcoder2".split()
)
# queries, keys and values in one projection
FUSED = frozenset("falcon gpt_neox persimmon phi3".split())
# heads with a part that rotates and a part that does not; the rotated key is shared by all heads
LATENT = frozenset("deepseek_v2 deepseek_v3".split())
KNOWN = SEPARATE | FUSED | LATENT
# the config of these says which pairing the code shall use
SAYS_SO = frozenset(["deepseek_v3"])

QUERIES = frozenset("q_proj q_b_proj q_norm q_layernorm".split())
KEYS = frozenset("k_proj kv_a_proj_with_mqa k_norm k_layernorm".split())
BOTH = frozenset("query_key_value qkv_proj".split())
NORMS = frozenset("q_norm q_layernorm k_norm k_layernorm".split())

# no vision or audio tower has such a path
PATH = re.compile(
    r"(?:base_model\.model\.)?(?:(?:model|language_model|transformer|gpt_neox)\.)*(?:layers|h)\.(?P<layer>\d+)\."
    r"(?:self_attn|attention|self_attention|attn)\.(?P<module>\w+)\.(?P<leaf>.+)"
)
MATRIX = re.compile(r"(base_layer\.)?weight|lora_B\.(\w+\.)?weight")
VECTOR = re.compile(r"(base_layer\.)?bias|lora_B\.(\w+\.)?bias|lora_magnitude_vector(\.\w+)*")
PLAIN = frozenset("F64 F32 F16 BF16".split())
INPUTS = re.compile(r"lora_A\.(\w+\.)?weight")


def permutation(dim: int) -> tuple[int, ...]:
    """Where each of `dim` rotated channels in half order is found in interleaved order, within one head.

    half = interleaved[permutation(dim)]; for a projection, its output rows, its bias and the norms on queries and keys.
    """
    require(dim > 0 and dim % 2 == 0, "permutation.dim", "a positive even number", dim)
    return (*range(0, dim, 2), *range(1, dim, 2))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `order`: interleaved = half[inverse(permutation(dim))]."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


class Runs(NamedTuple):
    """The rotated channels along the output rows of one tensor: `dim` from each of `starts` on."""

    layer: int
    of: str  # "q", "k" or "qk": whose rows these are
    rows: int
    starts: tuple[int, ...]
    dim: int

    def order(self, to: str) -> list[int]:
        """The row of the old tensor that each row of the new one, in the order `to`, is."""
        within = permutation(self.dim) if to == "half" else inverse(permutation(self.dim))
        order = list(range(self.rows))
        for start in self.starts:
            order[start : start + self.dim] = [start + i for i in within]
        return order


class Heads(NamedTuple):
    """How the rows of a projection divide: groups of `queries`, `keys` and as many value heads, of `width` each."""

    width: int
    offset: int = 0  # of the first rotated channel in a head
    queries: int = 1
    keys: int = 0
    total: int | None = None  # heads in all, where known

    def starts(self, name: str, rows: int) -> tuple[int, ...]:
        """The first rotated row of every query and key head. Raises ConfigError where rows do not divide like that."""
        group = self.queries + 2 * self.keys
        heads = rows // self.width
        whole = heads > 0 and heads * self.width == rows and heads % group == 0
        require(whole, f"the rows of {name}", f"groups of {group} heads of {self.width}", rows)
        require(self.total in (None, heads), f"the heads of {name}", f"{self.total}, as the config says", heads)
        turned = self.queries + self.keys
        return tuple(i * self.width + self.offset for i in range(heads) if i % group < turned)


class Projections:
    """The order of rotated channels in the tensors of one model, from the dict of its config.json.

    Raises UnsupportedError for a model type whose tensors are not known, and as `hf.read`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.text = prepared(config)
        self.family: str = self.text.get("model_type", "")
        if self.family not in KNOWN:
            known = ", ".join(sorted(KNOWN))
            raise UnsupportedError(f"the weights of model_type {self.family!r} cannot be reordered; known are {known}")
        self.rotations = [rotary_of(layer) for layer in hf.read(config)]
        self.kinds = layer_types(self.text)
        self.pairing = next((rotary.pairing for rotary in self.rotations if rotary), "half")
        self.says_so = self.family in SAYS_SO

    def runs(self, name: str, dtype: str, shape: Sequence[int]) -> Runs | None:
        """The rotated rows of one tensor, its dtype spelled as safetensors does; None where all stay.

        Raises UnsupportedError for a form that is not known, such as quantised weights.
        """
        path = PATH.fullmatch(name)
        module = path["module"] if path else ""
        if path is None or module not in QUERIES | KEYS | BOTH or INPUTS.fullmatch(path["leaf"]):
            return None
        layer = int(path["layer"])
        # a layer beyond the last one predicts further tokens, and rotates as the last one does
        place = min(layer, len(self.rotations) - 1)
        rotary = self.rotations[place]
        if rotary is None:
            return None
        norm = module in NORMS
        matrix = not norm and MATRIX.fullmatch(path["leaf"]) is not None
        if dtype not in PLAIN or not (matrix or norm or VECTOR.fullmatch(path["leaf"])):
            what = f"{name} ({dtype}) is no weight, bias or LoRA matrix of plain numbers"
            raise UnsupportedError(f"{what}: quantised or merged otherwise; convert the model that it was made from")
        rows = shape[0] if matrix and shape else math.prod(shape)
        heads = self.norm(place) if norm else self.heads(module, place)
        of = "qk" if module in BOTH else "q" if module in QUERIES else "k"
        return Runs(layer, of, rows, heads.starts(name, rows), rotary.dim)

    def norm(self, place: int) -> Heads:
        """Of gains and shifts: one head's, shared by all, or those of every head one after the other."""
        return Heads(head_dim(self.text, self.kinds[place]))

    def heads(self, module: str, place: int) -> Heads:
        """Of the rows of a projection."""
        width = head_dim(self.text, self.kinds[place])
        queries = self.number("num_attention_heads", "n_head")
        if self.family in LATENT:
            plain = self.number("kv_lora_rank" if module in KEYS else "qk_nope_head_dim")
            return Heads(plain + width, plain, total=1 if module in KEYS else queries)
        keys = first(self.text, "num_key_value_heads", "num_kv_heads", "n_head_kv")
        if module not in BOTH:
            return Heads(width, total=queries if module in QUERIES else keys)
        keys = keys or queries
        if self.family == "phi3":
            return Heads(width, queries=queries, keys=keys)
        if self.family == "falcon" and self.text.get("new_decoder_architecture"):
            return Heads(width, queries=queries // keys, keys=1, total=queries + 2 * keys)
        if self.family == "falcon" and self.text.get("multi_query", True):
            return Heads(width, queries=queries, keys=1)
        return Heads(width, queries=1, keys=1, total=3 * queries)

    def number(self, *names: str) -> int:
        """A field of the config that counts something."""
        value = first(self.text, *names)
        require(isinstance(value, int) and value > 0, names[0], "a positive number", value)
        return value

    def missing(self, found: Sequence[Runs]) -> str:
        """The first rotating layer of which `found` lacks the queries or the keys, in words; "" where all are there."""
        have = {(r.layer, letter) for r in found for letter in r.of}
        for layer, rotary in enumerate(self.rotations):
            for letter, word in (("q", "queries"), ("k", "keys")):
                if rotary and (layer, letter) not in have:
                    return f"the {word} of layer {layer}"
        return ""
