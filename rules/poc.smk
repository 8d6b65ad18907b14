# Runs only when asked for by name: which camera convention suits the trained weights, on images of the evaluated split.


rule poc:
    input:
        manifest=of_job(PLAN.evaluated_manifest),
        weights=rules.train.output.weights,
        config=rules.train.output.config,
    output:
        metrics=f"{RESULTS}/poc/{RUN}/metrics.json",
        rows=f"{RESULTS}/poc/{RUN}/metrics.tsv",
        table=report(
            f"{RESULTS}/poc/{RUN}/table.md",
            caption="../workflow/report/poc_table.rst",
            category="Camera conventions",
        ),
        grid=report(
            f"{RESULTS}/poc/{RUN}/grid.png",
            caption="../workflow/report/poc_grid.rst",
            category="Camera conventions",
        ),
    log:
        f"{LOGS}/poc/{RUN}.log",
    benchmark:
        f"{BENCHMARKS}/poc/{RUN}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: 8
    resources:
        mem_mb=PLAN.evaluate_mem_mb,
        runtime=480,
        gpu=PLAN.evaluate_gpus,
    params:
        manifest=PLAN.manifest,
        train=subpath(input.weights, parent=True),
        folder=subpath(output.metrics, parent=True),
        run=RUN,
        split=PLAN.config.evaluate.split,
        version=STAGE_VERSIONS["poc"],
    shell:
        "mousefacelift poc --manifest {params.manifest:q} --train {params.train:q} --split {params.split}"
        " --threads {threads} --output {params.folder:q} 2>&1 | tee {log:q}"
