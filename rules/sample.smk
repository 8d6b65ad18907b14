# Stage 4: frames, views and splits.


rule sample:
    input:
        PLAN.per_capture("{results}/sample/{capture}/samples.tsv"),


rule sample_capture:
    input:
        cameras=of_job(PLAN.normalized_cameras, "capture"),
        subject=rules.cameras_capture.output.subject,
    output:
        samples=f"{RESULTS}/sample/{{capture}}/samples.tsv",
        rejected=f"{RESULTS}/sample/{{capture}}/rejected.tsv",
        summary=f"{RESULTS}/sample/{{capture}}/summary.json",
        plot=report(
            f"{RESULTS}/sample/{{capture}}/summary.png",
            caption="../workflow/report/sample.rst",
            category="Samples",
        ),
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
        folder=subpath(output.samples, parent=True),
        split=of_job(PLAN.split_option, "capture"),
        settings=PLAN.settings("sample"),
        version=STAGE_VERSIONS["sample"],
    shell:
        "mousefacelift sample --cameras {input.cameras:q} --subject {input.subject:q} --settings {params.settings:q}"
        " {params.split:q} --output {params.folder:q} 2> {log:q}"
