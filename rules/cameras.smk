# Stage 2: the calibrated rig, the mouse's 3D centre and hull in each frame, and whether the cameras agree.


rule cameras:
    input:
        per_capture("{results}/cameras/{capture}/subject.h5"),


rule cameras_capture:
    input:
        calibration=lambda wildcards: CAPTURES[wildcards.capture].calibration,
        chunks=center_chunks,
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
        table=TABLE,
        row=capture_row,
        settings=settings("cameras"),
        version=STAGE_VERSIONS["cameras"],
    shell:
        "mousefacelift cameras --captures {params.table:q} --capture {wildcards.capture:q}"
        " --settings {params.settings:q} --output {params.folder:q} --threads {threads} {input.chunks:q} 2> {log:q}"
