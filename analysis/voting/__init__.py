"""From stored logits to votes and their confusion counts."""
