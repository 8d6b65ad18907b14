# Stage 2: the calibrated rig, the mouse's 3D centre and hull in each frame, and whether the cameras agree.


rule cameras:
    input:
        PLAN.per_capture("{results}/cameras/{capture}/subject.h5"),


rule cameras_capture:
    input:
        calibration=of_job(PLAN.calibration, "capture"),
        chunks=of_job(PLAN.center_chunks, "capture"),
    output:
        rig=f"{RESULTS}/cameras/{{capture}}/rig.json",
        subject=f"{RESULTS}/cameras/{{capture}}/subject.h5",
        qc=f"{RESULTS}/cameras/{{capture}}/qc.json",
        plot=f"{RESULTS}/cameras/{{capture}}/qc.png",
    log:
        f"{LOGS}/cameras/{{capture}}.log",
    benchmark:
        f"{BENCHMARKS}/cameras/{{capture}}.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 4
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        folder=subpath(output.rig, parent=True),
        row=of_job(PLAN.row, "capture"),
        settings=PLAN.settings("cameras"),
        timing=PLAN.config.center.timing,
        version=STAGE_VERSIONS["cameras"],
    shell:
        "mousefacelift cameras --row {params.row:q} --settings {params.settings:q} --output {params.folder:q}"
        " --timing {params.timing}"
        " --threads {threads} {input.chunks:q} 2> {log:q}"
