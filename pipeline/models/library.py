"""What differs between versions 4.57 and 5 of transformers in configurations, tokenizers and the Hub, with its reason.

`pipeline/pytorch/library.py` is the same for models. All other code is the same for both versions.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import transformers
from huggingface_hub import errors as hub_errors
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.hub import cached_file

_IS_VERSION_5 = int(transformers.__version__.split(".")[0]) >= 5
# What the library raises for a setting of another type than its own; 4.57 takes any.
_WRONG_TYPE: type[Exception] = getattr(hub_errors, "StrictDataclassError", TypeError) if _IS_VERSION_5 else TypeError
# What tokenizer_config.json sets of the parts of a tokenizer, in either version, whatever tokenizer.json says.
_SET_BY_CONFIG = {"lowercase", "strip_accents", "handle_chinese_chars", "add_prefix_space", "trim_offsets"}
# What a plain tokenizer of 4.57 gives; that of version 5 gives no token types, which an encoder may need.
_PLAIN_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
# If these are set, even to false, the plain one of version 5 replaces what tokenizer.json puts around texts.
_REPLACES_POST_PROCESSOR = ("add_bos_token", "add_eos_token")


def _connection_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises if the Hub cannot be reached: from version 1 on, errors of another package too."""
    if not hasattr(huggingface_hub, "close_session"):
        return (OSError,)
    import httpx  # that package, which is there with version 1

    return OSError, httpx.HTTPError


CONNECTION_ERRORS = _connection_errors()


def read_config(checkpoint: str) -> tuple[PretrainedConfig, Exception | None]:
    """The configuration of a checkpoint, and what the library has against it.

    Version 5 refuses a whole number for a number, and null for a default, which 4.57 takes; they are replaced. With
    any other setting of a wrong type the configuration is incomplete, and is good for saying what is wrong with it.
    Some versions from 5 on call every model of a family tied, whatever the checkpoint says.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        if _IS_VERSION_5 and PretrainedConfig.get_config_dict(checkpoint)[0].get("tie_word_embeddings") is False:
            config.tie_word_embeddings = False
        return config, None
    except _WRONG_TYPE:
        if not _IS_VERSION_5:
            raise
    saved, _ = PretrainedConfig.get_config_dict(checkpoint)
    config_class = CONFIG_MAPPING[saved["model_type"]]
    own = config_class()
    repaired = {
        name: float(value) if type(value) is int and isinstance(getattr(own, name, None), float) else value
        for name, value in saved.items()
        if value is not None or getattr(own, name, None) is None
    }
    try:
        return config_class.from_dict(repaired), None
    except _WRONG_TYPE as error:
        vars(own).update({own.attribute_map.get(name, name): value for name, value in saved.items()})
        return own, error


def read_tokenizer(checkpoint: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint, saved by either version: its tokenizer.json, if it has one.

    Version 5 has another name for the plain class, and lists under `extra_special_tokens` what 4.57 calls
    `additional_special_tokens`, where 4.57 wants a mapping. It also makes the tokenizer of a family anew from the
    vocabulary alone, whatever else tokenizer.json says of its model, which may even be of another kind, and of how it
    cleans and splits texts.
    """
    saved = get_tokenizer_config(checkpoint, trust_remote_code=False)
    renamed: dict[str, list[str] | dict[str, str]] = {}
    if isinstance(extra := saved.get("extra_special_tokens"), list):
        texts = [token["content"] if isinstance(token, dict) else token for token in extra]
        renamed["extra_special_tokens"] = texts if _IS_VERSION_5 else {}
        if not _IS_VERSION_5:
            renamed["additional_special_tokens"] = texts
    if saved.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return _plain(checkpoint, saved, renamed)
    with warnings.catch_warnings():
        # That of Marian works without it; the documentation says what it would change.
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses", UserWarning)
        try:
            opened = functools.partial(
                AutoTokenizer.from_pretrained, checkpoint, use_fast=True, trust_remote_code=False, **renamed
            )
            tokenizer = opened()
            # A BERT whose files do not say so keeps no capitals, but for version 5.2.
            if _IS_VERSION_5 and "do_lower_case" not in saved and getattr(tokenizer, "do_lower_case", None) is False:
                tokenizer = opened(do_lower_case=True)
        except (TypeError, KeyError):  # version 5, whose model cannot be made from another one's vocabulary
            if not _IS_VERSION_5 or _tokenizer_file(checkpoint) is None:
                raise
            return _plain(checkpoint, saved, renamed)
    made = getattr(getattr(type(tokenizer), "model", None), "__name__", None)
    if _IS_VERSION_5 and made is not None and (file := _tokenizer_file(checkpoint)) is not None:
        of_file = Tokenizer.from_file(file)
        # Old files, such as those of google-t5/t5-small, do not say of which kind their model is.
        if type(of_file.model).__name__ != made:
            return _plain(checkpoint, saved, renamed)
        _take_parts(tokenizer.backend_tokenizer, of_file)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a tokenizer so that `AutoTokenizer` of both versions opens it and gives the ids that this one gives.

    It is saved as a plain one, which both make of tokenizer.json as it is: version 5 would make that of a family anew,
    as `read_tokenizer` says, and with other ids or not at all. Class and special tokens have their names of 4.57.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    if tokenizer.is_fast:
        saved["tokenizer_class"] = "PreTrainedTokenizerFast"
        saved.setdefault("model_input_names", tokenizer.model_input_names)
        for name in _REPLACES_POST_PROCESSOR:
            saved.pop(name, None)
    if isinstance(saved.get("extra_special_tokens"), list):
        saved["additional_special_tokens"] = saved.pop("extra_special_tokens")
    file.write_text(json.dumps(saved, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(checkpoint: str, saved: Mapping[str, object], renamed: Mapping[str, object]) -> PreTrainedTokenizerFast:
    """The tokenizer of tokenizer.json as it is."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint, **renamed)  # type: ignore[arg-type]
    if "model_input_names" not in saved:
        family = saved.get("tokenizer_class") not in ("TokenizersBackend", "PreTrainedTokenizerFast")
        tokenizer.model_input_names = ["input_ids", "attention_mask"] if family else list(_PLAIN_INPUTS)
    return tokenizer


def _tokenizer_file(checkpoint: str) -> str | None:
    """The tokenizer.json of a checkpoint, None without one."""
    return cached_file(checkpoint, "tokenizer.json", _raise_exceptions_for_missing_entries=False)


def _take_parts(made: Tokenizer, saved: Tokenizer) -> None:
    """Have a tokenizer that was made anew treat texts as the saved one does, but for what its config sets."""
    made.model, made.decoder = saved.model, saved.decoder
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        ours, theirs = getattr(made, part), getattr(saved, part)
        if ours is not None and type(ours) is type(theirs):
            for name in _SET_BY_CONFIG & set(dir(theirs)):
                setattr(theirs, name, getattr(ours, name))
        setattr(made, part, theirs)
