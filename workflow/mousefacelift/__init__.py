"""From raw multi-camera videos of a mouse to a fine-tuned, evaluated GS-LRM.

The following is stable. A change to it is listed in CHANGELOG.md and raises the version.

- The command line: commands and options of `mousefacelift`, and the stages' names as targets of Snakemake.
- The configuration: keys of config/config.yaml, columns of config/captures.tsv.
- The files under results/, among them the JSON and the HDF5 layout of a sample, and manifest.json (docs/shards.md).
- The conventions of cameras and pixels (docs/geometry.md).
- In Python:

    mousefacelift.config.reading.load_config    a configuration file, checked, as typed sections
    mousefacelift.rigs.registry.read_rig        a calibration of any known format as a Rig
    mousefacelift.rigs.registry.write_rig       a Rig in another format
    mousefacelift.geometry.camera.Camera        one calibrated camera; a Rig is a tuple of them
    mousefacelift.geometry.camera.project       3D points to pixels, lens included
    mousefacelift.shards.manifest.read_manifest the list of shards
    mousefacelift.training.loaders.ShardData    batches of training and validation samples
    mousefacelift.base.errors.UserError         what all of these raise for a user's mistake

Everything else may move or change without notice. docs/design.md shows where things are.
"""

__version__ = "0.1.0"

# Each rule passes its stage's number in its params, so that a changed algorithm re-runs that stage and what follows,
# and an edited comment does not. Raise a stage's number whenever its output changes for the same input.
STAGE_VERSIONS = {
    "center": 3,
    "cameras": 5,
    "normalize": 3,
    "sample": 3,
    "shard": 4,
    "verify": 1,
    "train": 5,
    "evaluate": 4,
    "compare_cameras": 2,
    "poc": 3,
    "framings": 1,
    "ablation": 4,
}
