"""What ships: the bundle, its export, and its networks. `load` is the way in from Python."""

from analysis.bundle.model import Model, load

__all__ = ["Model", "export", "json_schemas", "load", "manifest", "predictor"]
