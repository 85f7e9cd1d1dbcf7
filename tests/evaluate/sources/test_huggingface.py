"""Any Hugging Face model as a source, against our engine and against plain transformers."""

import sys
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from starcoders import bigcode, edit, starcoder2
from starcoders import tokenizer as train
from starkiln.core.errors import UserError
from starkiln.evaluate.sources.ask import Ask
from starkiln.evaluate.sources.engine import Checkpoint
from starkiln.evaluate.sources.huggingface import HuggingFace
from starkiln.evaluate.sources.vocabulary import completed, encode, prompt_ids
from starkiln.model import checkpoint

TEXTS = ["def f(x):\n    return x + 1\n", "int main() { return 0; }\n"]
STARCODER2 = ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<file_sep>")
QWEN = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


def _with_tokenizer(folder, specials, size, **roles):
    made = train(TEXTS, size, specials, first=True, alphabet=True)
    named = {"eos_token": specials[0], **roles}
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def santa(tmp_path_factory):
    """A GPTBigCode model with SantaCoder's names: not ours to load."""
    made = tmp_path_factory.mktemp("santa")
    bigcode(made, 299)
    specials = ("<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>")
    return _with_tokenizer(made, specials, 299)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A StarCoder2 model with rotary positions and grouped queries."""
    made = tmp_path_factory.mktemp("starcoder2")
    starcoder2(made, vocab_size=299)
    return _with_tokenizer(made, STARCODER2, 299)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A Llama model with Qwen's names for infilling, two ends of text and a first token."""
    made = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, initializer_range=0.3))
    model.generation_config.eos_token_id = [0, 7]
    model.save_pretrained(made)
    return _with_tokenizer(made, QWEN, 300)


def test_samples_are_the_same_as_our_engines(folder, asks, flat) -> None:
    ours = flat(Checkpoint(folder).draw(asks))
    theirs = HuggingFace(folder, batch=5)
    assert flat(theirs.draw(asks)) == ours
    assert theirs.usage["completion_tokens"] > 0


def test_samples_do_not_depend_on_the_batch(second, asks, flat) -> None:
    together = flat(HuggingFace(second, batch=18).draw(asks))
    assert flat(HuggingFace(second, batch=1).draw(asks)) == together
    assert len({s.completion for s in together}) > len(together) / 2
    assert {s.finish for s in together} <= {"stop", "length", "end"}
    have = [replace(ask, have=frozenset({0, 1})) for ask in asks]
    assert flat(HuggingFace(second).draw(have)) == together[2::3]


@pytest.mark.parametrize("name", ["santa", "second", "llama"])
def test_greedy_completions_are_transformers_own(name, request) -> None:
    made = request.getfixturevalue(name)
    tokenizer = AutoTokenizer.from_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(made).eval()
    ends = {*range(5 if name == "second" else 4), *([7] if name == "llama" else [])}
    asks = [Ask(p, p, max_new_tokens=15) for p in ("def f(", "int main", "x", "return x + 1;" * 2)]
    for [sample] in HuggingFace(made, batch=3).draw(asks):
        ids = torch.tensor([tokenizer(sample.problem)["input_ids"]])
        how = {"do_sample": False, "max_new_tokens": 15, "pad_token_id": 0}
        how["eos_token_id"] = sorted(ends)
        new = model.generate(ids, attention_mask=torch.ones_like(ids), **how)[0, ids.shape[1] :]
        kept = [i for i in new.tolist() if i not in ends]
        assert sample.completion == tokenizer.decode(kept)
        assert sample.finish == ("length" if len(kept) == 15 else "end")


def test_completions_end_at_stop_strings_and_no_later(second, flat) -> None:
    ask = Ask("a", "def f(", n=8, temperature=1.0, max_new_tokens=30, seed=2)
    free = flat(HuggingFace(second).draw([ask]))
    stop = next(s.completion[4:6] for s in free if len(s.completion) > 8)
    source = HuggingFace(second, batch=4)
    cut = flat(source.draw([replace(ask, stop=(stop,))]))
    assert [s.completion for s in cut] == [s.completion.split(stop)[0] for s in free]
    assert [s.finish == "stop" for s in cut] == [stop in s.completion for s in free]
    assert source.usage["completion_tokens"] < 8 * 30


