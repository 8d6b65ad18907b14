# Runs only when asked for by name: every shard is read again and compared with the manifest.


rule verify:
    input:
        manifest=rules.shard_manifest.output,
        h5=rules.shard_manifest.input.h5,
        tar=rules.shard_manifest.input.tar,
    output:
        f"{RESULTS}/verify/verify.json",
    log:
        f"{LOGS}/verify.log",
    benchmark:
        f"{BENCHMARKS}/verify.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 4
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        version=STAGE_VERSIONS["verify"],
    shell:
        "mousefacelift verify {input.manifest:q} --output {output:q} --threads {threads} > {log:q} 2>&1"
