# Stage 4: frames, views and splits.


rule sample:
    input:
        per_capture("{results}/sample/{capture}/samples.tsv"),


rule sample_capture:
    input:
        cameras=normalized_cameras,
        subject=rules.cameras_capture.output.subject,
    output:
        samples=f"{RESULTS}/sample/{{capture}}/samples.tsv",
        rejected=f"{RESULTS}/sample/{{capture}}/rejected.tsv",
    log:
        f"{LOGS}/sample/{{capture}}.log",
    benchmark:
        f"{BENCHMARKS}/sample/{{capture}}.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        settings=settings("sample"),
        version=STAGE_VERSIONS["sample"],
    shell:
        "mousefacelift sample --cameras {input.cameras:q} --subject {input.subject:q} --settings {params.settings:q}"
        " --samples {output.samples:q} --rejected {output.rejected:q} 2> {log:q}"
