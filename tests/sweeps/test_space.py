"""The space of a sweep: read as it is meant, and refused with one message that names the place and the way out."""

import pytest

from pipeline.recipe.loading import load_recipe
from pipeline.sweeps.space import read_space
from pipeline.utils.errors import UserError

RECIPE = load_recipe("sentiment_bert")


def test_a_text_and_a_mapping_say_the_same():
    text = "train.learning_rate=log(1e-5, 1e-3) train.batch_size=16,32 "
    text += "train.warmup_ratio=uniform(0,0.2) train.epochs=int(1,4)"
    mapping = {
        "train.learning_rate": "log(1e-5,1e-3)", "train.batch_size": [16, 32],
        "train.warmup_ratio": "uniform(0,0.2)", "train.epochs": "int(1,4)",
    }  # fmt: skip
    found = read_space(text, RECIPE)
    assert found == read_space(mapping, RECIPE)
    assert [(each.key, each.kind, each.values) for each in found] == [
        ("train.learning_rate", "log", (1e-5, 1e-3)),
        ("train.batch_size", "choice", (16, 32)),
        ("train.warmup_ratio", "uniform", (0.0, 0.2)),
        ("train.epochs", "int", (1, 4)),
    ]
    assert [str(each) for each in found] == ["log(1e-05,0.001)", "16,32", "uniform(0,0.2)", "int(1,4)"]


def test_choices_are_read_as_yaml():
    (found,) = read_space("train.schedule=linear,cosine", RECIPE)
    assert found.values == ("linear", "cosine")
    (found,) = read_space("train.max_grad_norm=null,1.0", RECIPE)
    assert found.values == (None, 1.0)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("", "the space is empty; write KEY=log(LOW,HIGH)"),
        ("train.learning_rate", '"train.learning_rate" is not a setting of a sweep; write KEY=log(LOW,HIGH)'),
        ("train.learning_rate=log(1e-5", '"train.learning_rate=log(1e-5" is not a setting of a sweep'),
        ("train.learning_rate=log(1e-5)", "is not a setting of a sweep"),
        ("train.learning_rate=normal(0,1)", "is not a setting of a sweep"),
        ("train.learning_rate=log(1e-3,1e-5)", "the lowest value, 0.001, must come first"),
        ("train.weight_decay=log(0,1)", "the lowest value of log(LOW,HIGH) is 0, but must be above 0; uniform takes"),
        ("train.learning_rate=log(a,b)", "'a' is an end of the range, but must be a number"),
        ("train.epochs=int(1,2.5)", "2.5 is an end of the range, but must be a whole number"),
        ("train.learning_rate=log(1e-5,.inf)", "inf is an end of the range, but must be a number"),
        ("train.batch_size=16", "a sweep needs two values or more"),
        ("train.batch_size=16,16", "a value is given twice"),
        ("train.batch_size=16,[1", "cannot be read as a value"),
        ("train.batch_size=16,0", "train.batch_size is 0, but must be greater than or equal to 1"),
        ("train.batch_size=log(8,64)", "write whole numbers as train.batch_size=int(LOW,HIGH), or name them"),
        ("train.lr=1e-3,1e-4", 'train.lr: no such key. Did you mean "train.learning_rate"?'),
        ("train.batch_size=16,32 train.batch_size=8,64", "train.batch_size is given twice"),
        ("train.save_every=10,20", "train.save_every changes nothing in a result"),
        ("data.limit.validation=10,20", "on the same rows, which data.limit.validation would change"),
        ("metrics=accuracy,f1", "which metrics would change"),
        ({"train.batch_size": 16}, "the values of train.batch_size are 16, but must be a text"),
        ({"train.batch_size": [[16], [32]]}, "[16] is not a single value, which a choice must be"),
    ],
)  # fmt: skip
def test_a_wrong_space_gets_one_message_that_names_the_place_and_the_way_out(space, words):
    with pytest.raises(UserError) as error:
        read_space(space, RECIPE)
    assert words in str(error.value) and error.value.arguments == ("space",)
    assert "\n" not in str(error.value)
