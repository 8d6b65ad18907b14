# Stage 1: silhouettes, their measures and full-resolution crops, from the videos.


rule center:
    input:
        per_chunk("{results}/center/{capture}/{chunk}.h5"),
        per_capture("{results}/center/{capture}/preview.png"),


rule preview:
    input:
        per_capture("{results}/center/{capture}/preview.png"),


rule center_background:
    input:
        videos=lambda wildcards: CAPTURES[wildcards.capture].videos,
    output:
        f"{RESULTS}/center/{{capture}}/background.h5",
    log:
        f"{LOGS}/center/{{capture}}/background.log",
    benchmark:
        f"{BENCHMARKS}/center/{{capture}}/background.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        table=TABLE,
        row=capture_row,
        settings=background_settings(),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift background --captures {params.table:q} --capture {wildcards.capture:q}"
        " --settings {params.settings:q} --threads {threads} --output {output:q} 2> {log:q}"


rule center_preview:
    input:
        unpack(recording),
    output:
        f"{RESULTS}/center/{{capture}}/preview.png",
    log:
        f"{LOGS}/center/{{capture}}/preview.log",
    benchmark:
        f"{BENCHMARKS}/center/{{capture}}/preview.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        background=lambda wildcards, input: ["--background", input.background] if "background" in input.keys() else [],
        table=TABLE,
        row=capture_row,
        settings=settings("center"),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift preview --captures {params.table:q} --capture {wildcards.capture:q} {params.background:q}"
        " --settings {params.settings:q} --threads {threads} --output {output:q} 2> {log:q}"


rule center_chunk:
    input:
        unpack(recording),
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
        background=lambda wildcards, input: ["--background", input.background] if "background" in input.keys() else [],
        table=TABLE,
        row=capture_row,
        settings=settings("center"),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift center --captures {params.table:q} --capture {wildcards.capture:q} --chunk {wildcards.chunk}"
        " {params.background:q} --settings {params.settings:q} --threads {threads} --output {output:q} 2> {log:q}"
