"""Files, and what is needed to reproduce the report."""

import re
from collections import Counter
from importlib import metadata

from analysis.context import REPORT_VERSION, ReportContext
from analysis.findings.fronts import MOST_DRAWS
from analysis.findings.noise import LEVEL
from analysis.findings.ranking import DRAWS
from analysis.findings.record_checks import OUTLIER, SKEWED, SPREAD
from analysis.foreign.imported import Imported
from analysis.page.blocks import Block
from analysis.page.markdown import code, counted, duration, escaped, listed, moment, table
from analysis.statistics.resampling import RESAMPLES
from analysis.study.settings import device, distinct, flattened, shown, versions
from analysis.study.table import Study
from sae_sweep.records import METRICS, STATUSES, digest, l0_setting

PACKAGES = ("numpy", "scipy", "pandas", "matplotlib")
"""By which a report's figures are made."""

DATA = {
    "runs.csv": "one row per trial: settings, status, final metrics, error",
    "claims.json": "every sentence about the sweep, with the figures that it tells",
    "grid_metrics.json": "the same figures with the records' digest",
    "pareto_optimal_configs.json": "the fronts: objectives, trials, settings",
}
NORMALISATION = (
    "activations are centred on the training mean and scaled so that E‖x‖ = √d; "
    "metrics are of the normalised activations"
)
REDUCTION = "; {} weighs the batch mean of a sum over latents"


def files(context: ReportContext) -> list[Block]:
    """Every file beside the report, and the trials' folders."""
    study = context.study
    rows = [
        ["`report.md`", "the answer on one page"],
        ["`details.md`", "this page: every topic"],
    ]
    for name, caption in sorted(context.figures.items()):
        rows.append([code(f"figures/{name}.png"), caption])
    rows += [[code(f"data/{name}"), text] for name, text in DATA.items()]
    if study.imported is None:
        weights = study.run.config.get("store", {}).get("weights", "all")
        rows.append(
            [
                "`../trials/<label>-<uid>/`",
                "a done trial's weights, `config.json`, `latents.parquet`, and `groups.parquet` "
                f"where tokens have groups (weights kept: `store.weights={weights}`)",
            ]
        )
    return ["## Files", table(["file", "what it is"], rows, left=2)]


def reproducibility(context: ReportContext) -> list[Block]:
    """Run, code, search, seeds, thresholds, versions, hardware, and the digest of the records."""
    study = context.study
    return [
        "## Reproducibility",
        table(["", ""], [[name, text] for name, text in _facts(study).items()], left=2),
        *_shared(study),
    ]


def _facts(study: Study) -> dict[str, str]:
    made = {
        "report id": code(study.digest),
        "generator": f"sae_sweep {_generator()}, report version {REPORT_VERSION}",
    }
    if study.imported is not None:
        return {**made, **_imported(study, study.imported), **_thresholds()}
    return {
        **made,
        "run": f"{study.run.id} of {escaped(study.run.name)}",
        "command": code(_command(study.run.command)),
        **_code(study),
        **_search(study),
        **_evaluation(study),
        **_thresholds(),
        **_machines(study),
    }


def _imported(study: Study, source: Imported) -> dict[str, str]:
    """Of records from elsewhere only what the file says is known."""
    return {
        "imported from": code(source.source.name),
        "sha256": code(source.source.sha256),
        "rows": f"{len(study.trials):,}, each a trial",
        "command": code(_command(source.command)),
        "states": _states(study),
        "seeds": "as in the file" if source.seeds else "not in the file",
        "code, devices, normalisation, evaluation": "not in the file, or not read from it",
    }


def _generator() -> str:
    try:
        return metadata.version("sae-sweep")
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _command(command: str) -> str:
    """The command line without a store and without places on somebody's machine."""
    masked = re.sub(r"store\.url=\S+", "store.url=...", command)
    return re.sub(r"(^|[\s='\"])/(?:[^\s'\"/]+/)*([^\s'\"/]+)", r"\1.../\2", masked)


