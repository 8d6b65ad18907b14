# Runs only when asked for by name: which camera convention and which framing suit the trained weights, on images of the
# evaluated split.


rule poc:
    input:
        f"{RESULTS}/poc/{RUN}/table.md",
        PLAN.compared_framings("{results}/poc/{run}/framings/table.md"),


rule poc_cameras:
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


rule poc_framings:
    input:
        center=PLAN.all_center_chunks(),
        cameras=PLAN.per_capture("{results}/cameras/{capture}/subject.h5"),
        samples=PLAN.per_capture("{results}/sample/{capture}/samples.tsv"),
        weights=rules.train.output.weights,
        config=rules.train.output.config,
    output:
        metrics=f"{RESULTS}/poc/{RUN}/framings/metrics.json",
        rows=f"{RESULTS}/poc/{RUN}/framings/metrics.tsv",
        table=report(
            f"{RESULTS}/poc/{RUN}/framings/table.md",
            caption="../workflow/report/framings_table.rst",
            category="Framings",
        ),
        grid=report(
            f"{RESULTS}/poc/{RUN}/framings/grid.png",
            caption="../workflow/report/framings_grid.rst",
            category="Framings",
        ),
    log:
        f"{LOGS}/poc/{RUN}-framings.log",
    benchmark:
        f"{BENCHMARKS}/poc/{RUN}-framings.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: 8
    resources:
        mem_mb=PLAN.evaluate_mem_mb,
        runtime=480,
        gpu=PLAN.evaluate_gpus,
    params:
        results=subpath(output.metrics, ancestor=4),
        captures=PLAN.capture_options(),
        recordings=PLAN.recording_options(),
        train=subpath(input.weights, parent=True),
        folder=subpath(output.metrics, parent=True),
        run=RUN,
        split=PLAN.config.evaluate.split,
        settings=PLAN.framing_settings(),
        version=STAGE_VERSIONS["framings"],
    shell:
        "mousefacelift framings --results {params.results:q} {params.captures:q} {params.recordings:q} --train {params.train:q}"
        " --split {params.split} --settings {params.settings:q} --threads {threads} --output {params.folder:q}"
        " 2>&1 | tee {log:q}"
