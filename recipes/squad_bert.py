r"""SQuAD 1.1: find the words of a paragraph that answer a question, with BERT-base.

    make finetune RECIPE=squad_bert

On local copies of the JSON files of SQuAD:

    make finetune RECIPE=squad_bert SET="data.path=squad data.files.train=train-v1.1.json \
        data.files.validation=dev-v1.1.json"

Not yet measured with this pipeline. Published: F1 88.5 and exact match 80.8 on the validation split (Devlin et al.
2018, table 2, BERT-base, single model). Hyperparameters: those of run_qa.py in the examples of transformers; `stride`
is the number of tokens that two windows share. Data card: rajpurkar/squad.
"""

from pipeline import Data, Recipe, Train

RECIPE = Recipe(
    name="squad_bert",
    task="question-answering",
    checkpoint="google-bert/bert-base-uncased",
    data=Data(
        path="rajpurkar/squad",
        train="train",
        validation="validation",
        columns={"question": "question", "context": "context", "answers": "answers", "id": "id"},
        max_length=384,
    ),
    train=Train(epochs=2, batch_size=12, learning_rate=3e-5, weight_decay=0.0, warmup_ratio=0.0),
    options={"stride": 128, "n_best": 20, "max_answer_tokens": 30},
    metrics=("squad_f1", "squad_exact_match"),
)
