"""Experiments: cases x interventions x metrics -> a table with controls and intervals.

Experiment(model, cases, interventions, metrics, controls).run() -> Table
"""

from glassworks.experiments.cases import Batch, Case, kl_divergence
from glassworks.experiments.controls import (
    Control,
    active_features,
    matched_features,
    other_features,
    random_directions,
    shuffled_labels,
)
from glassworks.experiments.evaluation import (
    document_cases,
    evaluate,
    evaluation_page,
    evaluation_rows,
    fidelities,
    fidelity_values,
    recordings,
    replacement_sets,
)
from glassworks.experiments.experiment import Experiment
from glassworks.experiments.fidelity import Fidelity, Meter, fidelity, strata
from glassworks.experiments.interventions import (
    Clean,
    Coders,
    Constant,
    Edits,
    Intervention,
    Logits,
    Patch,
    SourcePrompt,
    doses,
    replacing,
)
from glassworks.experiments.metrics import (
    Metric,
    exact_match,
    fvu,
    judged,
    kl,
    l0,
    logit_difference,
    loss,
    probability,
    projection,
)
from glassworks.experiments.table import Table
from glassworks.stats import Correlation, Estimate

__all__ = [
    "Batch",
    "Case",
    "Clean",
    "Coders",
    "Constant",
    "Control",
    "Correlation",
    "Edits",
    "Estimate",
    "Experiment",
    "Fidelity",
    "Intervention",
    "Logits",
    "Meter",
    "Metric",
    "Patch",
    "SourcePrompt",
    "Table",
    "active_features",
    "document_cases",
    "doses",
    "evaluate",
    "evaluation_page",
    "evaluation_rows",
    "exact_match",
    "fidelities",
    "fidelity",
    "fidelity_values",
    "fvu",
    "judged",
    "kl",
    "kl_divergence",
    "l0",
    "logit_difference",
    "loss",
    "matched_features",
    "other_features",
    "probability",
    "projection",
    "random_directions",
    "recordings",
    "replacement_sets",
    "replacing",
    "shuffled_labels",
    "strata",
]
