"""Part of a model that also speaks (Qwen Omni): the thinker writes, and other parts make sound of that."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig


def read_writing_config(folder: Path) -> PreTrainedConfig:
    """Read the configuration of the part that writes: of most models the whole.

    `transformers` loads that part from the whole model's files.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    thinker: PreTrainedConfig | None = getattr(config, "thinker_config", None)
    return config if thinker is None else thinker
