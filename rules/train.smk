# Stage 6: fine-tuning of GS-LRM.


rule train:
    input:
        manifest=of_job(PLAN.trained_manifest),
        init=of_job(PLAN.initial_weights),
        gpu=gpu_ready,
    output:
        weights=f"{RESULTS}/train/{RUN}/model.safetensors",
        metrics=f"{RESULTS}/train/{RUN}/metrics.csv",
        config=f"{RESULTS}/train/{RUN}/config.yaml",
        curves=report(
            f"{RESULTS}/train/{RUN}/curves.png",
            caption="../workflow/report/curves.rst",
            category="Training",
        ),
    log:
        f"{LOGS}/train/{RUN}.log",
    benchmark:
        f"{BENCHMARKS}/train/{RUN}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: 8
    resources:
        **PLAN.train_nodes,
        mem_mb=PLAN.train_mem_mb,
        runtime=2880,
        gpu=PLAN.train_gpus,
    params:
        manifest=PLAN.manifest,
        folder=subpath(output.weights, parent=True),
        # Not an output: Snakemake would delete it before a retry. A hash of settings and data names the folder inside.
        checkpoints=f"{RESULTS}/train/{RUN}/checkpoints",
        settings=PLAN.settings("train"),
        run=RUN,
        launch=PLAN.launcher(),
        version=STAGE_VERSIONS["train"],
    shell:
        # tee ignores a SIGTERM or Ctrl-C to the whole job, because training still prints after it.
        "{params.launch}mousefacelift train --manifest {params.manifest:q} --settings {params.settings:q}"
        " --threads {threads} --output {params.folder:q} --checkpoints {params.checkpoints:q} 2>&1"
        " | (trap '' TERM INT; exec tee {log:q})"
