import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from starkiln.catalogue import Recipe
from starkiln.core import recipe
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings, parameter_count
from starkiln.train import memory


def preset(name: str) -> Recipe:
    return recipe.load(recipe.PRESETS / f"{name}.toml", Recipe).value


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("starcoderbase-15b", 15_517_456_384),
        ("starcoderbase-7b", 7_327_263_232),
        ("starcoderbase-3b", 3_043_311_104),
        ("starcoderbase-1b", 1_137_207_296),
        ("one-gpu", 164_144_128),
    ],
)
def test_published_sizes(name: str, parameters: int) -> None:
    found = preset(name)
    assert parameter_count(found.decoder, found.tokenizer.vocab_size) == parameters


# Rules §12: layers, width, heads, FFN, std, peak rate, sequences, steps; then GPUs, and of what
# they make: copies of the model, tensor, pipeline, sequences at once.
SHAPES = {
    "starcoderbase-15b": (40, 6144, 48, 24576, 0.01275, 3e-4, 512, 250_000, 512, (32, 4, 4, 1)),
    "starcoderbase-7b": (42, 4096, 32, 16384, 0.015625, 3e-4, 512, 250_000, 512, (256, 2, 1, 2)),
    "starcoderbase-3b": (36, 2816, 22, 11264, 0.01884, 5e-4, 256, 500_000, 256, (256, 1, 1, 1)),
    "starcoderbase-1b": (24, 2048, 16, 8192, 0.02209, 4e-4, 128, 1_000_000, 128, (128, 1, 1, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_papers_figures(name: str) -> None:
    found = preset(name)
    model, train = found.decoder, found.train
    gpus = SHAPES[name][-2]
    layout = memory.laid_out(found.run.parallel, found.run.micro_batch, train, gpus)
    memory.check(layout, model, train, found.tokenizer.vocab_size, gpus)
    layers = (model.n_layer, model.n_embd, model.n_head, model.inner, model.std)
    shared = (layout.data, layout.tensor, layout.pipeline, layout.micro_batch)
    assert (*layers, train.lr, train.batch_size, train.steps, gpus, shared) == SHAPES[name]
    assert (model.n_positions, train.sequence_length, found.tokenizer.vocab_size) == (
        8192,
        8192,
        49_152,
    )
    assert train.batch_size * train.steps * 8192 == 1_048_576_000_000 == 250_000 * 2**22
    assert train.warmup_steps == 2000
    assert model.activation_function == "gelu_pytorch_tanh"
    assert model.layer_norm_epsilon == 1e-5
    assert (model.multi_query, model.num_key_value_heads, model.rope_theta) == (True, None, None)


@pytest.mark.parametrize("name", [*SHAPES, "starcoder-15b"])
def test_what_all_the_papers_trainings_share(name: str) -> None:
    found = preset(name)
    model, train = found.decoder, found.train
    assert (model.attn_pdrop, model.resid_pdrop, model.embd_pdrop) == (0.1, 0.1, 0.1)
    assert (train.optimizer, train.schedule, train.min_lr_ratio) == ("adam", "cosine", 0.1)
    assert (train.beta1, train.beta2, train.epsilon) == (0.9, 0.95, 1e-8)
    assert (train.weight_decay, train.clip) == (0.1, 1.0)
    assert (found.fim.rate, found.fim.spm_rate) == (0.5, 0.5)
    layout = found.layout
    assert (layout.repo_p, layout.path_p, layout.stars_p) == (0.2, 0.2, 0.2)
    assert (train.mask_documents, train.z_loss) == (False, 0.0)


def test_the_python_fine_tune() -> None:
    """Rules §14: 35.65 billion tokens of Python from StarCoderBase, with a fresh optimizer."""
    found = preset("starcoder-15b")
    train, before = found.train, preset("starcoderbase-15b")
    assert found.base.checkpoint == "../starcoderbase-15b/checkpoint"
    assert found.base.lora_rank == 0
    assert train.sources == ["python"]
    assert (train.steps, train.lr, train.warmup_steps) == (8500, 5e-5, 1000)
    assert train.lr * train.min_lr_ratio == pytest.approx(5e-6)
    assert train.steps * train.batch_size * train.sequence_length == 35_651_584_000
    assert (found.seed, found.curate) == (before.seed, before.curate)  # so the split is the same
    assert (found.pack, found.run) == (before.pack, before.run)
    assert not found.decoder.model_fields_set  # the checkpoint has its shape


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from([(8, 2), (12, 3), (16, 16)]),
    st.sampled_from([None, 7, 50]),
    st.booleans(),
    st.integers(1, 40),
)
def test_count_is_that_of_the_module(n_layer, width, n_inner, multi_query, vocab_size):
    shape = DecoderSettings(
        n_layer=n_layer,
        n_embd=width[0],
        n_head=width[1],
        n_inner=n_inner,
        n_positions=9,
        multi_query=multi_query,
    )
    model = Decoder(shape, vocab_size, device="meta")
    assert parameter_count(shape, vocab_size) == sum(p.numel() for p in model.parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(ValidationError, match="n_head 5 does not divide n_embd 768"):
        DecoderSettings(n_head=5)


def test_unknown_activation_is_refused():
    with pytest.raises(ValidationError):
        DecoderSettings(activation_function="relu")


def test_every_key_has_a_meaning():
    assert all(field.description for field in DecoderSettings.model_fields.values())


def test_settings_do_not_import_torch():
    code = "import sys, starkiln.model.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