def test_a_long_and_a_short_prompt_stay_within_their_context(folder, flat) -> None:
    asks = [Ask("a", "y" * 150, max_new_tokens=60), Ask("b", "z" * 9, max_new_tokens=60)]
    made = flat(HuggingFace(folder, batch=2).draw(asks))  # of 160 positions
    assert made == flat(Checkpoint(folder).draw(asks))
    assert [s.finish for s in made] == ["length", "length"]


def test_infill_prompts_by_family(santa, second, llama) -> None:
    for made, order in (
        (santa, ("<fim-prefix>", "<fim-suffix>", "<fim-middle>")),
        (second, ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")),
        (llama, ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")),
    ):
        tokenizer = AutoTokenizer.from_pretrained(made)
        before, after, middle = map(tokenizer.convert_tokens_to_ids, order)
        texts = encode(tokenizer, "def f("), encode(tokenizer, "\n    pass")
        ids = prompt_ids(tokenizer, Ask("a", "def f(", "\n    pass"))
        assert ids == [before, *texts[0], after, *texts[1], middle]


def test_text_never_becomes_a_special_token(second) -> None:
    tokenizer = AutoTokenizer.from_pretrained(second)
    text = "a <fim_prefix> b <|endoftext|>"
    ids = prompt_ids(tokenizer, Ask("a", text, suffix=text, path=text))
    assert sorted(i for i in ids if i < len(STARCODER2)) == [1, 2, 3, 4]
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_a_models_own_first_token_and_file_mark(second, tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(second)
    named = prompt_ids(tokenizer, Ask("a", "x", path="a.py"))
    assert named == [4, *encode(tokenizer, "a.py\n"), *encode(tokenizer, "x")]
    made = train(TEXTS, 299, ("<s>", "</s>"), first=True, alphabet=True)
    from tokenizers.processors import TemplateProcessing

    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert prompt_ids(tokenizer, Ask("a", "x")) == [0, *encode(tokenizer, "x")]
    with pytest.raises(UserError, match="infilling"):
        prompt_ids(tokenizer, Ask("a", "x", suffix="y"))
    with pytest.raises(UserError, match="file's name"):
        prompt_ids(tokenizer, Ask("a", "x", path="y"))


def test_spaces_at_the_beginning_survive_sentencepiece() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "▁<PRE>", "▁<SUF>", "▁<MID>"]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=specials, show_progress=False)
    made.train_from_iterator(["def f(x): return x ☺ ab cd\n"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    ids = encode(tokenizer, "def f return x")
    for at in range(1, len(ids)):
        whole = tokenizer.decode(ids)
        assert tokenizer.decode(ids[:at]) + completed(tokenizer, ids[:at], ids[at:]) == whole
    pieces = tokenizer.convert_ids_to_tokens(prompt_ids(tokenizer, Ask("a", "ab", suffix="cd")))
    assert pieces[0] == "▁<PRE>"
    assert "".join(pieces) == "▁<PRE>▁ab▁<SUF>cd▁<MID>"


def test_a_prompt_that_fills_the_context(second, flat) -> None:
    ask = Ask("long", "return x " * 60, n=2, max_new_tokens=4)
    made = flat(HuggingFace(second).draw([ask, Ask("short", "x", max_new_tokens=4)]))
    assert [(s.problem, s.finish) for s in made[:2]] == [("long", "no room")] * 2
    assert made[2].completion


def test_faults_say_what_to_do(second, santa, tmp_path, asks, monkeypatch) -> None:
    with pytest.raises(UserError, match="cannot load"):
        list(HuggingFace(tmp_path).draw(asks))
    remote = tmp_path / "remote"
    bigcode(remote, 299)
    edit(remote / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    (remote / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match="cannot load"):
        list(HuggingFace(remote).draw(asks))
    broken = tmp_path / "broken"
    model = bigcode(broken, 299)
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(torch.nan)
    model.save_pretrained(broken)
    _with_tokenizer(broken, STARCODER2, 299)
    with pytest.raises(UserError, match="not finite"):
        list(HuggingFace(broken).draw(asks))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install"):
        list(HuggingFace(second).draw(asks))


def test_checkpoints_in_other_precisions(folder, asks) -> None:
    made = HuggingFace(folder, dtype=torch.bfloat16)
    assert len(list(made.draw(asks[:1]))) == 1
    assert made.identity != HuggingFace(folder).identity
    assert checkpoint.load_model(folder).transformer.wte.weight.dtype == torch.float32
