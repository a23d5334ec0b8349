"""YAML in, suggestions and recipes out."""
