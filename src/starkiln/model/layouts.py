"""How checkpoint folders name and lay out the decoder; Hugging Face's names are here alone.

GPTBigCode is StarCoder's and SantaCoder's, StarCoder2 has rotary positions and grouped queries,
the GPT-2 with ``attention_head_type`` is SantaCoder as first published. What none of them is, a
model of grouped queries with learned positions, is written under our own names.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from starkiln.code.sentinels import END_OF_TEXT
from starkiln.model.settings import DecoderSettings

Piece = tuple[str, range]  # rows of a tensor in the folder


class Layout(NamedTuple):
    """One kind of folder."""

    model_type: str
    architecture: str  # the class in transformers
    keys: dict[str, str | None]  # what config.json calls our settings; None: it has no such key
    absent: dict[str, Any]  # our settings where config.json leaves a key out
    fixed: dict[str, Any]  # what the decoder is: a folder that says otherwise is refused
    prefix: str  # of all names but the head's; a model saved without head lacks it
    rows: Callable[[DecoderSettings, str, int], list[Piece]]  # where our rows are, in order
    transposed: bool = False  # matrices of the blocks are [in, out]
    writes: Callable[[DecoderSettings], dict[str, Any]] = lambda settings: {}
    reads: Callable[[dict[str, Any]], dict[str, Any]] = lambda raw: {}


def pieces(
    layout: Layout, settings: DecoderSettings, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, list[Piece]]:
    """For each parameter, by our name and shape: where its rows lie in the folder's tensors."""
    return {name: layout.rows(settings, name, shape[0]) for name, shape in shapes.items()}


