"""From the records of a sweep to a report.

What a program calls: `records.store.Reader` gives a sweep, `foreign.import_sweep` one that was run
elsewhere; `study.table.load` makes a study of it, `data.runs` a table, `findings.fronts.fronts` the
Pareto fronts, `report.render` the report.
"""
