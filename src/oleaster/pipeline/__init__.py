"""The story: rows and a base model go in, a run that answers comes out, and an artifact that answers like it.

    finetune(config)                 rows -> examples -> tokens -> batches -> steps -> Run    tuning.py
    evaluate(path, config)           Run, model or artifact -> Report                         scoring.py
    load(path)                       Run, model or artifact -> answers                        answering.py
    auto_opt(path, config, output)   Run or model -> Artifact                                 shipping.py
    verify(path, config)             Artifact -> the fidelity ladder again                    shipping.py

Each function takes the typed `Config` and calls one room after the other; the rooms are imported inside, so that
`--help` stays quick and an artifact answers on a machine without torch.
"""

from oleaster.pipeline.answering import Assistant, load
from oleaster.pipeline.scoring import evaluate
from oleaster.pipeline.shipping import auto_opt, verify
from oleaster.pipeline.tuning import Preview, finetune, get_ready, plan

__all__ = ["Assistant", "Preview", "auto_opt", "evaluate", "finetune", "get_ready", "load", "plan", "verify"]
