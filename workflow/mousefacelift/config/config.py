"""The whole configuration, from which config/schema.json is generated."""

from pydantic import Field, model_validator

from mousefacelift.config.cameras import Cameras
from mousefacelift.config.center import Center
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.config.normalize import Normalize
from mousefacelift.config.sample import Sample
from mousefacelift.config.section import Section
from mousefacelift.config.shard import Shard
from mousefacelift.config.train import Train


class Config(Section):
    """The whole configuration, one section per stage."""

    captures: str | None = Field(
        None, description="table of captures (.tsv); null, or a table without rows: the demo capture"
    )
    results: str = Field(
        "results",
        pattern=r"^[^{}~]*[^{}~/]/*$",
        description="folder for everything that the workflow writes; the path may hold no braces and no ~",
    )
    center: Center = Center()
    cameras: Cameras = Cameras()
    normalize: Normalize = Normalize()
    sample: Sample = Sample()
    shard: Shard = Shard()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _sizes_divide(self) -> "Config":
        if not self.train.manifest and self.normalize.image_size % self.train.image_size:
            raise ValueError(
                f"train.image_size ({self.train.image_size}) must divide normalize.image_size ({self.normalize.image_size})"
            )
        return self
