"""Pretrains the tiny BERT of sentiment_bert on unlabeled sentences of the grammar.

    python -m recipes.bundled.sentiment.pretrain [folder]

trains a WordPiece tokenizer, then a BERT by masked language modeling (Devlin et al. 2019, section 3.1, task 1 only),
and saves both as stock Hugging Face files in `bert/` beside this script, or in `folder`. It sees no label and no
sentence of the validation split.
"""

import string
import sys
import time
from bisect import bisect_right
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from recipes.bundled.sentiment.grammar import pretraining_sentences

FOLDER = Path(__file__).parent / "bert"
SEED = 303
NUM_SENTENCES = 200_000
NUM_STEPS = 2500
BATCH_TOKENS = 2048
LEARNING_RATE = 1e-3
WARMUP_STEPS = 300
INIT_RANGE = 0.02
MASKED_SHARE = 0.15
MAX_MASKING_RATE = 0.25
# Short sentences come first: from them the model learns words, then negation, at little cost. The limit then grows
# step by step, because a sudden change to long sentences undid what had been learned.
NUM_SHORT_STEPS = 300
NUM_GROWING_STEPS = 300
SHORT_TOKENS = 16
VOCABULARY_SIZE = 1500
MAX_LENGTH_TOKENS = 64
NUM_THREADS = 2


def train_tokenizer(sentences, folder):
    """Train a lowercase WordPiece vocabulary and write it into `folder`; returns a BertTokenizerFast."""
    trainer = BertWordPieceTokenizer(lowercase=True)
    # The ids of word-internal letters decide ties. Unless they are listed here, their order differs from run to run.
    letters = [f"##{letter}" for letter in string.ascii_lowercase]
    trainer.train_from_iterator(
        sentences,
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters],
    )
    trainer.save_model(str(folder))
    tokenizer = BertTokenizerFast(str(Path(folder, "vocab.txt")), model_max_length=MAX_LENGTH_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def length_limit(step):
    """The most tokens of a sentence in this step: SHORT_TOKENS at first, then growing to MAX_LENGTH_TOKENS."""
    grown = (step - NUM_SHORT_STEPS) / NUM_GROWING_STEPS
    return SHORT_TOKENS + round((MAX_LENGTH_TOKENS - SHORT_TOKENS) * min(max(grown, 0), 1))


def batches(sequences, generator):
    """Yield NUM_STEPS lists of sequences of similar length, about BATCH_TOKENS tokens each, with hardly any padding."""
    order = torch.randperm(len(sequences), generator=generator).tolist()
    by_length = sorted((sequences[index] for index in order), key=len)
    lengths = [len(sequence) for sequence in by_length]
    for step in range(NUM_STEPS):
        num_allowed = bisect_right(lengths, length_limit(step))
        start = torch.randint(num_allowed, (), generator=generator).item()
        yield by_length[start : start + BATCH_TOKENS // lengths[start]]


def masking_rates(sequences, tokenizer):
    """The probability of masking each token of the vocabulary: ~ frequency ** -0.5, MASKED_SHARE on average.

    The most frequent words ("the", "was") make up half of the text but teach little.
    Source: Lample and Conneau 2019, section 3.3.
    """
    counts = torch.bincount(torch.tensor([token for row in sequences for token in row]), minlength=len(tokenizer))
    counts[tokenizer.all_special_ids] = 0
    rates = counts.clamp(min=1) ** -0.5 * (counts > 0)
    return (rates * MASKED_SHARE * counts.sum() / (rates * counts).sum()).clamp(max=MAX_MASKING_RATE)


def mask_tokens(input_ids, rates, tokenizer, generator):
    """Choose tokens to predict: 80% become [MASK], 10% a random token, 10% stay; returns (inputs, chosen)."""
    chosen = torch.rand(input_ids.shape, generator=generator) < rates[input_ids]
    draw = torch.rand(input_ids.shape, generator=generator)
    random_ids = torch.randint(len(tokenizer.all_special_ids), len(tokenizer), input_ids.shape, generator=generator)
    inputs = torch.where(chosen & (draw < 0.8), tokenizer.mask_token_id, input_ids)
    return torch.where(chosen & (draw > 0.9), random_ids, inputs), chosen


def pretrain(tokenizer, sequences):
    """Train the masked language model; prints the loss and the accuracy over masked tokens."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH_TOKENS,
        initializer_range=INIT_RANGE,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertForMaskedLM(config)
    # Hardly any text repeats and the model is small, so dropout would only slow the learning down. The config keeps
    # its dropout for fine-tuning.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP_STEPS, 1.0, (NUM_STEPS - step) / (NUM_STEPS - NUM_SHORT_STEPS)),
    )
    model.train()
    started = time.perf_counter()
    rates = masking_rates(sequences, tokenizer)
    for step, batch in enumerate(batches(sequences, generator), start=1):
        rows = [torch.tensor(row) for row in batch]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, True, tokenizer.pad_token_id)
        inputs, chosen = mask_tokens(input_ids, rates, tokenizer, generator)
        attention_mask = (input_ids != tokenizer.pad_token_id).long()
        hidden = model.bert(inputs, attention_mask=attention_mask).last_hidden_state
        # Only the chosen positions go through the head, whose output is as wide as the vocabulary.
        logits, targets = model.cls(hidden[chosen]), input_ids[chosen]
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == NUM_STEPS:
            accuracy = (logits.argmax(-1) == targets).float().mean().item()
            seconds = time.perf_counter() - started
            print(
                f"step {step}/{NUM_STEPS} loss {loss.item():.3f} masked-token accuracy {accuracy:.3f} {seconds:.0f} s",
                flush=True,
            )
    return model


def main(folder=FOLDER):
    """Train the tokenizer and the BERT, and save both into `folder`."""
    torch.set_num_threads(NUM_THREADS)
    torch.use_deterministic_algorithms(True)
    sentences = list(pretraining_sentences(SEED, NUM_SENTENCES))
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(sentences, folder)
    sequences = tokenizer(sentences, truncation=True)["input_ids"]
    model = pretrain(tokenizer, sequences)
    model.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
