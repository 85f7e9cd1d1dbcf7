"""``transformers.generate`` as its documentation has it: ``num_return_sequences``, one prompt.

python generate_transformers.py JOB
"""

import warnings
from typing import Any

import torch
from spent import forget, job, resident, spent, tell
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def main() -> None:
    asked = job()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[asked["kind"]]
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=dtype).eval()
    model = model.to(asked["device"])
    ids = torch.tensor([asked["prompt"]], device=asked["device"])
    how: dict[str, Any] = {"do_sample": False}
    if asked["warm"]:
        how = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "top_k": 0}
    model.generation_config.eos_token_id = None

    def complete(n: int, new: int) -> dict[str, Any]:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=n,
            max_new_tokens=new,
            pad_token_id=0,
            **how,
        )
        assert out.shape == (n, ids.size(1) + new)
        return {"tokens": out[0, ids.size(1) :].tolist()}

    complete(1, 2)  # with all of them it would cost a good part of the whole
    before = forget()
    if asked["device"] != "cpu":
        weights = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    found = spent(lambda: complete(asked["n"], asked["new"]))
    grown = resident("VmHWM") - before
    if asked["device"] != "cpu":
        grown = torch.cuda.max_memory_allocated() - weights
    tell(**found, extra=grown)


if __name__ == "__main__":
    main()
