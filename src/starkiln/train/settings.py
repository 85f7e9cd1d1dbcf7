"""Settings of training: what the model becomes, and how this machine runs it."""

from typing import Literal

from starkiln.core.settings import Settings, key


class TrainSettings(Settings):
    """The training recipe; the defaults are StarCoderBase-15.5B's (rules §14)."""

    steps: int = key(250_000, "optimizer steps", "§5.5; rules §14", gt=0)
    batch_size: int = key(512, "sequences a step, over all devices", "§5.5; rules §14", gt=0)
    sequence_length: int = key(8192, "tokens a sequence", "§5.4; rules §12", gt=1)
    weights: dict[str, float] = key(
        {}, "factor on a source's natural share, which is by its tokens; 0 leaves it out", "§5.5"
    )
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
    schedule: Literal["cosine", "constant"] = key(
        "cosine", "course of the learning rate after the warm-up", "§5.5; rules §14"
    )
    beta1: float = key(0.9, "Adam's decay of the first moment", "§5.5; rules §14", ge=0, lt=1)
    beta2: float = key(0.95, "Adam's decay of the second moment", "§5.5; rules §14", ge=0, lt=1)
    momentum: float = key(0.95, "Muon's momentum", ge=0, lt=1)
    epsilon: float = key(1e-8, "Adam's epsilon", "§5.5; rules §14", gt=0)
    weight_decay: float = key(
        0.1, "decoupled decay of matrices; biases and norms have none", "§5.5; rules §14", ge=0
    )
    clip: float = key(1.0, "largest norm of the whole gradient", "rules §14", gt=0)
    validation_every: int = key(
        1000, "steps between validations; the last step always has one", gt=0
    )
    validation_tokens: int = key(4_194_304, "tokens a validation reads at most", gt=0)
    checkpoint_every: int = key(1000, "steps between states to resume from", gt=0)


class RunSettings(Settings):
    """How one machine runs the training; no part of what the result is named by."""

    device: str = key("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    dtype: Literal["auto", "bf16", "fp32"] = key(
        "auto", "arithmetic; auto: bf16 on GPUs and on CPUs that have AVX512-BF16 or AMX", "§5.5"
    )
    micro_batch: int = key(0, "sequences in one forward pass; 0: the whole batch at once", ge=0)
    compile: Literal["auto", "on", "off"] = key(
        "auto", "torch.compile of each block; auto: on GPUs only"
    )
    threads: int = key(
        0, "CPU threads; sums are split by it, so pin it for equal bytes; 0: as PyTorch does", ge=0
    )
