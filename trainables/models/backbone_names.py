"""Checks backbone names without importing timm, smp or torch.

Importing timm takes seconds, and a misspelt name should be reported at once; so timm's model files are found on disk
and their `@register_model` functions and `'name.tag':` keys are read as text (about 0.1 s, once per process).
`build_backbone` asks timm itself again. The Mix Transformers are smp's.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

MIX_TRANSFORMERS = tuple(f"mit_b{size}" for size in range(6))
_REGISTERED = re.compile(r"^@register_model\s*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)
_TAGGED = re.compile(r"""['"](\w+)\.([\w.-]+)\*?['"]\s*:""")
# timm writes these models' tags in a loop over their siblings', so that no text holds them.
_TAGS_FROM_SIBLINGS = re.compile(r"_quickgelu_|_(?:enc|merge|align)$")


def backbone_files() -> dict[str, str]:
    """Model name -> stem of the timm file that defines it ('convnext'); 'mix_transformer' for smp's MiT.

    Raises ImportError where timm is not installed.
    """
    return _registry()[0]


def backbone_tags() -> dict[str, frozenset[str]]:
    """Model name -> tags of its pretrained weights, for every model of the installed timm, and smp's MiT.

    Raises ImportError where timm is not installed.
    """
    return _registry()[1]


def check_backbone_name(name: str) -> None:
    """Raise ValueError, with the three nearest names, for an unknown backbone or an unknown `.tag` of its weights."""
    known = backbone_tags()
    model, _, tag = name.partition(".")
    if model not in known:
        raise ValueError(f"unknown timm backbone {name!r}; nearest: {_nearest(model, known)}")
    if not tag or tag in known[model] or _TAGS_FROM_SIBLINGS.search(model):
        return
    if not known[model]:
        raise ValueError(f"{model!r} has no tagged weights in timm, got {name!r}; use {model!r}")
    nearest = _nearest(name, {f"{model}.{other}" for other in known[model]})
    raise ValueError(f"timm's {model!r} has no weights tagged {tag!r}; nearest: {nearest}")


@cache
def _registry() -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("timm is needed for the backbones; run: pip install timm")
    files: dict[str, str] = dict.fromkeys(MIX_TRANSFORMERS, "mix_transformer")
    keys: list[tuple[str, str]] = [(name, "imagenet") for name in MIX_TRANSFORMERS]
    for path in sorted(Path(spec.submodule_search_locations[0], "models").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        files |= dict.fromkeys(_REGISTERED.findall(text), path.stem)
        keys += _TAGGED.findall(text)
    tags: dict[str, set[str]] = {name: set() for name in files}
    for name, tag in keys:
        if name in tags:
            tags[name].add(tag)
    return files, {name: frozenset(found) for name, found in tags.items()}


def _nearest(name: str, names: dict[str, frozenset[str]] | set[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.0))
