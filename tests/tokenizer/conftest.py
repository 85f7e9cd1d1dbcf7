"""One small tokenizer for the tests of this folder."""

import inspect
import json
import textwrap

import pytest

from starkiln.tokenizer.tokenizer import Tokenizer, fit

SAMPLE = [inspect.getsource(json), inspect.getsource(textwrap), "naïve – 日本語 🙂\r\n" * 9]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return fit(SAMPLE, 700)
