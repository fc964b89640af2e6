"""Every sentence on effects, whole: a bullet that none of these matches is unknown."""

import re

NUMBER = r"[-+]?\d[\d.e+-]*"
SHOWN = r"(= [\d.e-]+|< 0\.0001)"
CHANGE = r"(\S+(?: pp)?)"
INTERVAL = rf"(?: \[{NUMBER}, {NUMBER}\])?"
BOUNDS = r"(?: \[[^\]]+\])?"
NAMES = r"(\w+(?:, \w+)*(?: and \w+)?)"

SENTENCES = {
    name: re.compile(pattern)
    for name, pattern in {
        "Goes": r"\*\*(\w+):\*\* larger goes (\w+) with (?:(?:lower|higher) \((?:better|worse)\)"
        rf"|lower|higher) (\w+) \(Spearman ({NUMBER}){INTERVAL}, (\d+) configurations"
        rf"(?:; from (\S+) to (\S+)(?:, the others held)?: {CHANGE}{BOUNDS})?; q {SHOWN}\)\.",
        "Bent": r"\*\*(\w+):\*\* (\w+) is not monotone in it: (best at|best adjusted mean observed "
        r"at) (\S+?)(?:, which is not told apart from (\S+))? "
        rf"\(Holm p {SHOWN}\); q {SHOWN}\.",
        "Differs": r"\*\*(\w+):\*\* (\w+) differs between its levels(, the others held)?"
        rf"(?: \(partial η² = ([\d.]+)\))?, but no direction is claimed; q {SHOWN}\.",
        "Opposed": r"\*\*Sign change, (\w+):\*\* Spearman's correlation with (\w+) is "
        rf"({NUMBER}), but with the others held the metric changes by {CHANGE} from (\S+) to (\S+) "
        rf"\(q {SHOWN}\): no direction is claimed\.",
        "Unheld": rf"\*\*(\w+):\*\* associated with (\w+) \((?:Spearman ({NUMBER}), )?q {SHOWN}\), "
        rf"but not detectably once the others are held \(q {SHOWN}\): no effect is claimed\.",
        "NotDetected": r"No detectable effect on (\w+): (\w+ \((?:Spearman "
        rf"{NUMBER}{INTERVAL}, )?n = \d+, q {SHOWN}\)(?:(?:, | and )\w+ \((?:Spearman "
        rf"{NUMBER}{INTERVAL}, )?n = \d+, q {SHOWN}\))*)\.",
        "Aliased": rf"{NAMES} change together in this sweep: their effects on {NAMES} cannot be "
        r"told apart, and none of them is claimed\.",
        "TooFew": rf"(\d+) configurations? for (\d+) parameters? of the additive model of {NAMES}: "
        r"too few to claim any effect\.",
        "WinWin": rf"\*\*(\w+):\*\* (larger|smaller) goes with better (\w+) \(q {SHOWN}\) and with "
        rf"better (\w+) \(q {SHOWN}\)\.",
        "TradeOff": rf"\*\*(\w+), a trade-off:\*\* larger goes with better (\w+) \(q {SHOWN}\) and "
        rf"with worse (\w+) \(q {SHOWN}\)\.",
        "BestLevel": r"\*\*(\w+):\*\* best level for (\w+): (\S+) \(adjusted mean (\S+); next "
        rf"(\S+), (\S+); Holm p {SHOWN}\)\.",
        "NoBestLevel": rf"No clear best level for (\w+): {NAMES}\.",
        "AtEdge": r"\*\*(\w+):\*\* its best level for (\w+), (\S+), is the (highest|lowest) tried, "
        r"and (?:the best trial|(\d+) of the best (\d+) trials \(5 % and their "
        r"equals\)) used it: widen the range\.",
        "Switched": rf"\*\*(\w+) on:\*\* (better|worse) (\w+) by {CHANGE}{BOUNDS} in the median of "
        rf"(\d+) matched blocks? \(Wilcoxon p {SHOWN}\)\.",
        "NotSwitched": rf"\*\*(\w+) on:\*\* no change of (\w+) is claimed \(median {CHANGE}{BOUNDS}"
        r", n = (\d+) matched blocks?\)\.",
        "Interacts": r"\*\*(\w+) and (\w+):\*\* the effect of one on (\w+) depends on the other's "
        r"level: together they explain (\S+) % of its variance beyond the additive model "
        rf"\(q {SHOWN}\)\.",
        "NoInteraction": r"No interaction is claimed: of (\d+) tests?, the largest share of "
        r"variance beyond the additive model is (\S+) %\.",
        "MattersMore": rf"\*\*(\w+)\*\* matters more for (\w+) than {NAMES}: it explains more in "
        r"(all|at least \d+ %) of the halves\.",
        "TooFewForImportance": r"Not given: (\d+) configurations? for (\d+) parameters?, under 5 "
        r"for each\.",
        "Asked": r"(\d+) of the (\d+) combinations of levels were asked for "
        rf"\((\S+) %(?:, {NAMES} left aside)?\)\.",
        "Associated": r"\*\*(\w+) and (\w+)\*\* go together \(Cramér's V = ([\d.]+); (\d+) of "
        r"(\d+) cells are empty\): their plain means and correlations are mixed up\.",
        "Inflated": r"\*\*(\w+)\*\* (?:follows exactly from the other numbers|is predicted by the "
        r"other numbers \(variance inflation (\S+)\): its adjusted effect is imprecise)\.",
        "Diverged": r"(\d+) of (\d+) trials? that ended diverged \((\S+) %, 95 % interval (\S+) to "
        r"(\S+) %\): no ranked figure includes them\.",
    }.items()
}


def kind(line: str) -> str:
    """The one kind of sentence that a bullet is; fails where it is none or several."""
    (found,) = [name for name, pattern in SENTENCES.items() if pattern.fullmatch(line)] or [None]
    assert found is not None, f"unknown sentence: {line}"
    return found
