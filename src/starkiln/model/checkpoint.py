"""Checkpoints are Hugging Face folders: ``transformers`` loads ours, we load theirs (rules §12)."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from starkiln.code.sentinels import END_OF_TEXT
from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_IDS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), END_OF_TEXT)

# What of GPTBigCode the decoder is; a folder that says otherwise is refused.
_FIXED: dict[str, Any] = {
    "model_type": "gpt_bigcode",
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}

_IGNORED = (".attn.bias", ".attn.masked_bias", "lm_head.weight")  # buffers, and the tied head


def config(model: Decoder) -> dict[str, Any]:
    """The ``config.json`` of ``model``."""
    settings = model.config
    return {
        **settings.model_dump(),
        **_FIXED,
        **_IDS,
        "n_inner": settings.inner,
        "initializer_range": settings.std,
        "architectures": ["GPTBigCodeForCausalLM"],
        "attention_softmax_in_fp32": True,
        "scale_attention_softmax_in_fp32": True,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "use_cache": True,
        "vocab_size": model.vocab_size,
    }


def save(folder: Path, model: Decoder, tokenizer: Tokenizer) -> None:
    """Write ``model`` and ``tokenizer`` to ``folder``; equal weights give equal bytes.

    Each file is whole or absent, the weights last. ``AutoModelForCausalLM`` and ``AutoTokenizer``
    load the folder as it is. Raises OSError if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    atomic.write_json(folder / "config.json", config(model))
    atomic.write_json(folder / "generation_config.json", _IDS)
    weights = {name: p.detach().cpu().contiguous() for name, p in model.state_dict().items()}
    write_tensors(folder / WEIGHTS, weights, {"format": "pt"})


def write_tensors(
    path: Path, values: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write ``values`` as safetensors, whole or not at all, with the mode of any new file."""

    def fill(temporary: Path) -> None:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(values, temporary, metadata)  # makes it anew, for its owner alone
        temporary.chmod(mode)

    atomic.write(path, fill)


def load(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Decoder, Tokenizer]:
    """The model (see ``load_model``) and the tokenizer of a checkpoint folder."""
    model, tokenizer = load_model(folder, device, dtype), Tokenizer.load(folder)
    if tokenizer.vocab_size > model.vocab_size:
        what = f"the tokenizer has {tokenizer.vocab_size} entries, the model {model.vocab_size}"
        raise UserError(folder, what, "put the model's own tokenizer.json there")
    return model, tokenizer


def load_model(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Decoder:
    """The decoder of a GPTBigCode folder, ours or ``transformers``'; ``dtype`` None is as stored.

    Reads one ``model.safetensors`` or an index of several; unknown keys in ``config.json`` are
    ignored. Raises UserError naming the file that is missing, corrupt or of another architecture.
    """
    settings, vocab_size = _settings(folder / "config.json")
    state = {_full_name(n): t for n, t in _tensors(folder).items() if not n.endswith(_IGNORED)}
    model = Decoder(settings, vocab_size, device="meta")
    _check(folder, {n: tuple(p.shape) for n, p in model.named_parameters()}, state)
    model.load_state_dict(state, assign=True)
    stored = state["transformer.wte.weight"].dtype
    return model.requires_grad_(True).to(device=device, dtype=dtype or stored)


def _settings(path: Path) -> tuple[DecoderSettings, int]:
    raw = _json(path)
    for key, value in _FIXED.items():
        found = raw.get(key, None if key == "model_type" else value)
        if found != value:
            raise UserError(path, f"{key} is {found!r}", f"only {value!r} is supported")
    known = {k: v for k, v in raw.items() if k in DecoderSettings.model_fields}
    try:
        return DecoderSettings(**{**_transformers_defaults(), **known}), int(raw["vocab_size"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "config"
        raise UserError(path, f"{where}: {first['msg']}", "mend the value") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(path, "vocab_size is missing or no number", "mend the value") from error


def _transformers_defaults() -> dict[str, Any]:
    """What a key that is left out of ``config.json`` means there."""
    return {"n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(path, "is missing", "give a folder that holds a checkpoint") from error
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be read: {error}", "copy or make it anew") from error
    if not isinstance(value, dict):
        raise UserError(path, "is no JSON object", "copy or make it anew")
    return value


def _tensors(folder: Path) -> dict[str, Tensor]:
    if not (folder / INDEX).is_file() or (folder / WEIGHTS).is_file():
        return _file(folder / WEIGHTS)
    names = _json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(_is_plain(n) for n in names.values()):
        raise UserError(folder / INDEX, "has no map of plain file names", "copy it anew")
    shards = sorted(set(names.values()))
    return {name: tensor for shard in shards for name, tensor in _file(folder / shard).items()}


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        mend = "save the model as safetensors, or copy the file"
        raise UserError(path, "is missing", mend)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(path, f"is corrupt: {error}", "copy or make it anew") from error


def _full_name(name: str) -> str:
    """A headless model's names lack the prefix."""
    return name if name.startswith("transformer.") else f"transformer.{name}"


def _check(folder: Path, expected: dict[str, tuple[int, ...]], state: dict[str, Tensor]) -> None:
    mend = "make config.json and the weights agree"
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            raise UserError(folder, f"the weights lack {name}", mend)
        if name not in expected:
            raise UserError(folder, f"the weights hold {name}, which config.json does not", mend)
        if tuple(state[name].shape) != expected[name]:
            found = f"{list(state[name].shape)}, not {list(expected[name])}"
            raise UserError(folder, f"{name} is {found}", mend)
