"""The same examples as a padded batch and as a packed one, put together by hand: not the pipeline's packing."""

import functools

import numpy as np

from pipeline.backend import load_backend
from pipeline.models.families import family_of
from pipeline.recipe.schema import Train
from tests.helpers.tiny_models import PADDING, VOCABULARY, config, random_state

# Lengths of sources and targets; ROWS says which examples share a row, in which order.
LENGTHS, TARGET_LENGTHS = (7, 3, 5, 2, 4, 11), (3, 5, 2, 4, 1, 2)
ROWS = ((3, 0), (4, 2, 1), (5,))
WIDTH, TARGET_WIDTH, MOST_EXAMPLES = 13, 11, 3
ENCODER_DECODERS = ("t5", "marian")
COUNT, CLASSES = len(LENGTHS), 3


def tokens(lengths=LENGTHS, seed=1, low=2, high=VOCABULARY):
    """An array of random token ids for each example."""
    rng = np.random.default_rng(seed)
    return [rng.integers(low, high, length).astype(np.int32) for length in lengths]


def as_padded(arrays, padding=0):
    """A row for each example, filled with a number."""
    out = np.full((len(arrays), max(map(len, arrays))), padding, arrays[0].dtype)
    for row, values in zip(out, arrays, strict=True):
        row[: len(values)] = values
    return out


def as_packed(arrays, width, padding=0):
    """The rows of ROWS, filled with a number."""
    out = np.full((len(ROWS), width), padding, arrays[0].dtype)
    for row, members in zip(out, ROWS, strict=True):
        values = np.concatenate([arrays[i] for i in members])
        row[: len(values)] = values
    return out


def in_slots(values):
    """One value, or one array, of each example at its place in its row."""
    out = np.zeros((len(ROWS), MOST_EXAMPLES, *values.shape[1:]), values.dtype)
    for row, members in zip(out, ROWS, strict=True):
        row[: len(members)] = values[list(members)]
    return out


def slot_numbers(lengths=LENGTHS):
    """For each example, its place in its row, counted from 1, at each of its tokens."""
    place = {i: slot for members in ROWS for slot, i in enumerate(members, start=1)}
    return [np.full(length, place[i], np.int32) for i, length in enumerate(lengths)]


def starts_in_rows():
    """Where each example begins in its row."""
    begins = np.zeros(COUNT, np.int32)
    for members in ROWS:
        begins[list(members)] = np.cumsum([0, *(LENGTHS[i] for i in members[:-1])])
    return begins


def inputs_of(family):
    """(padded, packed) inputs of a model, without those that only one head reads."""
    padding = PADDING.get(family, 0)
    ids, mask = tokens(), [np.ones(length, np.int32) for length in LENGTHS]
    if padding:
        ids[0][3] = padding  # a text may have the token for padding, of which RoBERTa's positions depend
    padded = {"input_ids": as_padded(ids, padding), "attention_mask": as_padded(mask)}
    packed = {"input_ids": as_packed(ids, WIDTH, padding), "segment_ids": as_packed(slot_numbers(), WIDTH)}
    positions = [np.arange(length, dtype=np.int32) for length in LENGTHS]
    packed["position_ids"] = as_packed(positions, WIDTH)
    if family in ENCODER_DECODERS:
        targets = tokens(TARGET_LENGTHS, seed=2)
        padded["decoder_input_ids"] = as_padded(targets)
        packed["decoder_input_ids"] = as_packed(targets, TARGET_WIDTH)
        packed["decoder_segment_ids"] = as_packed(slot_numbers(TARGET_LENGTHS), TARGET_WIDTH)
        positions = [np.arange(length, dtype=np.int32) for length in TARGET_LENGTHS]
        packed["decoder_position_ids"] = as_packed(positions, TARGET_WIDTH)
        return padded, packed
    if family == "bert":
        second = [(position > 1).astype(np.int32) for position in positions]
        padded["token_type_ids"], packed["token_type_ids"] = as_padded(second), as_packed(second, WIDTH)
    return padded, packed


def with_example_targets(family, labels):
    """(padded, packed) for a head that reads one token of each example, with its label, or labels, and weights."""
    padded, packed = inputs_of(family)
    rng = np.random.default_rng(3)
    weights = rng.uniform(0.5, 2, labels.shape).astype(np.float32) / labels.size
    reads_last = family == "gpt2"
    read = starts_in_rows() + (np.array(LENGTHS, np.int32) - 1 if reads_last else 0)
    packed |= {"pooled_positions": in_slots(read), "labels": in_slots(labels), "loss_weights": in_slots(weights)}
    return padded | {"labels": labels, "loss_weights": weights}, packed


def with_token_targets(family, high, share=1.0):
    """(padded, packed) for a head that reads every token, a `share` of which have weights."""
    padded, packed = inputs_of(family)
    lengths, width = (TARGET_LENGTHS, TARGET_WIDTH) if family in ENCODER_DECODERS else (LENGTHS, WIDTH)
    labels, rng = tokens(lengths, seed=4, low=0, high=high), np.random.default_rng(5)
    weights = [((rng.random(n) < share) * rng.uniform(0.5, 2, n) / sum(lengths)).astype(np.float32) for n in lengths]
    padded |= {"labels": as_padded(labels), "loss_weights": as_padded(weights)}
    return padded, packed | {"labels": as_packed(labels, width), "loss_weights": as_packed(weights, width)}


