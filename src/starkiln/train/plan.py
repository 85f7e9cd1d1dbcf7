"""Before a training run: the layout, what it needs, how long it takes; all without torch."""

import json
from collections.abc import Iterator
from typing import Any

from starkiln.core.errors import UserError
from starkiln.model.settings import DecoderSettings, parameter_count
from starkiln.train.cost import (
    Chip,
    assumed_mfu,
    busy,
    chip_named,
    chips,
    data,
    emissions,
    flops_per_token,
    gpu_hours,
)
from starkiln.train.memory import Layout, check, faults, memory
from starkiln.train.settings import TrainSettings

GIB = 2**30
_ENOUGH = 16_384  # tokens in a micro-batch; more no longer make the chip busier
_DEEPEST = 16  # stages that are tried
_SMALL = 100_000_000  # parameters, below which a GPU waits for kernels to start
_USABLE = 0.92  # of a GPU whose chip is not known here
_MOST = 8  # doublings of the GPUs that are tried where nothing fits


def choose(
    decoder: DecoderSettings, train: TrainSettings, vocab_size: int, gpus: int, chip: Chip
) -> tuple[Layout, list[str]]:
    """The simplest layout that fits, and why it was taken, a sentence a decision.

    Data parallelism before all; then recomputation; then tensor parallelism inside a node; then a
    pipeline. UserError, with what would do, where nothing fits.
    """
    reasons: list[str] = []
    least = None
    for layout in _candidates(gpus, chip):
        where = f"tensor {layout.tensor} x pipeline {layout.pipeline}"
        fault = next(faults(layout, decoder, train, vocab_size, gpus), None)
        if fault:
            if layout.recompute == "none":
                reasons.append(f"{where} is out: {fault[1]}")
            continue
        needed = _total(layout, decoder, train, vocab_size, chip.memory)
        least = min(needed, least or needed)
        if needed <= chip.room:
            layout = widened(layout, decoder, train, vocab_size, chip.memory, chip.room)
            return layout, [*reasons, *_praise(layout)]
        how = " with recomputation" if layout.recompute == "blocks" else ""
        reasons.append(f"{where}{how} is out: {_gib(needed)} of {_gib(chip.room)} usable")
    why = f"it takes {_gib(least)} of {_gib(chip.room)} usable" if least else reasons[0]
    mend = _what_would(decoder, train, vocab_size, gpus, chip)
    raise UserError("--gpus", f"no layout fits on {gpus}: {why}", mend)


def _candidates(gpus: int, chip: Chip) -> Iterator[Layout]:
    for pipeline in _powers(min(_DEEPEST, gpus)):
        for tensor in _powers(min(chip.node, gpus // pipeline)):
            for recompute in ("none", "blocks"):
                data = gpus // (tensor * pipeline)
                yield Layout(data, tensor, pipeline, recompute=recompute)


def _powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length())]


def widened(
    layout: Layout,
    decoder: DecoderSettings,
    train: TrainSettings,
    vocab_size: int,
    device_bytes: int,
    room: int | None = None,
) -> Layout:
    """More sequences at once while they fit, up to what keeps a chip busy; a pipeline stays.

    ``room`` are the bytes of ``device_bytes`` that a run may fill.
    """
    room = room or int(_USABLE * device_bytes)
    while layout.pipeline == 1 and layout.micro_batch * train.sequence_length < _ENOUGH:
        wider = layout._replace(micro_batch=2 * layout.micro_batch)
        if any(faults(wider, decoder, train, vocab_size, layout.gpus)):
            break
        if _total(wider, decoder, train, vocab_size, device_bytes) > room:
            break
        layout = wider
    return layout


def _praise(layout: Layout) -> Iterator[str]:
    if layout.gpus == 1:
        yield "one GPU: nothing is shared"
    if layout.shards > 1:
        yield f"data {layout.data}: FSDP shares weights, gradients and moments among all of them"
    if layout.tensor > 1:
        yield f"tensor {layout.tensor}: inside a node, where the links are fast"
    if layout.pipeline > 1:
        yield f"pipeline {layout.pipeline}: sends one tensor between nodes, where links are slow"
    if layout.recompute == "blocks":
        yield "recompute blocks: a quarter to a third more arithmetic for the memory"


def _total(
    layout: Layout,
    decoder: DecoderSettings,
    train: TrainSettings,
    vocab_size: int,
    device_bytes: int,
) -> int:
    return sum(memory(layout, decoder, train, vocab_size, device_bytes).values())


