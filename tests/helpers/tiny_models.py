"""Configs, inputs and random weights of tiny models of each family, the same in either framework.

Dimensions are distinct primes, or products of them, so that a swapped pair of axes cannot pass unseen:
vocabulary 97, heads 3, head width 7, feed-forward 23, T5 width 13, Marian 2 heads and width 14, batch 2, source 11,
target 5.
"""

import numpy as np
import transformers

FAMILIES = ("bert", "gpt2", "t5", "marian")
# Relatives of BERT, which differ from it in less than the others do.
RELATIVES = ("distilbert", "roberta")
# The library's heads on these bodies, by the end of the class's name; TensorFlow lacks some.
_TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
HEADS = {
    "bert": ("Model", "ForMaskedLM", *_TASKS),
    "distilbert": ("Model", "ForMaskedLM", *_TASKS),
    "roberta": ("Model", "ForMaskedLM", *_TASKS),
    "gpt2": ("Model", "LMHeadModel", *_TASKS),
    "t5": ("Model", "EncoderModel", "ForConditionalGeneration", *_TASKS),
    "marian": ("Model", "MTModel"),
}
USUAL_HEAD = {
    "bert": "ForSequenceClassification",
    "distilbert": "ForSequenceClassification",
    "roberta": "ForSequenceClassification",
    "gpt2": "LMHeadModel",
    "t5": "ForConditionalGeneration",
    "marian": "MTModel",
}
PREFIX = {
    "bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta", "gpt2": "GPT2", "t5": "T5", "marian": "Marian",
}  # fmt: skip
BATCH, SOURCE, TARGET, VOCABULARY = 2, 11, 5, 97
# The token for padding where it is not 0.
PADDING = {"roberta": 1}
# How many places of such a model attend.
SITES = {"bert": 2, "distilbert": 2, "roberta": 2, "gpt2": 2, "t5": 2 + 2 * 2, "marian": 2 + 2 * 3}


def config(family, dropout=0.0, **overrides):
    """A transformers config of the family, without dropout unless asked for."""
    if family in ("bert", "roberta"):
        fields = dict(
            vocab_size=VOCABULARY, hidden_size=21, num_attention_heads=3, num_hidden_layers=2,
            intermediate_size=23, max_position_embeddings=89, num_labels=3,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )  # fmt: skip
        if family == "bert":
            return transformers.BertConfig(**{**fields, **overrides})
        fields |= dict(type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)
        return transformers.RobertaConfig(**{**fields, **overrides})
    if family == "distilbert":
        fields = dict(
            vocab_size=VOCABULARY, dim=21, n_heads=3, n_layers=2, hidden_dim=23, max_position_embeddings=89,
            num_labels=3, dropout=dropout, attention_dropout=dropout, qa_dropout=dropout, seq_classif_dropout=dropout,
        )  # fmt: skip
        return transformers.DistilBertConfig(**{**fields, **overrides})
    if family == "gpt2":
        fields = dict(
            vocab_size=VOCABULARY, n_embd=21, n_head=3, n_layer=2, n_inner=23, n_positions=89, num_labels=3,
            attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout,
            bos_token_id=1, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        return transformers.GPT2Config(**{**fields, **overrides})
    if family == "marian":
        # TensorFlow's positions need an even width.
        fields = dict(
            vocab_size=VOCABULARY, d_model=14, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=23, decoder_ffn_dim=23, encoder_layers=2, decoder_layers=3, max_position_embeddings=89,
            scale_embedding=True, activation_function="swish",
            dropout=dropout, attention_dropout=dropout, activation_dropout=dropout,
            decoder_start_token_id=96, eos_token_id=0, pad_token_id=96, forced_eos_token_id=None,
        )  # fmt: skip
        settings = transformers.MarianConfig(**{**fields, **overrides})
        # Version 5.2 of transformers takes another setting for this one.
        settings.tie_word_embeddings = overrides.get("tie_word_embeddings", True)
        return settings
    fields = dict(
        vocab_size=VOCABULARY, d_model=13, d_kv=7, num_heads=3, d_ff=23, num_layers=2, num_decoder_layers=2,
        relative_attention_num_buckets=5, relative_attention_max_distance=17,
        dropout_rate=dropout, classifier_dropout=dropout,
        decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, num_labels=3,
    )  # fmt: skip
    return transformers.T5Config(**{**fields, **overrides})


def of_head(head):
    """Settings of the config that a head requires."""
    return {"num_labels": 2} if head == "ForQuestionAnswering" else {}


def inputs(family, padding="right", head=None):
    """A batch in NumPy whose second row has four padding tokens; `padding` is "left", "right" or "none"."""
    head = head or USUAL_HEAD[family]
    rng = np.random.default_rng(5)
    ids = rng.integers(2, VOCABULARY, (BATCH, SOURCE))
    mask = np.ones((BATCH, SOURCE), np.int64)
    if padding != "none":
        padded = slice(-4, None) if padding == "right" else slice(0, 4)
        mask[1, padded] = 0
        ids[1, padded] = PADDING.get(family, 0)
    batch = {"input_ids": ids, "attention_mask": mask}
    if head == "ForSequenceClassification" and family == "t5":
        batch["input_ids"][:, -1] = 1  # This head reads at the end-of-sequence token.
        batch["decoder_input_ids"] = batch["input_ids"]
    elif family in ("t5", "marian") and head not in ("EncoderModel", "ForTokenClassification"):
        batch["decoder_input_ids"] = rng.integers(2, VOCABULARY, (BATCH, TARGET))
    return batch


def is_real(family, batch, output):
    """Which entries of `output` belong to real tokens: a padded GPT-2 query may attend to nothing at all."""
    mask = batch["attention_mask"].astype(bool)
    return mask if output.shape[:2] == mask.shape else np.ones(output.shape[:1], bool)


def relative(ours, theirs):
    """The norm of the difference over the norm of `theirs`; both are arrays, or dicts of arrays."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = (np.concatenate([x[name].ravel() for name in sorted(theirs)]) for x in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def random_state(shapes, seed=7):
    """Weights by name: large enough that every head attends sharply, and no bias is zero.

    Encoder and decoder of a Marian have the same positions.
    """
    rng = np.random.default_rng(seed)
    state = {}
    for name in sorted(shapes):
        values = rng.normal(0.0, 0.2, shapes[name])
        is_norm = name.endswith(("LayerNorm.weight", "layer_norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
        state[name] = (values + 1 if is_norm else values).astype(np.float32)
        if name.endswith("encoder.embed_positions.weight"):
            state[name] = state[name.replace("encoder", "decoder")]
    return state


def writing_weights(weights, seed):
    """Weights of a Marian with which it writes texts of several lengths, rather than one token for ever."""
    rng = np.random.default_rng(seed)
    changed = {
        name: rng.normal(size=value.shape)
        for name, value in weights.items()
        if name.endswith(("fc1.weight", "fc2.weight"))
    }
    changed["model.shared.weight"] = 0.3 * rng.normal(size=weights["model.shared.weight"].shape)
    # The end of a text is likely; padding is likelier, but never written.
    changed["final_logits_bias"] = (2.0 * (np.arange(97) == 0) + 5.0 * (np.arange(97) == 96))[None]
    return weights | {name: value.astype(np.float32) for name, value in changed.items()}
