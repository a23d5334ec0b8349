"""Rules, cross-fitting, verdict."""
