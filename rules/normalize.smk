# Stage 3: Z-up world, mouse at the origin, level virtual cameras.


rule normalize:
    input:
        PLAN.per_capture("{results}/normalize/{capture}/cameras.h5"),


rule normalize_capture:
    input:
        rig=rules.cameras_capture.output.rig,
        subject=rules.cameras_capture.output.subject,
    output:
        cameras=f"{RESULTS}/normalize/{{capture}}/cameras.h5",
        world=f"{RESULTS}/normalize/{{capture}}/world.json",
    log:
        f"{LOGS}/normalize/{{capture}}.log",
    benchmark:
        f"{BENCHMARKS}/normalize/{{capture}}.tsv"
    conda:
        "../envs/prep.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        settings=PLAN.settings("normalize"),
        version=STAGE_VERSIONS["normalize"],
    shell:
        "mousefacelift normalize --rig {input.rig:q} --subject {input.subject:q} --settings {params.settings:q}"
        " --cameras {output.cameras:q} --world {output.world:q} 2> {log:q}"
