"""How good a search was: was stopping trials early right, and which of its differences mean anything?"""

from analysis.search_quality.audit import Audit, Curve, audit_curves
from analysis.search_quality.noise_floor import NoiseFloor
from analysis.search_quality.overtuning import Overtuning, estimate_overtuning

__all__ = ["Audit", "Curve", "NoiseFloor", "Overtuning", "audit_curves", "estimate_overtuning"]