def with_spans(family):
    """(padded, packed) for a question's answer: the first and the last token of a span in each example."""
    padded, packed = inputs_of(family)
    rng = np.random.default_rng(6)
    spans = np.sort(rng.integers(0, np.array(LENGTHS)[:, None], (COUNT, 2)), axis=1).astype(np.int32)
    weights = rng.uniform(0.5, 2, spans.shape).astype(np.float32) / spans.size
    begins = starts_in_rows()
    packed |= {"labels": in_slots(spans + begins[:, None]), "loss_weights": in_slots(weights)}
    packed["pooled_positions"] = in_slots(begins)
    return padded | {"labels": spans, "loss_weights": weights}, packed


def classes():
    return np.array([0, 2, 1, 1, 0, 2], np.int32)


# For each head: its family, Auto class, settings of its config, loss, and its batches.
HEADS = {
    "bert pairs": (
        "bert", "AutoModelForSequenceClassification", {}, "cross_entropy",
        lambda: with_example_targets("bert", classes()),
    ),
    "bert regression": (
        "bert", "AutoModelForSequenceClassification", {"num_labels": 1}, "squared_error",
        lambda: with_example_targets("bert", classes().astype(np.float32)),
    ),
    "bert several labels": (
        "bert", "AutoModelForSequenceClassification", {}, "binary_cross_entropy",
        lambda: with_example_targets("bert", np.eye(CLASSES, dtype=np.float32)[classes()]),
    ),
    "bert tokens": (
        "bert", "AutoModelForTokenClassification", {}, "cross_entropy", lambda: with_token_targets("bert", CLASSES),
    ),
    "bert spans": (
        "bert", "AutoModelForQuestionAnswering", {"num_labels": 2}, "cross_entropy", lambda: with_spans("bert"),
    ),
    "bert masked": (
        "bert", "AutoModelForMaskedLM", {}, "cross_entropy", lambda: with_token_targets("bert", VOCABULARY, 0.4),
    ),
    "gpt2 classes": (
        "gpt2", "AutoModelForSequenceClassification", {}, "cross_entropy",
        lambda: with_example_targets("gpt2", classes()),
    ),
    "gpt2 causal": (
        "gpt2", "AutoModelForCausalLM", {}, "cross_entropy", lambda: with_token_targets("gpt2", VOCABULARY),
    ),
    "gpt2 untied": (
        "gpt2", "AutoModelForCausalLM", {"tie_word_embeddings": False}, "cross_entropy",
        lambda: with_token_targets("gpt2", VOCABULARY),
    ),
    "t5": ("t5", "AutoModelForSeq2SeqLM", {}, "cross_entropy", lambda: with_token_targets("t5", VOCABULARY)),
    "t5 untied": (
        "t5", "AutoModelForSeq2SeqLM", {"tie_word_embeddings": False}, "cross_entropy",
        lambda: with_token_targets("t5", VOCABULARY),
    ),
    "marian": (
        "marian", "AutoModelForSeq2SeqLM", {}, "cross_entropy", lambda: with_token_targets("marian", VOCABULARY),
    ),
}  # fmt: skip
# The heads of BERT's relatives: those of BERT but for losses of other kinds.
RELATIVES = {
    head.replace("bert", family): (family, *HEADS[head][1:4], functools.partial(batches, family, *arguments))
    for family in ("distilbert", "roberta")
    for head, batches, arguments in (
        ("bert pairs", with_example_targets, [classes()]),
        ("bert tokens", with_token_targets, [CLASSES]),
        ("bert spans", with_spans, []),
        ("bert masked", with_token_targets, [VOCABULARY, 0.4]),
    )
}
ALL_HEADS = HEADS | RELATIVES


def with_dropout_keys(head):
    """(padded, packed) batches of a head with a random key for each token, from which its dropout masks are drawn."""
    padded, packed = ALL_HEADS[head][4]()
    streams = {"dropout_keys": (LENGTHS, WIDTH)}
    if ALL_HEADS[head][0] in ENCODER_DECODERS:
        streams["decoder_dropout_keys"] = (TARGET_LENGTHS, TARGET_WIDTH)
    for seed, (name, (lengths, width)) in enumerate(streams.items(), start=7):
        keys = tokens(lengths, seed, low=-(2**31), high=2**31)
        padded[name], packed[name] = as_padded(keys), as_packed(keys, width)
    return padded, packed


def learner_of(framework, head, attention="stock", steps=1, dropout=0.0, **train):
    """A learner for a head with random weights."""
    family, auto_class, settings, loss, _ = ALL_HEADS[head]
    backend = load_backend(framework)
    train = Train(**train)
    settings = config(family, dropout, **settings)
    model = backend.build_model(auto_class, settings, train.precision, 0, train.attention_implementation)
    constant = family_of(model.config).constant_weights
    backend.freeze(model, constant)
    backend.set_weights(model, random_state(backend.weight_shapes(model)))
    if attention != "stock":
        backend.swap_attention(model, attention)
    return backend.Learner(model, train, np.full(steps, 1e-3), loss)


def loss_and_gradients(framework, learner, batch):
    """The loss of a batch, and the gradients by the names of the model's weights."""
    if framework == "torch":
        learner.model.train()
        loss = learner.gradients(batch)
        gradients = {
            name: weight.grad.numpy().copy()
            for name, weight in learner.model.named_parameters()
            if weight.grad is not None
        }
        learner.model.zero_grad()
        return float(loss), gradients
    variables = learner.model.trainable_variables
    loss, gradients = learner.gradients(learner.tensors(batch), variables)
    named = zip(variables, gradients, strict=True)
    return float(loss), {variable.name: each.numpy() for variable, each in named if each is not None}
