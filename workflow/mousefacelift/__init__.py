"""From raw multi-camera videos of a mouse to a fine-tuned, evaluated GS-LRM. One module per stage of the workflow."""

__version__ = "0.1.0"

# Each rule passes its stage's number in its params, so that a changed algorithm re-runs that stage and what follows,
# and an edited comment does not. Raise a stage's number whenever its output changes for the same input.
STAGE_VERSIONS = {
    "center": 2,
    "cameras": 3,
    "normalize": 2,
    "sample": 3,
    "shard": 4,
    "verify": 1,
    "train": 3,
    "evaluate": 1,
    "compare_cameras": 1,
    "poc": 1,
    "ablation": 1,
}
