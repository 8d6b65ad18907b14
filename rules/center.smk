# Stage 1: silhouettes, their measures and full-resolution crops, from the videos.


rule center:
    input:
        PLAN.all_center_chunks(),
        PLAN.per_recording("{results}/center/{recording}/preview.png"),


rule preview:
    input:
        PLAN.per_recording("{results}/center/{recording}/preview.png"),


rule center_background:
    input:
        videos=of_job(PLAN.videos, "recording"),
        empty_arena=of_job(PLAN.empty_arena, "recording"),
        calibration=of_job(PLAN.calibration, "recording"),
    output:
        f"{RESULTS}/center/{{recording}}/background.h5",
    log:
        f"{LOGS}/center/{{recording}}/background.log",
    benchmark:
        f"{BENCHMARKS}/center/{{recording}}/background.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        other=of_job(PLAN.other_row, "recording"),
        animals=of_job(PLAN.animals, "recording"),
        settings=PLAN.background_settings(),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift background {params.animals:q} {params.other:q} --settings {params.settings:q} --threads {threads}"
        " --output {output:q} 2> {log:q}"


rule center_preview:
    input:
        unpack(of_job(PLAN.recording, "recording")),
    output:
        f"{RESULTS}/center/{{recording}}/preview.png",
    log:
        f"{LOGS}/center/{{recording}}/preview.log",
    benchmark:
        f"{BENCHMARKS}/center/{{recording}}/preview.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        background=option_of("--background", "background"),
        animals=of_job(PLAN.animals, "recording"),
        settings=PLAN.settings("center"),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift preview {params.animals:q} {params.background:q} --settings {params.settings:q}"
        " --threads {threads} --output {output:q} 2> {log:q}"


rule center_chunk:
    input:
        unpack(of_job(PLAN.recording, "recording")),
    output:
        f"{RESULTS}/center/{{recording}}/{{chunk}}.h5",
    log:
        f"{LOGS}/center/{{recording}}/{{chunk}}.log",
    benchmark:
        f"{BENCHMARKS}/center/{{recording}}/{{chunk}}.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        background=option_of("--background", "background"),
        animals=of_job(PLAN.animals, "recording"),
        settings=PLAN.settings("center"),
        version=STAGE_VERSIONS["center"],
    shell:
        "mousefacelift center {params.animals:q} --chunk {wildcards.chunk} {params.background:q}"
        " --settings {params.settings:q} --threads {threads} --output {output:q} 2> {log:q}"
