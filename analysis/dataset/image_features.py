"""Cheap frozen features of images: named ones (colour, light, texture, shape), and a network's pooled ones.

Named features are (N,F) float32, a network's (N,C) float32. Labels are never read here, so the images of a sealed
hold-out may be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Read = Callable[[str], NDArray[np.uint8]]
LOOK_PX = 192  # the longer side at which colours and textures are measured
NETWORK_PX = 112
BATCH_SIZE = 32
NUM_THREADS = 2
BACKBONE = "resnet18.a1_in1k"
FEATURES = {  # name -> family
    "brightness": "light", "contrast": "light", "dark pixels": "light", "bright pixels": "light",
    "brightness of the top third": "light", "brightness of the bottom third": "light",
    "redness": "colour", "greenness": "colour", "blueness": "colour", "saturation": "colour",
    "spread of saturation": "colour", "colourfulness": "colour", "warmth": "colour",
    "sharpness": "texture", "noise": "texture", "edges": "texture", "fine texture": "texture",
    "medium texture": "texture", "coarse texture": "texture", "upright edges": "texture",
    "pixels": "shape", "aspect ratio": "shape",
}  # fmt: skip
_NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True)
class NetworkFeatures:
    """`values` (N,C); `source` describes the network, for readers."""

    values: Float
    source: str


def named_features(image: NDArray[np.uint8]) -> Float:
    """(F,) in the order of FEATURES. Colourfulness: Hasler & Suesstrunk 2003, eq. 4; noise: Immerkaer 1996, eq. 8."""
    height, width = image.shape[:2]
    factor = min(1.0, LOOK_PX / max(height, width))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    red, green, blue = cv2.split(small)  # contiguous: strided columns cost twice the time
    total = red + green + blue + np.float32(1e-3)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    top, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = (top - low) / (top + 1e-3)
    rg, yb = red - green, 0.5 * (red + green) - blue
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    third = max(1, grey.shape[0] // 3)
    bands = _bands(grey)
    return np.array([
        grey.mean(), grey.std(), (grey < 0.12).mean(), (grey > 0.88).mean(),
        grey[:third].mean(), grey[-third:].mean(),
        (red / total).mean(), (green / total).mean(), (blue / total).mean(), saturation.mean(),
        saturation.std(), np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()), (red - blue).mean(),
        np.log(cv2.Laplacian(grey, cv2.CV_32F).var() + 1e-7),
        np.log(np.abs(cv2.filter2D(grey, cv2.CV_32F, _NOISE_MASK)).mean() + 1e-5),
        np.hypot(across, down).mean(), *bands,
        np.log((np.abs(across).mean() + 1e-4) / (np.abs(down).mean() + 1e-4)),
        np.log(height * width), np.log(width / height),
    ], np.float32)  # fmt: skip


def _bands(grey: NDArray[Any]) -> list[float]:
    """Log energy of three bands of spatial frequency, from differences of blurs."""
    blurred = [grey, *(cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1.0, 3.0, 9.0))]
    return [float(np.log((a - b).var() + 1e-7)) for a, b in pairwise(blurred)]


def measure(image_ids: Sequence[str], read: Read) -> Float:
    """(N,F): named features of every image, with a few threads."""
    with ThreadPoolExecutor(max_workers=NUM_THREADS) as pool:
        return np.stack(list(pool.map(lambda image_id: named_features(read(image_id)), image_ids)))


def pooled_features(image_ids: Sequence[str], read: Read, *, seed: int, backbone: str = BACKBONE) -> NetworkFeatures:
    """(N,C) of a timm network's last pooling: pretrained where its weights lie on this machine, else seeded at random
    (random filters still tell textures and layouts apart). Nothing is downloaded. ValueError for an unknown name."""
    import timm
    import torch
    from timm.data.config import resolve_model_data_config

    if not timm.is_model(backbone):
        near = ", ".join(timm.list_models(f"*{backbone.split('.')[0][:6]}*")[:4])
        raise ValueError(f"backbone must be a timm model, got {backbone!r}; e.g. {near or BACKBONE}")
    local = _is_local(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(backbone, pretrained=local, num_classes=0, scriptable=False).eval()
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    mean, std = (np.array(config[key], np.float32) * 255 for key in ("mean", "std"))
    side = int(config["input_size"][-1]) if config.get("fixed_input_size") else NETWORK_PX
    rows = []
    for start in range(0, len(image_ids), BATCH_SIZE):
        batch = [
            cv2.resize(np.ascontiguousarray(read(image_id)), (side, side), interpolation=cv2.INTER_AREA)
            for image_id in image_ids[start : start + BATCH_SIZE]
        ]
        scaled = (np.stack(batch).astype(np.float32) - mean) / std  # (B,side,side,3)
        with torch.inference_mode():
            rows.append(model(torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous()).float().numpy())
    return NetworkFeatures(np.concatenate(rows), f"{backbone}, {'pretrained' if local else 'random filters'}")


def _is_local(backbone: str) -> bool:
    """Whether timm would find the pretrained weights without a network."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(backbone)
    if config is None or not config.hf_hub_id:
        return False
    repository = str(config.hf_hub_id).split("@")[0].removesuffix("/")
    repository = repository + backbone if str(config.hf_hub_id).endswith("/") else repository
    return any(
        isinstance(try_to_load_from_cache(repository, name), str) for name in ("model.safetensors", "pytorch_model.bin")
    )
