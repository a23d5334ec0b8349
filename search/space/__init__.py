"""From a YAML file to the recipes that a search suggests."""

__all__ = [
    "allowed_keys",
    "initial_trials",
    "json_schema",
    "model_table",
    "nodes",
    "options",
    "parser",
    "problems",
    "recipe_checks",
    "space",
    "space_file",
    "yaml_format",
]
