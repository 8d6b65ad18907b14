# The shards' cameras beside those that FaceLift's weights were trained on.


rule compare_cameras:
    input:
        manifest=rules.shard_manifest.output,
        shards=rules.shard_manifest.input.h5,
    output:
        text=f"{RESULTS}/compare_cameras/comparison.md",
        page=report(
            f"{RESULTS}/compare_cameras/comparison.html",
            caption="../workflow/report/compare_cameras.rst",
            category="Cameras",
        ),
        numbers=f"{RESULTS}/compare_cameras/comparison.json",
    log:
        f"{LOGS}/compare_cameras.log",
    benchmark:
        f"{BENCHMARKS}/compare_cameras.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        folder=subpath(output.page, parent=True),
        version=STAGE_VERSIONS["compare_cameras"],
    shell:
        "mousefacelift compare-cameras {input.manifest:q} facelift --output {params.folder:q} > {log:q} 2>&1"
