"""What a plan chooses and says, and what to do where nothing fits."""

import json
import re
import subprocess
import sys

import pytest

from starkiln import pipeline
from starkiln.core import recipe
from starkiln.core.errors import UserError
from starkiln.model.settings import DecoderSettings
from starkiln.train import cost, memory, plan
from starkiln.train.memory import Layout
from starkiln.train.settings import TrainSettings

GIB = 2**30
PAPER_HOURS = 320_256
PAPER = Layout(data=32, tensor=4, pipeline=4)


def preset(name: str) -> tuple[DecoderSettings, TrainSettings, int]:
    found = pipeline.load(recipe.PRESETS / f"{name}.toml").value
    return found.decoder, found.train, found.tokenizer.vocab_size


def estimate(name: str, gpus: int, chip: str, layout: Layout | None = None) -> dict:
    return plan.estimate(*preset(name), gpus, chip, layout)


def test_the_papers_layout_gives_the_papers_speed() -> None:
    found = estimate("starcoderbase-15b", 512, "a100", PAPER)
    assert found["tokens_per_second"] == pytest.approx(867, abs=1)
    assert found["mfu"] == pytest.approx(0.292, abs=5e-4)
    assert found["gpu_hours"] == pytest.approx(PAPER_HOURS * found["tokens"] / 1e12, rel=1e-3)
    assert found["days"] * 24 * 512 == pytest.approx(found["gpu_hours"])
    assert found["fits"]
    assert found["micro_batches"] == 16


@pytest.mark.parametrize("size", ["1b", "3b", "7b", "15b"])
@pytest.mark.parametrize("gpus", [8, 64, 512])
@pytest.mark.parametrize("chip", ["a100-40gb", "a100", "h200", "mi300x"])
def test_what_is_chosen_divides_and_fits(size: str, gpus: int, chip: str) -> None:
    where = preset(f"starcoderbase-{size}")
    found = plan.estimate(*where, gpus, chip)
    layout = Layout(**found["layout"])
    memory.check(layout, *where, gpus)
    assert found["fits"]
    assert sum(found["memory"].values()) <= found["room"]
    assert found == plan.estimate(*where, gpus, chip)
    simpler = Layout(data=gpus, micro_batch=1)
    if layout.model > 1 and where[1].batch_size % gpus == 0:  # data parallelism alone did not fit
        least = memory.memory(
            simpler._replace(recompute="blocks"), *where, cost.chip_named(chip).memory
        )
        assert sum(least.values()) > found["room"]


def test_reasons_say_what_was_out() -> None:
    found = estimate("starcoderbase-1b", 512, "h100")
    assert found["layout"]["tensor"] == 4
    said = " ".join(found["reasons"])
    assert "128 sequences do not divide over 512" in said
    assert "tensor 4: inside a node" in said
    tight = estimate("starcoderbase-15b", 8, "a100")
    assert tight["layout"]["recompute"] == "blocks"
    assert re.search(r"is out: \d+\.\d GiB of 72.9 GiB usable", " ".join(tight["reasons"]))


def test_nothing_fits_says_what_would() -> None:
    with pytest.raises(UserError, match=r"it takes .* GiB usable; use 4 GPUs") as error:
        estimate("starcoderbase-15b", 1, "h100")
    count = int(re.findall(r"use (\d+) GPUs", error.value.mend)[0])
    assert estimate("starcoderbase-15b", count, "h100")["fits"]
    with pytest.raises(UserError, match=r"choose a chip that holds it: .*h200"):
        estimate("starcoderbase-3b", 1, "rtx4090")
    with pytest.raises(UserError, match=r"512 sequences do not divide over 48 .* use 32 GPUs"):
        estimate("starcoderbase-7b", 48, "h100")


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (Layout(data=8, micro_batch=64), "set run.micro_batch to 1 (now 64)"),
        (
            Layout(data=8, micro_batch=16),
            'set run.micro_batch to 4 and run.parallel.recompute to "blocks" (now 16, none)',
        ),
        (Layout(data=8), 'set run.parallel.recompute to "blocks" (now none)'),
        (
            Layout(data=2, recompute="blocks"),
            "use 4 GPUs (now 2)",
        ),
    ],
)
def test_out_of_memory_names_key_and_value(layout: Layout, sentence: str) -> None:
    room = 139.8 if layout.micro_batch == 64 else 79.2
    where = preset("starcoderbase-15b")
    assert plan.out_of_memory_mend(layout, *where, int(room * GIB)) == sentence


def test_out_of_memory_where_the_formula_sees_none() -> None:
    """Something else fills the GPU: the next smaller micro-batch all the same."""
    where = preset("laptop")
    assert plan.out_of_memory_mend(Layout(micro_batch=4), *where, 80 * GIB) == (
        "set run.micro_batch to 2 (now 4)"
    )
    spread = plan.out_of_memory_mend(
        Layout(data=4, recompute="blocks", micro_batch=1), *where, 80 * GIB
    )
    assert spread == "set run.parallel.tensor to 2 (now 1)"


def test_no_gpus() -> None:
    with pytest.raises(UserError, match="0 is no number of GPUs"):
        estimate("tiny", 0, "h100")


def test_rows_say_it_all() -> None:
    decoder, train, vocab = preset("starcoderbase-15b")
    found = estimate("starcoderbase-15b", 512, "a100", PAPER)
    json.dumps(found)
    rows = plan.rows(found)
    text = "\n".join(" ".join(row) for row in rows)
    assert text.isascii()
    for said in (
        "15,517,456,384",
        "512 a100: data 32 x tensor 4 x pipeline 4",
        "16 micro-batches of 1, recompute none",
        "the recipe's own",
        "29.2% of 312 TFLOP/s; the paper's run",
        "by 6N 25.9%",
        "867 all: 444,",
        "280 W a GPU",
        "GPU-hours 335,780",
    ):
        assert said in text, said
    large = plan.estimate(decoder, train, vocab, 8, "h100", Layout(data=8, micro_batch=64))
    assert not large["fits"]
    assert "does not fit: set run.micro_batch to" in str(plan.rows(large))


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys\nfrom starkiln.train import plan\n"
        "from starkiln.model.settings import DecoderSettings\n"
        "from starkiln.train.settings import TrainSettings\n"
        "plan.rows(plan.estimate(DecoderSettings(), TrainSettings(), 49152, 8, 'h100'))\n"
        "print('HEAVY', sorted({'torch', 'polars', 'numba'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in done.stdout, done.stderr


def test_what_trains_no_decoder_has_no_price() -> None:
    for name in ("starencoder", "starpii", "redact"):
        with pytest.raises(UserError, match="a decoder's training alone is priced"):
            pipeline.cost(recipe.PRESETS / f"{name}.toml", 8, "h100")


def test_a_layout_of_ones_own_is_checked_whatever_the_files_name(tmp_path) -> None:
    for name in ("mine.toml", "tiny.toml"):
        text = (recipe.PRESETS / "tiny.toml").read_text()
        (tmp_path / name).write_text(text + "[run.parallel]\ntensor = 3\n")
        with pytest.raises(UserError, match=r"3 does not divide decoder\.n_head 2"):
            pipeline.cost(tmp_path / name, 3, "h100")
