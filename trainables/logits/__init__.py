"""From trained weights to stored logits."""
