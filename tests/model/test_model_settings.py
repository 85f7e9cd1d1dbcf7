import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings, parameter_count


@pytest.mark.parametrize(
    ("n_layer", "n_embd", "n_head", "parameters"),
    [
        (40, 6144, 48, 15_517_456_384),
        (42, 4096, 32, 7_327_263_232),
        (36, 2816, 22, 3_043_311_104),
        (24, 2048, 16, 1_137_207_296),
        (20, 768, 12, 164_144_128),
    ],
)
def test_published_sizes(n_layer, n_embd, n_head, parameters):
    shape = DecoderSettings(n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=8192)
    assert parameter_count(shape, 49152) == parameters


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
