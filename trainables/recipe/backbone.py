"""The backbone of a recipe: which network, from which weights, and what of it learns. Imports pydantic alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from trainables.recipe.config import Config, Probability


class Backbone(Config):
    """A timm model that gives features, where its weights come from, and which of them learn."""

    name: str
    pretrained: bool = True
    weights_file: str | None = None  # a local .safetensors or .pth instead of timm's download
    drop_path: Probability = 0.0
    frozen: bool = False  # only what comes after the backbone learns: a cheap first look at its features
    frozen_stages: Annotated[int, Field(ge=0, le=256)] = 0  # the first stages, or blocks of a plain transformer
    lora_rank: Annotated[int, Field(ge=0, le=1024)] = 0  # of a plain transformer's attention; 0: its own weights learn
    lora_alpha: Annotated[float, Field(gt=0.0)] | None = None  # alpha / rank scales the update; None: it is the rank

    @model_validator(mode="after")
    def _weights_are_wanted(self) -> Backbone:
        if self.weights_file is not None and not self.pretrained:
            raise ValueError(
                f"weights_file must not be given with pretrained: false, got {self.weights_file!r}; "
                "leave weights_file out, or set pretrained: true"
            )
        return self

    @model_validator(mode="after")
    def _frozen_blocks_drop_nothing(self) -> Backbone:
        if self.frozen and self.drop_path:
            raise ValueError(f"drop_path must be 0 with frozen: true, got {self.drop_path}; use 0, or frozen: false")
        return self

    @model_validator(mode="after")
    def _one_way_of_keeping_weights(self) -> Backbone:
        whole = "frozen: true" if self.frozen else f"lora_rank {self.lora_rank}" if self.lora_rank else ""
        if self.frozen_stages and whole:
            raise ValueError(
                f"frozen_stages must be 0 with {whole}, which keeps all weights of the backbone, got "
                f"{self.frozen_stages}; use 0"
            )
        if self.frozen and self.lora_rank:
            raise ValueError(
                f"lora_rank must be 0 with frozen: true, whose backbone does not learn, got {self.lora_rank}; use 0, "
                "or frozen: false"
            )
        return self

    @model_validator(mode="after")
    def _alpha_has_a_rank(self) -> Backbone:
        if self.lora_alpha is not None and not self.lora_rank:
            raise ValueError(
                f"lora_alpha must be left out without a lora_rank, got {self.lora_alpha}; set lora_rank to 8 or leave "
                "lora_alpha out"
            )
        return self
