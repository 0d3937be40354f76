"""Part of a model that also speaks (Qwen Omni): the thinker writes, and other parts make sound of that."""

from transformers import PreTrainedConfig


def writing_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the part that writes: of most models the whole.

    `transformers` loads that part from the whole model's files.
    """
    thinker: PreTrainedConfig | None = getattr(config, "thinker_config", None)
    return config if thinker is None else thinker
