# Stage 5: final images in WebDataset tars and HDF5 files, and their manifest.


rule shard:
    input:
        f"{RESULTS}/shard/manifest.json",


rule shard_chunk:
    input:
        samples=rules.sample_capture.output.samples,
        center=rules.center_chunk.output,
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
        folder=lambda wildcards, output: Path(output.tar[0]).parents[1],
        settings=settings("shard"),
        version=STAGE_VERSIONS["shard"],
    shell:
        "mousefacelift shard --samples {input.samples:q} --center {input.center:q} --cameras {input.cameras:q}"
        " --rig {input.rig:q} --chunk {wildcards.chunk} --settings {params.settings:q} --threads {threads}"
        " --output {params.folder:q} 2> {log:q}"


rule shard_manifest:
    input:
        h5=[path for split in SPLITS for path in per_chunk(f"{{results}}/shard/{split}/{{capture}}-{{chunk}}.h5")],
        tar=[path for split in SPLITS for path in per_chunk(f"{{results}}/shard/{split}/{{capture}}-{{chunk}}.tar")],
    output:
        f"{RESULTS}/shard/manifest.json",
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
        needed=[f"--need={split}" for split in SPLITS if getattr(CONFIG.sample.fractions, split)],
        settings=data_settings(),
        version=STAGE_VERSIONS["shard"],
    shell:
        "mousefacelift manifest --output {output:q} {params.needed} --settings {params.settings:q} --threads {threads}"
        " {input.h5:q} 2> {log:q}"