def _code(study: Study) -> dict[str, str]:
    commits = distinct(study, lambda one: one.git)
    trained = "; ".join(f"{code(name)} ({n:,})" for name, n in commits.items())
    return {
        "git of the run": code(study.run.git) if study.run.git else "not recorded",
        "git of the trials": trained or "not recorded",
        "configuration": code(digest(study.run.config)) + " (hash of the run's settings)",
    }


def _search(study: Study) -> dict[str, str]:
    search = study.run.config.get("search", {})
    kind = str(search.get("kind", "not recorded"))
    drawn = f", seed {search['seed']}" if kind != "grid" and "seed" in search else ""
    sampler = f", sampler {search['sampler']}" if kind == "optuna" and "sampler" in search else ""
    sizes = Counter(study.trials["configuration"].value_counts())
    seeds = sorted(set(study.seeds))
    more = f" and {len(seeds) - 10} more" if len(seeds) > 10 else ""
    return {
        "search": escaped(f"{kind}{sampler}{drawn}"),
        "states": _states(study),
        "trials per configuration": ", ".join(
            f"{size} ({counted(n, 'configuration')})" for size, n in sorted(sizes.items())
        )
        or "none",
        "seeds (weights, data order)": listed([f"({a}, {b})" for a, b in seeds[:10]]) + more,
    }


def _states(study: Study) -> str:
    counts = Counter(study.trials["status"])
    return ", ".join(f"{counts[one]:,} {one}" for one in STATUSES if counts[one]) or "no trial"


def _evaluation(study: Study) -> dict[str, str]:
    moves = [l0_setting(one.config.get("sae", {})) for one in study.records]
    weights = sorted({one.name for one in moves if one is not None and not one.is_count})
    fingerprints = distinct(study, lambda one: one.config.get("activations", {}).get("fingerprint"))
    return {
        "evaluation": "final metrics over the whole validation split, at the end of training",
        "normalisation": NORMALISATION + "".join(map(REDUCTION.format, weights)),
        "activations": ", ".join(code(one) for one in fingerprints) or "not recorded",
        "versions of the run": escaped(versions(study.run.versions)) or "not recorded",
    }


def _thresholds() -> dict[str, str]:
    """Thresholds of the report: definitions, limits, draws, bounds, packages."""
    return {
        "metrics": f"{len(METRICS)} in the registry, hash {code(digest(_registry()))}; those that "
        "occur are defined above",
        "thresholds": escaped(
            f"ranked: done with fvu < 1; outlier: |robust z| > {OUTLIER:g}; told apart: p < "
            f"{LEVEL:g}; skewed: > {SKEWED:g}, or maximum over median > {SPREAD:g}"
        ),
        "draws": f"bootstrap {RESAMPLES}, ranks {DRAWS:,}, front up to {MOST_DRAWS:,}; seed 0",
        "versions of the report": versions({one: metadata.version(one) for one in PACKAGES}),
    }


def _machines(study: Study) -> dict[str, str]:
    run = study.run
    last = max([run.started, *(r.finished for r in study.records if r.finished is not None)])
    seconds = study.trials["seconds"].dropna().sum()
    devices = [f"{name} ({n:,})" for name, n in distinct(study, device).items()]
    return {
        "hardware": escaped("; ".join(devices)) or "not recorded",
        "wall time": f"{duration(max(last - run.started, 0.0))} from start to last record; "
        f"{duration(float(seconds))} in trials",
        "started": moment(run.started),
        "date": f"{moment(last)} (the last record)",
        "known limits": "under “What cannot be said”",
    }


def _registry() -> list[dict[str, str]]:
    return [one._asdict() for one in METRICS.values()]


def _shared(study: Study) -> list[str]:
    """The settings that are the same in every trial, folded away."""
    flat = [dict(flattened(record.config)) for record in study.records]
    if not flat:
        return []
    rows = [
        [code(key), escaped(shown(value))]
        for key, value in flat[0].items()
        if all(key in other and other[key] == value for other in flat)
    ]
    summary = f"<details><summary>Settings that all trials share ({len(rows)})</summary>"
    return [summary, table(["setting", "value"], rows, left=2), "</details>"] if rows else []
