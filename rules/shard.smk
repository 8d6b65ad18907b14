# Stage 5: final images in WebDataset tars and HDF5 files, and their manifest.


rule shard:
    input:
        PLAN.own_manifest,


rule shard_chunk:
    input:
        samples=rules.sample_capture.output.samples,
        center=of_job(PLAN.center_chunk, "capture", "chunk"),
        cameras=rules.normalize_capture.output.cameras,
        rig=rules.cameras_capture.output.rig,
    output:
        tar=expand(f"{RESULTS}/shard/{{split}}/{{{{capture}}}}-{{{{chunk}}}}.tar", split=SPLITS),
        h5=expand(f"{RESULTS}/shard/{{split}}/{{{{capture}}}}-{{{{chunk}}}}.h5", split=SPLITS),
    log:
        f"{LOGS}/shard/{{capture}}/{{chunk}}.log",
    benchmark:
        f"{BENCHMARKS}/shard/{{capture}}/{{chunk}}.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        folder=subpath(output[0], ancestor=2),
        settings=PLAN.settings("shard"),
        version=STAGE_VERSIONS["shard"],
    shell:
        "mousefacelift shard --samples {input.samples:q} --center {input.center:q} --cameras {input.cameras:q}"
        " --rig {input.rig:q} --chunk {wildcards.chunk} --settings {params.settings:q} --threads {threads}"
        " --output {params.folder:q} 2> {log:q}"


rule shard_manifest:
    input:
        h5=PLAN.per_split("{results}/shard/{split}/{capture}-{chunk}.h5"),
        tar=PLAN.per_split("{results}/shard/{split}/{capture}-{chunk}.tar"),
    output:
        PLAN.own_manifest,
    log:
        f"{LOGS}/shard/manifest.log",
    benchmark:
        f"{BENCHMARKS}/shard/manifest.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 4
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        needed=PLAN.need_options(),
        settings=PLAN.data_settings(),
        version=STAGE_VERSIONS["shard"],
    shell:
        "mousefacelift manifest --output {output:q} {params.needed} --settings {params.settings:q} --threads {threads}"
        " {input.h5:q} 2> {log:q}"
