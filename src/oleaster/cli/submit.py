"""`oleaster submit`: a recipe as a job elsewhere."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from oleaster.cli.finetune import RECIPE, TITLES
from oleaster.cli.run import recipe_of_command
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, sections, select


def command() -> Command:
    """What `submit` takes."""
    return Command(
        name="submit",
        summary=(
            "Make the job that does `oleaster run RECIPE.yaml` in the cloud: checked, written and shown on this\n"
            "machine. It is sent only with --yes, to the workspace that you are logged in to (az login)."
        ),
        usage=("oleaster submit RECIPE.yaml --azureml [--compute NAME] [--yes] [flags]",),
        run=run,
        words=(RECIPE,),
        own=(
            RECIPE,
            Flag("azureml", "To Azure ML.", "switch"),
            Flag("job_folder", "Folder for job.yml and what the job is given. [jobs/RECIPE]", "path"),
            Flag("compute", "Compute target of the workspace. [serverless]"),
            Flag("instance_type", "Size of a serverless machine, such as Standard_D8s_v5."),
            Flag("experiment_name", "Heading of the job in the studio.", default="oleaster"),
            Flag("package", "What pip installs there as Oleaster: a wheel, a URL, a version. [this version]"),
            Flag("subscription_id", "Subscription of the workspace. [its config.json]"),
            Flag("resource_group", "Resource group of the workspace."),
            Flag("workspace_name", "Name of the workspace."),
            Flag("yes", "Send the job.", "switch"),
        ),
        settings=tuple(select(["", *sections()])),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Check the recipe, write the job, show it; send it when told."""
    from oleaster.cli.settings import config_for
    from oleaster.config.rules import names_what_it_needs
    from oleaster.pipeline.line import TO_RUN
    from oleaster.pipeline.submitting import Place, make_job, send_job

    own = given.own
    given.require(azureml=("where to", "--azureml"))
    given, recipes = recipe_of_command(given)
    config = config_for(given, recipes, (*TO_RUN, names_what_it_needs(given.command)))
    place = Place(**{each.name: own[each.name] for each in fields(Place)})
    job = make_job(config, place, own["job_folder"] or Path("jobs") / recipes[-1].stem, own["package"])
    print(job.read_text(encoding="utf-8"))
    if own["yes"]:
        print(f"sent: {send_job(job, place)}")
    else:
        print(f"written: {job}\nnot sent: --yes sends it, or az ml job create -f {job}")
    return 0
