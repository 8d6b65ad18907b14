# Stage 7: metrics, pictures, turntable and splats, on views never given as input.


rule evaluate:
    input:
        manifest=of_job(PLAN.evaluated_manifest),
        weights=rules.train.output.weights,
        config=rules.train.output.config,
    output:
        metrics=f"{RESULTS}/evaluate/{RUN}/metrics.json",
        table=f"{RESULTS}/evaluate/{RUN}/metrics.tsv",
        summary=report(
            f"{RESULTS}/evaluate/{RUN}/table.md",
            caption="../workflow/report/metrics_table.rst",
            category="Evaluation",
        ),
        plot=report(
            f"{RESULTS}/evaluate/{RUN}/metrics.png",
            caption="../workflow/report/metrics.rst",
            category="Evaluation",
        ),
    log:
        f"{LOGS}/evaluate/{RUN}.log",
    benchmark:
        f"{BENCHMARKS}/evaluate/{RUN}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: 8
    resources:
        mem_mb=PLAN.evaluate_mem_mb,
        runtime=240,
        gpu=PLAN.evaluate_gpus,
    params:
        manifest=PLAN.manifest,
        train=subpath(input.weights, parent=True),
        folder=subpath(output.metrics, parent=True),
        run=RUN,
        settings=PLAN.settings("evaluate"),
        version=STAGE_VERSIONS["evaluate"],
    shell:
        "mousefacelift evaluate --manifest {params.manifest:q} --train {params.train:q} --settings {params.settings:q}"
        " --threads {threads} --output {params.folder:q} 2>&1 | tee {log:q}"