def _fits(*where: Any) -> bool:
    """Whether some layout does; ``where`` is as for ``choose``."""
    decoder, train, vocab_size, gpus, chip = where
    return any(
        not any(faults(layout, decoder, train, vocab_size, gpus))
        and _total(layout, decoder, train, vocab_size, chip.memory) <= chip.room
        for layout in _candidates(gpus, chip)
    )


def _what_would(
    decoder: DecoderSettings, train: TrainSettings, vocab_size: int, gpus: int, chip: Chip
) -> str:
    below = [n for n in reversed(_powers(gpus)) if n < gpus]
    more = [_powers(gpus)[-1] * 2**n for n in range(1, _MOST + 1)]
    counts = [n for n in (*below, *more) if _fits(decoder, train, vocab_size, n, chip)]
    others = [name for name, c in chips().items() if _fits(decoder, train, vocab_size, gpus, c)]
    ways = [f"use {counts[0]} GPUs"] if counts else []
    ways += [f"choose a chip that holds it: {', '.join(others)}"] if others else []
    return ", or ".join(ways) or "make the model, its vocabulary or its sequences smaller"


def out_of_memory_mend(
    layout: Layout,
    decoder: DecoderSettings,
    train: TrainSettings,
    vocab_size: int,
    device_bytes: int,
) -> str:
    """Which ``run`` keys to set, and to what, when a GPU of ``device_bytes`` has no memory left.

    Fewer sequences at once; then recomputation; then more devices to a model; then more devices.
    The batch and the schedule stay the same.
    """
    at = decoder, train, vocab_size
    ways = [way for way in _thriftier(layout, train) if not any(faults(way, *at, way.gpus))]
    room = _USABLE * device_bytes
    fitting = (way for way in ways if _total(way, *at, device_bytes) <= room)
    way = next(fitting, min(ways, key=lambda way: _total(way, *at, device_bytes), default=None))
    if way is None:
        return "use GPUs with more memory, or a smaller model"
    if way.gpus != layout.gpus:
        return f"use {way.gpus} GPUs (now {layout.gpus})"
    now, new = layout._asdict(), way._asdict()
    keys = [k for k in ("micro_batch", "recompute", "tensor", "pipeline") if new[k] != now[k]]
    dotted = {"micro_batch": "run.micro_batch"}
    said = [f"{dotted.get(k, f'run.parallel.{k}')} to {json.dumps(new[k])}" for k in keys]
    return f"set {' and '.join(said)} (now {', '.join(str(now[k]) for k in keys)})"


def _thriftier(layout: Layout, train: TrainSettings) -> Iterator[Layout]:
    """Layouts that need less, those first that cost the least speed and effort."""
    own = train.batch_size // layout.data
    sizes = [n for n in range(layout.micro_batch, 0, -1) if own % n == 0]
    yield from (layout._replace(micro_batch=n) for n in sizes if n < layout.micro_batch)
    if layout.recompute == "none":
        yield from (layout._replace(micro_batch=n, recompute="blocks") for n in sizes)
    least = layout._replace(micro_batch=1, recompute="blocks")
    for key in ("tensor", "pipeline"):
        for times in (2, 4, 8):
            fewer, odd = divmod(layout.data, times)
            if fewer and not odd:
                yield least._replace(**{key: times * getattr(layout, key)}, data=fewer)
    yield from (least._replace(data=2**n * layout.data) for n in range(1, _MOST))


def estimate(
    decoder: DecoderSettings,
    train: TrainSettings,
    vocab_size: int,
    gpus: int,
    chip_name: str,
    layout: Layout | None = None,
) -> dict[str, Any]:
    """All that a run needs and costs, as plain data; ``layout`` is checked, or else chosen.

    UserError as by ``check``, ``choose`` and ``chip_named``. A layout that divides but does not
    fit is no error: ``mend`` says what to change.
    """
    chip, at = chip_named(chip_name), (decoder, train, vocab_size)
    if gpus < 1:
        raise UserError("--gpus", f"{gpus} is no number of GPUs", "give 1 or more")
    reasons = ["it is the recipe's own: run.parallel and run.micro_batch"]
    if layout is None:
        layout, reasons = choose(*at, gpus, chip)
    check(layout, *at, gpus)
    parts = memory(layout, *at, chip.memory)
    fits = sum(parts.values()) <= chip.room
    return {
        "parameters": parameter_count(decoder, vocab_size),
        "chip": chip_name,
        "gpus": gpus,
        "layout": layout._asdict(),
        "reasons": reasons,
        "micro_batches": train.batch_size // (layout.data * layout.micro_batch),
        "memory": parts,
        "room": chip.room,
        "fits": fits,
        "mend": "" if fits else out_of_memory_mend(layout, *at, chip.memory),
        **_costs(layout, *at, chip),
    }


