"""Predict with the bundle that this file lies in. Needs torch, timm, safetensors and pillow; segsearch is not needed.

    python load.py photo.jpg label.png
    from load import load; label = load()(rgb)      # rgb uint8 (H,W,3) -> label uint8 (H,W)

What it cannot read it refuses by name. `segsearch predict --bundle DIR` reads every bundle, and many images.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import Network, mean_logits, resize, unreadable
from numpy.typing import NDArray
from PIL import Image
from postprocess import postprocess

HERE = Path(__file__).parent


def load(folder: Path | str = HERE, device: str = "cpu") -> "Bundle":
    """Raises ValueError for a bundle that this file cannot read in full."""
    manifest = json.loads((Path(folder) / "bundle.json").read_text(encoding="utf-8"))
    lacking = unreadable(manifest)
    if lacking:
        raise ValueError(f"load.py lacks {', '.join(lacking)}; use `segsearch predict --bundle {folder}`")
    return Bundle(Path(folder), manifest, device)


class Bundle:
    def __init__(self, folder: Path, manifest: dict[str, Any], device: str) -> None:
        self.manifest, self.device, self.networks = manifest, device, []
        for member in manifest["members"]:
            names = [file["weights"] for file in (member, *member.get("more_weights", ()))]
            made = [Network(member["recipe"], len(manifest["classes"]), folder / Path(name).name) for name in names]
            self.networks.append([network.to(device).eval() for network in made])

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (H,W,3) -> uint8 (H,W)."""
        label, steps = self._vote(rgb), self.manifest.get("postprocess")
        return postprocess(label, steps["min_component"], steps["max_hole"]) if steps else label

    def _vote(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        q = np.stack([self._probabilities(m, rgb) for m in range(len(self.networks))])  # (M,K,H,W)
        weights = np.array(self.manifest["weights"], np.float32)[:, :, None, None]  # (M,K,1,1)
        if self.manifest["vote"] != "hard":
            scores = q if self.manifest["vote"] == "soft" else np.log(np.maximum(q, np.float32(1e-6)))
            return np.asarray((weights * scores).sum(0).argmax(0), np.uint8)
        ballots = q.argmax(1)  # (M,H,W); the best member is first, and its label wins a tie
        support = (ballots[:, None] == ballots[None]).sum(1)
        return np.asarray(np.take_along_axis(ballots, support.argmax(0)[None], 0)[0], np.uint8)

    @torch.no_grad()
    def _probabilities(self, m: int, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:  # (K,H,W), mean over views
        member, total = self.manifest["members"][m], np.float32(0)
        mean, std = (torch.tensor(member[key], device=self.device).view(1, 3, 1, 1) * 255 for key in ("mean", "std"))
        amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(member["recipe"]["train"]["amp"])
        if member["recipe"]["train"]["amp"] == "auto" and self.device.startswith("cuda"):
            amp = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        for scale, turn, flip in re.findall(r"s(\d\.\d\d)-(?:r(\d+)-)?(\w+)", " ".join(member["views"])):
            factor = float(scale) * (member["short_px"] / min(rgb.shape[:2]) if member["short_px"] else 1)
            size = [max(32, int(side * factor / 32 + 0.5) * 32) for side in rgb.shape[:2]]
            axis = {"horizontal": [-1], "vertical": [-2], "none": []}[flip]
            view = torch.from_numpy(resize_image(rgb, size)).permute(2, 0, 1)[None].to(self.device)
            view = torch.rot90(view, int(turn or 0) // 90, (-2, -1)).flip(axis)
            with torch.autocast(self.device.split(":")[0], dtype=amp, enabled=amp is not None):
                logits = mean_logits(self.networks[m], (view.float() - mean) / std)
            logits = torch.rot90(logits.flip(axis), -(int(turn or 0) // 90), (-2, -1)).half()
            order = list(range(logits.shape[1]))
            for a, b in self.manifest["flip_pairs"] if axis else ():
                order[a], order[b] = b, a
            scaled = logits[:, order].float() * (1 / member["temperature"])
            total = total + resize(scaled, rgb.shape[:2]).softmax(1)[0].cpu().numpy() / np.float32(len(member["views"]))
        return np.asarray(total, np.float32)


def resize_image(rgb: NDArray[np.uint8], size: list[int]) -> NDArray[np.uint8]:
    """Bilinear in OpenCV's fixed-point arithmetic, to the last bit: what the networks were trained on."""
    taps = []
    for length, wanted in zip(rgb.shape[:2], size, strict=True):
        at = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
        low = np.floor(at).astype(np.int64)
        shares = (np.rint(share * 2048).astype(np.int64) for share in (1 - (at - low), at - low))
        taps.append([(np.clip(low + i, 0, length - 1), share) for i, share in enumerate(shares)])
    wide = sum(rgb[:, x].astype(np.int64) * share[:, None] for x, share in taps[1])
    tall = sum((wide[y] >> 4) * share[:, None, None] >> 16 for y, share in taps[0])
    return np.asarray((tall + 2) >> 2, np.uint8)


if __name__ == "__main__":
    bundle = load()
    picture = Image.fromarray(bundle(np.asarray(Image.open(sys.argv[1]).convert("RGB"))))
    picture.putpalette([value for colour in bundle.manifest["palette"] for value in colour])
    picture.save(sys.argv[2])
