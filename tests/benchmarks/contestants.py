"""One contestant of `make bench`, in its own process: trains, scores, and writes its measurements.

    python -m tests.benchmarks.contestants SPEC.json

All are timed alike: from just before the first batch is fetched to the end of the last step, including the first step
and excluding evaluation. For Trainer that is on_train_begin to the last on_step_end, for fit of Keras on_train_begin to
the last on_train_batch_end, and for this pipeline `train.seconds` in metrics.json.
"""

import json
import math
import os
import resource
import sys
import time
from pathlib import Path

# The name of a contestant: the function that runs it, and its arguments.
CONTESTANTS = {
    f"{who}-{precision}": (kind, options | {"precision": precision})
    for precision in ("fp32", "bf16")
    for who, (kind, options) in {
        "trainer": ("trainer", {}),
        "trainer-grouped": ("trainer", {"group_by_length": True}),
        "keras": ("keras", {}),
        "ours-torch": ("ours", {"framework": "torch", "attention": "stock"}),
        "ours-torch-sorted": ("ours", {"framework": "torch", "attention": "stock", "batching": "sorted"}),
        "ours-torch-padded": ("ours", {"framework": "torch", "attention": "stock", "batching": "padded"}),
        "ours-torch-framework-masks": (
            "ours",
            {"framework": "torch", "attention": "stock", "dropout_masks": "framework"},
        ),
        "ours-torch-deterministic": ("ours", {"framework": "torch", "attention": "stock", "deterministic": True}),
        "ours-torch-unrecorded": ("ours", {"framework": "torch", "attention": "stock", "recorded": False}),
        "ours-torch-compiled": ("ours", {"framework": "torch", "attention": "stock", "compile": True}),
        "ours-torch-handwritten": ("ours", {"framework": "torch", "attention": "handwritten"}),
        "ours-tensorflow": ("ours", {"framework": "tensorflow", "attention": "stock"}),
        "ours-tensorflow-handwritten": ("ours", {"framework": "tensorflow", "attention": "handwritten"}),
    }.items()
    if precision == "fp32" or who != "keras"
}
WARMUP_RATIO, WEIGHT_DECAY, MAX_GRAD_NORM = 0.06, 0.01, 1.0


class Stopwatch:
    """Measures the training time and peak memory of one contestant, which is to take `steps` steps."""

    def __init__(self, steps):
        self.began = self.first = self.middle = self.last = None
        self.steps = self.peak = 0
        # A step after the middle, where this pipeline evaluates a training of two epochs and the others do not.
        self.half, self.all = steps // 2 + 1, steps

    def begin(self):
        self.began = time.time()

    def step(self):
        self.steps += 1
        if self.steps in (1, self.half, self.all):
            wait_for_gpu()
        self.last = time.time()
        self.first = self.first or self.last
        self.middle = self.last if self.steps <= self.half else self.middle
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def report(self, launched):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss
        report = {
            "seconds": self.last - self.began,
            "startup_seconds": self.first - launched,
            "peak_memory_bytes": self.peak * unit,
            "steps": self.steps,
            # Without what a GPU does only once, and without tracing.
            "seconds_of_later_half": self.last - self.middle,
            "steps_of_later_half": max(0, self.steps - self.half),
        }
        if torch := torch_on_gpu():
            # There it is the device's that is short; reserved, since recorded passes keep their memory.
            report["peak_memory_bytes"] = torch.cuda.max_memory_reserved()
        return report