def _costs(
    layout: Layout, decoder: DecoderSettings, train: TrainSettings, vocab_size: int, chip: Chip
) -> dict[str, float]:
    flops = flops_per_token(decoder, vocab_size, train.sequence_length)
    mfu = assumed_mfu(layout, decoder, train, vocab_size, chip)
    tokens = train.steps * train.batch_size * train.sequence_length
    hours = gpu_hours(tokens, flops, chip, mfu)
    mwh, tonnes = emissions(hours, chip.watts)
    return {
        "flops_per_token": flops,
        "mfu": mfu,
        "mfu_6n": mfu * 6 * parameter_count(decoder, vocab_size) / flops,
        "busy": busy(layout, train),
        "tokens_per_second": mfu * chip.tflops * 1e12 / flops,
        "tokens": tokens,
        "steps": train.steps,
        "gpu_hours": hours,
        "days": hours / layout.gpus / 24,
        "mwh": mwh,
        "tonnes_co2": tonnes,
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(label, value, note) of each line that shows an ``estimate``."""
    return [*_rows_of_memory(found), *_rows_of_cost(found)]


def _rows_of_memory(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    chip, its = chip_named(found["chip"]), found["layout"]
    yield "parameters", f"{found['parameters']:,}", "the tied head counted once"
    names = ("data", "tensor", "pipeline", "context")
    shape = " x ".join(f"{name} {its[name]}" for name in names if its[name] > 1 or name == "data")
    yield "layout", f"{found['gpus']} {found['chip']}: {shape}", found["reasons"][0]
    for reason in found["reasons"][1:]:
        yield "", "", reason
    how = f"{found['micro_batches']} micro-batches of {its['micro_batch']}"
    how += f", {its['chunks']} chunks a GPU" if its["chunks"] > 1 else ""
    idle = f"the pipeline idles {1 - found['busy']:.1%} of the time" if its["pipeline"] > 1 else ""
    yield "", f"{how}, recompute {its['recompute']}", idle
    for part, size in found["memory"].items():
        yield f"  {part}", _gib(size), ""
    share = f"{chip.usable:.0%} of {chip.memory_gib:g} GiB"
    verdict = "fits" if found["fits"] else f"does not fit: {found['mend']}"
    total = sum(found["memory"].values())
    yield "memory per GPU", _gib(total), f"{verdict}; usable are {_gib(found['room'])}, {share}"


def _rows_of_cost(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    chip, site, speed = chip_named(found["chip"]), data()["site"], found["tokens_per_second"]
    flops = found["flops_per_token"] / 1e9
    note = "causal: 6 x (blocks + V x E) + 6 x layers x E x T"
    yield "FLOPs a token", f"{flops:,.1f} G" if flops >= 1 else f"{flops * 1000:.2f} M", note
    small = "; so small a model will not reach it" if found["parameters"] < _SMALL else ""
    note = f"of {chip.tflops:g} TFLOP/s; {chip.mfu_from}{small}"
    yield "MFU assumed", f"{found['mfu']:.1%}", note
    yield "  by 6N", f"{found['mfu_6n']:.1%}", "parameters alone, without attention"
    yield "tokens/s per GPU", f"{speed:,.0f}", f"all: {speed * found['gpus']:,.0f}"
    yield "steps", f"{found['steps']:,}", f"{found['tokens']:,} tokens"
    yield "days", _number(found["days"]), "without restarts, validations and checkpoints"
    yield "GPU-hours", _number(found["gpu_hours"]), ""
    note = f"{chip.watts:g} W a GPU ({chip.watts_from}), PUE {site['pue']:g}; hosts not counted"
    yield "energy", f"{_number(found['mwh'])} MWh", note
    note = f"{site['kg_co2_per_kwh']:g} kg a kWh, as in the paper; yours may differ"
    yield "CO2", f"{_number(found['tonnes_co2'])} t", note


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _number(value: float) -> str:
    if value < 0.01:
        return "under 0.01"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"
