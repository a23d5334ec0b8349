"""Was early stopping right? Estimates from the learning curves of a finished search."""

from analysis.early_stopping.audit import Audit, Curve, audit_curves

__all__ = ["Audit", "Curve", "audit_curves"]