def torch_on_gpu():
    """PyTorch's module where the contestant computes with it on a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def wait_for_gpu():
    """Wait until a GPU has done all that it was given; its work ends after the call that begins it."""
    if torch := torch_on_gpu():
        torch.cuda.synchronize()


class CountedCollator:
    """Wraps a collator and counts the real tokens and all positions of its batches."""

    def __init__(self, collator):
        self.collator, self.real, self.positions = collator, 0, 0

    def __call__(self, features):
        batch = self.collator(features)
        for key in ("attention_mask", "labels"):
            if key in batch and len(batch[key].shape) == 2:
                values = batch[key]
                values = values.numpy() if hasattr(values, "numpy") else values
                self.real += int((values > 0).sum() if key == "attention_mask" else (values != -100).sum())
                self.positions += values.size
        return batch


def tokenized(workload, folder, tokenizer):
    """The training rows, prepared as the guide of Hugging Face for the task does."""
    from datasets import Dataset

    # load_dataset would turn texts like 1984-03-03 into timestamps.
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").split("\n")
    rows = Dataset.from_list([json.loads(line) for line in lines if line])
    length = workload["max_length"]
    if workload["name"] == "classification":
        return rows.map(lambda r: tokenizer(r["text"], truncation=True, max_length=length), batched=True)
    if workload["name"] == "seq2seq":
        return rows.map(
            lambda r: tokenizer(r["source"], text_target=r["target"], truncation=True, max_length=length),
            batched=True,
            remove_columns=rows.column_names,
        )

    def in_blocks(examples):
        joined = [token for text in examples["input_ids"] for token in text]
        starts = range(0, len(joined) // length * length, length)
        return {
            "input_ids": [joined[i : i + length] for i in starts],
            "attention_mask": [[1] * length for _ in starts],
        }

    rows = rows.map(lambda r: tokenizer(r["text"]), batched=True, remove_columns=rows.column_names)
    return rows.map(in_blocks, batched=True, batch_size=len(rows))


def collator(workload, tokenizer, model, kind):
    """The data collator that the guide uses; `kind` is pt or tf."""
    import transformers

    if workload["name"] == "classification":
        return transformers.DataCollatorWithPadding(tokenizer, return_tensors=kind)
    if workload["name"] == "seq2seq":
        return transformers.DataCollatorForSeq2Seq(tokenizer, model=model, return_tensors=kind)
    tokenizer.pad_token = tokenizer.eos_token
    return transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False, return_tensors=kind)


def trainer(workload, folder, out, seed, watch, precision, group_by_length=False):
    """Train with Trainer; returns (share of real tokens, a function from batches to logits)."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    rows = tokenized(workload, folder, tokenizer)
    model = getattr(transformers, workload["auto_class"]).from_pretrained(folder / "model")
    collate = CountedCollator(collator(workload, tokenizer, model, "pt"))
    seq2seq = workload["name"] == "seq2seq"
    arguments = (transformers.Seq2SeqTrainingArguments if seq2seq else transformers.TrainingArguments)(
        output_dir=str(out), per_device_train_batch_size=workload["batch_size"],
        num_train_epochs=workload["epochs"], learning_rate=workload["learning_rate"], warmup_ratio=WARMUP_RATIO,
        weight_decay=WEIGHT_DECAY, seed=seed, bf16=precision == "bf16", group_by_length=group_by_length,
        save_strategy="no", report_to="none", use_cpu=not torch.cuda.is_available(),  # else it refuses bf16 on a CPU
    )  # fmt: skip

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            watch.begin()

        def on_step_end(self, *_, **__):
            watch.step()

    (transformers.Seq2SeqTrainer if seq2seq else transformers.Trainer)(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Watch()]
    ).train()
    model.eval()

    def logits(batch):
        tensors = {key: torch.from_numpy(value).to(model.device) for key, value in batch.items()}
        with torch.inference_mode():
            return model(**tensors).logits.float().cpu().numpy()

    return collate.real / collate.positions, logits


