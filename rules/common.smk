# The plan of this run, and the names that several rules share.
from snakemake.exceptions import WorkflowError

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.errors import UserError
from mousefacelift.config.sample import SPLITS
from mousefacelift.plan import Plan
from mousefacelift.stages.reports import print_run
from mousefacelift.evaluation.variants import VARIANTS


def planned(question, *about):
    """What the plan answers; a mistake in the configuration becomes an error of the workflow."""
    try:
        return question(*about)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def of_job(question, *names):
    """A function of a job's wildcards that asks the plan about the wildcards of these names."""
    return lambda wildcards: planned(question, *(getattr(wildcards, name) for name in names))


def option_of(option, name):
    """A command's option with the job's input of a name, if it has one. Snakemake keeps no record of such params."""
    return lambda wildcards, input: [option, input[name]] if name in input.keys() else []


def gpu_ready(wildcards):
    """No input, but an error if this machine's GPU cannot be used. Jobs of a cluster, and jobs with an environment of
    their own, look for themselves."""
    elsewhere = workflow.non_local_exec or workflow.deployment_settings.deployment_method
    return [] if elsewhere else planned(PLAN.gpu_ready)


PLAN = planned(Plan.of, config)
RESULTS = PLAN.results
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
RUN = PLAN.config.train.run


wildcard_constraints:
    capture="|".join(PLAN.captures),
    chunk=r"\d+",
    variant="|".join(VARIANTS),
