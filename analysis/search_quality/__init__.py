"""How good a search was: was stopping trials early right, and which of its differences mean anything?"""

from analysis.search_quality.audit import Audit, Curve, audit_curves
from analysis.search_quality.noise_floor import NoiseFloor

__all__ = ["Audit", "Curve", "NoiseFloor", "audit_curves"]
