"""Post-processing of label maps."""
