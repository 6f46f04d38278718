"""Pretrains the tiny T5 of dates_t5 on unlabeled texts of the grammar.

    python -m recipes.bundled.dates.pretrain [folder]

trains a byte-pair tokenizer, then a T5 by span corruption (Raffel et al. 2020, section 3.1.4), and saves both as stock
Hugging Face files in `t5/` beside this script, or in `folder`. The texts have dates in free form and in ISO form, but
never both in one text, and no source of the validation split.
"""

import string
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import T5Config, T5ForConditionalGeneration, T5TokenizerFast

from recipes.bundled.dates.grammar import pretraining_texts

FOLDER = Path(__file__).parent / "t5"
SEED = 303
NUM_TEXTS = 60_000
NUM_STEPS = 4000
BATCH_TOKENS = 1024
LEARNING_RATE = 2e-3
WARMUP_STEPS = 300
INIT_FACTOR = 1.0
# Raffel et al. corrupt 15% of long texts. These are short, and half of a text follows from its other half.
CORRUPTED_SHARE = 0.3
MEAN_SPAN_TOKENS = 3
NUM_SENTINELS = 20
VOCABULARY_SIZE = 400
MAX_LENGTH_TOKENS = 64
NUM_THREADS = 1
IGNORED = -100  # the label that the loss leaves out


def train_tokenizer(texts, folder):
    """Train a byte-pair vocabulary and write it into `folder`; returns a T5TokenizerFast.

    Every digit and every punctuation mark is a token of its own, so that the model can copy numbers digit by digit.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Digits(True)]
    )
    tokenizer.decoder = decoders.Metaspace()
    sentinels = [f"<extra_id_{index}>" for index in range(NUM_SENTINELS)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=["<pad>", "</s>", "<unk>", *sentinels],
        initial_alphabet=[*string.digits, *string.ascii_letters, *string.punctuation],
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    stock = T5TokenizerFast(
        tokenizer_object=tokenizer,
        extra_ids=NUM_SENTINELS,
        additional_special_tokens=sentinels,
        model_max_length=MAX_LENGTH_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    stock.save_pretrained(folder)
    return stock


def random_partition(total, num_parts, rng):
    """Split `total` into `num_parts` positive whole numbers; every way to do so is equally likely."""
    cuts = np.sort(rng.choice(total - 1, num_parts - 1, replace=False)) + 1
    return np.diff([0, *cuts, total])


def corrupt_spans(tokens, sentinels, end, rng):
    """Replace random spans by sentinels; returns the input and the target, which has each sentinel with its span.

    `tokens` has no end token; both lists end with it. Unlike in T5's own pretraining, the first token can be part of a
    span: these texts are not cut from longer ones, so their first word would never be predicted.
    Source: Raffel et al. 2020, section 3.1.4 and figure 2.
    """
    num_corrupted = min(max(round(len(tokens) * CORRUPTED_SHARE), 1), len(tokens) - 1)
    num_kept = len(tokens) - num_corrupted
    num_spans = min(max(round(num_corrupted / MEAN_SPAN_TOKENS), 1), num_kept)
    spans = random_partition(num_corrupted, num_spans, rng)
    gaps = random_partition(num_kept + 2, num_spans + 1, rng)
    gaps[0], gaps[-1] = gaps[0] - 1, gaps[-1] - 1  # the outer two may be empty
    inputs, target, position = [], [], 0
    for gap, span, sentinel in zip(gaps, spans, sentinels, strict=False):
        inputs += [*tokens[position : position + gap], sentinel]
        target += [sentinel, *tokens[position + gap : position + gap + span]]
        position += gap + span
    return [*inputs, *tokens[position:], end], [*target, end]


def batches(sequences, tokenizer, rng):
    """Yield NUM_STEPS batches (input_ids [B, S], labels [B, T]) of about BATCH_TOKENS tokens each.

    The texts of a batch have nearly the same length, so that there is hardly any padding.
    """
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{index}>" for index in range(NUM_SENTINELS)])
    order = rng.permutation(len(sequences))
    by_length = sorted((sequences[index] for index in order), key=len)
    for _ in range(NUM_STEPS):
        start = rng.integers(len(by_length))
        batch = by_length[start : start + BATCH_TOKENS // len(by_length[start])]
        pairs = [corrupt_spans(tokens, sentinels, tokenizer.eos_token_id, rng) for tokens in batch]
        inputs, targets = ([torch.tensor(row) for row in side] for side in zip(*pairs, strict=True))
        yield (
            torch.nn.utils.rnn.pad_sequence(inputs, True, tokenizer.pad_token_id),
            torch.nn.utils.rnn.pad_sequence(targets, True, IGNORED),
        )


def new_model(tokenizer):
    """A T5 with random weights: 2 + 2 layers, width 96, 4 heads."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=96,
        d_kv=24,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        initializer_factor=INIT_FACTOR,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5ForConditionalGeneration(config)


def pretrain(tokenizer, sequences):
    """Train a T5 by span corruption; prints the loss and the accuracy over target tokens."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = new_model(tokenizer)
    # The model is small and each text is corrupted anew every time, so dropout would only slow the learning down.
    # The config keeps its dropout for fine-tuning.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, (NUM_STEPS - step) / (NUM_STEPS - WARMUP_STEPS))
    )
    model.train()
    started = time.perf_counter()
    for step, (input_ids, labels) in enumerate(batches(sequences, tokenizer, rng), start=1):
        attention_mask = (input_ids != tokenizer.pad_token_id).long()
        output = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == NUM_STEPS:
            is_target = labels != IGNORED
            accuracy = (output.logits.argmax(-1) == labels)[is_target].float().mean().item()
            seconds = time.perf_counter() - started
            print(
                f"step {step}/{NUM_STEPS} loss {output.loss.item():.3f} target-token accuracy {accuracy:.3f} "
                f"{seconds:.0f} s",
                flush=True,
            )
    return model


def main(folder=FOLDER):
    """Train the tokenizer and the T5, and save both into `folder`."""
    torch.set_num_threads(NUM_THREADS)
    torch.use_deterministic_algorithms(True)
    texts = list(pretraining_texts(SEED, NUM_TEXTS))
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, folder)
    sequences = [ids[:-1] for ids in tokenizer(texts)["input_ids"]]
    model = pretrain(tokenizer, sequences)
    model.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