def stored_shapes(
    found: Mapping[str, list[Piece]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shape of each of the folder's tensors, before any transposition, in our order."""
    tensors: dict[str, tuple[int, ...]] = {}
    for name, parts in found.items():
        for tensor, rows in parts:
            before = tensors.get(tensor, (0,))[0]
            tensors[tensor] = (max(before, rows.stop), *shapes[name][1:])
    return tensors


def of(settings: DecoderSettings) -> Layout:
    """The layout in which a decoder of these settings is written."""
    if settings.rope_theta:
        return STARCODER2
    return GPT_BIGCODE if settings.kv_heads in (1, settings.n_head) else OWN


def written(settings: DecoderSettings, vocab_size: int, dtype: str) -> dict[str, Any]:
    """The ``config.json`` of a decoder, whose weights are of ``dtype`` (e.g. ``float32``)."""
    layout = of(settings)
    values = {**settings.model_dump(), "n_inner": settings.inner, "initializer_range": settings.std}
    names = {name: layout.keys.get(name, name) for name in values}
    return {
        **{key: values[name] for name, key in names.items() if key},
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), END_OF_TEXT),
        **layout.fixed,
        **layout.writes(settings),
        "model_type": layout.model_type,
        "architectures": [layout.architecture],
        "dtype": dtype,
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def parsed(raw: dict[str, Any]) -> tuple[Layout, DecoderSettings]:
    """The layout and settings that a ``config.json`` means; ValueError says what is amiss."""
    layout = LAYOUTS.get(str(raw.get("model_type")))
    if layout is None:
        known = ", ".join(LAYOUTS)
        raise ValueError(f"model_type is {raw.get('model_type')!r}; known are {known}")
    for key, value in layout.fixed.items():
        needed = key == _MULTI_QUERY
        if raw.get(key, None if needed else value) != value:
            raise ValueError(f"{key} is {raw.get(key)!r}; only {value!r} is supported")
    names = {name: layout.keys.get(name, name) for name in DecoderSettings.model_fields}
    here = {name: raw[key] for name, key in names.items() if key in raw}
    values = {**layout.absent, **here, **layout.reads(raw)}
    if values.get("activation_function") == "gelu_fast":  # another spelling of the same function
        values["activation_function"] = "gelu_pytorch_tanh"
    return layout, DecoderSettings(**values)


def _bigcode_rows(settings: DecoderSettings, name: str, length: int) -> list[Piece]:
    """``c_attn`` holds, for each key/value head, its queries' rows and then its own two."""
    if "_attn." not in name:
        return [(name, range(length))]
    queries = settings.n_embd // settings.kv_heads
    step = queries + 2 * settings.head_dim
    first, last = (0, queries) if ".q_attn." in name else (queries, step)
    fused = name.replace(".q_attn.", ".c_attn.").replace(".kv_attn.", ".c_attn.")
    return [(fused, range(i * step + first, i * step + last)) for i in range(settings.kv_heads)]


_STARCODER2_NAMES = {
    "transformer.wte.": "model.embed_tokens.",
    "transformer.ln_f.": "model.norm.",
    "transformer.h.": "model.layers.",
    ".ln_1.": ".input_layernorm.",
    ".ln_2.": ".post_attention_layernorm.",
    ".attn.q_attn.": ".self_attn.q_proj.",
    ".attn.kv_attn.": ".self_attn.k_proj.",
    ".attn.c_proj.": ".self_attn.o_proj.",
}


def _starcoder2_rows(settings: DecoderSettings, name: str, length: int) -> list[Piece]:
    renamed = name
    for ours, theirs in _STARCODER2_NAMES.items():
        renamed = renamed.replace(ours, theirs)
    if ".kv_attn." not in name:
        return [(renamed, range(length))]
    both, dim = (renamed, renamed.replace(".k_proj.", ".v_proj.")), settings.head_dim
    heads = [range(i * dim, (i + 1) * dim) for i in range(settings.kv_heads)]
    return [(projection, rows) for rows in heads for projection in both]


def _own_rows(settings: DecoderSettings, name: str, length: int) -> list[Piece]:
    return [(name, range(length))]


def _bigcode_config(settings: DecoderSettings) -> dict[str, Any]:
    many = settings.kv_heads > 1
    return {"multi_query": not many if settings.num_key_value_heads else settings.multi_query}


def _starcoder2_config(settings: DecoderSettings) -> dict[str, Any]:
    return {
        "num_key_value_heads": settings.kv_heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "rope_theta": settings.rope_theta,  # where transformers 4 and others look
        "sliding_window": None,
        "pad_token_id": None,  # else transformers would not train its row of the embeddings
    }


def _starcoder2_settings(raw: dict[str, Any]) -> dict[str, Any]:
    """Within its sliding window the model attends to everything: that is the longest context."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind != "default":
        raise ValueError(f"rope_type is {kind!r}; only 'default' is supported")
    context, window = raw.get("max_position_embeddings", 4096), raw.get("sliding_window")
    if isinstance(window, int) and isinstance(context, int) and window > 0:
        context = min(context, window)
    theta = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
    return {"rope_theta": theta, "n_positions": context}


_PLAIN: dict[str, Any] = {"add_cross_attention": False, "tie_word_embeddings": True}
_GPT2 = {"n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}  # left out: GPT-2's
_MULTI_QUERY = "attention_head_type"
_SOFTMAX = dict.fromkeys(("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"), True)

GPT_BIGCODE = Layout(
    "gpt_bigcode",
    "GPTBigCodeForCausalLM",
    keys={"num_key_value_heads": None, "rope_theta": None, "sinusoids": None},
    absent=_GPT2,
    fixed={**_PLAIN, "scale_attn_weights": True},
    prefix="transformer.",
    rows=_bigcode_rows,
    writes=lambda settings: {**_bigcode_config(settings), **_SOFTMAX},
)
STARCODER2 = Layout(
    "starcoder2",
    "Starcoder2ForCausalLM",
    keys={
        "n_layer": "num_hidden_layers",
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "activation_function": "hidden_act",
        "resid_pdrop": "residual_dropout",
        "embd_pdrop": "embedding_dropout",
        "attn_pdrop": "attention_dropout",
        "layer_norm_epsilon": "norm_epsilon",
        "multi_query": None,
        "rope_theta": None,
        "sinusoids": None,
    },
    absent={
        "n_layer": 30,
        "n_embd": 3072,
        "n_head": 24,
        "n_inner": 12288,
        "num_key_value_heads": 2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    fixed={**_PLAIN, "use_bias": True},
    prefix="model.",
    rows=_starcoder2_rows,
    writes=_starcoder2_config,
    reads=_starcoder2_settings,
)
SANTACODER = Layout(
    "gpt2",
    "GPT2LMHeadCustomModel",
    keys={"num_key_value_heads": None, "rope_theta": None, "multi_query": None, "sinusoids": None},
    absent=_GPT2,
    fixed={
        **_PLAIN,
        _MULTI_QUERY: "multiquery",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    prefix="transformer.",
    rows=_own_rows,
    transposed=True,
)
OWN = Layout(
    "starkiln",
    "Decoder",
    keys={},
    absent={},
    fixed=_PLAIN,
    prefix="transformer.",
    rows=_own_rows,
)
LAYOUTS = {layout.model_type: layout for layout in (GPT_BIGCODE, STARCODER2, SANTACODER, OWN)}
