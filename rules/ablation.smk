# Runs only when asked for by name: training runs that differ from the configured one in one setting each, side by side.


use rule train as ablation_train with:
    output:
        weights=f"{RESULTS}/ablation/{RUN}/{{variant}}/train/model.safetensors",
        metrics=f"{RESULTS}/ablation/{RUN}/{{variant}}/train/metrics.csv",
        config=f"{RESULTS}/ablation/{RUN}/{{variant}}/train/config.yaml",
        curves=f"{RESULTS}/ablation/{RUN}/{{variant}}/train/curves.png",
    log:
        f"{LOGS}/ablation/{RUN}/{{variant}}-train.log",
    benchmark:
        f"{BENCHMARKS}/ablation/{RUN}/{{variant}}-train.tsv"
    params:
        checkpoints=f"{RESULTS}/ablation/{RUN}/{{variant}}/train/checkpoints",
        settings=of_job(PLAN.variant_settings, "variant"),


use rule evaluate as ablation_evaluate with:
    input:
        manifest=of_job(PLAN.evaluated_manifest),
        weights=rules.ablation_train.output.weights,
        config=rules.ablation_train.output.config,
    output:
        metrics=f"{RESULTS}/ablation/{RUN}/{{variant}}/evaluate/metrics.json",
        table=f"{RESULTS}/ablation/{RUN}/{{variant}}/evaluate/metrics.tsv",
        summary=f"{RESULTS}/ablation/{RUN}/{{variant}}/evaluate/table.md",
        plot=f"{RESULTS}/ablation/{RUN}/{{variant}}/evaluate/metrics.png",
    log:
        f"{LOGS}/ablation/{RUN}/{{variant}}-evaluate.log",
    benchmark:
        f"{BENCHMARKS}/ablation/{RUN}/{{variant}}-evaluate.tsv"
    params:
        run=f"{RUN}.{{variant}}",
        settings=PLAN.variant_evaluation(),


rule ablation:
    input:
        trained=rules.train.output.config,
        steps=rules.train.output.metrics,
        evaluated=rules.evaluate.output.metrics,
        rows=rules.evaluate.output.table,
        variants=PLAN.per_variant([*rules.ablation_train.output, *rules.ablation_evaluate.output]),
    output:
        metrics=f"{RESULTS}/ablation/{RUN}/metrics.json",
        table=report(
            f"{RESULTS}/ablation/{RUN}/table.md",
            caption="../workflow/report/ablation_table.rst",
            category="What matters in training",
        ),
        curves=report(
            f"{RESULTS}/ablation/{RUN}/curves.png",
            caption="../workflow/report/ablation_curves.rst",
            category="What matters in training",
        ),
    log:
        f"{LOGS}/ablation/{RUN}.log",
    benchmark:
        f"{BENCHMARKS}/ablation/{RUN}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        train=subpath(input.trained, parent=True),
        evaluate=subpath(input.evaluated, parent=True),
        folder=subpath(output.metrics, parent=True),
        run=RUN,
        version=STAGE_VERSIONS["ablation"],
    shell:
        "mousefacelift ablation --train {params.train:q} --evaluate {params.evaluate:q} --variants {params.folder:q}"
        " --output {params.folder:q} > {log:q} 2>&1"
