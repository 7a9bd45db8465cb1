"""Options that cannot go together, before anything is read."""

from __future__ import annotations

from .config import TrainConfig
from .errors import InputError


def validate(config: TrainConfig) -> None:
    """Check that the options can go together.

    Raises:
        InputError: naming the options and the way out.
    """
    given = [name for name in ("max_tokens", "max_steps", "epochs") if getattr(config, name) is not None]
    if len(given) > 1:
        raise InputError(
            f"give one of --max_tokens, --max_steps, --epochs; got {', '.join('--' + g for g in given)}"
        )
    for name in given:
        if getattr(config, name) <= 0:
            raise InputError(f"--{name} is {getattr(config, name)}; it must be positive")
    if config.vocab_size is not None and config.vocab is not None:
        raise InputError("give --vocab_size (learn the pieces) or --vocab (a ready file), not both")
    size = str(config.vocab_size)
    if config.vocab_size not in (None, "auto") and not (
        size.isascii() and size.isdecimal() and len(size) < 10
    ):
        raise InputError(
            f"--vocab_size is {config.vocab_size!r}; give the number of pieces, such as 40000, or auto"
        )
    if config.resume and config.overwrite:
        raise InputError(
            "--resume goes on with the run in output_dir, --overwrite removes it; give one of them"
        )
    for name in (
        "alpha",
        "alpha_start",
        "alpha_end",
        "mlm_probability",
        "held_out_fraction",
        "dropout",
        "warmup_fraction",
        "label_smoothing",
    ):
        if getattr(config, name) is not None and not 0.0 <= getattr(config, name) <= 1.0:
            raise InputError(f"--{name} is {getattr(config, name)}; it must lie between 0 and 1")
    for name in ("seq_len", "accumulation_steps", "keep_checkpoints", "log_every"):
        if getattr(config, name) < (8 if name == "seq_len" else 1):
            raise InputError(f"--{name} is {getattr(config, name)}, which is too small")
    for name, least in (
        ("loader_workers", 0),
        ("checkpoint_every", 0),
        ("seed", 0),
        ("evaluation_tokens", 1),
        ("max_line_mib", 1),
    ):
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise InputError(f"--{name} is {getattr(config, name)}; give {least} or more")
    if config.batch_tokens is not None and config.batch_tokens < config.seq_len * config.accumulation_steps:
        raise InputError(
            f"--batch_tokens {config.batch_tokens} is less than {config.accumulation_steps} sequence(s) of "
            f"--seq_len {config.seq_len}; give at least {config.seq_len * config.accumulation_steps}"
        )
    if config.distributed == "fsdp" and config.frozen_teacher == "bf16":
        raise InputError("--frozen_teacher bf16 needs --distributed ddp (fsdp shards the fp32 weights)")
    if config.frozen_teacher == "bf16" and config.method in ("edad", "from_scratch"):
        raise InputError(
            "--frozen_teacher bf16 is for stages with a teacher that is not trained; --method "
            f"{config.method} has none, so leave it out (--precision bf16 computes in bf16)"
        )
    if config.attention == "varlen" and (config.dropout or config.precision == "fp32"):
        raise InputError("--attention varlen computes in bf16 and without dropout; use sdpa, or --dropout 0")
    if config.alpha is not None and config.schedule != "constant":
        raise InputError(
            f"--alpha {config.alpha} goes with --schedule constant; --schedule {config.schedule} runs from "
            "--alpha_start to --alpha_end"
        )
    unmasked = config.method == "general_distillation" and config.distillation != "distilbert"
    if config.mlm_probability == 0.0 and not unmasked:
        raise InputError(
            f"--mlm_probability 0 leaves nothing to learn for --method {config.method} with --distillation "
            f"{config.distillation}; 0.15 is usual"
        )
    for name in (
        *("learning_rate", "student_learning_rate", "process_timeout"),
        *("kl_temperature", "temperature", "aad_temperature"),
    ):
        if not 0.0 < getattr(config, name) < float("inf"):
            raise InputError(f"--{name} is {getattr(config, name)}; it must be positive")
    for name in (
        "weight_decay",
        "max_grad_norm",
        *(
            f"{n}_weight"
            for n in ("mlm", "nsp", "attention", "hidden", "kl", "student_mlm", "cosine", "pseudo_label")
        ),
    ):
        if not 0.0 <= getattr(config, name) < float("inf"):
            raise InputError(f"--{name} is {getattr(config, name)}; it must not be negative")
    for name in ("teacher_extension", "student_extension"):
        if len(getattr(config, name)) != 2:
            raise InputError(f"--{name} takes two widths, hidden and intermediate, such as 252 1024")
