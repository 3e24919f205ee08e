"""`python -m bi_experiments.phase.architectures`: the architectures that a seeded checkpoint can be made of here.

Read from the source of this environment's transformers, whose import takes seconds.
"""

import ast
import importlib.util
import json
import sys
from pathlib import Path

_TABLE = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


def architectures() -> list[str]:
    """Every `model_type` with a causal language model.

    Empty where the source of transformers is not there, or is of a release that keeps them elsewhere.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return []
    source = Path(spec.submodule_search_locations[0]) / "models" / "auto" / "modeling_auto.py"
    try:
        assigned = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
        table = next(node.value for node in assigned if _TABLE in map(ast.unparse, node.targets))
        assert isinstance(table, ast.Call)
        return list(dict(ast.literal_eval(table.args[0])))
    except (OSError, SyntaxError, ValueError, TypeError, StopIteration, IndexError, AssertionError):
        return []


if __name__ == "__main__":
    sys.stdout.write(json.dumps(architectures()) + "\n")
