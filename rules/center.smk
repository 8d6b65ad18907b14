# Stage 1: silhouettes, their measures and full-resolution crops, from the videos.


rule center:
    input:
        per_chunk("{results}/center/{capture}/{chunk}.h5"),


rule center_chunk:
    input:
        videos=lambda wildcards: CAPTURES[wildcards.capture].videos,
        masks=lambda wildcards: CAPTURES[wildcards.capture].masks,
    output:
        f"{RESULTS}/center/{{capture}}/{{chunk}}.h5",
    log:
        f"{LOGS}/center/{{capture}}/{{chunk}}.log",
    benchmark:
        f"{BENCHMARKS}/center/{{capture}}/{{chunk}}.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        table=TABLE,
        row=capture_row,
        settings=settings("center"),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift center --captures {params.table:q} --capture {wildcards.capture:q} --chunk {wildcards.chunk}"
        " --settings {params.settings:q} --threads {threads} --output {output:q} 2> {log:q}"
