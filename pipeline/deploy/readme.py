"""The README.md of an export: what it is, what was measured, and ten lines that load it with its runtime alone."""

from __future__ import annotations

from pipeline.deploy.manifest import Manifest, ProofRecord

# How each format is loaded and asked; the code stands in an export's folder, and `read` has the rows by input.
_LOADING = {
    "onnx": """import onnxruntime
model = onnxruntime.InferenceSession("{file}")
inputs = {{name: numpy.array(read[name], numpy.int64) for name in manifest["inputs"]}}
{output} = model.run(["{output}"], inputs)[0]""",
    "pt2": """import torch
model = torch.export.load("{file}").module()
inputs = {{name: torch.tensor(read[name]) for name in manifest["inputs"]}}
{output} = model(**inputs)[0].detach().numpy()""",
    "savedmodel": """import tensorflow
model = tensorflow.saved_model.load("{file}")
inputs = {{name: tensorflow.constant(read[name]) for name in manifest["inputs"]}}
{output} = model.signatures["serving_default"](**inputs)["{output}"].numpy()""",
    "litert": """from ai_edge_litert.interpreter import Interpreter
model = Interpreter("{file}").get_signature_runner("serving_default")
inputs = {{name: numpy.array(read[name], numpy.int32) for name in manifest["inputs"]}}
{output} = model(**inputs)["{output}"]""",
}
_TOKENIZING = """import json, numpy, tokenizers
manifest, tokenizer = json.load(open("manifest.json")), tokenizers.Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation(manifest["max_length"])
tokenizer.enable_padding(pad_id=manifest["pad_token_id"])
rows = tokenizer.encode_batch({rows})
read = {{"input_ids": [row.ids for row in rows], "token_type_ids": [row.type_ids for row in rows]}}
read["attention_mask"] = [row.attention_mask for row in rows]"""


def readme(manifest: Manifest, proof: ProofRecord, pairs: bool, chooses_one: bool) -> str:
    """The text of README.md; `pairs` are of two texts, and `chooses_one` says that each text has one of the labels."""
    facts = manifest.facts
    weights = f", weights in {manifest.quantization}" if manifest.quantization else ""
    names = list(proof.run_metrics)
    scores = "\n".join(
        f"| {name} | {_score(proof.run_metrics[name])} | {_score(proof.metrics[name])} |" for name in names
    )
    return f"""# {manifest.run.recipe} as {facts.title}

A {manifest.architecture} for {manifest.task}{weights}, exported from {manifest.run.label}.
`manifest.json` describes its inputs, outputs and files.

It was asked for all {proof.rows} validation rows in {proof.runtime}, in a process in which {_listed(proof.absent)}
could not be imported. The largest difference of a logit from the run's own is {proof.largest_difference:.1e};
{proof.agreement:.2%} of the predictions are the same.

| | the run | this export |
|---|---|---|
{scores}

To load it, in this folder, with `pip install {facts.runtime.replace("_", "-")} tokenizers`:

```python
{loading_code(manifest, pairs, chooses_one)}
```
"""


def loading_code(manifest: Manifest, pairs: bool, chooses_one: bool) -> str:
    """Python that loads an export with its runtime and prints its answer to two rows."""
    rows = '[("One text.", "And another."), ("A", "B")]' if pairs else '["One text.", "And a second text."]'
    output = next(iter(manifest.outputs))
    loading = _LOADING[manifest.format].format(file=manifest.file, output=output)
    answer = f"print({output}.tolist())"
    if chooses_one:
        answer = f'print([manifest["labels"][number] for number in {output}.argmax(-1)])'
    return "\n".join([_TOKENIZING.format(rows=rows), loading, answer])


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
