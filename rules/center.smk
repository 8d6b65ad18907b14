# Stage 1: silhouettes, their measures and full-resolution crops, from the videos.


rule center:
    input:
        PLAN.per_chunk("{results}/center/{capture}/{chunk}.h5"),
        PLAN.per_capture("{results}/center/{capture}/preview.png"),


rule preview:
    input:
        PLAN.per_capture("{results}/center/{capture}/preview.png"),


rule center_background:
    input:
        videos=of_job(PLAN.videos, "capture"),
        empty_arena=of_job(PLAN.empty_arena, "capture"),
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
        other=of_job(PLAN.other_row, "capture"),
        row=of_job(PLAN.row, "capture"),
        settings=PLAN.background_settings(),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift background --row {params.row:q} {params.other:q} --settings {params.settings:q} --threads {threads}"
        " --output {output:q} 2> {log:q}"


rule center_preview:
    input:
        unpack(of_job(PLAN.recording, "capture")),
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
        background=option_of("--background", "background"),
        row=of_job(PLAN.row, "capture"),
        settings=PLAN.settings("center"),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift preview --row {params.row:q} {params.background:q} --settings {params.settings:q}"
        " --threads {threads} --output {output:q} 2> {log:q}"


rule center_chunk:
    input:
        unpack(of_job(PLAN.recording, "capture")),
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
        background=option_of("--background", "background"),
        row=of_job(PLAN.row, "capture"),
        settings=PLAN.settings("center"),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift center --row {params.row:q} --chunk {wildcards.chunk} {params.background:q}"
        " --settings {params.settings:q} --threads {threads} --output {output:q} 2> {log:q}"
