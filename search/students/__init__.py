"""Students of a finished run: models that learn from what its ensemble says."""

__all__ = [
    "distillation",
    "finished_run",
    "judging",
    "pseudo",
    "pseudo_labelling",
    "pseudo_plans",
    "pseudo_round",
    "pseudo_stage",
    "pseudo_training",
    "student_bundle",
]  # modules
