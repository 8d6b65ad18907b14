# Stage 2: the calibrated rig and the mouse's 3D centre in each frame.


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
    log:
        f"{LOGS}/cameras/{{capture}}.log",
    benchmark:
        f"{BENCHMARKS}/cameras/{{capture}}.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        table=TABLE,
        row=capture_row,
        settings=settings("cameras"),
        version=STAGE_VERSIONS["cameras"],
    shell:
        "mousefacelift cameras --captures {params.table:q} --capture {wildcards.capture:q}"
        " --settings {params.settings:q} --rig {output.rig:q} --subject {output.subject:q} {input.chunks:q} 2> {log:q}"
