"""The server's page: drop an image, see what the bundle makes of it. One text, which asks this server alone."""

from __future__ import annotations

from analysis.bundle.manifest import Manifest
from analysis.report.html import render_page
from search.serving.limits import Limits
from trainables.data.image_file import FORMATS, SUFFIXES


def write(manifest: Manifest, limits: Limits, device: str) -> str:
    """The whole page."""
    values = {
        "title": f"{manifest.data} on {device}",
        "data": manifest.data,
        "rule": manifest.rule,
        "num_members": len(manifest.members),
        "sentence": manifest.user_choice.sentence if manifest.user_choice else manifest.sentence,
        "holdout": manifest.scores.holdout,
        "upload_mib": limits.upload_mib,
        "megapixels": f"{limits.megapixels:g}",
        "formats": ", ".join(FORMATS),
        "accept": ",".join(sorted(SUFFIXES)),
        "device": device,
    }
    return render_page("serve.html.j2", values, figures={})
