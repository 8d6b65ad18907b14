from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/center.smk"
include: "rules/cameras.smk"
include: "rules/normalize.smk"
include: "rules/sample.smk"
include: "rules/shard.smk"
include: "rules/verify.smk"
include: "rules/compare_cameras.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/poc.smk"
include: "rules/ablation.smk"


localrules:
    all,
    center,
    preview,
    cameras,
    normalize,
    sample,
    shard,


rule all:
    default_target: True
    input:
        rules.evaluate.output,
        rules.preview.input,
        rules.compare_cameras.output,


onsuccess:
    print_run(PLAN.per_capture("{results}/cameras/{capture}/qc.json"))
