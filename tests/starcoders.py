"""Small random models of the StarCoder family as others make them, and their tokenizers."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)


def tokenizer(texts, size, specials=(), *, first=False, alphabet=False):
    """A tokenizer trained as BigCode's, special tokens first or after all others."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=list(specials) if first else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
    )
    made.train_from_iterator([*texts, "".join(map(chr, range(32, 127)))] * 4, trainer)
    if not first:
        made.add_special_tokens(list(specials))
    return made


def bigcode(folder, size):
    torch.manual_seed(0)
    shape = {"vocab_size": size, "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 4}
    model = GPTBigCodeForCausalLM(GPTBigCodeConfig(**shape, initializer_range=0.2)).eval()
    model.save_pretrained(folder)
    return model


def livelier(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def starcoder2(folder, *, shards=False, trunk=False, **keys):
    torch.manual_seed(0)
    shape = {"vocab_size": 299, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 999.5}}
    config = Starcoder2Config(**{**shape, **heads, **rope, "initializer_range": 0.2, **keys})
    model = livelier(Starcoder2ForCausalLM(config))
    saved = model.model if trunk else model
    saved.save_pretrained(folder, max_shard_size="30KB" if shards else "1GB")
    return model


def santacoder(folder, *, prefix="transformer."):
    """SantaCoder's first layout: a GPT-2 whose ``c_attn`` is split, with one key/value head.

    Returns the same function as a plain GPT-2 of transformers: the one head copied to all.
    """
    torch.manual_seed(0)
    shape = {"vocab_size": 299, "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 4}
    many = {"activation_function": "gelu_new", "initializer_range": 0.2, "n_inner": 80}
    plain = livelier(GPT2LMHeadModel(GPT2Config(**shape, **many)))
    with torch.no_grad():
        for block in plain.transformer.h:
            for p in block.attn.c_attn.parameters():  # weight [in, out], bias [out]
                q, k, v = p.split(48, dim=-1)
                copies = (x[..., :12].repeat(*[1] * (x.ndim - 1), 4) for x in (k, v))
                p.copy_(torch.cat([q, *copies], dim=-1))
    tensors = {}
    for name, value in plain.transformer.state_dict().items():
        if ".attn.c_attn." in name:
            q, k, v = value.split(48, dim=-1)
            kv = torch.cat([k[..., :12], v[..., :12]], dim=-1)
            tensors[prefix + name.replace("c_attn", "q_attn")] = q.contiguous()
            tensors[prefix + name.replace("c_attn", "kv_attn")] = kv
        else:
            tensors[prefix + name] = value.clone()
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = {
        **shape,
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadCustomModel"],
        "attention_head_type": "multiquery",
        "activation_function": "gelu_fast",
        "n_inner": 80,
        "reorder_and_upcast_attn": False,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "summary_type": "cls_index",
        "bos_token_id": 49152,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return plain


def edit(path, **keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
