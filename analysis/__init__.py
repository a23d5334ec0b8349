"""Logits in; decisions and artefacts out."""

import trainables as trainables  # before any kernel here: it says where they are cached
