"""Licences of pretrained weights, as timm's own tags name them, and what a licence's name says of commercial use.

This reads names; it is no legal advice. timm is imported where a licence is asked for, not before: it takes seconds.
"""

from __future__ import annotations

import re
from enum import IntEnum

from trainables.models.backbone_names import MIX_TRANSFORMERS
from trainables.recipe.recipe import Backbone

SEGFORMER_LICENCE = "NVIDIA's SegFormer licence, not for commercial use"
NOT_STATED = "timm names no licence, check them"
NOT_KNOWN = "not known, check them"  # of a user's own file


class CommercialUse(IntEnum):
    """From the freest to the strictest, so that the largest of several is what they come to together."""

    ALLOWED = 0
    ON_TERMS = 1
    UNKNOWN = 2
    FORBIDDEN = 3

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    CommercialUse.ALLOWED: "commercial use is allowed",
    CommercialUse.ON_TERMS: "commercial use is allowed under terms of the licence's own: read them",
    CommercialUse.UNKNOWN: "whether commercial use is allowed is not known: check it",
    CommercialUse.FORBIDDEN: "commercial use is NOT allowed",
}
# Of a licence's name, the strictest first. Apple's Machine Learning Research licence (amlr) is for research alone.
_NAMES = {
    CommercialUse.FORBIDDEN: r"\bnc\b|non-?commercial|not for commercial|\bapple-amlr\b",
    CommercialUse.ON_TERMS: r"\b(dinov3-license|gemma|nvidia-open-model-license|apple-ascl)\b",
    CommercialUse.ALLOWED: r"\b(apache|mit|bsd|cc0|isc|unlicense|public domain)\b|\bcc[ -]by([ -]\d|$)",
}


def commercial_use(licence: str) -> CommercialUse:
    """What the name of a licence, of weights or of images, says of commercial use."""
    found = (use for use, names in _NAMES.items() if re.search(names, licence.lower()))
    return next(found, CommercialUse.UNKNOWN)


def weights_licence(cfg: Backbone) -> str | None:
    """The licence of the weights that training begins with, or that it is not known; None of random ones."""
    if not cfg.pretrained:
        return None
    if cfg.weights_file is not None:
        return NOT_KNOWN
    return published_licence(cfg.name)


def published_licence(name: str) -> str:
    """The licence of the weights that are downloaded for a backbone: timm's tag, smp's for the Mix Transformers."""
    if name.partition(".")[0] in MIX_TRANSFORMERS:
        return SEGFORMER_LICENCE
    import timm

    cfg = timm.get_pretrained_cfg(name)
    return getattr(cfg, "license", None) or NOT_STATED
