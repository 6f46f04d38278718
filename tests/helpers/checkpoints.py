"""Copies of the bundled checkpoints with something changed in their files."""

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file


def changed_checkpoint(recipe, folder, config=None, tokenizer=None, weights=None):
    """The recipe on a copy of its checkpoint in `folder`, with other values in its files; None removes a key.

    `tokenizer` changes tokenizer_config.json, and special_tokens_map.json where that has the key. `weights` is a
    function of the weights by name.
    """
    folder = Path(folder)
    shutil.copytree(recipe.checkpoint, folder)
    files = {"config.json": config, "tokenizer_config.json": tokenizer, "special_tokens_map.json": tokenizer}
    for name, changes in files.items():
        if changes and (folder / name).exists():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            known = content if name == "special_tokens_map.json" else changes
            content |= {key: value for key, value in changes.items() if key in known}
            kept = {key: value for key, value in content.items() if value is not None}
            (folder / name).write_text(json.dumps(kept), encoding="utf-8")
    if weights:
        file = folder / "model.safetensors"
        save_file(weights(load_file(file)), file)
    return recipe.override({"checkpoint": str(folder)})
