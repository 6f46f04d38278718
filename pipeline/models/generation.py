"""Settings of text generation: the same in both frameworks, and independent of what a checkpoint's config sets."""

from __future__ import annotations

from transformers import GenerationConfig, PretrainedConfig

from pipeline.backend import GenerationSettings
from pipeline.models.families import family_of

# The token ids in a model's config that generation depends on.
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def generation_config(config: PretrainedConfig, settings: GenerationSettings) -> GenerationConfig:
    """The library's settings for generation without sampling.

    Of the model's `config` only the special tokens count.
    """
    special = {key: getattr(config, key) for key in SPECIAL_IDS if getattr(config, key, None) is not None}
    never = None if family_of(config).writes_padding else [[config.pad_token_id]]
    return GenerationConfig(**settings, **special, bad_words_ids=never, do_sample=False)
