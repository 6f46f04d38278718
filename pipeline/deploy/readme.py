"""The README.md of an export: what it is, what was measured, and ten lines that load it with its runtime alone."""

from __future__ import annotations

from pipeline.deploy.manifest import Manifest, ProofRecord, WritingRecord

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
    "aoti": """import torch._inductor
model = torch._inductor.aoti_load_package("{file}")
inputs = {{name: torch.tensor(read[name]) for name in manifest["inputs"]}}
{output} = model(**inputs)[0].numpy()""",
    "torchscript": """import torch
model = torch.jit.load("{file}")
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

_WRITING = """import json, numpy, tokenizers
manifest, tokenizer = json.load(open("manifest.json")), tokenizers.Tokenizer.from_file("tokenizer.json")
writing, text = manifest["writing"], "A text."
{ids}
{loading}
print(tokenizer.decode(written[0].tolist()))"""
_STEPS = """import onnxruntime
{encoding}
step, (first, heads, width) = onnxruntime.InferenceSession("{file}/step.onnx"), writing["past"]
past = numpy.zeros((first, 1, heads, 0, width), numpy.float32)
written = tokens = {tokens}
for _ in range(writing["max_new_tokens"]):
    inputs = {{"input_ids": tokens, "attention_mask": {mask}, "past": past, "beside": {beside}}}
    logits, past = step.run(None, inputs)
{forbidden}    tokens = logits[:, -1:].argmax(-1)
    written = numpy.concatenate([written, tokens], axis=1)
    if tokens[0, 0] == writing["end_id"]:
        break"""
_ENCODING = """encoder = onnxruntime.InferenceSession("{file}/encoder.onnx")
(encoded,) = encoder.run(["encoded"], {{"input_ids": ids, "attention_mask": numpy.ones_like(ids)}})"""
_WHOLE = """import tensorflow
model = tensorflow.saved_model.load("{file}")
inputs = {{"input_ids": tensorflow.constant(ids, "int32"), "attention_mask": tensorflow.ones(ids.shape, "int32")}}
written = model.signatures["serving_default"](**inputs)["ids"].numpy()"""


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
    """Python that loads an export with its runtime and prints its answer to two rows, or the text that it writes."""
    if manifest.writing is not None:
        return _writing_code(manifest, manifest.writing)
    rows = '[("One text.", "And another."), ("A", "B")]' if pairs else '["One text.", "And a second text."]'
    output = next(iter(manifest.outputs))
    loading = _LOADING[manifest.format].format(file=manifest.file, output=output)
    answer = f"print({output}.tolist())"
    if chooses_one:
        answer = f'print([manifest["labels"][number] for number in {output}.argmax(-1)])'
    return "\n".join([_TOKENIZING.format(rows=rows), loading, answer])


def _writing_code(manifest: Manifest, writing: WritingRecord) -> str:
    """Python that has an export write one text, greedily."""
    ids, reads_sources = "ids = numpy.array([tokenizer.encode(text).ids])", writing.reads_sources
    if not reads_sources:  # training put the end token before each text
        ids = 'ids = numpy.array([[writing["end_id"], *tokenizer.encode(text, add_special_tokens=False).ids]])'
    if manifest.format == "savedmodel":
        return _WRITING.format(ids=ids, loading=_WHOLE.format(file=manifest.file))
    encoding, tokens = _ENCODING.format(file=manifest.file), 'numpy.array([[writing["start_id"]]])'
    mask, beside = "numpy.ones_like(ids)", "encoded"
    if not reads_sources:
        encoding, tokens, mask = "", "ids", "numpy.ones_like(written)"
        beside = "numpy.arange(written.shape[1])[None, -tokens.shape[1] :]"
    forbidden = "" if writing.writes_padding else '    logits[..., manifest["pad_token_id"]] = -numpy.inf\n'
    steps = _STEPS.format(
        encoding=encoding, file=manifest.file, tokens=tokens, mask=mask, beside=beside, forbidden=forbidden
    )
    return _WRITING.format(ids=ids, loading=steps.replace("\n\n", "\n"))


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
