"""Numbers of a decoder that is served alone, where its configuration has an encoder's too (BART's kinds)."""

from transformers import PreTrainedConfig


def use_decoder_sizes(config: PreTrainedConfig) -> None:
    """Write the decoder's numbers of layers and heads where `transformers` reads those of any model.

    There such a configuration has the encoder's. Nothing else reads them once the decoder is alone.
    """
    is_alone = not getattr(config, "is_encoder_decoder", False)
    if is_alone and config.attribute_map.get("num_hidden_layers") == "encoder_layers":
        config.num_hidden_layers = config.decoder_layers
        config.num_attention_heads = config.decoder_attention_heads
