"""Settings of training: what the model becomes, and how this machine runs it."""

from typing import Literal, Self

from pydantic import model_validator

from starkiln.core.settings import Settings, key
from starkiln.model.settings import ParallelSettings

STATE = "state"  # folder of the states that an interrupted training goes on from
POLICY = {"on_spike", "checkpoint_every"}  # keys of TrainSettings that a result does not tell


class TrainSettings(Settings):
    """The training recipe; the defaults are StarCoderBase-15.5B's (rules §14)."""

    steps: int = key(250_000, "optimizer steps", "§5.5; rules §14", gt=0)
    batch_size: int = key(512, "sequences a step, over all devices", "§5.5; rules §14", gt=0)
    sequence_length: int = key(8192, "tokens a sequence", "§5.4; rules §12", gt=1)
    weights: dict[str, float] = key(
        {}, "factor on a source's natural share, which is by its tokens; 0 leaves it out", "§5.5"
    )
    sources: list[str] = key(
        [], "train on these sources alone; none: all. Validation reports every source", "§5.5"
    )
    mask_documents: bool = key(
        False,
        "attend within a document only, and count positions from its start; set attn_pdrop to 0 "
        "beside it on GPUs, where dropout takes the fast kernels away",
    )
    z_loss: float = key(0.0, "weight of the squared log of the softmax's normaliser", ge=0)
    optimizer: Literal["adam", "muon"] = key(
        "adam",
        "adam: AdamW for all; muon: Muon for the matrices of the blocks, AdamW for the rest",
        "§5.5; muon is ours",
    )
    lr: float = key(3e-4, "peak learning rate of AdamW", "§5.5; rules §12", gt=0)
    muon_lr: float = key(5e-3, "peak learning rate of Muon, RMS matched to AdamW's", gt=0)
    min_lr_ratio: float = key(
        0.1, "learning rate at the end, as a share of the peak", "§5.5; rules §14", ge=0, le=1
    )
    warmup_steps: int = key(2000, "steps of linear warm-up", "§5.5; rules §14", ge=0)
    schedule: Literal["cosine", "linear", "constant", "wsd"] = key(
        "cosine",
        "course of the learning rate after the warm-up; wsd: constant, then down at the end",
        "§5.5; rules §9, §14",
    )
    decay_share: float = key(0.2, "share of the steps in which wsd comes down", gt=0, le=1)
    beta1: float = key(0.9, "Adam's decay of the first moment", "§5.5; rules §14", ge=0, lt=1)
    beta2: float = key(0.95, "Adam's decay of the second moment", "§5.5; rules §14", ge=0, lt=1)
    momentum: float = key(0.95, "Muon's momentum", ge=0, lt=1)
    epsilon: float = key(1e-8, "Adam's epsilon", "§5.5; rules §14", gt=0)
    weight_decay: float = key(
        0.1, "decoupled decay of matrices; biases and norms have none", "§5.5; rules §14", ge=0
    )
    clip: float = key(1.0, "largest norm of the whole gradient", "rules §14", gt=0)
    on_spike: Literal["stop", "skip"] = key(
        "stop", "at a loss or gradient that is no number, or a spike: stop, or leave the batch out"
    )
    spike: float = key(
        0.0,
        "a gradient's norm this many times the median of the last 100 is a spike; 0: none",
        ge=0,
    )
    validation_every: int = key(
        1000, "steps between validations; the last step always has one", gt=0
    )
    validation_tokens: int = key(4_194_304, "tokens a validation reads at most", gt=0)
    checkpoint_every: int = key(1000, "steps between states to resume from", gt=0)


class PairSettings(Settings):
    """What an encoder learns from: words hidden in pairs of segments (rules §9)."""

    mlm_rate: float = key(0.15, "share of a pair's ordinary tokens to tell", "rules §9", gt=0, le=1)
    mask_share: float = key(0.8, "share of them that <mask> hides", "rules §9", ge=0, le=1)
    random_share: float = key(
        0.1, "share of them that a random token hides; the rest stay", "rules §9", ge=0, le=1
    )
    follows_share: float = key(
        0.5, "share of pairs whose second segment follows the first", "rules §9", ge=0, le=1
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.mask_share + self.random_share > 1:
            raise ValueError("mask_share and random_share are together more than 1")
        return self


class BaseSettings(Settings):
    """The model that training goes on from, and what of it is trained."""

    checkpoint: str = key(
        "", "folder of a StarCoder-family checkpoint to fine-tune; empty: begin anew", "§5.5"
    )
    lora_rank: int = key(0, "rank of LoRA's updates, all else frozen; 0: train every weight", ge=0)
    lora_alpha: float = key(16.0, "LoRA: the updates are scaled by alpha / rank", gt=0)
    lora_dropout: float = key(0.0, "LoRA: dropout before the updates", ge=0, lt=1)
    lora_targets: list[str] = key(
        ["q_attn", "kv_attn", "c_proj", "c_fc"], "LoRA: the linear layers that get updates"
    )


class RunSettings(Settings):
    """How one machine runs the training; no part of what the result is named by."""

    device: str = key("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    dtype: Literal["auto", "bf16", "fp32", "fp8"] = key(
        "auto",
        "arithmetic; auto: bf16 on GPUs and on CPUs that have AVX512-BF16 or AMX; "
        "fp8: the blocks' products, on GPUs that have it",
        "§5.5",
    )
    parallel: ParallelSettings = ParallelSettings()
    micro_batch: int = key(
        0, "sequences in one forward pass; 0: all on a CPU, as many as fit and help on a GPU", ge=0
    )
    compile: Literal["auto", "on", "off"] = key(
        "auto", "torch.compile of each block; auto: on GPUs only"
    )
    threads: int = key(
        0,
        "CPU threads; sums are split by it, so pin it for equal bytes; 0: as PyTorch does",
        ge=0,
        le=1024,
    )
