"""Writes the checkpoint of translate_transformer: a vocabulary of both languages and a configuration, but no weights.

    python -m recipes.bundled.translation.vocabulary [folder]

trains byte-pair encoding on the training rows of both languages, and saves the tokenizer in `marian/` beside this file,
or in `folder`, with the configuration of a small Marian model, whose architecture is that of Vaswani et al. 2017.
"""

import string
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MarianConfig, PreTrainedTokenizerFast

from recipes.bundled.translation.grammar import rows

FOLDER = Path(__file__).parent / "marian"
VOCABULARY_SIZE = 700
WIDTH, NUM_HEADS, NUM_LAYERS = 128, 4, 2
MAX_LENGTH_TOKENS = 64
# As in OPUS-MT's checkpoints, the end of a text is token 0.
SPECIAL_TOKENS = END, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"


def new_tokenizer(texts: list[str], size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer trained on the texts; a punctuation mark is a token, and a text ends with END."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=[*string.ascii_letters, *".,?-"],
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        model_max_length=MAX_LENGTH_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def new_config(num_tokens: int) -> MarianConfig:
    """2 + 2 layers, width 128, 4 heads; matrices start as Vaswani et al. scale embeddings, by 1 / √width."""
    end, padding = (SPECIAL_TOKENS.index(token) for token in (END, PADDING))
    return MarianConfig(
        architectures=["MarianMTModel"],
        vocab_size=num_tokens,
        d_model=WIDTH,
        encoder_layers=NUM_LAYERS,
        decoder_layers=NUM_LAYERS,
        encoder_attention_heads=NUM_HEADS,
        decoder_attention_heads=NUM_HEADS,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        max_position_embeddings=MAX_LENGTH_TOKENS,
        activation_function="relu",
        scale_embedding=True,
        init_std=WIDTH**-0.5,
        dropout=0.1,
        pad_token_id=padding,
        eos_token_id=end,
        forced_eos_token_id=end,
        decoder_start_token_id=padding,
    )


def main(folder: str | Path = FOLDER) -> None:
    """Write tokenizer and configuration into `folder`."""
    tokenizer = new_tokenizer([text for row in rows("train") for text in (row.english, row.orlish)])
    tokenizer.save_pretrained(folder)
    new_config(len(tokenizer)).save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
