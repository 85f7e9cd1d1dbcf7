"""``starkiln complete``, and what a served model is called."""

from pathlib import Path

import pytest

from starkiln import models
from starkiln.core.errors import UserError
from starkiln.model.checkpoint import save
from starkiln.model.decoder import Decoder
from starkiln.model.engine import Engine
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer import context
from starkiln.tokenizer.tokenizer import fit

TEXT = "def add(first, second):\n    return first + second\n\n\nclass Adder:\n    total = 0\n"
PREFIX, SUFFIX = "total = ", "s\n    pass\n"


def test_complete_leaves_out_what_repeats_the_suffix(tmp_path: Path) -> None:
    tokenizer = fit([TEXT] * 3, 320)
    shape = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=64)
    decoder = Decoder(shape, tokenizer.vocab_size, seed=3)
    save(tmp_path, decoder, tokenizer)
    engine = Engine(decoder, tokenizer)
    ids = context.prompt(PREFIX, SUFFIX, tokenizer, limit=60)
    how = {"max_new_tokens": 4, "temperature": 1.0, "top_p": 0.95}
    drawn = ((seed, engine.generate(ids, seed=seed, **how)[0].text) for seed in range(5000))
    left = ((seed, text, context.trim(text, SUFFIX, PREFIX)) for seed, text in drawn)
    seed, raw, text = next(found for found in left if found[1] != found[2])
    sets = [f"{name}={value}" for name, value in (("seed", seed), *how.items())]
    assert "".join(models.stream(tmp_path, PREFIX, SUFFIX, sets)) == text != raw


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_temperature_that_is_none_is_told_with_its_key(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"temperature = .*should be"):
        list(models.stream(tmp_path, "x", None, [f"temperature={value}"]))


def test_a_model_is_called_as_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo" / "checkpoint"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert models.name(Path()) == models.name(folder) == "demo"
    monkeypatch.chdir(folder.parent)
    assert models.name(Path()) == "demo"
    assert models.name(Path("/")) == "model"
