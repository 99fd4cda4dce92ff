"""Draws what a run wrote: one HTML page, tables for the terminal, a picture for a README.

Reads files only (`results.json`, `controller.json`), so that any report can be drawn again at any time.
"""

from metas_peft.report.collect import Run, read_run
from metas_peft.report.html import write_report
from metas_peft.report.picture import write_picture
from metas_peft.report.tables import baseline_table, front_table, volume_table

__all__ = ["Run", "baseline_table", "front_table", "read_run", "volume_table", "write_picture", "write_report"]
