# Stage 6: fine-tuning of GS-LRM.


rule train:
    input:
        manifest=trained_manifest,
        init=CONFIG.train.init or [],
    output:
        weights=f"{RESULTS}/train/{RUN}/model.safetensors",
        metrics=f"{RESULTS}/train/{RUN}/metrics.csv",
        config=f"{RESULTS}/train/{RUN}/config.yaml",
    log:
        f"{LOGS}/train/{RUN}.log",
    benchmark:
        f"{BENCHMARKS}/train/{RUN}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: 8
    resources:
        mem_mb=TRAIN_MEM_MB,
        runtime=2880,
        gpu=CONFIG.train.gpus,
    params:
        manifest=MANIFEST,
        folder=subpath(output.weights, parent=True),
        # Not an output: Snakemake would wipe it before a retry. A hash of settings and data names the folder inside.
        checkpoints=f"{RESULTS}/train/{RUN}/checkpoints",
        settings=settings("train"),
        version=STAGE_VERSIONS["train"],
    shell:
        "mousefacelift train --manifest {params.manifest:q} --settings {params.settings:q} --threads {threads}"
        " --output {params.folder:q} --checkpoints {params.checkpoints:q} 2>&1 | tee {log:q}"
