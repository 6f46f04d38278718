"""A model for tests of the server: it answers from the text alone, and sleeps or fails when the text says so.

`python -m tests.helpers.served_stub '{"deadline_seconds": 1}'` serves it with these limits and prints the address.
"""

import json
import sys
import threading
import time

import numpy as np

from pipeline.deploy.serving.inference_protocol import text_array
from pipeline.deploy.serving.served_model import Description
from pipeline.runs.prediction import Answer
from pipeline.utils.errors import UserError

CLASSES = {"label": ("BYTES", ()), "logits": ("FP32", (2,))}


def expected(text):
    """The prediction for a text: it depends on every character, so that no two texts can be mixed up unseen."""
    return text[::-1]


class StubModel:
    """In place of a `ServedModel`; `calls` has the texts of each batch, and `gate` can hold all answers back."""

    description = Description(
        name="stub", task="sequence-classification", platform="stub", labels=("no", "yes"), fields=("text",),
        list_field=None, token_inputs=("input_ids", "attention_mask"), vocabulary=97, padding=0, max_length=11,
        text_outputs=CLASSES, token_outputs=CLASSES, streams=True,
    )  # fmt: skip

    def __init__(self):
        self.calls, self.written, self.gate = [], [], threading.Event()
        self.gate.set()

    def checked(self, row, place):
        row = json.loads(row) if isinstance(row, str) and row.startswith("{") else row
        text = row if isinstance(row, str) else row.get("text")
        if not isinstance(text, str):
            raise UserError(f'{place} has no "text"; sequence-classification needs: text')
        return {"text": text.strip("\r\n")}

    def answer(self, rows):
        texts = [row["text"] for row in rows]
        self.calls.append(texts)
        self.gate.wait()
        for number, text in enumerate(texts, start=1):
            if text.startswith("sleep"):
                time.sleep(float(text.split()[1]))
            if text == "refuse":
                raise UserError(f"row {number} is refused")
            if text == "fail":
                raise RuntimeError("cannot read /secret/weights")
        return [self._answer(i, text) for i, text in enumerate(texts)]

    @staticmethod
    def _answer(index, text):
        prediction = {"index": index, "text": text, "prediction": expected(text)}
        return Answer(prediction, np.array([len(text), 0.5], np.float32))

    def text_outputs(self, answer):
        return {"label": text_array(answer.prediction["prediction"]), "logits": answer.output}

    def run_tokens(self, rows):
        self.calls.append([row["input_ids"].tolist() for row in rows])
        sums = [float((row["input_ids"] * row["attention_mask"]).sum()) for row in rows]
        return [{"label": text_array("yes"), "logits": np.array([total, 1], np.float32)} for total in sums]

    def stream(self, row, on_text):
        if row["text"] == "refuse":
            raise UserError("row 1 is refused")
        words = row["text"].split()
        for i, word in enumerate(words):
            on_text(f"{word} ")
            self.written.append(word)
            if word == "fail":
                raise RuntimeError("cannot read /secret/weights")
            time.sleep(0.02 * (i > 0))
        return {"index": 0, "text": row["text"], "prediction": " ".join(words)}


def main():
    from pipeline.deploy.serving.requests import Limits
    from pipeline.deploy.serving.server import listening_socket, serve

    with listening_socket("127.0.0.1", 0) as listener:
        serve(StubModel(), listener, Limits(**json.loads(sys.argv[1])), on_ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
