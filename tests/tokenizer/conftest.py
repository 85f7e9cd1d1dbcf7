"""One small tokenizer for the tests of this folder."""

import inspect
import json
import textwrap

import pytest

from starkiln.tokenizer.tokenizer import Tokenizer, fit

SAMPLE = [inspect.getsource(json), inspect.getsource(textwrap), "naïve – 日本語 🙂\r\n" * 9]
SAMPLE += ["a\u00a0 \u00a0  \u2003 \n\u2003\tb " * 9]  # merges across kinds of white space


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return fit(SAMPLE, 700)