def keras(workload, folder, out, seed, watch, precision):
    """Train as the TensorFlow guides of Hugging Face do: prepare_tf_dataset, create_optimizer, compile, fit."""
    # Otherwise transformers also imports PyTorch, and the triton of a CUDA build crashes beside TensorFlow.
    os.environ["USE_TORCH"] = "0"
    import tensorflow as tf
    import transformers

    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tf_model")
    rows = tokenized(workload, folder, tokenizer)
    model = getattr(transformers, "TF" + workload["auto_class"]).from_pretrained(folder / "tf_model")
    collate = CountedCollator(collator(workload, tokenizer, model, "tf"))
    batches = model.prepare_tf_dataset(
        rows, batch_size=workload["batch_size"], shuffle=True, collate_fn=collate, drop_remainder=False
    )
    collate.real = collate.positions = 0  # prepare_tf_dataset has called the collator to learn the shapes
    optimizer, _ = transformers.create_optimizer(
        workload["learning_rate"], num_train_steps=workload["steps"], weight_decay_rate=WEIGHT_DECAY,
        num_warmup_steps=math.ceil(WARMUP_RATIO * workload["steps"]), adam_global_clipnorm=MAX_GRAD_NORM,
    )  # fmt: skip

    class Watch(tf.keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            watch.begin()

        def on_train_batch_end(self, batch, logs=None):
            watch.step()

    model.compile(optimizer=optimizer)
    model.fit(batches, epochs=workload["epochs"], verbose=2, callbacks=[Watch()])
    return collate.real / collate.positions, lambda batch: model(batch, training=False).logits.numpy()


def ours(workload, folder, out, seed, watch, precision, framework, attention, **changes):
    """Train with this pipeline through its Python API; returns (share of real tokens, the run)."""
    from pipeline.utils.environment import configure_process

    configure_process(framework)
    if not changes.get("recorded", True):
        from pipeline.pytorch import Learner

        Learner.can_record = lambda learner: False
    from pipeline import Data, Files, Recipe, Train, finetune
    from pipeline.training.callbacks import TrainingCallback

    class Watch(TrainingCallback):
        def on_train_begin(self, num_steps, num_epochs):
            watch.begin()

        def on_step_end(self, line):
            watch.step()

    options = {
        "causal": {"packing": "blocks", "separator": "none"},
        "seq2seq": {"max_target_length": workload["max_length"], "max_new_tokens": 24},
    }
    fields = {"classification": ("text", "label"), "causal": ("text",), "seq2seq": ("source", "target")}
    recipe = Recipe(
        name="bench", task=workload["task"], checkpoint=str(folder / "model"),
        data=Data(
            path="json", columns={field: field for field in fields[workload["name"]]},
            files=Files(train=str(folder / "train.jsonl"), validation=str(folder / "validation.jsonl")),
            max_length=workload["max_length"], batching=changes.get("batching", "packed"),
        ),
        train=Train(
            epochs=workload["epochs"], batch_size=workload["batch_size"], learning_rate=workload["learning_rate"],
            weight_decay=WEIGHT_DECAY, warmup_ratio=WARMUP_RATIO, max_grad_norm=MAX_GRAD_NORM, precision=precision,
            dropout_masks=changes.get("dropout_masks", "shared"),
            deterministic=changes.get("deterministic", False), compile=changes.get("compile", False),
        ),
        options=options.get(workload["name"]),
    )  # fmt: skip
    run = finetune(recipe, framework, attention, seed, out, overwrite=True, callback=Watch())
    return 1 - run.record.train.padding_fraction, run


def main(spec):
    """Run the contestant that the spec names and write its result."""
    folder = Path(spec["folder"])
    workload = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    kind, options = CONTESTANTS[spec["contestant"]]
    watch = Stopwatch(workload["steps"])
    real_token_share, trained = {"trainer": trainer, "keras": keras, "ours": ours}[kind](
        workload, folder, Path(spec["out"]), spec["seed"], watch, **options
    )
    result = watch.report(spec["launched"]) | {"real_token_share": real_token_share}
    if kind == "ours":
        result |= {"score": trained.metrics[workload["score"]], "seconds": trained.record.train.seconds}
    else:
        from tests.benchmarks.scoring import score

        result["score"] = score(workload, folder, trained)
    Path(spec["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.stdout.flush()
    os._exit(0)  # threads of the frameworks can take seconds to end
