"""The JSON Schema of recipes, with which editors complete and check recipe.yaml and files of one's own.

A YAML file whose first line is `# yaml-language-server: $schema=recipe.schema.json` is checked while it is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from pipeline.recipe.schema import Recipe
from pipeline.recipe.task_table import TASKS
from pipeline.utils.files import JsonObject

# YAML reads the label 7 as a number, and recipes make it a text again.
_LABEL = {"type": ["string", "number"]}


def recipe_schema() -> JsonObject:
    """The schema, with a description of each key; `options` are those of the task that the recipe names."""
    schema = Recipe.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    for entry in TASKS.values():
        options = entry.options.model_json_schema()
        definitions |= options.pop("$defs", {})
        definitions[entry.options.__name__] = options
    properties["task"]["enum"] = list(TASKS)
    schema["allOf"] = [
        {
            "if": {"properties": {"task": {"const": task}}},
            "then": {"properties": {"options": {"$ref": f"#/$defs/{entry.options.__name__}"}}},
        }
        for task, entry in TASKS.items()
    ]
    for described in _groups(schema):
        description = described.get("description")
        if isinstance(description, str):
            described["description"] = " ".join(description.split())
    for choice in definitions["Data"]["properties"]["labels"]["anyOf"]:
        if choice["type"] == "array":
            choice["items"] = _LABEL
        elif choice["type"] == "object":
            choice["additionalProperties"] = _LABEL
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _groups(value: object) -> Iterator[JsonObject]:
    """All the mappings in a schema."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _groups(each)


def schema_text() -> str:
    """The schema as a file holds it."""
    return json.dumps(recipe_schema(), indent=2) + "\n"
