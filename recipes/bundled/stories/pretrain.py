"""Pretrains the tiny GPT-2 of stories_gpt2 on general stories of the grammar.

    python -m recipes.bundled.stories.pretrain [folder]

trains a byte-level BPE tokenizer, then a GPT-2 by next-token prediction (Radford et al. 2019), and saves both as stock
Hugging Face files in `gpt2/` beside this script, or in `folder`. No text is a story of the validation split.
"""

import sys
import time
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from recipes.bundled.stories.grammar import pretraining_stories

FOLDER = Path(__file__).parent / "gpt2"
SEED = 606
NUM_STORIES = 80_000
NUM_STEPS = 1250
BATCH_TOKENS = 2048
LEARNING_RATE = 1e-3
WARMUP_STEPS = 150
INIT_RANGE = 0.02
WEIGHT_DECAY = 0.01
END = "<|endoftext|>"
# Large enough for every word of the grammar to become one token; merging stops earlier, once nothing can be merged.
VOCABULARY_SIZE = 1500
MAX_LENGTH_TOKENS = 64
IGNORED = -100


def train_tokenizer(stories, folder):
    """Train a byte-level BPE vocabulary and write it into `folder`; returns a GPT2TokenizerFast."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        stories, vocab_size=VOCABULARY_SIZE, min_frequency=2, show_progress=False, special_tokens=[END]
    )
    trainer.save_model(str(folder))
    tokenizer = GPT2TokenizerFast(
        str(Path(folder, "vocab.json")), str(Path(folder, "merges.txt")), model_max_length=MAX_LENGTH_TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def batches(sequences, end, generator):
    """Yield NUM_STEPS pairs (input_ids, labels) [B, T] of about BATCH_TOKENS tokens each, from rows of similar length.

    A story is [end] + tokens -> tokens + [end]; padding is `end` in the inputs and IGNORED in the labels.
    """
    order = torch.randperm(len(sequences), generator=generator).tolist()
    by_length = sorted((sequences[index] for index in order), key=len)
    starts = [0]
    while starts[-1] < len(by_length):
        starts.append(starts[-1] + BATCH_TOKENS // (len(by_length[starts[-1]]) + 1))
    assert len(starts) > NUM_STEPS, f"{NUM_STORIES} stories give {len(starts) - 1} batches, but {NUM_STEPS} are needed"
    for batch in torch.randperm(len(starts) - 1, generator=generator).tolist()[:NUM_STEPS]:
        rows = by_length[starts[batch] : starts[batch + 1]]
        inputs = [torch.tensor([end, *row]) for row in rows]
        labels = [torch.tensor([*row, end]) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        yield pad(inputs, batch_first=True, padding_value=end), pad(labels, batch_first=True, padding_value=IGNORED)


def new_model(tokenizer):
    """A GPT-2 with random weights; the embeddings are tied, as in GPT-2."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_LENGTH_TOKENS,
        n_embd=128,
        n_layer=2,
        n_head=4,
        initializer_range=INIT_RANGE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config)


def pretrain(tokenizer, sequences):
    """Train the language model; prints the loss of the last batch in nats per token."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = new_model(tokenizer)
    # Hardly any story occurs twice, so dropout would only slow the learning down; the config keeps it for fine-tuning.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-8, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, (NUM_STEPS - step) / (NUM_STEPS - WARMUP_STEPS))
    )
    model.train()
    started = time.perf_counter()
    for step, (inputs, labels) in enumerate(batches(sequences, tokenizer.eos_token_id, generator), start=1):
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == NUM_STEPS:
            seconds = time.perf_counter() - started
            print(f"step {step}/{NUM_STEPS} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
    return model


def main(folder=FOLDER):
    """Train the tokenizer and the GPT-2, and save both into `folder`."""
    # More threads would change the order of sums, and with it the last bits of the weights.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    stories = list(pretraining_stories(SEED, NUM_STORIES))
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(stories, folder)
    model = pretrain(tokenizer, tokenizer(stories)["input_ids"])
    model.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
