"""The story: rows and a base model go in, a run that answers comes out, and an artifact that answers like it.

    finetune(config)                 rows -> examples -> tokens -> batches -> steps -> Run    tuning.py
    finetune_on_cluster(config, n)   the same with processes on the machines of a Ray cluster  tuning_ray.py
    finetune_together(configs)       the same for several adapters over one base      tuning.py
    forecast(config)                 a few real steps -> time, memory, which methods fit      forecast.py
    evaluate(path, config)           Run, model or artifact -> Report                         scoring.py
    evaluate_model(path, rows)       the same for rows in memory, one report                  measuring.py
    benchmark(path, plan)            Run, model or artifact in established benchmarks         benchmarking.py
    load(path)                       Run, model or artifact -> answers; load_all: its adapters too   answering.py
    auto_opt(path, config, output)   Run or model -> Artifact                                 shipping.py
    verify(path, config)             Artifact -> the fidelity ladder again                    shipping.py
    run_search(config)               many trainings -> the best Run                           searching.py
    run(config)                      a recipe's passes in order -> Line                       line.py
    make_job(config, place, folder)  a recipe -> a job for Azure ML                           submitting.py
    report_data(files, config)       rows -> what would harm training; clean_data,            curating.py
                                     split_data, augment_data beside it
    generate_adapter(paths, ...)     Runs -> one Artifact that switches between their tasks   shipping.py

Each function takes the typed `Config` and calls one room after the other; the rooms are imported inside, so that
`--help` stays quick and an artifact answers on a machine without torch.
"""

from oleaster.pipeline.answering import Assistant, load, load_all
from oleaster.pipeline.benchmarking import benchmark
from oleaster.pipeline.curating import augment_data, clean_data, report_data, split_data
from oleaster.pipeline.forecast import Forecast, forecast
from oleaster.pipeline.line import foresee, run
from oleaster.pipeline.measuring import evaluate_model
from oleaster.pipeline.scoring import evaluate
from oleaster.pipeline.search_plan import plan_search
from oleaster.pipeline.searching import read_search, run_search
from oleaster.pipeline.shelf import Shelf, get_ready
from oleaster.pipeline.shipping import auto_opt, generate_adapter, verify
from oleaster.pipeline.tuning import Preview, finetune, finetune_together, plan
from oleaster.pipeline.tuning_ray import finetune_on_cluster

__all__ = [
    "Assistant",
    "Forecast",
    "Preview",
    "Shelf",
    "augment_data",
    "auto_opt",
    "benchmark",
    "clean_data",
    "evaluate",
    "evaluate_model",
    "finetune",
    "finetune_on_cluster",
    "finetune_together",
    "forecast",
    "foresee",
    "generate_adapter",
    "get_ready",
    "load",
    "load_all",
    "plan",
    "plan_search",
    "read_search",
    "report_data",
    "run",
    "run_search",
    "split_data",
    "verify",
]
